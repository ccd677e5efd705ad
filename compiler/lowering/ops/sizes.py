"""Kernels that compute sizes from operands that are known at run time only.

They belong to the operators of :mod:`burnish.ir.infer.run_time`. Each works on a handful of
integers. A size that the operands do not allow is -1: the host, which reads the sizes, refuses it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from tvm import tirx

from burnish.backends.cpu import tir
from burnish.backends.cpu.tir import Tensor
from burnish.ir.infer.run_time import DOMAIN
from burnish.ir.types import INTEGERS
from burnish.lowering.kernel_context import KernelContext
from burnish.lowering.ops.common import all_of, cast, const, dtype_of
from burnish.lowering.registry import REAL, kernel_rule
from burnish.lowering.te_context import Prim, int64

_INVALID = -1


def _elements(tensor: Tensor | None) -> list[Prim]:
    """The elements of a short integer operand as int64."""
    if tensor is None:
        return []
    count = 1
    for extent in tensor.shape:
        assert isinstance(extent, int)
        count *= extent
    return [tir.hold(cast(tensor.load(i), "int64")) for i in range(count)]


def _sizes(ctx: KernelContext) -> list[Prim]:
    """The sizes of the data, which are the elements of input 0."""
    sizes = ctx.content(0)
    assert sizes is not None
    return list(sizes)


def _store(target: Tensor, values: Sequence[Prim], valid: Prim | None = None) -> None:
    for index, value in enumerate(values):
        stored = value if valid is None else tirx.Select(valid, value, int64(_INVALID))
        target.store(index, stored)


def _wrapped(axes: Sequence[Prim], rank: int) -> list[Prim]:
    return [tir.hold(tirx.Select(a < int64(0), a + int64(rank), a)) for a in axes]


def _listed(axes: Sequence[Prim], rank: int) -> tuple[list[Prim], Prim]:
    """For each axis whether it is listed, and whether the list is valid."""
    wrapped = _wrapped(axes, rank)
    masks: list[Prim] = []
    for axis in range(rank):
        mask: Prim = const(False, "bool")
        for a in wrapped:
            mask = tirx.Or(mask, a.equal(int64(axis)))
        masks.append(mask)
    # Each axis of the list is in range and listed once when as many are marked as are listed.
    marked: Prim = int64(0)
    for mask in masks:
        marked = marked + _count(mask)
    return masks, marked.equal(int64(len(axes)))


def _count(mask: Prim) -> Prim:
    return tirx.Select(mask, int64(1), int64(0))


def _product(values: Sequence[Prim]) -> Prim:
    result: Prim = int64(1)
    for value in values:
        result = result * value
    return tir.hold(result)


def _unmarked(sizes: Sequence[Prim], masks: Sequence[Prim], count: int) -> list[Prim]:
    """The first ``count`` sizes whose mask is false."""
    found: list[Prim] = [int64(0)] * count
    place: Prim = int64(0)
    for size, mask in zip(sizes, masks, strict=True):
        for index in range(count):
            here = tirx.And(tirx.Not(mask), place.equal(int64(index)))
            found[index] = tir.hold(tirx.Select(here, size, found[index]))
        place = tir.hold(place + int64(1) - _count(mask))
    return found


@kernel_rule("ReshapeSizes", domain=DOMAIN, attribute_inputs=(0,), dtypes=INTEGERS)
def reshape_sizes(
    ctx: KernelContext, sizes: Tensor | None, shape: Tensor, *, allowzero: int = 0
) -> None:
    """The target of Reshape-25: -1 is what is left, 0 copies a size unless ``allowzero``."""
    source, target = _sizes(ctx), _elements(shape)
    wanted = []
    for index, size in enumerate(target):
        copied = source[index] if index < len(source) else int64(_INVALID - 1)
        wanted.append(
            size if allowzero else tir.hold(tirx.Select(size.equal(int64(0)), copied, size))
        )
    total = _product(source)
    free = [size.equal(int64(-1)) for size in wanted]
    rest = _product([tirx.Select(f, int64(1), s) for f, s in zip(free, wanted, strict=True)])
    left = tir.hold(tirx.floordiv(total, tirx.max(rest, int64(1))))
    solved = [tir.hold(tirx.Select(f, left, s)) for f, s in zip(free, wanted, strict=True)]
    holes: Prim = int64(0)
    for f in free:
        holes = holes + _count(f)
    valid = all_of(holes <= int64(1), _product(solved).equal(total))
    _store(ctx.output(), solved, valid)


@kernel_rule("SqueezeSizes", domain=DOMAIN, attribute_inputs=(0,), dtypes=INTEGERS)
def squeeze_sizes(ctx: KernelContext, sizes: Tensor | None, axes: Tensor) -> None:
    """The sizes without those of the axes, which must be 1."""
    source = _sizes(ctx)
    masks, valid = _listed(_elements(axes), len(source))
    kept = _unmarked(source, masks, len(source) - len(_elements(axes)))
    _store(ctx.output(), kept, tirx.And(valid, _product(kept).equal(_product(source))))


@kernel_rule("KeptSizes", domain=DOMAIN, attribute_inputs=(0,), dtypes=INTEGERS)
def kept_sizes(ctx: KernelContext, sizes: Tensor | None, axes: Tensor) -> None:
    """The sizes without those of the axes."""
    source = _sizes(ctx)
    masks, valid = _listed(_elements(axes), len(source))
    _store(ctx.output(), _unmarked(source, masks, len(source) - len(_elements(axes))), valid)


@kernel_rule("UnsqueezeSizes", domain=DOMAIN, attribute_inputs=(0,), dtypes=INTEGERS)
def unsqueeze_sizes(ctx: KernelContext, sizes: Tensor | None, axes: Tensor) -> None:
    """The sizes with a 1 at each of the axes."""
    source, new = _sizes(ctx), _elements(axes)
    masks, valid = _listed(new, len(source) + len(new))
    result: list[Prim] = []
    place: Prim = int64(0)
    for mask in masks:
        size: Prim = int64(1)
        for index, own in enumerate(source):
            size = tirx.Select(tirx.And(tirx.Not(mask), place.equal(int64(index))), own, size)
        result.append(tir.hold(size))
        place = tir.hold(place + int64(1) - _count(mask))
    _store(ctx.output(), result, valid)


@kernel_rule("AxisSizes", domain=DOMAIN, attribute_inputs=(0,), dtypes=INTEGERS)
def axis_sizes(ctx: KernelContext, sizes: Tensor | None, axes: Tensor) -> None:
    """For each axis (size, 1), or (1, size) if it is listed."""
    source = _sizes(ctx)
    masks, valid = _listed(_elements(axes), len(source))
    result: list[Prim] = []
    for size, mask in zip(source, masks, strict=True):
        result.append(tirx.Select(mask, int64(1), size))
        result.append(tirx.Select(mask, size, int64(1)))
    _store(ctx.output(), result, valid)


@kernel_rule("AroundSizes", domain=DOMAIN, attribute_inputs=(0,), dtypes=INTEGERS)
def around_sizes(ctx: KernelContext, sizes: Tensor | None, axis: Tensor) -> None:
    """Number of elements before, along and behind an axis."""
    source = _sizes(ctx)
    (along,) = _wrapped(_elements(axis), len(source))
    parts: list[Prim] = [int64(1)] * 3
    for index, size in enumerate(source):
        for part, here in enumerate(
            (int64(index) < along, along.equal(int64(index)), int64(index) > along)
        ):
            parts[part] = parts[part] * tirx.Select(here, size, int64(1))
    _store(ctx.output(), parts, all_of(along >= int64(0), along < int64(len(source))))


def _clamped(value: Prim, low: Prim, high: Prim) -> Prim:
    return tirx.max(low, tirx.min(value, high))


def _slice_axis(size: Prim, start: Prim, end: Prim, step: Prim) -> tuple[Prim, Prim]:
    """First element and number of elements, by Slice's clamping; no elements for an empty axis."""
    zero, one = int64(0), int64(1)
    start = tir.hold(tirx.Select(start < zero, start + size, start))
    end = tir.hold(tirx.Select(end < zero, end + size, end))
    up = step > zero
    last = size - one
    first = tir.hold(_clamped(start, zero, tirx.Select(up, size, last)))
    stop = tir.hold(tirx.Select(up, _clamped(end, zero, size), _clamped(end, int64(-1), last)))
    span = tir.hold(tirx.Select(up, stop - first, first - stop))
    stride = tir.hold(tirx.max(tirx.Select(up, step, zero - step), one))
    count = tirx.floordiv(tirx.max(span, zero) + stride - one, stride)
    return first, tir.hold(tirx.Select(size.equal(zero), zero, count))


