"""The one kernel of this backend's own: a matrix product with constant weights and post-ops."""

from __future__ import annotations

from typing import Any

from burnish.backends.base import KernelRule, Refused
from burnish.backends.composites import postops_key, postops_of, refuse_matrix
from burnish.backends.cpu import tir
from burnish.backends.cpu.epilogue import Epilogue
from burnish.backends.cpu.rules.common import lower_operands, refuse_dtype, refuse_operands
from burnish.ir import Node
from burnish.ir.dims import product
from burnish.lowering.context import CallShapes, NodeContext


def _accepts(node: Node) -> Refused | None:
    """Whether there is a kernel for a node: decided by types and attributes alone.

    What is refused runs as the plain operators that the composite stands for, and the reason is a
    line of the report.
    """
    return refuse_matrix(node) or refuse_dtype(node) or refuse_operands(node, 2)


def _emit(ctx: NodeContext, node: Node) -> None:
    x, w = ctx.tensor(node.required(0)), node.required(1)
    # Stored as the kernel reads them: a row for each output, so that both operands are contiguous.
    rows = ctx.weight(w, "transposed", lambda a: a.T.copy())
    postops = postops_of(node)

    def build(shapes: CallShapes) -> Any:
        return _kernel(shapes, ctx, node)

    results = ctx.call(
        "matmul",
        postops_key(postops),
        build,
        [x, rows, *lower_operands(ctx, node, 2)],
        [node.output.t],
        flops=product([*node.output.shape, 2 * w.shape[0]]),
        detail="three loops",
    )
    ctx.set(*results)


def _kernel(shapes: CallShapes, ctx: NodeContext, node: Node) -> Any:
    """``y[m, n] = postops(sum over k of x[m, k] * w[n, k])``; leading dims count as rows."""
    n_size, k_size = shapes.inputs[1]
    with tir.kernel("matmul", ctx.isa) as k:
        x = k.input("x", shapes.inputs[0])
        w = k.input("w", shapes.inputs[1])
        epilogue = Epilogue.declare(k, postops_of(node), shapes.outputs[0])
        y = k.output("y", shapes.outputs[0])
        total = tir.local(1, "float32")
        with tir.serial(tir.floordiv(y.size, n_size)) as m, tir.serial(n_size) as n:
            tir.store(total, 0, tir.constant(0.0))
            with tir.serial(k_size) as i:
                term = x.load(m * k_size + i) * w.load(n * k_size + i)
                tir.store(total, 0, tir.load(total, 0) + term)
            at = m * n_size + n
            value = epilogue.start(tir.load(total, 0), at, n)
            y.store(at, epilogue.finish(value, at, n))
    return k.result


MATMUL = KernelRule("burnish::MatMul", _accepts, _emit)
