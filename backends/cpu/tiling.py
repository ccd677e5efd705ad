"""Register tiles and task sizes, chosen by an analytic model of the inner loop.

A tile is ``rows`` broadcast operands by ``vectors`` weight vectors. Each step of the reduction
does ``rows * vectors`` multiply-adds on ``rows + vectors`` loads; a core does two of each in a
cycle and a multiply-add takes four cycles. Tiles that fill the registers without spilling and
leave small remainders win. A tuner may override the choice with a :class:`Tile` in the spec.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from burnish.backends.cpu.isa import Isa
from burnish.errors import CompileError

#: One more than the instruction has: loops with just enough sums in flight do not reach the limit.
_LATENCY = 5.0
_PER_CYCLE = 2.0
#: Bytes that the second-level cache delivers in a cycle; packed weights come from there.
_L2_BYTES = 32.0
#: More rows than this may collide in a set of the first-level cache.
MAX_ROWS = 14
MAX_ROWS_WIDE = 8
#: Bytes of an image that stays in the second-level cache.
_NEAR = 512 * 1024
#: Bytes between pixels of which a cache of 4 KiB to a way holds as many as a tile has.
_APART = 2048
#: Vectors of the widest tile that is tried.
MAX_VECTORS = 4
#: Rows taken for a size that is not known at compile time.
_UNKNOWN = 1 << 16


@dataclass(frozen=True)
class Tile:
    """A register tile: ``rows`` by ``vectors`` accumulators."""

    rows: int
    vectors: int


@dataclass(frozen=True)
class Columns:
    """Consecutive blocks of output columns that share a register tile.

    Attributes:
        first: First vector of the first block.
        blocks: Number of blocks.
        tile: Their tile.
        tail: Valid lanes of the last vector of each block; None if all are.
    """

    first: int
    blocks: int
    tile: Tile
    tail: int | None = None


def vector_count(n: int, isa: Isa) -> int:
    """Vectors that hold ``n`` elements."""
    return -(-n // isa.lanes)


def holds_rows(isa: Isa, dtype: str) -> bool:
    """Whether a vector of each row stays in a register, from which multiply-adds take one lane.

    So LLVM does with widened float16 where a vector has as few lanes as one step after the other
    can be unrolled.
    """
    return dtype == "float16" and isa.lanes == 4


def fits(tile: Tile, isa: Isa, spare: int = 0, *, held: bool = False) -> bool:
    """Whether accumulators, weights and one broadcast, or all rows, leave ``spare`` registers.

    Products of float16 itself (:mod:`burnish.backends.cpu.half`) take lanes of all rows.
    """
    operands = tile.vectors + (tile.rows if held or isa.paired else 1)
    if isa.paired:
        # One register each, and two for operands of the next step.
        operands = -(-(operands + 2) // 2)
    return tile.rows * tile.vectors + operands + spare <= isa.registers


def cycles(tile: Tile, isa: Isa) -> float:
    """Estimated cycles of one step of the reduction."""
    fma = tile.rows * tile.vectors / _PER_CYCLE
    loads = (tile.rows + tile.vectors) / _PER_CYCLE
    stream = tile.vectors * isa.lanes * 4 / _L2_BYTES
    return max(fma, loads, stream, _LATENCY)


def _rows_cost(tile: Tile, rows: int, depth: int, isa: Isa) -> float:
    """Estimated cycles for ``rows`` rows with a reduction of ``depth`` steps."""
    full, rest = divmod(rows, tile.rows)
    overhead = 12.0 + tile.rows * tile.vectors  # prologue, epilogue and stores of one tile
    cost = full * (depth * cycles(tile, isa) + overhead)
    if rest:
        cost += depth * cycles(Tile(rest, tile.vectors), isa) + overhead
    return cost


def best_rows(
    vectors: int,
    rows: int | None,
    depth: int,
    isa: Isa,
    limit: int = MAX_ROWS,
    spare: int = 0,
    *,
    held: bool = False,
    most_wide: int = MAX_ROWS_WIDE,
) -> Tile | None:
    """The cheapest tile of a given width for ``rows`` rows (None: unknown); None if none fits."""
    limit = limit if vectors == 1 else min(limit, most_wide)
    tiles = (Tile(r, vectors) for r in range(1, min(limit, rows or limit) + 1))
    options = [t for t in tiles if fits(t, isa, spare, held=held)]
    return min(
        options,
        key=lambda t: (_rows_cost(t, rows or _UNKNOWN, depth, isa), -t.rows),
        default=None,
    )


def columns_cost(columns: tuple[Columns, ...], rows: int | None, depth: int, isa: Isa) -> float:
    """Estimated cycles of a product: ``rows`` rows (None: many) with ``depth`` steps each."""
    return sum(c.blocks * _rows_cost(c.tile, rows or _UNKNOWN, depth, isa) for c in columns)


def plan_columns(n: int, vectors: int, isa: Isa) -> list[tuple[int, int, int, int | None]]:
    """Blocks of ``vectors`` vectors over ``n`` columns: (first, blocks, vectors, tail) rows.

    The last block is apart if it is narrower or its last vector is not full.
    """
    count = vector_count(n, isa)
    tail = n % isa.lanes or None
    whole = count // vectors
    rest = count % vectors
    if tail and not rest:
        whole, rest = whole - 1, vectors
    out: list[tuple[int, int, int, int | None]] = []
    if whole:
        out.append((0, whole, vectors, None))
    if rest:
        out.append((whole * vectors, 1, rest, tail))
    return out


def most_rows(once: bool, size: Any, apart: int) -> int:
    """Most pixels of a wide tile of a convolution on pairs of bfloat16, which gain by many.

    Args:
        once: Whether all output channels are one block, so that the image is read once.
        size: Bytes of the image, which is to stay in the second-level cache if it is read again.
        apart: Bytes between pixels, which are to lie in different sets of the first-level cache.
    """
    near = once or (isinstance(size, int) and size <= _NEAR)
    return MAX_ROWS if near and apart <= _APART else MAX_ROWS_WIDE


def tile_columns(
    isa: Isa,
    rows: int | None,
    depth: int,
    n: int,
    override: Tile | None = None,
    limit: int = MAX_ROWS,
    spare: int = 0,
    dtype: str = "float32",
    most_wide: int = MAX_ROWS_WIDE,
) -> tuple[Columns, ...]:
    """Column blocks of a product with ``rows`` rows, ``depth`` steps and ``n`` columns.

    Args:
        isa: The instruction set.
        rows: Rows that one tile may cover (rows of the product, or pixels of a row of the image);
            None if unknown.
        depth: Steps of the reduction.
        n: Columns.
        override: Use this tile for all blocks but a narrower last one, which has its own best.
        limit: Most rows of a tile.
        spare: Registers to leave free, for loops with more than the tile in them.
        dtype: Element type that the rows are stored in.
        most_wide: Most rows of a tile that is wider than one vector.
    """
    held = holds_rows(isa, dtype)

    def best_of(width: int) -> Tile | None:
        return best_rows(width, rows, depth, isa, limit, spare, held=held, most_wide=most_wide)

    if override is not None:
        if not fits(override, isa):
            raise CompileError(f"tile {override} does not fit {isa.registers} registers")
        return tuple(
            Columns(f, b, override if v == override.vectors else narrow, t)
            for f, b, v, t in plan_columns(n, override.vectors, isa)
            if (narrow := best_of(v)) is not None
        )
    best: tuple[float, tuple[Columns, ...]] | None = None
    for width in range(1, min(MAX_VECTORS, vector_count(n, isa)) + 1):
        columns = tuple(
            Columns(f, b, tile, t)
            for f, b, v, t in plan_columns(n, width, isa)
            if (tile := best_of(v)) is not None
        )
        if len(columns) < len(plan_columns(n, width, isa)):
            continue
        cost = columns_cost(columns, rows, depth, isa)
        if best is None or cost <= best[0]:
            best = (cost, columns)
    if best is None:
        raise CompileError(f"no tile leaves {spare} of {isa.registers} registers free")
    return best[1]


def row_chunk(
    rows: int | None, depth: int, n: int, blocks: int, step: int, pass_steps: int = 0
) -> int:
    """Rows of one task: a multiple of ``step``, small enough to balance 16 threads.

    A chunk of the left operand stays in the second-level cache while all column blocks pass, or
    one pass of ``pass_steps`` steps of the reduction, if it is cut into passes.
    """
    cache = 512 * 1024 // (4 * (pass_steps or depth))
    work = 2_000_000 // (2 * depth * max(1, n // blocks))  # rows for 2 MFLOP
    want = max(4 * step, min(cache, max(work, 8 * step)))
    if rows is not None:
        balance = -(-rows * blocks // 48)  # rows for 48 tasks
        want = min(want, max(balance, work, step), rows)
    return max(step, -(-want // step) * step)
