"""Matrix products: with constant weights on the packed GEMM template, else batched."""

from __future__ import annotations

from typing import Any

from tvm import tirx

from burnish.backends.base import KernelRule, Refused
from burnish.backends.cpu.gemm import GemmSpec, gemm, pack_gemm, packed_size
from burnish.backends.cpu.matmul import MatmulSpec, matmul
from burnish.backends.cpu.rules.common import (
    lower_operands,
    postops_key,
    postops_of,
    refuse_dtype,
    refuse_operands,
)
from burnish.ir import Node
from burnish.ir.dims import equal, is_static, product
from burnish.lowering.context import CallShapes, NodeContext


def _accepts(node: Node) -> Refused | None:
    w = node.required(1)
    if not w.is_const or len(w.shape) != 2:
        return Refused("the weights are not a constant matrix")
    return refuse_dtype(node) or refuse_operands(node, 2)


def _emit(ctx: NodeContext, node: Node) -> None:
    x, w = ctx.tensor(node.required(0)), node.required(1)
    k, n = (int(d) for d in w.shape if isinstance(d, int))
    postops = postops_of(node)
    lead = x.dims[:-1]
    # How weights are packed depends on the number of rows, where that is known.
    fixed = all(map(is_static, lead))
    sizes = lead if fixed else (tirx.Var("rows", "int64"),)
    packing = GemmSpec(sizes, k, n, postops, dtype=x.dtype)
    columns = packing.columns(ctx.isa)
    weights = ctx.weight(
        w,
        ("gemm", columns),
        lambda a: pack_gemm(a, packing, ctx.isa),
        (packed_size(k, n, ctx.isa),),
    )

    def build(shapes: CallShapes) -> Any:
        return gemm(ctx.isa, GemmSpec(shapes.inputs[0][:-1], k, n, postops, dtype=x.dtype))

    tile = columns[0].tile
    ctx.set(
        *ctx.call(
            "gemm",
            (k, n, columns, postops_key(postops)),
            build,
            [x, weights, *lower_operands(ctx, node, 2)],
            [node.output.t],
            flops=product([*node.output.shape, 2 * k]),
            detail=f"tile {tile.rows}x{tile.vectors}",
        )
    )


def _accepts_batched(node: Node) -> Refused | None:
    a, b = node.required(0), node.required(1)
    if node.int_attr("transA"):
        return Refused("the left operand is transposed")
    if len(a.shape) < 2 or len(b.shape) < 2:
        return Refused("an operand is a vector")
    for x, y in zip(a.shape[-3::-1], b.shape[-3::-1], strict=False):
        if not (equal(x, y) or equal(x, 1) or equal(y, 1)):
            return Refused("the batch dimensions may broadcast at run time")
    postops = postops_of(node)
    if postops and not isinstance(node.output.shape[-1], int):
        return Refused("post-ops on a symbolic number of columns")
    return refuse_dtype(node) or refuse_operands(node, 2)


def _emit_batched(ctx: NodeContext, node: Node) -> None:
    a, b = ctx.tensor(node.required(0)), ctx.tensor(node.required(1))
    postops = postops_of(node)
    transposed = bool(node.int_attr("transB"))
    scale = node.float_attr("alpha", 1.0)

    def build(shapes: CallShapes) -> Any:
        (*a_batch, m, k), (*b_batch, _, _) = shapes.inputs[:2]
        n = shapes.outputs[0][-1]
        spec = MatmulSpec(
            tuple(a_batch), tuple(b_batch), m, k, n, transposed, scale, postops, a.dtype
        )
        return matmul(ctx.isa, spec)

    ctx.set(
        *ctx.call(
            "matmul",
            (transposed, scale, postops_key(postops)),
            build,
            [a, b, *lower_operands(ctx, node, 2)],
            [node.output.t],
            flops=product([*node.output.shape, a.dims[-1], 2]),
        )
    )


MATMUL_RULES = (
    KernelRule("burnish::MatMul", _accepts, _emit),
    KernelRule("burnish::BatchMatMul", _accepts_batched, _emit_batched),
    KernelRule("MatMul", _accepts_batched, _emit_batched),
)
