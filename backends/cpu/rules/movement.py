"""Transposes and reductions of whole tensors."""

from __future__ import annotations

from typing import Any

from burnish.backends.base import KernelRule, Refused
from burnish.backends.cpu.reduce import OPS, ReduceSpec, reduce
from burnish.backends.cpu.rules.common import refuse_dtype
from burnish.backends.cpu.transpose import TransposeSpec, transpose
from burnish.ir import Node
from burnish.ir.types import FLOATS, INTEGERS
from burnish.lowering.context import CallShapes, NodeContext


def _accepts_transpose(node: Node) -> Refused | None:
    dtype = node.output.dtype
    return None if dtype in FLOATS | INTEGERS | {"bool"} else Refused(f"no kernel for {dtype}")


def _emit_transpose(ctx: NodeContext, node: Node) -> None:
    x = ctx.tensor(node.required(0))
    perm = node.ints_attr("perm", tuple(reversed(range(len(x.dims)))))

    def build(shapes: CallShapes) -> Any:
        return transpose(ctx.isa, TransposeSpec(shapes.inputs[0], perm, x.dtype))

    ctx.set(*ctx.call("transpose", perm, build, [x], [node.output.t]))


def reduced_axes(node: Node) -> tuple[int, ...] | None:
    """Axes from the front; all of them where none are given; None when they are not constant."""
    rank = len(node.required(0).shape)
    value = node.input(1)
    if value is None:
        return () if node.int_attr("noop_with_empty_axes") else tuple(range(rank))
    if not value.is_const:
        return None
    axes = tuple(int(a) % rank for a in value.array.reshape(-1))
    if not axes and not node.int_attr("noop_with_empty_axes"):
        return tuple(range(rank))
    return axes


def _accepts_reduce(node: Node) -> Refused | None:
    if not reduced_axes(node):
        return Refused("the axes are not known, or there are none")
    return refuse_dtype(node, 1, dtypes=("float32",))


def _emit_reduce(ctx: NodeContext, node: Node) -> None:
    x, axes = ctx.tensor(node.required(0)), reduced_axes(node)
    assert axes

    def build(shapes: CallShapes) -> Any:
        return reduce(ctx.isa, ReduceSpec(node.op, shapes.inputs[0], axes, shapes.outputs[0]))

    ctx.set(*ctx.call(node.op.lower(), axes, build, [x], [node.output.t]))


MOVEMENT_RULES = (
    KernelRule("Transpose", _accepts_transpose, _emit_transpose),
    *(KernelRule(op, _accepts_reduce, _emit_reduce) for op in OPS),
)
