"""Pools of any rank, for shapes and types that the templates refuse."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import te, tirx

from burnish.ir import dims
from burnish.ir.types import FLOATS
from burnish.lowering.ops.common import cast, const, extern, like, select, wide, wide_dtype
from burnish.lowering.ops.conv import in_range, tap
from burnish.lowering.ops.linear import finish
from burnish.lowering.ops.reduce import INDEX, NO_INDEX, arg_reducer
from burnish.lowering.ops.reduction import count_of, lowest, maximum_over, reduced, sum_over
from burnish.lowering.ops.unary import magnitude
from burnish.lowering.ops.window import Window, windows
from burnish.lowering.registry import REAL, te_rule
from burnish.lowering.te_context import Prim, TeContext, int64


def _taps(ctx: TeContext, geometry: Sequence[Window], at: Sequence[Prim]) -> tuple[Any, Any]:
    """Index of the data for (n, c, outputs..., taps...), and whether it is inside."""
    rank = len(geometry)
    n, c, *rest = at
    position = [
        tap(ctx, window, o, k)
        for window, o, k in zip(geometry, rest[:rank], rest[rank:], strict=True)
    ]
    return (n, c, *position), in_range(position, ctx.in_shape(0)[2:])


def _pooled(ctx: TeContext, x: te.Tensor, geometry: Sequence[Window], **how: Any) -> te.Tensor:
    """Combine the taps of every window; taps outside count as ``how["outside"]``."""
    before = how.get("before", lambda value: value)

    def element(*at: Prim) -> Prim:
        index, inside = _taps(ctx, geometry, at)
        value = before(wide(x(*index)))
        return tirx.if_then_else(inside, value, how["outside"])

    out = ctx.out_dims()
    shape = [*out, *(window.kernel for window in geometry)]
    return reduced(ctx, shape, range(len(out), len(shape)), element, how["combine"], name="pool")


def _flat_index(ctx: TeContext, index: Sequence[Prim], storage_order: int) -> Prim:
    """Position in the whole tensor; the spatial axes are column-major for ``storage_order``."""
    shape = ctx.in_shape(0)
    spatial = list(zip(index[2:], shape[2:], strict=True))
    linear = index[0] * shape[1] + index[1]
    for _, extent in spatial:
        linear = linear * extent
    inner: Prim = int64(0)
    for i, extent in reversed(spatial) if storage_order else spatial:
        inner = inner * extent + i
    return linear + inner


@te_rule("MaxPool", dtypes=REAL)
def max_pool(
    ctx: TeContext,
    x: te.Tensor,
    *,
    kernel_shape: tuple[int, ...],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: tuple[int, ...] | None = None,
    pads: tuple[int, ...] | None = None,
    storage_order: int = 0,
    strides: tuple[int, ...] | None = None,
) -> tuple[te.Tensor, ...]:
    """MaxPool-22."""
    spatial = ctx.in_dims(0)[2:]
    geometry = windows(spatial, kernel_shape, strides, dilations, pads, auto_pad)
    kind = wide_dtype(ctx.in_type(0).dtype)
    least = lowest(kind)
    if not ctx.has_output(1):
        pooled = _pooled(ctx, x, geometry, outside=least, combine=maximum_over)
        return (finish(ctx, pooled),)
    reducer = arg_reducer(True, False)
    steps = [te.reduce_axis((int64(0), int64(window.kernel)), name="r") for window in geometry]

    def body(*at: Prim) -> Any:
        index, inside = _taps(ctx, geometry, [*at, *(step.var for step in steps)])
        flat = tirx.Cast(INDEX, _flat_index(ctx, index, storage_order))
        where = select(inside, flat, NO_INDEX)
        return reducer((where, tirx.if_then_else(inside, wide(x(*index)), least)), axis=steps)

    where, value = te.compute(ctx.out_shape(), body, name="pool")
    return finish(ctx, value), ctx.compute(lambda *at: tirx.Cast("int64", where(*at)), 1)


def _count(ctx: TeContext, geometry: Sequence[Window], at: Sequence[Prim], padded: bool) -> Prim:
    """Number of taps of a window that lie in the data, or in the padded data."""
    total: Prim = None
    for window, dim, o in zip(geometry, ctx.in_dims(0)[2:], at, strict=True):
        before, after = window.before, window.after
        start = o * int64(window.stride) - ctx.expr(before)
        low = -ctx.expr(before) if padded else int64(0)
        high = ctx.expr(dims.add(dim, after) if padded else dim)
        step = int64(window.dilation)
        first = tirx.max(int64(0), tirx.floordiv(low - start + step - int64(1), step))
        last = tirx.floordiv(high - int64(1) - start, step)
        count = tirx.min(int64(window.kernel), last + int64(1)) - first
        total = count if total is None else total * count
    return total


@te_rule("AveragePool", dtypes=FLOATS)
def average_pool(
    ctx: TeContext,
    x: te.Tensor,
    *,
    kernel_shape: tuple[int, ...],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: tuple[int, ...] | None = None,
    pads: tuple[int, ...] | None = None,
    strides: tuple[int, ...] | None = None,
) -> te.Tensor:
    """AveragePool-22."""
    spatial = ctx.in_dims(0)[2:]
    geometry = windows(spatial, kernel_shape, strides, dilations, pads, auto_pad)
    kind = wide_dtype(ctx.in_type(0).dtype)
    total = _pooled(ctx, x, geometry, outside=const(0, kind), combine=sum_over)

    def average(value: Prim, *at: Prim) -> Prim:
        return value / cast(_count(ctx, geometry, at[2:], bool(count_include_pad)), kind)

    return finish(ctx, total, average)


def _power(value: Prim, p: int) -> Prim:
    if p == 1:
        return magnitude(value)
    return value * value if p == 2 else extern("pow", magnitude(value), like(p, value))


def _root(value: Prim, p: int) -> Prim:
    if p == 1:
        return value
    return tirx.sqrt(value) if p == 2 else extern("pow", value, like(1 / p, value))


@te_rule("LpPool", dtypes=FLOATS)
def lp_pool(
    ctx: TeContext,
    x: te.Tensor,
    *,
    kernel_shape: tuple[int, ...],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: tuple[int, ...] | None = None,
    p: int = 2,
    pads: tuple[int, ...] | None = None,
    strides: tuple[int, ...] | None = None,
) -> te.Tensor:
    """LpPool-22."""
    spatial = ctx.in_dims(0)[2:]
    geometry = windows(spatial, kernel_shape, strides, dilations, pads, auto_pad)
    kind = wide_dtype(ctx.in_type(0).dtype)
    total = _pooled(
        ctx,
        x,
        geometry,
        outside=const(0, kind),
        combine=sum_over,
        before=lambda value: _power(value, p),
    )
    return finish(ctx, total, lambda value, *at: _root(value, p))


def _global(ctx: TeContext, x: te.Tensor, combine: Any, before: Any = wide) -> te.Tensor:
    shape = ctx.in_dims(0)
    return reduced(
        ctx, shape, range(2, len(shape)), lambda *at: before(wide(x(*at))), combine, keepdims=True
    )


@te_rule("GlobalMaxPool", dtypes=FLOATS)
def global_max_pool(ctx: TeContext, x: te.Tensor) -> te.Tensor:
    """GlobalMaxPool-22."""
    return finish(ctx, _global(ctx, x, maximum_over))


@te_rule("GlobalAveragePool", dtypes=FLOATS)
def global_average_pool(ctx: TeContext, x: te.Tensor) -> te.Tensor:
    """GlobalAveragePool-22."""
    shape, kind = ctx.in_dims(0), wide_dtype(ctx.in_type(0).dtype)
    count = count_of(ctx, shape, range(2, len(shape)), kind)
    return finish(ctx, _global(ctx, x, sum_over), lambda value, *at: value / count)


@te_rule("GlobalLpPool", dtypes=FLOATS)
def global_lp_pool(ctx: TeContext, x: te.Tensor, *, p: int = 2) -> te.Tensor:
    """GlobalLpPool-22."""
    total = _global(ctx, x, sum_over, lambda value: _power(value, p))
    return finish(ctx, total, lambda value, *at: _root(value, p))
