"""Data movement whose source index is data: Gather, GatherElements, GatherND."""

from __future__ import annotations

from typing import Any

from tvm import te, tirx

from burnish.ir.dims import Dim
from burnish.ir.graph import Node
from burnish.lowering.ops.common import bind, cast
from burnish.lowering.registry import te_rule
from burnish.lowering.te_context import Prim, TeContext, int64


def wrapped(index: Prim, extent: Prim) -> Prim:
    """An index as int64, counted from the end if negative."""
    wide = cast(index, "int64")
    return bind(wide, lambda i: tirx.Select(i < int64(0), i + extent, i))


def clamped(index: Prim, extent: Prim) -> Prim:
    """A wrapped index, clamped into the axis.

    ONNX calls an index out of range an error; reading elsewhere in the tensor instead of outside
    it costs nothing measurable.
    """
    return tirx.max(tirx.min(wrapped(index, extent), extent - int64(1)), int64(0))


def constant_index(ctx: TeContext, input_index: int) -> Any:
    """The data of an index input that is a constant with one element, as a number."""
    array = ctx.constant(input_index)
    return int(array.reshape(())[()]) if array is not None and array.size == 1 else None


def _static_index(number: int, dim: Dim, extent: Prim) -> Prim:
    if number >= 0:
        return int64(number)
    return int64(number + dim) if isinstance(dim, int) else extent + int64(number)


@te_rule("Gather")
def gather(ctx: TeContext, data: te.Tensor, indices: te.Tensor, *, axis: int = 0) -> te.Tensor:
    """Gather-13."""
    along = ctx.axis(axis)
    rank = len(ctx.in_dims(1))
    dim = ctx.in_dims(0)[along]
    extent = ctx.expr(dim)
    known = constant_index(ctx, 1)

    def body(*at: Prim) -> Prim:
        if known is not None:
            index = _static_index(known, dim, extent)
        else:
            index = clamped(indices(*at[along : along + rank]), extent)
        return data(*at[:along], index, *at[along + rank :])

    return ctx.compute(body)


@te_rule("GatherElements")
def gather_elements(
    ctx: TeContext, data: te.Tensor, indices: te.Tensor, *, axis: int = 0
) -> te.Tensor:
    """GatherElements-13."""
    along = ctx.axis(axis)
    extent = ctx.expr(ctx.in_dims(0)[along])

    def body(*at: Prim) -> Prim:
        return data(*at[:along], clamped(indices(*at), extent), *at[along + 1 :])

    return ctx.compute(body)


def static_last_dim(node: Node) -> str | None:
    """GatherND and ScatterND: the length of an index tuple must be a number."""
    dims = node.required(1).shape
    return None if dims and isinstance(dims[-1], int) else "index tuples of symbolic length"


@te_rule("GatherND", check=static_last_dim)
def gather_nd(
    ctx: TeContext, data: te.Tensor, indices: te.Tensor, *, batch_dims: int = 0
) -> te.Tensor:
    """GatherND-13."""
    index_dims = ctx.in_dims(1)
    length = index_dims[-1]
    assert isinstance(length, int)
    outer = len(index_dims) - 1
    extents = ctx.in_shape(0)[batch_dims : batch_dims + length]

    def body(*at: Prim) -> Prim:
        tuple_at = at[:outer]
        picked = [clamped(indices(*tuple_at, int64(k)), extent) for k, extent in enumerate(extents)]
        return data(*at[:batch_dims], *picked, *at[outer:])

    return ctx.compute(body)
