"""Operators that put elements back where they came from: MaxUnpool, Col2Im, TensorScatter; Det."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

from tvm import tirx

from burnish.backends.cpu import tir
from burnish.backends.cpu.tir import Tensor
from burnish.ir.types import FLOATS
from burnish.lowering.kernel_context import KernelContext
from burnish.lowering.ops.common import cast, const, like, select, wide, wide_dtype
from burnish.lowering.ops.imperative import around, copy, demand, loops
from burnish.lowering.registry import NATIVE, REAL, kernel_rule
from burnish.lowering.te_context import Prim, int64


def _fill(y: Tensor) -> None:
    with tir.serial(y.size) as i:
        y.store(i, const(0, y.dtype))


def _split(index: Prim, extents: Sequence[Prim]) -> list[Prim]:
    """The index into a shape of a position in row-major order."""
    found: list[Prim] = []
    for extent in reversed(extents):
        found.append(tir.let(tir.i64(tir.floormod(index, extent))))
        index = tir.let(tir.i64(tir.floordiv(index, extent)))
    return found[::-1]


@kernel_rule("MaxUnpool", attribute_inputs=(2,), dtypes=FLOATS | {"int64"})
def max_unpool(
    ctx: KernelContext,
    x: Tensor,
    indices: Tensor,
    output_shape: Tensor | None = None,
    *,
    kernel_shape: tuple[int, ...],
    pads: tuple[int, ...] | None = None,
    strides: tuple[int, ...] | None = None,
) -> None:
    """MaxUnpool-22: indices are positions in the shape that follows from the window.

    Positions that lie outside of the output are left out.
    """
    y = ctx.output()
    rank = len(kernel_shape)
    stride, pad = strides or (1,) * rank, pads or (0,) * (2 * rank)
    spatial = [
        (extent - 1) * stride[i] + kernel_shape[i] - pad[i] - pad[i + rank]
        for i, extent in enumerate(x.shape[2:])
    ]
    inferred = [*x.shape[:2], *spatial]
    total = tir.i64(tir.product(inferred))
    _fill(y)
    with tir.serial(x.size) as i:
        position = tir.let(indices.load(i))
        with tir.when(tirx.And(position >= int64(0), position < total)):
            at = _split(position, inferred)
            fits = [a < tir.i64(e) for a, e in zip(at, y.shape, strict=True)]
            with tir.when(reduce(tirx.And, fits)):
                y.store(y.offset(*at), x.load(i))


@kernel_rule("Col2Im", attribute_inputs=(1, 2), dtypes=REAL)
def col2im(
    ctx: KernelContext,
    x: Tensor,
    image_shape: Tensor | None,
    block_shape: Tensor | None,
    *,
    dilations: tuple[int, ...] | None = None,
    pads: tuple[int, ...] | None = None,
    strides: tuple[int, ...] | None = None,
) -> None:
    """Col2Im-18: overlapping blocks are added up."""
    y = ctx.output()
    image, block = y.shape[2:], ctx.content(2) or ()
    rank = len(image)
    stride, dilation = strides or (1,) * rank, dilations or (1,) * rank
    pad = pads or (0,) * (2 * rank)
    counts = [
        tir.floordiv(
            image[i] + pad[i] + pad[i + rank] - dilation[i] * (block[i] - 1) - 1, stride[i]
        )
        + 1
        for i in range(rank)
    ]
    planes, columns = tir.product(block), tir.product(counts)
    demand(ctx, tir.i64(x.shape[2]).equal(tir.i64(columns)), "the number of blocks is wrong")
    _fill(y)
    with tir.parallel(y.shape[0] * y.shape[1]) as plane:

        def body(at: list[Prim]) -> None:
            within, place = at[:rank], at[rank:]
            row = reduce(lambda a, p: a * p[1] + p[0], zip(within, block, strict=True), int64(0))
            column = reduce(lambda a, p: a * p[1] + p[0], zip(place, counts, strict=True), int64(0))
            pixel = [
                tir.let(tir.i64(place[i]) * stride[i] - pad[i] + within[i] * dilation[i])
                for i in range(rank)
            ]
            inside = [
                tirx.And(p >= int64(0), p < tir.i64(e)) for p, e in zip(pixel, image, strict=True)
            ]
            with tir.when(reduce(tirx.And, inside)):
                target = tir.i64(plane)
                for p, e in zip(pixel, image, strict=True):
                    target = target * e + p
                value = wide(x.load((plane * planes + row) * columns + column))
                y.store(target, cast(wide(y.load(target)) + value, y.dtype))

        loops([*block, *counts], body)


@kernel_rule("TensorScatter", dtypes=NATIVE)
def tensor_scatter(
    ctx: KernelContext,
    past_cache: Tensor,
    update: Tensor,
    write_indices: Tensor | None = None,
    *,
    axis: int = -2,
    mode: str = "linear",
) -> None:
    """TensorScatter-24."""
    y, along = ctx.output(), ctx.axis(axis)
    copy(past_cache, y)
    outer, length, inner = around(update, along)
    room = past_cache.shape[along]
    each = tir.floordiv(outer, update.shape[0])
    with tir.serial(outer) as block:
        start = int64(0)
        if write_indices is not None:
            start = tir.let(write_indices.load(tir.floordiv(block, each)))
        if mode != "circular":
            fits = tirx.And(start >= int64(0), start + length <= tir.i64(room))
            demand(ctx, fits, "the update does not fit the cache")
        with tir.serial(length) as i:
            place = start + i
            place = tir.let(tirx.floormod(place, tir.i64(room)) if mode == "circular" else place)
            with tir.serial(inner) as j:
                source = (block * length + i) * inner + j
                y.store((tir.i64(block) * room + place) * inner + j, update.load(source))


@kernel_rule("Det", dtypes=FLOATS)
def det(ctx: KernelContext, x: Tensor) -> None:
    """Det-22, by elimination with pivoting."""
    y, kind = ctx.output(), wide_dtype(x.dtype)
    size = x.shape[-1]
    with tir.parallel(tir.product(x.shape[:-2])) as task:
        m = tir.scratch(tir.product(x.shape[-2:]), kind)
        result, pivot = tir.local(1, kind), tir.local(1, "int64")
        with tir.serial(size * size) as i:
            tir.store(m, i, wide(x.load(task * size * size + i)))
        tir.store(result, 0, const(1, kind))
        with tir.serial(size) as k:
            tir.store(pivot, 0, tir.i64(k))
            with tir.serial(k, size) as row:
                best = tirx.abs(tir.load(m, tir.load(pivot, 0) * size + k))
                with tir.when(tirx.abs(tir.load(m, row * size + k)) > best):
                    tir.store(pivot, 0, tir.i64(row))
            chosen = tir.let(tir.load(pivot, 0))
            with tir.when(tirx.NE(chosen, tir.i64(k))):
                tir.store(result, 0, -tir.load(result, 0))
                with tir.serial(size) as j:
                    held = tir.let(tir.load(m, chosen * size + j) + like(0, tir.load(result, 0)))
                    tir.store(m, chosen * size + j, tir.load(m, k * size + j))
                    tir.store(m, k * size + j, held)
            diagonal = tir.let(tir.load(m, k * size + k) + const(0, kind))
            tir.store(result, 0, tir.load(result, 0) * diagonal)
            safe = tir.let(select(diagonal.equal(const(0, kind)), const(1, kind), diagonal))
            with tir.serial(k + 1, size) as row:
                factor = tir.let(tir.load(m, row * size + k) / safe)
                with tir.serial(k, size) as j:
                    value = tir.load(m, row * size + j) - factor * tir.load(m, k * size + j)
                    tir.store(m, row * size + j, value)
        y.store(task, cast(tir.load(result, 0), y.dtype))
