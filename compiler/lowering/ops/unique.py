"""Unique: a stable sort of the slices finds equal ones."""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx

from burnish.backends.cpu import tir
from burnish.backends.cpu.tir import Tensor
from burnish.ir.infer.run_time import DOMAIN
from burnish.ir.types import FLOATS
from burnish.lowering.kernel_context import KernelContext
from burnish.lowering.ops.common import is_nan, wide
from burnish.lowering.registry import kernel_rule
from burnish.lowering.te_context import Prim, int64


def _slices(x: Tensor, axis: int | None) -> tuple[Prim, Prim, Prim]:
    """Elements before, along and behind the axis; without one every element is a slice."""
    if axis is None:
        return 1, x.size, 1
    along = axis % len(x.shape)
    return tir.product(x.shape[:along]), x.shape[along], tir.product(x.shape[along + 1 :])


def _comparison(x: Tensor, axis: int | None) -> Callable[[Prim, Prim], Prim]:
    """Emits the three-way comparison of two slices: -1, 0 or 1. NaN is the largest number."""
    outer, count, inner = _slices(x, axis)
    cell = tir.local(1, "int64")

    def element(index: Prim, at: Prim) -> Prim:
        where = tir.floordiv(at, inner) * count * inner + index * inner + tir.floormod(at, inner)
        value = x.load(where)
        return tir.let(tirx.Cast("int8", value) if x.dtype == "bool" else wide(value))

    def compare(first: Prim, second: Prim) -> Prim:
        tir.store(cell, 0, int64(0))
        with tir.serial(outer * inner) as at, tir.when(tir.load(cell, 0).equal(int64(0))):
            a, b = element(first, at), element(second, at)
            less, more = a < b, a > b
            if x.dtype in FLOATS:
                less = tirx.Or(less, tirx.And(is_nan(b), tirx.Not(is_nan(a))))
                more = tirx.Or(more, tirx.And(is_nan(a), tirx.Not(is_nan(b))))
            sign = tirx.Select(less, int64(-1), tirx.Select(more, int64(1), int64(0)))
            tir.store(cell, 0, sign)
        return tir.load(cell, 0)

    return compare


def _merge(
    source: Tensor,
    target: Tensor,
    low: Prim,
    width: Prim,
    compare: Callable[..., Prim],
    count: Prim,
) -> None:
    """Merge two sorted runs of ``width`` elements from ``low`` on."""
    middle = tir.hold(tirx.min(low + width, count))
    high = tir.hold(tirx.min(low + width * int64(2), count))
    left, right, side = tir.local(1, "int64"), tir.local(1, "int64"), tir.local(1, "int64")
    tir.store(left, 0, low)
    tir.store(right, 0, middle)
    with tir.serial(low, high) as place:
        i, j = tir.hold(tir.load(left, 0)), tir.hold(tir.load(right, 0))
        tir.store(side, 0, tirx.Select(i < middle, int64(0), int64(1)))
        with tir.when(tirx.And(i < middle, j < high)):
            order = compare(tir.hold(source.load(j)), tir.hold(source.load(i)))
            tir.store(side, 0, tirx.Select(order < int64(0), int64(1), int64(0)))
        tir.branch(
            tir.load(side, 0).equal(int64(0)),
            lambda: _take(source, target, place, i, left),
            lambda: _take(source, target, place, j, right),
        )


def _take(source: Tensor, target: Tensor, place: Prim, index: Prim, cursor: Prim) -> None:
    target.store(place, source.load(index))
    tir.store(cursor, 0, index + int64(1))


def _sort(order: Tensor, other: Tensor, count: Prim, compare: Callable[..., Prim]) -> None:
    """Sort slice numbers into ``order``, bottom up; each pass merges into ``other`` and back."""
    with tir.serial(count) as i:
        order.store(i, tir.i64(i))
    length = tir.i64(count)
    width = tir.local(1, "int64")
    tir.store(width, 0, int64(1))
    # No tensor has more elements than twice 63 doublings.
    with tir.serial(63), tir.when(tir.load(width, 0) < length):
        run = tir.hold(tir.load(width, 0))
        blocks = tir.hold(tirx.floordiv(length + run * int64(2) - int64(1), run * int64(2)))
        with tir.serial(blocks) as block:
            _merge(order, other, tir.hold(block * run * int64(2)), run, compare, length)
        with tir.serial(count) as i:
            order.store(i, other.load(i))
        tir.store(width, 0, run * int64(2))


@kernel_rule("UniqueRanks", domain=DOMAIN)
def unique_ranks(
    ctx: KernelContext, x: Tensor, *, axis: int | None = None, sorted: int = 1
) -> None:
    """Where each slice goes in the result of Unique-11, and how many different ones there are."""
    ranks, number, order, other = (ctx.output(i) for i in range(4))
    _, count, _ = _slices(x, axis)
    compare = _comparison(x, axis)
    _sort(order, other, count, compare)
    group, first = tir.local(1, "int64"), tir.local(1, "int64")
    tir.store(group, 0, int64(-1))
    # A group of equal slices begins with the one that comes first in x, since the sort is stable.
    with tir.serial(count) as place:
        index = tir.hold(order.load(place))
        same = tir.local(1, "int64")
        tir.store(same, 0, int64(1))
        with tir.when(tir.i64(place) > int64(0)):
            tir.store(same, 0, compare(tir.hold(order.load(place - 1)), index))
        with tir.when(tir.load(same, 0) != int64(0)):
            tir.store(group, 0, tir.load(group, 0) + int64(1))
            tir.store(first, 0, index)
        ranks.store(index, tir.load(group, 0))
        other.store(index, tir.load(first, 0))
    number.store(0, tir.load(group, 0) + int64(1))
    if sorted:
        return
    tir.store(group, 0, int64(0))
    with tir.serial(count) as i:
        begin = tir.hold(other.load(i))
        tir.branch(
            begin.equal(tir.i64(i)),
            lambda: _count_up(ranks, i, group),
            lambda: ranks.store(i, ranks.load(begin)),
        )


def _count_up(ranks: Tensor, index: Prim, counter: Prim) -> None:
    ranks.store(index, tir.load(counter, 0))
    tir.store(counter, 0, tir.load(counter, 0) + int64(1))


@kernel_rule("Unique", domain=DOMAIN, attribute_inputs=(2,))
def unique(
    ctx: KernelContext,
    x: Tensor,
    ranks: Tensor,
    count: Tensor | None,
    *,
    axis: int | None = None,
) -> None:
    """Values, first positions, ranks and counts of Unique-11."""
    values, positions, inverse, counts = (ctx.output(i) for i in range(4))
    outer, length, inner = _slices(x, axis)
    different = counts.size
    with tir.serial(different) as i:
        counts.store(i, int64(0))
    with tir.serial(length) as i:
        rank = tir.hold(ranks.load(i))
        inverse.store(i, rank)
        with tir.when(counts.load(rank).equal(int64(0))):
            positions.store(rank, tir.i64(i))
            with tir.serial(outer) as o, tir.serial(inner) as k:
                value = x.load(o * length * inner + i * inner + k)
                values.store(o * different * inner + rank * inner + k, value)
        counts.store(rank, counts.load(rank) + int64(1))