@kernel_rule("SliceBounds", domain=DOMAIN, attribute_inputs=(0,), dtypes=INTEGERS)
def slice_bounds(
    ctx: KernelContext,
    sizes: Tensor | None,
    starts: Tensor,
    ends: Tensor,
    axes: Tensor | None = None,
    steps: Tensor | None = None,
) -> None:
    """Start, step and result size of every axis, by Slice-13."""
    source, first, last = _sizes(ctx), _elements(starts), _elements(ends)
    rank, count = len(source), len(first)
    along = _elements(axes) if axes is not None else [int64(i) for i in range(count)]
    strides = _elements(steps) if steps is not None else [int64(1)] * count
    _, valid = _listed(along, rank)
    along = _wrapped(along, rank)
    for stride in strides:
        valid = tirx.And(valid, stride != int64(0))
    bounds: list[tuple[Prim, Prim, Prim]] = []
    for axis, size in enumerate(source):
        start, end, step = int64(0), size, int64(1)
        for position in range(count):
            here = along[position].equal(int64(axis))
            start = tir.hold(tirx.Select(here, first[position], start))
            end = tir.hold(tirx.Select(here, last[position], end))
            step = tir.hold(tirx.Select(here, strides[position], step))
        begin, length = _slice_axis(size, start, end, step)
        bounds.append((begin, step, length))
    for output, column in enumerate(zip(*bounds, strict=True)):
        _store(ctx.output(output), column, valid if output == 2 else None)


