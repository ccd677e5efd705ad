"""Concatenations along the last axis that kernels write their results into."""

from __future__ import annotations

from typing import Any

from burnish.backends.base import KernelRule, Refused
from burnish.backends.cpu.codes import LIMITS
from burnish.backends.cpu.narrow import NARROW
from burnish.backends.cpu.rules.common import refuse_dtype
from burnish.backends.cpu.scatter import scatter
from burnish.ir import Node, Value
from burnish.lowering.context import CallShapes, Lowered, NodeContext
from burnish.lowering.joins import Join, joins_last_axis


def _accepts(node: Node) -> Refused | None:
    if not joins_last_axis(node):
        return Refused("not along a last axis of known size")
    return refuse_dtype(node, dtypes=("float32", *NARROW, *LIMITS))


def _emit(ctx: NodeContext, node: Node) -> None:
    join = ctx.function.joins.pop(node, None)
    if join is None or join.tensor is None:
        ctx.function.module.table.emit(ctx, node)
        return
    join.tensor = ctx.reshape(join.tensor, node.output.shape)
    if join.written.issuperset(node.inputs):
        ctx.record("", [node.output.t], 0, "its inputs' kernels write into it", 0)
    for value in node.inputs:
        if value is not None and value not in join.written:
            join.tensor = _copy(ctx, join, value)
    ctx.set(join.tensor)


def _copy(ctx: NodeContext, join: Join, value: Value) -> Lowered:
    """The joined tensor with one more input in it."""
    assert join.tensor is not None
    x, first = ctx.tensor(value), join.offset(value)

    def build(shapes: CallShapes) -> Any:
        return scatter(ctx.isa, shapes.inputs[0], join.total, first, begun=True, dtype=join.dtype)

    (result,) = ctx.call(
        "scatter", first, build, [x, join.tensor], [join.type(value.shape[:-1])], over=1
    )
    return result


CONCAT = KernelRule("Concat", _accepts, _emit)
