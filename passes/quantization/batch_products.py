"""Products of two quantized activations become integer composites.

::

    quantize(dequantize(a) @ dequantize(b))  =  burnish::QBatchMatMul(a, b; y_dtype)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from burnish.ir import Attr, Builder, Node
from burnish.ir.dims import equal
from burnish.passes.base import Numerics
from burnish.passes.fusion.attention import SCORES
from burnish.passes.patterns import NoMatch, Tracer
from burnish.passes.quantization.integer import dequantizer, parameters
from burnish.passes.quantization.parameters import Parameters
from burnish.passes.rewrite import Replacement, RewritePass, Rule


class MakeQBatchMatMul(Rule):
    """MatMul of two dequantized activations => burnish::QBatchMatMul."""

    name = "make-qbatchmatmul"
    numerics = Numerics.REASSOCIATES
    anchors = ("MatMul",)

    def apply(self, node: Node, b: Builder, tracer: Tracer | None) -> Replacement | NoMatch:
        """Take what is stored; store the codes that follow."""
        operands, attrs = [], dict[str, Attr]()
        for name, value in zip("ab", (node.required(0), node.required(1)), strict=True):
            found = dequantizer(value)
            if isinstance(found, NoMatch):
                return found
            source, at = found
            operands.append(source.required(0))
            attrs |= {f"{name}_scale": at.scale, f"{name}_zero_point": at.zero}
        shapes = [v.t.shape for v in operands]
        if any(shape is None or len(shape) < 2 for shape in shapes):
            return NoMatch("an operand is no matrix", node)
        left, right = (shape[:-2] for shape in shapes if shape is not None)
        if len(left) != len(right) or not all(map(equal, left, right)):
            return NoMatch("the operands are different numbers of matrices", node)
        attrs["y_dtype"] = "float32"
        result = node.output
        covers: tuple[Node, ...] = (node,)
        user = node.output.single_user()
        stored = _stored(node, user)
        if user is not None and stored is not None:
            attrs |= {"y_dtype": stored.dtype, "y_scale": stored.scale}
            attrs["y_zero_point"] = stored.zero
            result, covers = user.output, (node, user)
        elif _feeds_softmax(node):
            return NoMatch("a softmax reads its result: attention in floating point takes it", node)
        made = b.node("QBatchMatMul", operands, attrs, domain="burnish")
        return Replacement({result: made.output}, covers)


def _stored(node: Node, user: Node | None) -> Parameters | None:
    """How the only user of a product rounds it; None if it does not."""
    if user is None or user.key != "QuantizeLinear" or user.required(0) is not node.output:
        return None
    found = parameters(user)
    return None if isinstance(found, NoMatch) else found


def _feeds_softmax(node: Node) -> bool:
    """Whether scores are scaled and masked only before a softmax."""
    user = node.output.single_user()
    while user is not None and user.key in SCORES:
        user = user.output.single_user()
    return user is not None and user.key == "Softmax"


@dataclass(frozen=True)
class IntegerBatchProducts(RewritePass):
    """Let products of two quantized activations compute in integers.

    Before: DequantizeLinear of both operands -> MatMul -> QuantizeLinear.
    After: burnish::QBatchMatMul.
    Keeps: operands whose batch dimensions broadcast.
    Numerics: reassociates (sums are exact int32, scaled once).
    """

    name = "integer-batch-products"
    numerics = Numerics.REASSOCIATES
    rules: ClassVar[tuple[Rule, ...]] = (MakeQBatchMatMul(),)