@kernel_rule("PadBounds", domain=DOMAIN, attribute_inputs=(0,), dtypes=INTEGERS)
def pad_bounds(
    ctx: KernelContext,
    sizes: Tensor | None,
    pads: Tensor,
    axes: Tensor | None = None,
    *,
    mode: str = "constant",
) -> None:
    """Pads of all axes and the result's sizes, by Pad-25; only ``constant`` takes negative pads."""
    source, given = _sizes(ctx), _elements(pads)
    rank, count = len(source), len(given) // 2
    along = _elements(axes) if axes is not None else [int64(i) for i in range(count)]
    _, valid = _listed(along, rank)
    along = _wrapped(along, rank)
    for pad in given:
        valid = valid if mode == "constant" else tirx.And(valid, pad >= int64(0))
    full: list[Prim] = [int64(0)] * (2 * rank)
    for side in range(2):
        for axis in range(rank):
            for position in range(count):
                here = along[position].equal(int64(axis))
                index = side * rank + axis
                full[index] = tir.hold(
                    tirx.Select(here, given[side * count + position], full[index])
                )
    _store(ctx.output(0), full)
    padded = [size + full[axis] + full[rank + axis] for axis, size in enumerate(source)]
    _store(ctx.output(1), padded, valid)


@kernel_rule("RangeSize", domain=DOMAIN, dtypes=REAL)
def range_size(ctx: KernelContext, start: Tensor, limit: Tensor, delta: Tensor) -> None:
    """``max(ceil((limit - start) / delta), 0)``, by Range-11."""
    step = tir.hold(delta.load(0))
    span = tir.hold(limit.load(0) - start.load(0))
    count: Prim
    if dtype_of(step).startswith(("float", "bfloat")):
        quotient = cast(span, "float64") / cast(step, "float64")
        count = cast(tirx.ceil(quotient), "int64")
        zero = step.equal(const(0, dtype_of(step)))
    else:
        wide, stride = cast(span, "int64"), tir.hold(cast(step, "int64"))
        up = stride > int64(0)
        length = tirx.max(tirx.Select(up, stride, int64(0) - stride), int64(1))
        count = tirx.floordiv(tirx.Select(up, wide, int64(0) - wide) + length - int64(1), length)
        zero = stride.equal(int64(0))
    _store(ctx.output(), [tirx.max(tir.hold(count), int64(0))], tirx.Not(zero))


