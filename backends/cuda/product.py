"""The tiled matrix product that GEMM, batched products and convolutions share.

A block computes a tile of the result. It walks along the depth in steps: while the warps multiply
one step out of shared memory, the next one is on its way from global memory to registers. float16
runs on tensor cores, float32 on the ordinary units; both accumulate in float32.

What is multiplied comes from two sources (:mod:`burnish.backends.cuda.staging`), which know how to
find an element of their operand (a matrix, the pixels under a convolution's window, packed weights)
and where it ends.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T  # noqa: N812

from burnish.backends.cuda.staging import PAD, Mover, Source, Stage, stage_size
from burnish.backends.cuda.tensor_core import SIZE, Fragments, multiply_add
from burnish.backends.cuda.tir import (
    WARP,
    Expr,
    Index,
    below,
    ceildiv,
    conjunction,
    floordiv,
    floormod,
    grid,
    i32,
    loop,
    name,
    pin,
    put,
    registers,
    shared,
    sync,
    sync_warp,
    unrolled,
    vector,
)


@dataclass(frozen=True)
class Tile:
    """How a product is cut.

    Attributes:
        rows: Rows of the result that a block computes.
        columns: Columns.
        depth: Depth of a step.
        warps: Warps along rows and columns.
        thread: Rows and columns of a thread, where no tensor cores are used.
    """

    rows: int
    columns: int
    depth: int
    warps: tuple[int, int] = (1, 1)
    thread: tuple[int, int] | None = None

    @property
    def threads(self) -> int:
        """Threads of a block."""
        if self.thread is None:
            return WARP * self.warps[0] * self.warps[1]
        return (self.rows // self.thread[0]) * (self.columns // self.thread[1])

    def __str__(self) -> str:
        return f"{self.rows}x{self.columns}x{self.depth}"


@dataclass(frozen=True)
class Problem:
    """A product to compute.

    Attributes:
        batch: Number of independent products.
        rows: Rows of each result.
        columns: Columns of each result.
        depth: Length of the sums.
    """

    batch: Index
    rows: Index
    columns: Index
    depth: Index


#: Makes both operands of the product with an index.
Operands = Callable[[Expr], tuple[Source, Source]]
#: Stores an element: product, row, column, float32 value.
Store = Callable[[Expr, Expr, Expr, Expr], None]

#: Tiles, the largest first: tensor cores, and ordinary units.
TENSOR_TILES = (
    Tile(128, 64, 32, (2, 2)),
    Tile(64, 64, 32, (2, 2)),
    Tile(32, 64, 32, (1, 2)),
    Tile(16, 64, 32, (1, 2)),
)
SCALAR_TILES = (
    Tile(64, 64, 16, thread=(8, 4)),
    Tile(32, 64, 16, thread=(4, 4)),
    Tile(16, 32, 16, thread=(2, 4)),
)
#: What a symbolic size is taken for when the tile is chosen.
_TYPICAL = 512


def choose_tile(problem: Problem, dtype: str, multiprocessors: int) -> Tile:
    """The largest tile that leaves at least one block to every multiprocessor."""
    tiles = TENSOR_TILES if dtype == "float16" else SCALAR_TILES
    batch, rows, columns = (
        n if isinstance(n, int) else _TYPICAL
        for n in (problem.batch, problem.rows, problem.columns)
    )
    for tile in tiles:
        blocks = batch * -(-rows // tile.rows) * -(-columns // tile.columns)
        if blocks >= multiprocessors and rows > tile.rows // 2:
            return tile
    # Too little work for all multiprocessors: the smallest tile that wastes no rows.
    return tiles[-1] if rows <= tiles[-1].rows else tiles[-2]


#: Threads of a block that adds up parts.
_SUM_THREADS = 256
#: Steps that are worth a block of their own, and the most blocks that share a tile.
_LEAST_STEPS, _MOST_SPLITS = 8, 8


def choose_splits(problem: Problem, tile: Tile, multiprocessors: int) -> int:
    """How many blocks share the depth of a tile, where there are fewer tiles than multiprocessors.

    A divisor of the number of steps; 1 where a size is not known.
    """
    sizes = (problem.batch, problem.rows, problem.columns, problem.depth)
    if not all(isinstance(n, int) and n > 0 for n in sizes):
        return 1
    batch, rows, columns, depth = sizes
    blocks = batch * -(-rows // tile.rows) * -(-columns // tile.columns)
    steps = -(-depth // tile.depth)
    wanted = min(_MOST_SPLITS, multiprocessors // blocks, steps // _LEAST_STEPS)
    return next((n for n in range(wanted, 1, -1) if steps % n == 0), 1)


def multiply(
    problem: Problem, tile: Tile, operands: Operands, store: Store, dtype: str, splits: int = 1
) -> None:
    """Emit a product: a grid, and another one that adds up what the first one computed in parts.

    Args:
        problem: Its sizes.
        tile: How it is cut.
        operands: Both operands of one product of the batch.
        store: Stores an element of the result; only called for elements that exist.
        dtype: Element type of both operands.
        splits: Blocks that share the depth of a tile; see :func:`choose_splits`.
    """
    if splits == 1:
        _product(problem, tile, operands, store, dtype, 1)
        return
    count = problem.batch * problem.rows * problem.columns
    parts = T.alloc_buffer((splits * count,), "float32", scope="global")

    def keep(part: Expr, row: Expr, column: Expr, value: Expr) -> None:
        put(parts, (part * problem.rows + row) * problem.columns + column, value, 1)

    _product(problem, tile, operands, keep, dtype, splits)
    with grid(ceildiv(count, _SUM_THREADS), _SUM_THREADS) as (block, thread):
        index = name(block * _SUM_THREADS + thread)
        with T.If(conjunction(below(index, count))), T.Then():
            total = parts[index]
            for split in range(1, splits):
                total = total + parts[index + split * count]
            rest = name(floordiv(index, problem.columns))
            column = name(floormod(index, problem.columns))
            row = name(floormod(rest, problem.rows))
            store(name(floordiv(rest, problem.rows)), row, column, name(total))


def _product(
    problem: Problem, tile: Tile, operands: Operands, store: Store, dtype: str, splits: int
) -> None:
    """The grid of the product; ``store`` gets the part and the product as one number."""
    # As many as a grid can have: int32, which divides much faster.
    row_blocks = i32(ceildiv(problem.rows, tile.rows))
    column_blocks = i32(ceildiv(problem.columns, tile.columns))
    blocks = ceildiv(problem.rows, tile.rows) * ceildiv(problem.columns, tile.columns)
    with grid(splits * problem.batch * blocks, tile.threads) as (block, thread):
        first_column = pin(floormod(block, column_blocks)) * tile.columns
        rest = pin(floordiv(block, column_blocks))
        first_row = pin(floormod(rest, row_blocks)) * tile.rows
        product_index = pin(floordiv(rest, row_blocks))
        one = product_index if splits == 1 else name(floormod(product_index, problem.batch))
        split = i32(0) if splits == 1 else name(floordiv(product_index, problem.batch))
        left, right = operands(one)
        inner = _TensorCores(tile, thread) if dtype == "float16" else _Scalar(tile, thread)
        movers = []
        for source, lines, first in (
            (left, tile.rows, first_row),
            (right, tile.columns, first_column),
        ):
            turned = inner.turned and not source.across
            size = stage_size(source, lines, tile.depth, turned)
            buffer = shared(2 * size, dtype)
            stage = Stage(source, lines, tile.depth, tile.threads, turned, buffer, thread, first)
            movers.append(Mover(stage))
        _walk(problem, tile, inner, movers, split, splits)
        inner.finish(
            lambda row, column, value: _guarded(
                problem,
                first_row + row,
                first_column + column,
                lambda r, c: store(product_index, r, c, value),
            )
        )


def _guarded(problem: Problem, row: Expr, column: Expr, then: Callable[[Expr, Expr], None]) -> None:
    row, column = name(row), name(column)
    condition = conjunction([*below(row, problem.rows), *below(column, problem.columns)])
    with T.If(condition), T.Then():
        then(row, column)


def _walk(
    problem: Problem, tile: Tile, inner: Any, movers: list[Mover], split: Expr, splits: int
) -> None:
    """The loop over the depth, or over one of ``splits`` equal parts of it."""
    count = floordiv(ceildiv(problem.depth, tile.depth), splits)
    steps = i32(count)
    start = i32(0) if splits == 1 else name(split * (count * tile.depth))
    inner.start(movers[0].stage, movers[1].stage)
    zero = i32(0)
    for mover in movers:
        mover.deposit(mover.fetch(start, []), zero)
    sync()
    if isinstance(count, int) and count == 1:
        inner.step(zero)
        return
    with loop(steps) as step:
        now, then = name(floormod(step, 2)), name(floormod(step + 1, 2))
        more = below(step + 1, steps)
        fetched = [mover.fetch(name(start + (step + 1) * tile.depth), more) for mover in movers]
        inner.step(now)
        for mover, values in zip(movers, fetched, strict=True):
            mover.deposit(values, then)
        sync()


class _TensorCores:
    """A step on tensor cores: each warp has its rectangle of the tile."""

    turned = False

    def __init__(self, tile: Tile, thread: Expr) -> None:
        self.rows = tile.rows // tile.warps[0] // SIZE
        self.columns = tile.columns // tile.warps[1] // SIZE
        self.depth = tile.depth
        warp = name(floordiv(thread, WARP))
        self.lane = name(floormod(thread, WARP))
        self.warp = warp
        self.warps = tile.warps[0] * tile.warps[1]
        self.row = name(floordiv(warp, tile.warps[1]) * (self.rows * SIZE))
        self.column = name(floormod(warp, tile.warps[1]) * (self.columns * SIZE))

    def start(self, left: Stage, right: Stage) -> None:
        """Clear the sums."""
        self.left, self.right = left, right
        self.total = Fragments.accumulator(self.rows * self.columns)
        self.a = Fragments.operand(self.rows, "matrix_a")
        self.b = Fragments.operand(self.columns, "matrix_b")
        with unrolled(self.rows * self.columns) as i:
            self.total.clear(i)

    def step(self, at: Expr) -> None:
        """Multiply what lies in buffers ``at``."""
        left, right = self.left, self.right
        with unrolled(self.depth // SIZE) as k:
            depth = k * SIZE
            with unrolled(self.rows) as i:
                place = left.place(at, self.row + i * SIZE, depth)
                self.a.load(i, left.buffer, place, left.stride)
            with unrolled(self.columns) as j:
                place = right.place(at, self.column + j * SIZE, depth)
                self.b.load(j, right.buffer, place, right.stride, not right.source.across)
            with unrolled(self.rows) as i, unrolled(self.columns) as j:
                multiply_add(self.total, i * self.columns + j, self.a, i, self.b, j)

    def finish(self, store: Callable[[Expr, Expr, Expr], None]) -> None:
        """Hand out the sums: fragments are opaque, so they go through shared memory."""
        width = self.columns * SIZE
        stride = width + PAD["float32"]
        room = shared(self.warps * SIZE * stride, "float32")
        base = name(self.warp * (SIZE * stride))
        with unrolled(self.rows) as i:
            with unrolled(self.columns) as j:
                self.total.store(i * self.columns + j, room, base + j * SIZE, stride)
            sync_warp()
            # Neighbouring threads store neighbouring columns.
            with loop(SIZE * width // WARP) as part:
                index = name(part * WARP + self.lane)
                row, column = name(floordiv(index, width)), name(floormod(index, width))
                value = name(room[base + row * stride + column])
                store(self.row + i * SIZE + row, self.column + column, value)
            sync_warp()


class _Scalar:
    """A step on the ordinary units: each thread has its rectangle of the tile."""

    turned = True

    def __init__(self, tile: Tile, thread: Expr) -> None:
        assert tile.thread is not None
        self.rows, self.columns = tile.thread
        self.depth = tile.depth
        across = tile.columns // self.columns
        self.row = name(floordiv(thread, across) * self.rows)
        self.column = name(floormod(thread, across) * self.columns)

    def start(self, left: Stage, right: Stage) -> None:
        """Clear the sums."""
        self.left, self.right = left, right
        self.total = registers(self.rows * self.columns, "float32")
        self.a = registers(self.rows, "float32")
        self.b = registers(self.columns, "float32")
        with unrolled(self.rows * self.columns) as i:
            put(self.total, i, tirx.const(0.0, "float32"), 1)

    def step(self, at: Expr) -> None:
        """Multiply what lies in buffers ``at``."""
        with unrolled(self.depth) as k:
            for held, stage, first, count in (
                (self.a, self.left, self.row, self.rows),
                (self.b, self.right, self.column, self.columns),
            ):
                lanes = min(4, count)
                for i in range(0, count, lanes):
                    place = stage.place(at, first + i, k)
                    put(held, i, vector(stage.buffer, place, lanes), lanes)
            with unrolled(self.rows) as i, unrolled(self.columns) as j:
                at_ij = i * self.columns + j
                put(self.total, at_ij, self.total[at_ij] + self.a[i] * self.b[j], 1)

    def finish(self, store: Callable[[Expr, Expr, Expr], None]) -> None:
        """Hand out the sums."""
        with unrolled(self.rows) as i, unrolled(self.columns) as j:
            value = name(self.total[i * self.columns + j])
            store(self.row + i, self.column + j, value)
