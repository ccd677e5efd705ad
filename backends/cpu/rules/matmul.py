"""Matrix products: with constant weights on the packed GEMM template, else batched."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from math import prod
from typing import Any

from tvm import tirx

from burnish.backends.base import KernelRule, Refused
from burnish.backends.composites import postops_key, postops_of, refuse_batches, refuse_matrix
from burnish.backends.cpu.costs import NOMINAL_SIZE, nominal
from burnish.backends.cpu.dot2 import computes, detail_of, dot_of
from burnish.backends.cpu.gemm import GemmSpec, gemm, pack_gemm, packed_size
from burnish.backends.cpu.gemm_plans import GemmPlan, gemm_plans
from burnish.backends.cpu.half import product_isa
from burnish.backends.cpu.matmul import FEW_ROWS, MatmulSpec, matmul
from burnish.backends.cpu.microkernel import F32
from burnish.backends.cpu.rules.common import lower_operands, refuse_dtype, refuse_operands
from burnish.ir import Node
from burnish.ir.dims import is_static, product
from burnish.lowering.context import CallShapes, NodeContext
from burnish.lowering.tactics import Tactic, by_tactics


def _accepts(node: Node) -> Refused | None:
    return refuse_matrix(node) or refuse_dtype(node) or refuse_operands(node, 2)


def gemm_tactics(ctx: NodeContext, node: Node) -> Iterator[Tactic]:
    """The packed GEMM template with several tiles and orders of loops."""
    x, w = node.required(0), node.required(1)
    k, n = (int(d) for d in w.shape if isinstance(d, int))
    lead = x.shape[:-1]
    # How weights are packed depends on the number of rows, where that is known.
    sizes, rows = lead, prod(d for d in lead if isinstance(d, int))
    if not all(map(is_static, lead)):
        sizes, rows = (tirx.Var("rows", "int64"),), rows * NOMINAL_SIZE
    isa = product_isa(ctx.isa, x.dtype)
    for plan in gemm_plans(isa, GemmSpec(sizes, k, n, postops_of(node), dtype=x.dtype), rows):
        yield Tactic(plan.name, plan.cost, partial(_emit_gemm, ctx, node, plan))


def _emit_gemm(ctx: NodeContext, node: Node, plan: GemmPlan) -> None:
    w, spec, columns = node.required(1), plan.spec, plan.columns
    isa = product_isa(ctx.isa, spec.dtype)
    dot = spec.dot(isa)
    ctx.computes = computes(dot)
    weights = ctx.weight(
        w,
        ("gemm", columns, dot.name),
        lambda a: pack_gemm(a, spec, isa),
        (packed_size(spec.k, spec.n, isa),),
    )

    def build(shapes: CallShapes) -> Any:
        return gemm(isa, replace(spec, lead=shapes.inputs[0][:-1]))

    loops = (columns, spec.steps, spec.rows_first)
    ctx.set(
        *ctx.call(
            "gemm",
            (spec.k, spec.n, loops, postops_key(spec.postops)),
            build,
            [ctx.tensor(node.required(0)), weights, *lower_operands(ctx, node, 2, isa)],
            [node.output.t],
            flops=product([*node.output.shape, 2 * spec.k]),
            detail=detail_of(dot, plan.tile),
        )
    )


def _accepts_batched(node: Node) -> Refused | None:
    refused = refuse_batches(node)
    if refused is not None:
        return refused
    postops = postops_of(node)
    if postops and not isinstance(node.output.shape[-1], int):
        return Refused("post-ops on a symbolic number of columns")
    return refuse_dtype(node) or refuse_operands(node, 2)


def batched_tactics(ctx: NodeContext, node: Node) -> Iterator[Tactic]:
    """The template for two computed operands."""
    a = node.required(0)
    sizes = (*node.output.shape, a.shape[-1])
    cost = prod(map(nominal, sizes)) / (2 * ctx.isa.lanes)
    yield Tactic("batched", cost, lambda: _emit_batched(ctx, node))


def _emit_batched(ctx: NodeContext, node: Node) -> None:
    a, b = ctx.tensor(node.required(0)), ctx.tensor(node.required(1))
    postops = postops_of(node)
    transposed = bool(node.int_attr("transB"))
    scale = node.float_attr("alpha", 1.0)
    depth = a.dims[-1]
    rows = node.output.shape[-2] if len(node.output.shape) > 1 else 1
    few = isinstance(rows, int) and rows <= FEW_ROWS
    dot = dot_of(ctx.isa, a.dtype, depth) if isinstance(depth, int) and not few else F32
    ctx.computes = computes(dot)

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
    KernelRule("burnish::MatMul", _accepts, by_tactics(gemm_tactics)),
    KernelRule("burnish::BatchMatMul", _accepts_batched, by_tactics(batched_tactics)),
    KernelRule("MatMul", _accepts_batched, by_tactics(batched_tactics)),
)