@kernel_rule("ResizeSizes", domain=DOMAIN, attribute_inputs=(0,), dtypes=REAL)
def resize_sizes(
    ctx: KernelContext,
    sizes: Tensor | None,
    roi: Tensor | None = None,
    scales: Tensor | None = None,
    target: Tensor | None = None,
    *,
    antialias: int = 0,
    axes: tuple[int, ...] | None = None,
    coordinate_transformation_mode: str = "half_pixel",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,
    keep_aspect_ratio_policy: str = "stretch",
    mode: str = "nearest",
    nearest_mode: str = "round_prefer_floor",
) -> None:
    """The result's sizes of Resize-19: ``floor(size * scale)``, or those that are asked for."""
    source = _sizes(ctx)
    along, kept = _resized(source, axes)
    made: list[Prim]
    factors = _factors(kept, scales, target, keep_aspect_ratio_policy)
    if scales is not None and scales.size != 0:
        if roi is not None and coordinate_transformation_mode == "tf_crop_and_resize":
            spans = [roi.load(k + len(kept)) - roi.load(k) for k in range(len(kept))]
            factors = [f * cast(s, "float32") for f, s in zip(factors, spans, strict=True)]
        made = [tirx.floor(size * f) for size, f in zip(kept, factors, strict=True)]
    elif keep_aspect_ratio_policy == "stretch":
        made = _elements(target)
    else:
        half = const(0.5, "float32")
        made = [tirx.floor(f * size + half) for size, f in zip(kept, factors, strict=True)]
    result = list(source)
    for axis, size in zip(along, made, strict=True):
        result[axis] = cast(size, "int64")
    _store(ctx.output(), result)


def _resized(source: Sequence[Prim], axes: tuple[int, ...] | None) -> tuple[list[int], list[Prim]]:
    """The axes that a Resize names, and their sizes as floats."""
    along = [a % len(source) for a in (range(len(source)) if axes is None else axes)]
    return along, [cast(source[axis], "float32") for axis in along]


def _factors(
    kept: Sequence[Prim], scales: Tensor | None, target: Tensor | None, policy: str
) -> list[Prim]:
    """The scale of each resized axis."""
    if scales is not None and scales.size != 0:
        return [tir.hold(cast(scales.load(k), "float32")) for k in range(len(kept))]
    wanted = [cast(size, "float32") for size in _elements(target)]
    ratios = [tir.hold(w / size) for w, size in zip(wanted, kept, strict=True)]
    if policy == "stretch":
        return ratios
    pick = tirx.min if policy == "not_larger" else tirx.max
    return [functools.reduce(pick, ratios)] * len(kept)


@kernel_rule("ResizeTaps", domain=DOMAIN, attribute_inputs=(0,), dtypes=REAL)
def resize_taps(
    ctx: KernelContext,
    sizes: Tensor | None,
    scales: Tensor | None = None,
    target: Tensor | None = None,
    *,
    axes: tuple[int, ...] | None = None,
    keep_aspect_ratio_policy: str = "stretch",
    mode: str = "linear",
) -> None:
    """Size of the filter of each axis of an antialiased Resize-19: it is as wide as the scale."""
    _, kept = _resized(_sizes(ctx), axes)
    one, radius = const(1, "float32"), const(1 if mode == "linear" else 2, "float32")
    for k, factor in enumerate(_factors(kept, scales, target, keep_aspect_ratio_policy)):
        begin = cast(tirx.floor(const(0, "float32") - radius / tirx.min(factor, one)), "int64")
        count = int64(0) - int64(2) * begin
        valid = factor > const(0, "float32")
        ctx.output().store(k, tirx.Select(valid, count, int64(_INVALID)))
