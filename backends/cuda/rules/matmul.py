"""Matrix products: with constant weights, or of two computed matrices."""

from __future__ import annotations

from typing import Any

from tvm import tirx

from burnish.backends.base import KernelRule, Refused
from burnish.backends.composites import postops_key, postops_of, refuse_batches, refuse_matrix
from burnish.backends.cuda.arch import TENSOR_CORES
from burnish.backends.cuda.gemm import GemmSpec, MatmulSpec, gemm, matmul, pack, packed_shape
from burnish.backends.cuda.product import Problem, Tile, choose_splits
from burnish.backends.cuda.rules.common import lower_operands, refuse_mixed, refuse_operands
from burnish.ir import Node
from burnish.ir.dims import is_static, product
from burnish.lowering.context import CallShapes, NodeContext


def engine(dtype: str) -> str:
    """Which units multiply, for the report."""
    return TENSOR_CORES if dtype == "float16" else "fp32 units"


def cut(tile: Tile, problem: Problem, ctx: NodeContext) -> str:
    """How a product is cut, for the report."""
    splits = choose_splits(problem, tile, ctx.isa.multiprocessors)
    return f"tile {tile}" + (f", depth in {splits} parts" if splits > 1 else "")


def _accepts(node: Node) -> Refused | None:
    return refuse_matrix(node) or refuse_mixed(node, 2) or refuse_operands(node, 2)


def _emit(ctx: NodeContext, node: Node) -> None:
    x, w = ctx.tensor(node.required(0)), node.required(1)
    depth, columns = (int(d) for d in w.shape if isinstance(d, int))
    postops, operands = postops_of(node), lower_operands(ctx, node, 2)
    kinds = tuple(t.dtype for t in operands)

    def spec_of(rows: Any) -> GemmSpec:
        return GemmSpec(tuple(rows), depth, columns, x.dtype, postops, kinds)

    lead = x.dims[:-1]
    # How weights are packed depends on the number of rows, where that is known.
    fixed = all(map(is_static, lead))
    any_size = spec_of(lead if fixed else (tirx.Var("rows", "int64"),))
    tile = any_size.tile(ctx.isa)
    weights = ctx.weight(
        w, ("gemm", tile), lambda a: pack(a, tile), packed_shape(depth, columns, tile)
    )
    ctx.set(
        *ctx.call(
            "gemm",
            (depth, columns, postops_key(postops)),
            lambda shapes: gemm(ctx.isa, spec_of(shapes.inputs[0][:-1])),
            [x, weights, *operands],
            [node.output.t],
            flops=product([*node.output.shape, 2 * depth]),
            detail=f"{engine(x.dtype)}, {cut(tile, any_size.problem, ctx)}",
        )
    )


def _accepts_batched(node: Node) -> Refused | None:
    return refuse_batches(node) or refuse_mixed(node, 2) or refuse_operands(node, 2)


def _emit_batched(ctx: NodeContext, node: Node) -> None:
    a, b = ctx.tensor(node.required(0)), ctx.tensor(node.required(1))
    postops, operands = postops_of(node), lower_operands(ctx, node, 2)
    transposed = bool(node.int_attr("transB"))
    scale = node.float_attr("alpha", 1.0)
    kinds = tuple(t.dtype for t in operands)

    def build(shapes: CallShapes) -> Any:
        (*a_batch, m, k), (*b_batch, _, _) = shapes.inputs[:2]
        n = shapes.outputs[0][-1]
        spec = MatmulSpec(
            tuple(a_batch),
            tuple(b_batch),
            m,
            k,
            n,
            transposed,
            scale,
            a.dtype,
            node.output.dtype,
            postops,
            kinds,
        )
        return matmul(ctx.isa, spec)

    ctx.set(
        *ctx.call(
            "matmul",
            (transposed, scale, postops_key(postops)),
            build,
            [a, b, *operands],
            [node.output.t],
            flops=product([*node.output.shape, a.dims[-1], 2]),
            detail=engine(a.dtype),
        )
    )


MATMUL_RULES = (
    KernelRule("burnish::MatMul", _accepts, _emit),
    KernelRule("burnish::BatchMatMul", _accepts_batched, _emit_batched),
    KernelRule("MatMul", _accepts_batched, _emit_batched),
)
