"""Operators that read images between the pixels: RoiAlign and DeformConv."""

from __future__ import annotations

from collections.abc import Callable

from tvm import te, tirx

from burnish.backends.cpu import tir
from burnish.backends.cpu.tir import Tensor
from burnish.ir.graph import Node
from burnish.ir.types import FLOATS
from burnish.lowering.kernel_context import KernelContext
from burnish.lowering.ops.common import cast, const, select, wide, wide_dtype
from burnish.lowering.registry import kernel_rule
from burnish.lowering.te_context import Prim, int64


def _corners(y: Prim, x: Prim, kind: str) -> list[tuple[Prim, Prim, Prim]]:
    """The four pixels around a place: row, column and weight."""
    top, left = tir.let(te.floor(y)), tir.let(te.floor(x))
    down, right = tir.let(y - top), tir.let(x - left)
    one = const(1, kind)
    row, column = tir.let(cast(top, "int64")), tir.let(cast(left, "int64"))
    return [
        (row, column, (one - down) * (one - right)),
        (row, column + int64(1), (one - down) * right),
        (row + int64(1), column, down * (one - right)),
        (row + int64(1), column + int64(1), down * right),
    ]


def _within(value: Prim, low: Prim, high: Prim) -> Prim:
    return tirx.min(tirx.max(value, low), high)


def _roi_sample(x: Tensor, base: Prim, at: tuple[Prim, Prim], highest: bool) -> Prim:
    """The value at a place of a plane; 0 from one pixel outside on.

    Of the maximum, ONNX takes the largest of the weighted pixels.
    """
    kind = wide_dtype(x.dtype)
    sizes = x.shape[2:]
    zero, one = const(0, kind), const(1, kind)
    extents = [cast(tir.i64(s), kind) for s in sizes]
    outside = [tirx.Or(p < -one, p > e) for p, e in zip(at, extents, strict=True)]
    held = [tir.let(_within(p, zero, e - one)) for p, e in zip(at, extents, strict=True)]
    parts = []
    for row, column, weight in _corners(held[0], held[1], kind):
        # At the border, the pixel outside has no weight.
        y = tirx.min(row, tir.i64(sizes[0] - 1))
        x_ = tirx.min(column, tir.i64(sizes[1] - 1))
        parts.append(tir.let(wide(x.load(base + y * sizes[1] + x_)) * weight))
    total = parts[0]
    for part in parts[1:]:
        total = tirx.max(total, part) if highest else total + part
    return select(tirx.Or(*outside), zero, total)


@kernel_rule("RoiAlign", dtypes=FLOATS | {"int64"})
def roi_align(
    ctx: KernelContext,
    x: Tensor,
    rois: Tensor,
    batch_indices: Tensor,
    *,
    coordinate_transformation_mode: str = "half_pixel",
    mode: str = "avg",
    output_height: int = 1,
    output_width: int = 1,
    sampling_ratio: int = 0,
    spatial_scale: float = 1.0,
) -> None:
    """RoiAlign-22."""
    y, kind = ctx.output(), wide_dtype(x.dtype)
    half, highest = coordinate_transformation_mode == "half_pixel", mode == "max"
    cells = (output_height, output_width)
    with tir.parallel(rois.shape[0] * x.shape[1]) as task:
        roi, channel = tir.floordiv(task, x.shape[1]), tir.floormod(task, x.shape[1])
        batch = tir.let(_within(batch_indices.load(roi), int64(0), tir.i64(x.shape[0] - 1)))
        base = tir.let((batch * x.shape[1] + channel) * tir.product(x.shape[2:]))
        starts, steps, counts = [], [], []
        for axis, cell in enumerate(cells):
            # A region is x1, y1, x2, y2.
            low, high = (
                wide(rois.load(roi * 4 + k)) * const(spatial_scale, kind)
                - const(0.5 if half else 0, kind)
                for k in (1 - axis, 3 - axis)
            )
            start = tir.let(low)
            size = high - start
            step = tir.let((size if half else tirx.max(size, const(1, kind))) / const(cell, kind))
            starts.append(start)
            steps.append(step)
            counts.append(
                int64(sampling_ratio) if sampling_ratio else tir.let(cast(te.ceil(step), "int64"))
            )
        total = tir.local(1, kind)
        samples = tirx.max(counts[0] * counts[1], int64(1))
        with tir.serial(cells[0]) as i, tir.serial(cells[1]) as j:
            tir.store(total, 0, const(0, kind))
            with tir.serial(counts[0]) as a, tir.serial(counts[1]) as b:
                place = []
                for axis, (cell, sample) in enumerate(((i, a), (j, b))):
                    inner = (cast(tir.i64(sample), kind) + const(0.5, kind)) / cast(
                        counts[axis], kind
                    )
                    offset = (cast(tir.i64(cell), kind) + inner) * steps[axis]
                    place.append(tir.let(starts[axis] + offset))
                value = tir.let(_roi_sample(x, base, (place[0], place[1]), highest))
                if highest:
                    first = tirx.And(tir.i64(a).equal(int64(0)), tir.i64(b).equal(int64(0)))
                    best = tirx.max(tir.load(total, 0), value)
                    tir.store(total, 0, select(first, value, best))
                else:
                    tir.store(total, 0, tir.load(total, 0) + value)
            result = tir.load(total, 0)
            result = result if highest else result / cast(samples, kind)
            y.store((task * cells[0] + i) * cells[1] + j, cast(result, y.dtype))


