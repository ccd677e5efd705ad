"""Matrix products with post-ops."""

from __future__ import annotations

from collections.abc import Sequence

from burnish.ir.builder import Builder
from burnish.ir.composites import define
from burnish.ir.definitions.epilogue import apply_postops, scalar_constant
from burnish.ir.graph import Node, Value


@define("MatMul")
def matmul(b: Builder, node: Node, inputs: Sequence[Value | None]) -> list[Value]:
    """``MatMul(x, w, *operands)``: x [..., K] times a constant w [K, N]; post-ops on [..., N]."""
    x, w, *operands = inputs
    return [apply_postops(b, node, b.op("MatMul", x, w), operands)]


def _swap_last_two(b: Builder, x: Value) -> Value:
    rank = len(x.shape)
    return b.op("Transpose", x, perm=(*range(rank - 2), rank - 1, rank - 2))


@define("BatchMatMul")
def batch_matmul(b: Builder, node: Node, inputs: Sequence[Value | None]) -> list[Value]:
    """``BatchMatMul(a, b, *operands)``: ``alpha * op(a) @ op(b)``, both computed at run time.

    ``transA`` and ``transB`` swap the last two dims of an operand; the dims before them broadcast
    as in ONNX MatMul-13; post-ops on [..., M, N].
    """
    left, right, *operands = inputs
    assert left is not None
    assert right is not None
    if node.int_attr("transA"):
        left = _swap_last_two(b, left)
    if node.int_attr("transB"):
        right = _swap_last_two(b, right)
    y = b.op("MatMul", left, right)
    alpha = node.float_attr("alpha", 1.0)
    if alpha != 1.0:
        y = b.op("Mul", y, scalar_constant(b, alpha, y.dtype))
    return [apply_postops(b, node, y, operands)]
