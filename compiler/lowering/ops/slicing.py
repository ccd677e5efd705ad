"""Slice and Pad."""

from __future__ import annotations

import numpy as np
from tvm import te, tirx

from burnish.ir.dims import Dim, equal
from burnish.ir.graph import Node
from burnish.lowering.ops.common import all_of, cast, const
from burnish.lowering.registry import te_rule
from burnish.lowering.te_context import Prim, TeContext, int64, known_content

_INT64_MAX = np.iinfo(np.int64).max


def _known_axes_and_steps(node: Node) -> str | None:
    """Steps (and axes) decide the loop; they must be numbers."""
    for index in (3, 4):
        value = node.input(index)
        content = None if value is None else known_content(value)
        if content is not None and not all(isinstance(d, int) for d in content):
            return f"symbolic input {index}"
    return None


def _clamped(value: Prim, low: Prim, high: Prim) -> Prim:
    return tirx.max(low, tirx.min(value, high))


def slice_start(ctx: TeContext, start: Dim | Prim, dim: Dim, step: int) -> Prim:
    """First element that a slice reads: ``start`` from the end if negative, then clamped."""
    extent = ctx.expr(dim)
    last = extent if step > 0 else extent - int64(1)
    if isinstance(start, int):
        if isinstance(dim, int):
            return int64(_static_start(start, dim, step))
        if start == 0 and step > 0:
            return int64(0)
        if start < 0:
            return _clamped(extent + int64(max(start, -_INT64_MAX)), int64(0), last)
        return tirx.min(int64(start), last)
    value = start if isinstance(start, tirx.Expr) else ctx.expr(start)
    value = tirx.Select(value < int64(0), value + extent, value)
    return _clamped(value, int64(0), last)


def _static_start(start: int, dim: int, step: int) -> int:
    start = start + dim if start < 0 else start
    return min(max(start, 0), dim if step > 0 else dim - 1)


@te_rule("Slice", attribute_inputs=(1, 2, 3, 4), run_time=(1, 2), check=_known_axes_and_steps)
def slice_rule(
    ctx: TeContext,
    x: te.Tensor,
    starts: te.Tensor | None,
    ends: te.Tensor | None,
    axes: te.Tensor | None = None,
    steps: te.Tensor | None = None,
) -> te.Tensor:
    """Slice-13.

    The output's type says how many elements there are, so ``ends`` is not needed. Starts may come
    at run time.
    """
    rank = len(ctx.in_dims(0))
    known = ctx.dims_of(1)
    count = len(known) if known is not None else _length(ctx, 1)
    along = [a % rank for a in ctx.ints(3) or range(count)]
    strides = ctx.ints(4) or (1,) * count

    def body(*at: Prim) -> Prim:
        index = list(at)
        for position, (axis, step) in enumerate(zip(along, strides, strict=True)):
            if known is not None:
                start: Dim | Prim = known[position]
            else:
                assert starts is not None
                start = cast(starts(int64(position)), "int64")
            first = slice_start(ctx, start, ctx.in_dims(0)[axis], step)
            index[axis] = first + (at[axis] if step == 1 else at[axis] * int64(step))
        return x(*index)

    return ctx.compute(body)


def _length(ctx: TeContext, index: int) -> int:
    (length,) = ctx.in_dims(index)
    assert isinstance(length, int)
    return length


def _pad_source(i: Prim, extent: Prim, mode: str) -> Prim:
    """Where a padded element comes from; ``i`` may lie outside [0, extent)."""
    if mode == "edge":
        return _clamped(i, int64(0), extent - int64(1))
    if mode == "wrap":
        return tirx.floormod(i, extent)
    # A reflection has the period 2 * (extent - 1): 0 1 2 | 1 | 0 1 2.
    last = extent - int64(1)
    period = tirx.max(int64(2) * last, int64(1))
    folded = tirx.floormod(i, period)
    return tirx.min(folded, period - folded)


@te_rule("Pad", attribute_inputs=(1, 3), run_time=(1,))
def pad(
    ctx: TeContext,
    x: te.Tensor,
    pads: te.Tensor | None,
    constant_value: te.Tensor | None = None,
    axes: te.Tensor | None = None,
    *,
    mode: str = "constant",
) -> te.Tensor:
    """Pad-25; negative pads cut off. Pads may come at run time."""
    rank = len(ctx.in_dims(0))
    known = ctx.ints(3)
    along = tuple(range(rank)) if known is None else tuple(a % rank for a in known)
    before: dict[int, Prim] = {}
    content = ctx.content(1)
    for position, axis in enumerate(along):
        if content is not None:
            before[axis] = content[position]
        else:
            assert pads is not None
            before[axis] = cast(pads(int64(position)), "int64")
    touched = [a for a in along if not _untouched(before[a], ctx.in_dims(0)[a], ctx.out_dims()[a])]
    dtype = ctx.in_type(0).dtype

    def body(*at: Prim) -> Prim:
        index = list(at)
        inside: list[Prim] = []
        for axis in touched:
            extent = ctx.expr(ctx.in_dims(0)[axis])
            if isinstance(before[axis], tirx.IntImm) and before[axis].value == 0:
                shifted = at[axis]
            else:
                shifted = at[axis] - before[axis]
                if mode == "constant":
                    inside.append(shifted >= int64(0))
            if mode == "constant":
                inside.append(shifted < extent)
                index[axis] = shifted
            else:
                low, length = _kept(ctx, axis, along, extent)
                index[axis] = low + _pad_source(shifted - low, length, mode)
        if not inside:
            return x(*index)
        fill = const(0, dtype) if constant_value is None else _scalar(constant_value)
        return tirx.if_then_else(all_of(*inside), x(*index), fill)

    return ctx.compute(body)


def _scalar(tensor: te.Tensor) -> Prim:
    """The element of a tensor of one element."""
    return tensor(*[int64(0)] * len(tensor.shape))


def _untouched(before: Prim, dim: Dim, out_dim: Dim) -> bool:
    """No element of an axis moves."""
    return isinstance(before, tirx.IntImm) and before.value == 0 and equal(dim, out_dim)


def _kept(ctx: TeContext, axis: int, along: tuple[int, ...], extent: Prim) -> tuple[Prim, Prim]:
    """First element and number of elements that negative pads leave, which fill the padding."""
    pads = ctx.ints(1)
    if pads is None:
        return int64(0), extent
    position = along.index(axis)
    cut_front, cut_back = max(-pads[position], 0), max(-pads[position + len(along)], 0)
    return int64(cut_front), extent - int64(cut_front + cut_back)
