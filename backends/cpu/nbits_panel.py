"""Products of many rows with weights in 8 or 4 bits, of which a panel at a time is written out."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tvm import tirx

from burnish.backends.cpu.gemm import finish_rows, row_tiles
from burnish.backends.cpu.isa import Isa
from burnish.backends.cpu.microkernel import F32, RegisterTile
from burnish.backends.cpu.nbits_spec import FEW_ROWS, TOGETHER, NBitsSpec, first_rows
from burnish.backends.cpu.nbits_weights import Place
from burnish.backends.cpu.tir import (
    Acc,
    Expr,
    Index,
    branch,
    floordiv,
    hold,
    i64,
    load,
    minimum,
    scratch,
    serial,
    store,
    when,
)

#: Steps of the reduction whose weights are written out at a time: they stay in a first-level cache
#: of 48 KiB.
_PANEL_STEPS = 128


@dataclass(frozen=True)
class Span:
    """A pass over some steps of the reduction.

    Attributes:
        start: The first one.
        steps: How many.
        first: Whether no sums were made before.
        last: Whether sums are complete at the end.
    """

    start: Index
    steps: Index
    first: Expr
    last: Expr


@dataclass(frozen=True)
class Panel:
    """Many rows of a block of columns, whose weights are written out some steps at a time.

    Attributes:
        place: The block.
        begin: First row.
        acc: Accumulators of a register tile.
        weights: Of a pass, [step, column] in float32.
        sums: Those of the passes so far, [row, column]: rows of the result may be so far apart that
            they collide in the first-level cache.
    """

    place: Place
    begin: Index
    acc: Acc
    weights: Any
    sums: Any

    @classmethod
    def of(cls, place: Place, begin: Index, chunk: int) -> Panel:
        """The panel of up to ``chunk`` rows."""
        isa = place.of.isa
        acc = Acc(max(place.c.tile.rows * place.vectors, TOGETHER * _part(isa)), place.lanes)
        weights = scratch(panel_steps(place.of.spec) * place.stride)
        return cls(place, begin, acc, weights, scratch(chunk * place.stride))

    def emit(self, end: Index, chunk: int, first: Index) -> None:
        """Rows up to ``end``, a pass after the other."""
        place, of, spec = self.place, self.place.of, self.place.of.spec
        steps = panel_steps(spec)
        passes = -(-spec.k // steps)
        together = self._together(end, chunk)
        with serial(passes) as number:
            start = hold(number * steps)
            count = hold(minimum(steps, spec.k - start))
            span = Span(start, count, number < 1, number >= passes - 1)

            def tile(row: Index, count: int) -> None:
                with self._tile(row, count, place.all, span) as starts:
                    self._multiply(starts, span)

            if isinstance(together, int):
                self._unpack(together, span)
            else:
                several = together > FEW_ROWS
                branch(
                    several,
                    lambda: self._unpack(TOGETHER, span),
                    lambda: self._unpack(FEW_ROWS, span),
                )
            row_tiles(self.begin, end, spec.rows, chunk, place.c.tile.rows, tile, done=together)
        if of.epilogue.deferred:
            finish_rows(of.isa, of.y, of.epilogue, self.begin, end, spec.n, place.c, first)

    def _together(self, end: Index, chunk: int) -> Index:
        """Rows that weights are multiplied with while they are written out."""
        rows = self.place.of.spec.rows
        if isinstance(rows, int):
            counts = [min(chunk, rows - begin) for begin in range(0, rows, chunk)]
            return min(first_rows(count) for count in counts if count > FEW_ROWS)
        return hold(tirx.Select(end - self.begin >= TOGETHER, i64(TOGETHER), i64(FEW_ROWS)))

    @contextmanager
    def _tile(self, row: Index, count: int, part: range, span: Span) -> Iterator[list[Index]]:
        """What comes before and after the products of a register tile.

        Yields where its rows of ``x`` begin.
        """
        place, acc = self.place, self.acc
        places = [(r, v) for r in range(count) for v in part]

        def at(r: int, v: int) -> Index:
            return (row - self.begin + r) * place.stride + v * place.lanes

        def load_sums() -> None:
            for i, (r, v) in enumerate(places):
                acc[i] = load(self.sums, at(r, v), place.lanes)

        def store_sums() -> None:
            for i, (r, v) in enumerate(places):
                store(self.sums, at(r, v), acc[i])

        def store_results() -> None:
            for i, (r, v) in enumerate(places):
                place.write(row + r, v, acc[i], whole=False)

        branch(span.first, RegisterTile(count, len(part), acc, F32).clear, load_sums)
        yield [hold((row + r) * place.of.spec.k + span.start) for r in range(count)]
        branch(span.last, store_results, store_sums)

    def _multiply(self, starts: list[Index], span: Span) -> None:
        """Products with the weights that are written out."""
        place = self.place
        RegisterTile(len(starts), place.vectors, self.acc, F32).stream(
            place.of.x.flat,
            lambda step: [s + step for s in starts],
            self.weights,
            lambda step: step * place.stride,
            (0, span.steps),
        )

    def _unpack(self, rows: int, span: Span) -> None:
        """Products of the first rows while weights are written out.

        That runs beside the multiply-adds, as far as registers go: some vectors at a time.
        """
        place, width = self.place, _part(self.place.of.isa)
        for first in range(0, place.vectors, width):
            part = range(first, min(first + width, place.vectors))
            with self._tile(self.begin, rows, part, span) as starts:
                self._unpack_part(starts, part, span)

    def _unpack_part(self, starts: list[Index], part: range, span: Span) -> None:
        place, spec = self.place, self.place.of.spec
        codes = spec.codes
        # Steps that share a scale: blocks and passes begin at multiples of it.
        group = math.gcd(spec.block, panel_steps(spec)) if spec.blocks > 1 else panel_steps(spec)

        def word(step: Index, valid: int, factors: tuple[list[Expr], list[Expr]]) -> None:
            at = hold(floordiv(span.start + step, codes))
            for index, weights in place.weights(at, valid, factors, part):
                row = (step + index) * place.stride
                for v, weight in zip(part, weights, strict=True):
                    store(self.weights, row + v * place.lanes, weight)
                for r, start in enumerate(starts):
                    x = place.broadcast(start + step + index)
                    for i, weight in enumerate(weights, r * len(part)):
                        self.acc[i] = self.acc[i] + x * weight

        def steps(first: Index, count: int) -> None:
            block = hold(floordiv(span.start + first, spec.block)) if spec.blocks > 1 else 0
            factors = place.factors(block, part)
            whole, rest = divmod(count, codes)
            with serial(whole) as number:
                word(hold(first + number * codes), codes, factors)
            if rest:
                word(hold(first + whole * codes), rest, factors)

        whole = hold(floordiv(span.steps, group))
        with serial(whole) as number:
            steps(hold(number * group), group)
        if spec.k % group:
            with when(span.last):
                steps(hold(whole * group), spec.k % group)


def _part(isa: Isa) -> int:
    """Vectors that are unpacked at a time, whose sums, weights, words and scales fit registers."""
    return isa.registers // 16


def panel_steps(spec: NBitsSpec) -> int:
    """Steps of a pass: whole words."""
    return min(_PANEL_STEPS, spec.words * spec.codes)
