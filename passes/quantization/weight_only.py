"""Products whose weights alone are stored in 8 or 4 bits become composites that keep them so.

::

    MatMul(x, dequantize(w))            =  burnish::MatMulNBits(x, w)
    Gemm(x, dequantize(w), c; transB)   =  burnish::MatMulNBits(x, transpose(w)) + c
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from burnish.ir import Attr, Builder, Graph, Node, Value, composites
from burnish.ir.types import BY_NAME
from burnish.passes.base import Numerics, Pass, PassContext
from burnish.passes.patterns import NoMatch, Tracer
from burnish.passes.rewrite import Replacement, RewritePass, Rule

#: Types of weights that the composite takes.
TYPES = ("int8", "uint8", "int4", "uint4")
#: Bits that blocks of a column fill whole numbers of, unless there is one block only.
_WORD = 32


@dataclass(frozen=True)
class StoredWeights:
    """Weights [K, N] as the composite takes them.

    Attributes:
        codes: [K, N].
        scale: [ceil(K / block), N] float32.
        zero: The same in the type of ``codes``.
        block: Rows that share a scale.
    """

    codes: Value
    scale: Value
    zero: Value
    block: int


def stored_weights(b: Builder, value: Value, *, turned: bool) -> StoredWeights | NoMatch:
    """The constant integers behind what a product reads.

    Args:
        b: Makes constants of another layout.
        value: The product's right operand.
        turned: Whether it is [N, K].
    """
    node = value.producer
    if node is not None and node.key == "Transpose" and node.ints_attr("perm", (1, 0)) == (1, 0):
        turned, node = not turned, node.required(0).producer
    if node is None or node.key != "DequantizeLinear":
        return NoMatch("the weights are not dequantized", value)
    codes, scale, zero = node.required(0), node.required(1), node.input(2)
    if not (codes.is_const and scale.is_const and (zero is None or zero.is_const)):
        return NoMatch("the weights are not constant", node)
    if codes.dtype not in TYPES or scale.dtype != "float32" or codes.t.rank != 2:
        return NoMatch("the weights are no matrix of 8 or 4 bits with float32 scales", node)
    down = 1 if turned else 0
    rows, columns = (codes.array.shape[axis] for axis in (down, 1 - down))
    axis, block = node.int_attr("axis", 1) % 2, node.int_attr("block_size")
    if not block and scale.array.size > 1 and axis == down:
        return NoMatch("each row of the weights has a scale", node)
    if block and axis != down:
        return NoMatch("the blocks lie along the output channels", node)
    if block and block < rows and block * BY_NAME[codes.dtype].bits % _WORD:
        return NoMatch(f"blocks of {block} rows do not fill words of {_WORD} bits", node)

    def laid_out(given: Value) -> Value:
        """Parameters [blocks, N]."""
        if not block:
            return b.constant(_row(given.array, columns), given.name)
        return b.constant(np.ascontiguousarray(given.array.T), given.name) if turned else given

    zeros = np.zeros(scale.array.shape, codes.array.dtype)
    weights = b.constant(np.ascontiguousarray(codes.array.T), codes.name) if turned else codes
    points = b.constant(zeros, f"{codes.name}_zero_point") if zero is None else zero
    return StoredWeights(weights, laid_out(scale), laid_out(points), block or rows)


def _row(array: NDArray[np.generic], columns: int) -> NDArray[np.generic]:
    """One number, or one for each column, as [1, columns]."""
    return np.array(np.broadcast_to(array.reshape(1, -1), (1, columns)))


class MakeMatMulNBits(Rule):
    """MatMul or Gemm of a dequantized constant matrix => burnish::MatMulNBits."""

    name = "make-matmul-nbits"
    numerics = Numerics.REASSOCIATES
    anchors = ("MatMul", "Gemm")

    def apply(self, node: Node, b: Builder, tracer: Tracer | None) -> Replacement | NoMatch:
        """Take the stored weights; Gemm's C becomes an Add."""
        x, w = node.required(0), node.required(1)
        if x.dtype != "float32" or x.t.rank in (None, 1):
            return NoMatch("the activation is no float32 matrix", x)
        if node.int_attr("transA"):
            return NoMatch("the activation is transposed", node)
        stored = stored_weights(b, w, turned=bool(node.int_attr("transB")))
        if isinstance(stored, NoMatch):
            return stored
        scale, alpha = stored.scale, node.float_attr("alpha", 1.0)
        if alpha != 1.0:
            scale = b.constant((scale.array * np.float32(alpha)).astype(np.float32), scale.name)
        attrs: dict[str, Attr] = {"block_size": stored.block, "accuracy_level": 0, "postops": ()}
        inputs = [x, stored.codes, scale, stored.zero]
        y = b.node("MatMulNBits", inputs, attrs, domain="burnish").output
        addend, beta = node.input(2), node.float_attr("beta", 1.0)
        if addend is not None and beta != 0.0:
            if beta != 1.0:
                addend = b.op("Mul", addend, b.constant(np.asarray(beta, np.float32)))
            y = b.op("Add", y, addend)
        return Replacement({node.output: y}, (node,))


@dataclass(frozen=True)
class WeightOnlyProducts(RewritePass):
    """Let products read weights as they are stored, in 8 or 4 bits.

    Before: DequantizeLinear of constant weights -> MatMul or Gemm with a float32 activation.
    After: burnish::MatMulNBits.
    Keeps: weights with a scale for each row or with blocks along the output channels, activations
        that are not float32.
    Numerics: reassociates.
    """

    name = "weight-only-products"
    numerics = Numerics.REASSOCIATES
    rules: ClassVar[tuple[Rule, ...]] = (MakeMatMulNBits(),)


@dataclass(frozen=True)
class ExpandWeightOnly(Pass):
    """Give products of stored weights their plain form, whose weights can be folded.

    Before: burnish::MatMulNBits, as models for onnxruntime are imported.
    After: DequantizeLinear of constant weights -> MatMul.
    Keeps: products of fewer rows than ``least_rows``; of weights in 4 bits also those of a number
        of rows that is not known.
    Numerics: exact.

    Attributes:
        least_rows: Fewest rows; 0 for all products.
    """

    name = "expand-weight-only"
    numerics = Numerics.EXACT
    least_rows: int = 0

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        """Replace the composites by their definitions."""
        found = [n for n in graph.walk() if n.key == "burnish::MatMulNBits" and self._takes(n)]
        for node in found:
            with ctx.visiting(node):
                composites.inline(node)
        if found and self.least_rows:
            ctx.note(
                f"{len(found)} products of {self.least_rows} rows and more multiply 16 bits, not "
                "weights as they are stored"
            )
        return bool(found)

    def _takes(self, node: Node) -> bool:
        rows = node.required(0).shape[:-1]
        known = [d for d in rows if isinstance(d, int)]
        if len(known) < len(rows):
            # 4 bits are for models that are read more than multiplied.
            return not self.least_rows or node.required(1).dtype in ("int8", "uint8")
        return prod(known) >= self.least_rows
