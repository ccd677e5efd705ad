"""Convolutions of any rank as plain sums, for shapes and types that the templates refuse."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm import te, tirx

from burnish.ir.dims import Dim, add, mul, sub
from burnish.ir.dims import floordiv as dim_floordiv
from burnish.ir.types import FLOATS
from burnish.lowering.ops.common import all_of, like, wide
from burnish.lowering.ops.linear import finish
from burnish.lowering.ops.reduction import reduced, sum_over
from burnish.lowering.ops.window import Window, windows
from burnish.lowering.registry import te_rule
from burnish.lowering.te_context import Prim, TeContext, int64

Read = Callable[..., Prim]


def in_range(at: Sequence[Prim], spatial: Sequence[Prim]) -> Prim:
    """Whether an index that padding may have pushed out lies in the tensor."""
    tests = []
    for i, extent in zip(at, spatial, strict=True):
        tests += [i >= int64(0), i < extent]
    return all_of(*tests)


def tap(ctx: TeContext, window: Window, out: Prim, step: Prim) -> Prim:
    """Input position of tap ``step`` of window ``out``."""
    position = out * int64(window.stride) + step * int64(window.dilation)
    return position if window.before == 0 else position - ctx.expr(window.before)


def convolve(
    ctx: TeContext,
    x: Read,
    w: Read,
    geometry: Sequence[Window],
    group: int,
    weight: int = 1,
) -> te.Tensor:
    """The sum over input channels and taps.

    Args:
        ctx: Context; input 0 is the data [N, C, spatial...].
        x: Reads an element of the data.
        w: Reads an element of the weight [M, C / group, kernel...] of its data's input channel.
        geometry: One window for each spatial axis.
        group: Number of groups.
        weight: Position of the weight among the inputs.
    """
    out = ctx.out_dims()
    per_group = ctx.in_dims(weight)[1]
    out_per_group = dim_floordiv(out[1], group)
    spatial = ctx.in_shape(0)[2:]
    rank = len(spatial)

    def element(*at: Prim) -> Prim:
        n, m, *rest = at
        position, channel, steps = rest[:rank], rest[rank], rest[rank + 1 :]
        taps = [
            tap(ctx, window, o, k) for window, o, k in zip(geometry, position, steps, strict=True)
        ]
        source = channel
        if group > 1:
            source = tirx.floordiv(m, ctx.expr(out_per_group)) * ctx.expr(per_group) + channel
        value = x(n, source, *taps)
        if any(window.before != 0 or window.after != 0 for window in geometry):
            value = tirx.if_then_else(in_range(taps, spatial), value, like(0, value))
        return value * w(m, channel, *steps)

    shape = [*out, per_group, *(window.kernel for window in geometry)]
    return reduced(ctx, shape, range(len(out), len(shape)), element, sum_over, name="conv")


def conv_windows(
    ctx: TeContext,
    strides: tuple[int, ...] | None,
    dilations: tuple[int, ...] | None,
    pads: tuple[int, ...] | None,
    auto_pad: str,
    weight: int = 1,
) -> list[Window]:
    """Windows of a convolution, whose kernel shape is that of the weight."""
    kernel = [k for k in ctx.in_dims(weight)[2:] if isinstance(k, int)]
    return windows(ctx.in_dims(0)[2:], kernel, strides, dilations, pads, auto_pad)


@te_rule("Conv", dtypes=FLOATS)
def conv(
    ctx: TeContext,
    x: te.Tensor,
    w: te.Tensor,
    b: te.Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: tuple[int, ...] | None = None,
    group: int = 1,
    kernel_shape: tuple[int, ...] | None = None,
    pads: tuple[int, ...] | None = None,
    strides: tuple[int, ...] | None = None,
) -> te.Tensor:
    """Conv-22."""
    geometry = conv_windows(ctx, strides, dilations, pads, auto_pad)
    total = convolve(ctx, lambda *i: wide(x(*i)), lambda *i: wide(w(*i)), geometry, group)
    if b is None:
        return finish(ctx, total)
    return finish(ctx, total, lambda value, *at: value + wide(b(at[1])))


def _transposed_padding(
    ctx: TeContext, geometry: Sequence[Window], extra: Sequence[int], auto_pad: str
) -> list[Dim]:
    """Padding in front for every axis, as it follows from the output's shape."""
    result: list[Dim] = []
    spatial = zip(geometry, extra, ctx.in_dims(0)[2:], ctx.out_dims()[2:], strict=True)
    for window, more, dim, out in spatial:
        total = sub(add(mul(sub(dim, 1), window.stride), window.span + more), out)
        half = dim_floordiv(total, 2)
        result.append(half if auto_pad == "SAME_UPPER" else sub(total, half))
    return result


@te_rule("ConvTranspose", dtypes=FLOATS)
def conv_transpose(
    ctx: TeContext,
    x: te.Tensor,
    w: te.Tensor,
    b: te.Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: tuple[int, ...] | None = None,
    group: int = 1,
    kernel_shape: tuple[int, ...] | None = None,
    output_padding: tuple[int, ...] | None = None,
    output_shape: tuple[int, ...] | None = None,
    pads: tuple[int, ...] | None = None,
    strides: tuple[int, ...] | None = None,
) -> te.Tensor:
    """ConvTranspose-22, as a gather: every output sums the taps that reach it."""
    spatial = ctx.in_shape(0)[2:]
    rank = len(spatial)
    geometry = conv_windows(ctx, strides, dilations, pads, "NOTSET")
    before = [window.before for window in geometry]
    if output_shape or auto_pad.startswith("SAME"):
        before = _transposed_padding(ctx, geometry, output_padding or (0,) * rank, auto_pad)
    elif auto_pad == "VALID":
        before = [0] * rank
    in_per_group = dim_floordiv(ctx.in_dims(0)[1], group)
    out_per_group = ctx.in_dims(1)[1]
    out = ctx.out_dims()

    def element(*at: Prim) -> Prim:
        n, m, *rest = at
        position, channel, steps = rest[:rank], rest[rank], rest[rank + 1 :]
        sources, tests = [], []
        for window, front, o, k in zip(geometry, before, position, steps, strict=True):
            reached = o + ctx.expr(front) - k * int64(window.dilation)
            source = reached
            if window.stride > 1:
                tests.append(tirx.floormod(reached, int64(window.stride)).equal(int64(0)))
                source = tirx.floordiv(reached, int64(window.stride))
            sources.append(source)
        inner = m
        if group > 1:
            block = ctx.expr(out_per_group)
            inner = tirx.floormod(m, block)
            channel = tirx.floordiv(m, block) * ctx.expr(in_per_group) + channel
        inside = all_of(in_range(sources, spatial), *tests)
        value = wide(x(n, channel, *sources)) * wide(w(channel, inner, *steps))
        return tirx.if_then_else(inside, value, like(0, value))

    shape = [*out, in_per_group, *(window.kernel for window in geometry)]
    total = reduced(ctx, shape, range(len(out), len(shape)), element, sum_over, name="conv")
    if b is None:
        return finish(ctx, total)
    return finish(ctx, total, lambda value, *at: value + wide(b(at[1])))