def _two_axes(node: Node) -> str | None:
    rank = node.required(0).t.rank
    return None if rank == 4 else f"an input of rank {rank}"


def _deformed(x: Tensor, base: Prim, at: tuple[Prim, Prim]) -> Prim:
    """The value at a place of a plane; pixels outside are 0."""
    kind, sizes = wide_dtype(x.dtype), x.shape[2:]
    total = tir.local(1, kind)
    tir.store(total, 0, const(0, kind))
    for row, column, weight in _corners(*at, kind):
        inside = tirx.And(
            tirx.And(row >= int64(0), row < tir.i64(sizes[0])),
            tirx.And(column >= int64(0), column < tir.i64(sizes[1])),
        )
        with tir.when(inside):
            value = wide(x.load(base + row * sizes[1] + column))
            tir.store(total, 0, tir.load(total, 0) + value * weight)
    return tir.let(tir.load(total, 0) + const(0, kind))


@kernel_rule("DeformConv", dtypes=FLOATS, check=_two_axes)
def deform_conv(
    ctx: KernelContext,
    x: Tensor,
    w: Tensor,
    offset: Tensor,
    b: Tensor | None = None,
    mask: Tensor | None = None,
    *,
    dilations: tuple[int, ...] | None = None,
    group: int = 1,
    kernel_shape: tuple[int, ...] | None = None,
    offset_group: int = 1,
    pads: tuple[int, ...] | None = None,
    strides: tuple[int, ...] | None = None,
) -> None:
    """DeformConv-22 over two axes."""
    dilations, strides, pads = dilations or (1, 1), strides or (1, 1), pads or (0, 0, 0, 0)
    y, kind = ctx.output(), wide_dtype(x.dtype)
    taps = w.shape[2] * w.shape[3]
    depth, channels = w.shape[1], y.shape[1]
    each, shared = tir.floordiv(channels, group), tir.floordiv(x.shape[1], offset_group)

    def place(axis: int, out: Prim, tap: Prim, index: Prim, at: Callable[[Prim], Prim]) -> Prim:
        shift = wide(offset.load(at(index * 2 + axis)))
        whole = tir.i64(out) * strides[axis] - pads[axis] + tap * dilations[axis]
        return tir.let(cast(whole, kind) + shift)

    with tir.parallel(y.shape[0] * channels) as task:
        n, channel = tir.floordiv(task, channels), tir.floormod(task, channels)
        first = tir.let(tir.i64(tir.floordiv(channel, each)) * depth)
        total = tir.local(1, kind)
        with tir.serial(y.shape[2]) as i, tir.serial(y.shape[3]) as j:
            bias = const(0, kind) if b is None else wide(b.load(channel))
            tir.store(total, 0, bias)
            with tir.serial(depth) as c, tir.serial(w.shape[2]) as p, tir.serial(w.shape[3]) as q:
                source = tir.let(first + c)
                tap = tir.let(tir.floordiv(source, shared) * taps + p * w.shape[3] + q)

                def at(k: Prim, n: Prim = n, i: Prim = i, j: Prim = j) -> Prim:
                    return offset.offset(n, k, i, j)

                where = place(0, i, p, tap, at), place(1, j, q, tap, at)
                base = (tir.i64(n) * x.shape[1] + source) * tir.product(x.shape[2:])
                value = _deformed(x, tir.let(base), where) * wide(
                    w.load(w.offset(channel, c, p, q))
                )
                if mask is not None:
                    value = value * wide(mask.load(mask.offset(n, tap, i, j)))
                tir.store(total, 0, tir.load(total, 0) + value)
            y.store(y.offset(n, channel, i, j), cast(tir.load(total, 0), y.dtype))
