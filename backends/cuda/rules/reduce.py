"""Reductions over the last axes; others run from the operator table."""

from __future__ import annotations

from typing import Any

from burnish.backends.base import KernelRule, Refused
from burnish.backends.cpu.rules.movement import reduced_axes
from burnish.backends.cuda.reduce import OPS, ReduceSpec, reduce
from burnish.backends.cuda.rules.common import refuse_floats
from burnish.backends.cuda.tir import product
from burnish.ir import Node
from burnish.lowering.context import CallShapes, NodeContext


def _accepts(node: Node) -> Refused | None:
    axes = reduced_axes(node)
    if not axes:
        return Refused("the axes are not known, or there are none")
    rank = len(node.required(0).shape)
    if sorted(axes) != list(range(rank - len(axes), rank)):
        return Refused("the axes are not the last ones")
    return refuse_floats([node.required(0), node.output])


def _emit(ctx: NodeContext, node: Node) -> None:
    x, axes = ctx.tensor(node.required(0)), reduced_axes(node)
    assert axes
    kept = len(x.dims) - len(axes)

    def build(shapes: CallShapes) -> Any:
        dims, output = shapes.inputs[0], shapes.outputs[0]
        rows, width = product(dims[:kept]), product(dims[kept:])
        spec = ReduceSpec(node.op, dims, output, rows, width, x.dtype, node.output.dtype)
        return reduce(spec)

    ctx.set(*ctx.call(node.op.lower(), kept, build, [x], [node.output.t]))


REDUCE_RULES = tuple(KernelRule(op, _accepts, _emit) for op in OPS)
