"""What a task of attention works on: its place, its memory and how rows are cut into tiles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from burnish.backends.cpu.attention_spec import Heads
from burnish.backends.cpu.isa import Isa
from burnish.backends.cpu.tir import Index, ceildiv, floordiv, let

#: Most rows of a register tile: more would read from too many streams at once.
MOST_ROWS = 12
#: So many hold tiles of two sizes.
_MANY_REGISTERS = 32


@dataclass(frozen=True)
class Place:
    """Batch index and query head of a task."""

    batch: Index
    head: Index

    def start(self, where: Heads, group: int = 1) -> Index:
        """First element of a head; ``group`` query heads share it."""
        head = self.head if group == 1 else floordiv(self.head, group)
        return let(self.batch * where.batch + head * where.head + where.offset)


@dataclass(frozen=True)
class Rows:
    """Neighbouring rows in register tiles of one size.

    Attributes:
        first: First row.
        tiles: Number of tiles.
        rows: Rows of a tile.
        whole: Whether all rows exist; else those past the end are repeats of the last one.
    """

    first: Index
    tiles: Index
    rows: int
    whole: bool


def row_tiles(isa: Isa, vectors: int, count: Index) -> list[Rows]:
    """Cover ``count`` rows with register tiles of that many vectors.

    A number that is known is shared out evenly, so that no row is computed for nothing. With few
    registers there is one size only, the one with the least waste: LLVM unrolls the loops of small
    tiles, and then runs out of registers.
    """
    most = max(1, min(MOST_ROWS, (isa.registers - vectors - 2) // vectors))
    if not isinstance(count, int):
        return [Rows(0, ceildiv(count, most), most, False)]
    if isa.registers < _MANY_REGISTERS:
        least = max(1, most * 2 // 3)
        rows = min(range(most, least - 1, -1), key=lambda r: -(-count // r) * r)
        return [Rows(0, -(-count // rows), rows, count % rows == 0)]
    tiles = -(-count // most)
    rows, larger = divmod(count, tiles)
    plan = [Rows(0, larger, rows + 1, True), Rows(larger * (rows + 1), tiles - larger, rows, True)]
    return [r for r in plan if r.tiles]


@dataclass(frozen=True)
class Buffers:
    """Memory of one task; vectors of queries lie ``stride`` apart in the two-dimensional ones.

    Attributes:
        packed: Queries, [width, query].
        scores: [key of the block, query]; later their exponentials.
        tops: Maximum of the scores so far for each query.
        scales: Factor for what was summed up before the block.
        sums: Sum of the exponentials so far.
        factors: Inverse of the sums.
        partial: Sums of values so far, [query, value]; None if all keys are one block.
    """

    packed: Any
    scores: Any
    tops: Any
    scales: Any
    sums: Any
    factors: Any
    partial: Any


@dataclass(frozen=True)
class Range:
    """Queries of a task and keys of a block.

    Attributes:
        query: First query.
        queries: Number of queries.
        vectors: Vectors of queries.
        key: First key.
        keys: Number of keys.
    """

    query: Index
    queries: Index
    vectors: Index
    key: Index
    keys: Index
