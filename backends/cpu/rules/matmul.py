"""Matrix products: ``burnish::MatMul`` on the packed GEMM template."""

from __future__ import annotations

from typing import Any

from tvm import tirx

from burnish.backends.base import KernelRule, Refused
from burnish.backends.cpu.gemm import GemmSpec, gemm, pack_gemm
from burnish.backends.cpu.rules.common import (
    lower_operands,
    postops_key,
    postops_of,
    refuse_dtype,
    refuse_operands,
)
from burnish.ir import Node
from burnish.ir.dims import is_static, product
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
    packing = GemmSpec(sizes, k, n, postops)
    columns = packing.columns(ctx.isa)
    weights = ctx.weight(w, ("gemm", columns), lambda a: pack_gemm(a, packing, ctx.isa))

    def build(shapes: CallShapes) -> Any:
        return gemm(ctx.isa, GemmSpec(shapes.inputs[0][:-1], k, n, postops))

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


MATMUL = KernelRule("burnish::MatMul", _accepts, _emit)
