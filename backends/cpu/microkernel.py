"""The inner loop that products and convolutions share.

``acc[r, v] += broadcast(a[r]) * b[v]`` for a register tile of rows by vectors, ``b`` from packed
weights. What is multiplied is a row of :class:`Dot`, so that other element types use the same
templates: a dot product of ``kpack`` neighbours takes the place of one multiply-add.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from burnish.backends.cpu.narrow import Narrow
from burnish.backends.cpu.tir import (
    Acc,
    Expr,
    Index,
    constant,
    floordiv,
    floormod,
    hold,
    lane_everywhere,
    let,
    load,
    local,
    serial,
    splat,
    store,
    when,
)

#: Rows whose widened elements share a stack array, so that it stays small.
_ROWS_PER_CELL = 8


@dataclass(frozen=True)
class Dot:
    """An inner operation.

    Attributes:
        name: ``f32``, ``bf16``, ``f16``, ``u8s8``.
        operand: Element type in which both operands are read: ``kpack`` elements as one.
        result: Element type of the accumulators.
        kpack: Neighbours along the reduction that one operand element holds.
        accumulate: ``(acc, a, b) -> acc + dot(a, b)`` on vectors.
        by_lane: Whether it takes the broadcast operand from a lane of a vector at no cost.
    """

    name: str
    operand: str
    result: str
    kpack: int
    accumulate: Callable[[Expr, Expr, Expr], Expr]
    by_lane: bool = False


F32 = Dot("f32", "float32", "float32", 1, lambda acc, a, b: acc + a * b)


@dataclass(frozen=True)
class RegisterTile:
    """Accumulators of one tile; ``at(r, v)`` is row ``r``, vector ``v``."""

    rows: int
    vectors: int
    acc: Acc
    dot: Dot

    @classmethod
    def zero(cls, rows: int, vectors: int, acc: Acc, dot: Dot = F32) -> RegisterTile:
        """A tile that is all zeros, in the first accumulators of ``acc``.

        The variants of a tile in one kernel share accumulators: some of TVM's passes take time
        quadratic in the number of arrays.
        """
        tile = cls(rows, vectors, acc, dot)
        tile.clear()
        return tile

    def clear(self) -> None:
        """Set all accumulators to zero."""
        for i in range(self.rows * self.vectors):
            self.acc[i] = constant(0, self.acc.lanes, self.acc.dtype)

    def at(self, row: int, vector: int) -> Expr:
        """Current value of an accumulator."""
        return self.acc[row * self.vectors + vector]

    def step(
        self,
        a: Any,
        a_offsets: Sequence[Index],
        b: Any,
        b_offset: Index,
        rows: Sequence[int] | None = None,
        valid: int | None = None,
    ) -> None:
        """One step of the reduction.

        Args:
            a: 1-D buffer of the broadcast operand.
            a_offsets: Offset in ``a`` for each row of the tile.
            b: 1-D buffer of the vector operand.
            b_offset: Offset of the first vector; the others follow it.
            rows: Rows that take part; all by default.
            valid: Lanes of the last vector that may be read from ``b``.
        """
        chosen = range(self.rows) if rows is None else rows
        self._step(lambda r: self._everywhere(a, a_offsets[r]), b, b_offset, chosen, valid)

    def _everywhere(self, a: Any, offset: Index) -> Expr:
        """One element of the broadcast operand in every lane."""
        return let(splat(let(load(a, offset)), self.acc.lanes))

    def _step(
        self,
        a: Callable[[int], Expr],
        b: Any,
        b_offset: Index,
        rows: Sequence[int],
        valid: int | None,
    ) -> None:
        lanes = self.acc.lanes
        bs = [
            let(load(b, b_offset + v * lanes, lanes, valid if v == self.vectors - 1 else None))
            for v in range(self.vectors)
        ]
        for r in rows:
            x = a(r)
            for v in range(self.vectors):
                i = r * self.vectors + v
                self.acc[i] = self.dot.accumulate(self.acc[i], x, bs[v])

    def stream(
        self,
        a: Any,
        a_offsets: Callable[[Index], Sequence[Index]],
        b: Any,
        b_offset: Callable[[Index], Index],
        span: tuple[Index, Index],
        *,
        unit: int = 1,
        rows: Sequence[int] | None = None,
        before: Callable[[Index], None] = lambda step: None,
    ) -> None:
        """Steps over neighbours of ``a``.

        Elements in 16 bits are widened a vector at a time, and broadcast from a stack array: one
        by one the conversions would take longer than the multiply-adds.

        Args:
            a: 1-D buffer of the broadcast operand.
            a_offsets: Offset in ``a`` for each row of the tile at a step; steps are neighbours.
            b: 1-D buffer of the vector operand.
            b_offset: Offset of the first vector at a step.
            span: First step and the end of the steps.
            unit: What their number is a multiple of.
            rows: Rows that take part; all by default.
            before: Called at the start of every step.
        """
        chosen = range(self.rows) if rows is None else rows
        first, end = span
        if not isinstance(a, Narrow):
            # Where only some rows take part, the code of all lanes would be long for little.
            if self.dot.by_lane and len(chosen) == self.rows:
                first = self._by_lanes(a, a_offsets, b, b_offset, span, before)
            with serial(first, end) as step:
                offsets = a_offsets(step)
                before(step)
                self._step(
                    lambda r: self._everywhere(a, offsets[r]), b, b_offset(step), chosen, None
                )
            return
        lanes = self.acc.lanes
        cells = [local(_ROWS_PER_CELL * lanes) for _ in range(0, self.rows, _ROWS_PER_CELL)]
        count = end - first

        def widened(start: Index, steps: Index, valid: Index | None) -> None:
            offsets = a_offsets(start)
            for r in chosen:
                place = r % _ROWS_PER_CELL * lanes
                store(cells[r // _ROWS_PER_CELL], place, load(a, offsets[r], lanes, valid))
            with serial(steps) as i:
                before(start + i)

                def element(r: int) -> Expr:
                    place = r % _ROWS_PER_CELL * lanes + i
                    return self._everywhere(cells[r // _ROWS_PER_CELL], place)

                self._step(element, b, b_offset(start + i), chosen, None)

        whole = hold(floordiv(count, lanes))
        with serial(whole) as block:
            widened(hold(first + block * lanes), lanes, None)
        if unit % lanes:
            rest = hold(floormod(count, lanes))
            if not isinstance(rest, int):
                with when(rest > 0):
                    widened(hold(first + whole * lanes), rest, rest)
            elif rest:
                widened(first + whole * lanes, rest, rest)

    def _by_lanes(
        self,
        a: Any,
        a_offsets: Callable[[Index], Sequence[Index]],
        b: Any,
        b_offset: Callable[[Index], Index],
        span: tuple[Index, Index],
        before: Callable[[Index], None],
    ) -> Index:
        """Whole vectors of steps, each lane of a row's vector one; the first step that is left."""
        lanes = self.acc.lanes
        first, end = span
        whole = hold(floordiv(end - first, lanes))
        with serial(whole) as block:
            start = hold(first + block * lanes)
            offsets = a_offsets(start)
            rows = [let(load(a, offset, lanes)) for offset in offsets]
            for i in range(lanes):
                before(start + i)
                xs = [lane_everywhere(row, i) for row in rows]
                self._step(xs.__getitem__, b, b_offset(start + i), range(self.rows), None)
        return hold(first + whole * lanes)
