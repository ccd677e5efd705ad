"""Convolutions and matrix products become composites, which can carry post-ops.

::

    Conv(x, w, b)              = burnish::Conv(x, w, b; Add:channel)
    Gemm(a, w, c; alpha, beta) = burnish::MatMul(a, alpha * op(w)) + beta * c
    MatMul(a, b)               = burnish::MatMul if b is a constant matrix, else BatchMatMul
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from burnish.ir import Attr, Builder, Node, Value
from burnish.ir.definitions.convolution import channels_first_format
from burnish.ir.types import FLOATS, to_numpy
from burnish.passes.base import Numerics
from burnish.passes.fusion.conv_norm import channel_constant, spatial_attrs
from burnish.passes.patterns import NoMatch, Tracer
from burnish.passes.rewrite import Replacement, RewritePass, Rule

#: Products of the rows of their first input with a matrix.
_BY_ROWS = ("burnish::MatMul", "burnish::MatMulNBits")


class MakeConv(Rule):
    """Conv and ConvTranspose with constant weights => composites with the bias as a post-op."""

    name = "make-conv"
    anchors = ("Conv", "ConvTranspose")

    def apply(self, node: Node, b: Builder, tracer: Tracer | None) -> Replacement | NoMatch:
        """Spell out the attributes and take the bias as ``Add:channel``."""
        x, w, bias = node.required(0), node.required(1), node.input(2)
        if not w.is_const:
            return NoMatch("the weights are not constant", w)
        if not channel_constant(bias):
            return NoMatch("the bias is not constant", bias)
        if x.dtype not in FLOATS:
            return NoMatch(f"the dtype is {x.dtype}", x)
        rank = x.t.rank
        if rank not in (3, 4, 5):
            return NoMatch("it has no 1 to 3 spatial axes", node)
        if node.str_attr("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
            return NoMatch("the padding depends on the input size", node)
        attrs: dict[str, Attr] = {"data_format": channels_first_format(rank)}
        attrs |= spatial_attrs(node, rank)
        if node.op == "ConvTranspose":
            if "output_shape" in node.attrs:
                return NoMatch("the padding depends on the output size", node)
            attrs["output_padding"] = node.ints_attr("output_padding", (0,) * (rank - 2))
        attrs["postops"] = ("Add:channel",) if bias is not None else ()
        inputs = [x, w, bias] if bias is not None else [x, w]
        made = b.node(node.op, inputs, attrs, domain="burnish")
        return Replacement({node.output: made.output}, (node,))


class MakeMatMul(Rule):
    """MatMul by a constant matrix => burnish::MatMul; of two run-time values => BatchMatMul."""

    name = "make-matmul"
    anchors = ("MatMul",)

    def apply(self, node: Node, b: Builder, tracer: Tracer | None) -> Replacement | NoMatch:
        """Choose the composite by the right operand."""
        x, w = node.required(0), node.required(1)
        if x.dtype not in FLOATS:
            return NoMatch(f"the dtype is {x.dtype}", x)
        if x.t.rank is None or w.t.rank is None or x.t.rank < 2 or w.t.rank < 2:
            return NoMatch("an operand is a vector", node)
        no_postops: dict[str, Attr] = {"postops": ()}
        if w.is_const and w.t.rank <= x.t.rank and all(d == 1 for d in w.shape[:-2]):
            if w.t.rank > 2:
                w = b.constant(w.array.reshape(w.array.shape[-2:]), w.name)
            made = b.node("MatMul", [x, w], no_postops, domain="burnish")
        else:
            attrs: dict[str, Attr] = {"transA": 0, "transB": 0, "alpha": 1.0, **no_postops}
            made = b.node("BatchMatMul", [x, w], attrs, domain="burnish")
        return Replacement({node.output: made.output}, (node,))


class MakeGemm(Rule):
    """Gemm => burnish::MatMul (alpha and transB folded into a constant w) and Add."""

    name = "make-gemm"
    numerics = Numerics.REASSOCIATES
    anchors = ("Gemm",)

    def apply(self, node: Node, b: Builder, tracer: Tracer | None) -> Replacement | NoMatch:
        """Fold what is constant; the rest stays as Transpose, Mul and Add."""
        x, w, c = node.required(0), node.required(1), node.input(2)
        if x.dtype not in FLOATS:
            return NoMatch(f"the dtype is {x.dtype}", x)
        alpha, beta = node.float_attr("alpha", 1.0), node.float_attr("beta", 1.0)
        if node.int_attr("transA"):
            x = b.op("Transpose", x, perm=(1, 0))
        if w.is_const:
            array = w.array.T if node.int_attr("transB") else w.array
            if alpha != 1.0 or node.int_attr("transB"):
                scaled = (array.astype(np.float64) * alpha) if alpha != 1.0 else array
                w = b.constant(np.ascontiguousarray(scaled, to_numpy(w.dtype)), w.name)
            y = b.composite("MatMul", x, w, postops=())
        else:
            attrs: dict[str, Attr] = {"transA": 0, "transB": node.int_attr("transB")}
            attrs |= {"alpha": alpha, "postops": ()}
            y = b.node("BatchMatMul", [x, w], attrs, domain="burnish").output
        if c is not None and beta != 0.0:
            y = b.op("Add", y, _scaled(b, c, beta))
        return Replacement({node.output: y}, (node,))


def _scaled(b: Builder, c: Value, beta: float) -> Value:
    if beta == 1.0:
        return c
    dtype = to_numpy(c.dtype)
    if c.is_const:
        return b.constant((c.array.astype(np.float64) * beta).astype(dtype), c.name)
    return b.op("Mul", c, b.constant(np.asarray(beta, dtype)))


class FlattenedMatMul(Rule):
    """reshape(matmul(reshape(x), w)) => matmul(x, w) when both reshapes split the rows alike."""

    name = "unflatten-matmul"
    anchors = ("Reshape",)

    def apply(self, node: Node, b: Builder, tracer: Tracer | None) -> Replacement | NoMatch:
        """Multiply the rows where they are."""
        product = node.required(0).producer
        if product is None or product.key not in _BY_ROWS or product.graph is not node.graph:
            return NoMatch("the value reshaped is no matrix product", node)
        if product.output.single_user() is None:
            return NoMatch("the product is used elsewhere", product)
        before = product.required(0).producer
        if before is None or before.key not in ("Reshape", "Flatten"):
            return NoMatch("the product's input is not reshaped", product)
        x, y = before.required(0), node.output
        rows_x, rows_y = x.t.dims[:-1], y.t.dims[:-1]
        same_rows = len(rows_x) == len(rows_y) and all(
            p == q for p, q in zip(rows_x, rows_y, strict=True)
        )
        if not same_rows or x.shape[-1] != product.required(0).shape[-1]:
            return NoMatch("the two reshapes do not undo each other", node)
        if y.shape[-1] != product.output.shape[-1]:
            return NoMatch("the columns are reshaped", node)
        if any(p.endswith(":full") for p in product.strs_attr("postops")):
            return NoMatch("an operand of a post-op would have to be reshaped", product)
        made = b.node(product.op, [x, *product.inputs[1:]], product.attrs, domain="burnish")
        return Replacement({y: made.output}, (before, product, node))


@dataclass(frozen=True)
class MakeComposites(RewritePass):
    """Turn Conv, ConvTranspose, MatMul and Gemm into composites that can carry post-ops.

    Before: Gemm(x, w, c), Conv(x, w, b).
    After: burnish::MatMul(x, w) + c, burnish::Conv(x, w, b; Add:channel).
    Keeps: convolutions with run-time weights or automatic padding, integer products, vectors.
    Numerics: reassociates (Gemm's alpha and beta are folded).
    """

    name = "make-composites"
    numerics = Numerics.REASSOCIATES
    rules: ClassVar[tuple[Rule, ...]] = (
        MakeConv(),
        MakeMatMul(),
        MakeGemm(),
        FlattenedMatMul(),
    )
