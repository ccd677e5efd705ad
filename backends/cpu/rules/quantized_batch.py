"""Products of two activations of 8 bits."""

from __future__ import annotations

from typing import Any

from burnish.backends.base import KernelRule, Refused
from burnish.backends.cpu.attention_int8 import Bytes
from burnish.backends.cpu.quantized_batch import QuantizedBatchSpec, quantized_batch_matmul
from burnish.ir import Node, TensorType
from burnish.ir.dims import product
from burnish.lowering.context import CallShapes, NodeContext


def _accepts(node: Node) -> Refused | None:
    a, b = node.required(0).shape, node.required(1).shape
    if len(a) < 2 or len(b) < 2 or tuple(a[:-2]) != tuple(b[:-2]):
        return Refused("the operands are different numbers of matrices")
    return None


def _coding(node: Node, name: str, dtype: str) -> Bytes:
    return Bytes(dtype, node.float_attr(f"{name}_scale"), node.int_attr(f"{name}_zero_point"))


def _emit(ctx: NodeContext, node: Node) -> None:
    a, b, y = node.required(0), node.required(1), node.output
    (m, k), n, count = a.shape[-2:], b.shape[-1], product(a.shape[:-2])
    stored = None if y.dtype == "float32" else _coding(node, "y", y.dtype)
    codings = (_coding(node, "a", a.dtype), _coding(node, "b", b.dtype), stored)

    def build(shapes: CallShapes) -> Any:
        (batch, rows, depth), (_, _, columns) = shapes.inputs[:2]
        return quantized_batch_matmul(
            ctx.isa, QuantizedBatchSpec(batch, rows, depth, columns, *codings)
        )

    (result,) = ctx.call(
        "quantized_batch_matmul",
        codings,
        build,
        [ctx.reshape(ctx.tensor(a), (count, m, k)), ctx.reshape(ctx.tensor(b), (count, k, n))],
        [TensorType(y.dtype, (count, m, n))],
        flops=product([count, m, n, 2, k]),
        detail=ctx.isa.dot8,
    )
    ctx.set(ctx.reshape(result, y.shape))


QUANTIZED_BATCH = KernelRule("burnish::QBatchMatMul", _accepts, _emit)
