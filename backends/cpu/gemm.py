"""Matrix product with a constant right operand.

``y[..., M, N] = post(x[..., M, K] @ w[K, N])``; the leading dimensions are rows of one product.
Arguments: ``x``, ``w`` (:func:`pack_gemm`), the operands of the post-ops in order, ``y``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from burnish.backends.cpu.dot2 import dot_of, pair_rows, pairs
from burnish.backends.cpu.epilogue import Epilogue
from burnish.backends.cpu.isa import Isa
from burnish.backends.cpu.microkernel import F32, Dot, RegisterTile
from burnish.backends.cpu.narrow import NARROW
from burnish.backends.cpu.tiling import Columns, Tile, row_chunk, tile_columns, vector_count
from burnish.backends.cpu.tir import (
    Acc,
    Expr,
    Index,
    Kernel,
    Tensor,
    branch,
    ceildiv,
    floordiv,
    floormod,
    hold,
    kernel,
    minimum,
    parallel,
    prefetch,
    product,
    serial,
    static,
    when,
)
from burnish.errors import CompileError
from burnish.ir.postops import PostOp

#: Weights in float32 or float16.
FloatArray: TypeAlias = npt.NDArray[np.floating[Any]]

#: Above this size weights are read once, whatever it costs to read the left operand again.
_LARGE_WEIGHTS = 2 * 1024 * 1024
#: Bytes by which weights are fetched ahead if only one tile of rows reads them.
_STREAM_AHEAD = 64 * 1024


@dataclass(frozen=True, eq=False)
class GemmSpec:
    """What a GEMM kernel computes.

    Attributes:
        lead: All dimensions of ``x`` but the last: ints or int64 expressions.
        k: Last dimension of ``x``.
        n: Last dimension of ``y``.
        postops: Applied to the product.
        tile: Overrides the tile rule.
        dtype: Element type of the tensors, ``float32`` or a 16-bit float; sums are float32.
        steps: Steps of the reduction in one pass, all of them if 0. The sums lie in ``y`` between
            passes, which has to be float32 then. Weights are packed alike.
        rows_first: Whether the outer loop is over rows, and reads the weights again for each run of
            rows, or over column blocks; None for what :func:`weights_first` says.
    """

    lead: tuple[Index, ...]
    k: int
    n: int
    postops: tuple[PostOp, ...] = ()
    tile: Tile | None = None
    dtype: str = "float32"
    steps: int = 0
    rows_first: bool | None = None

    @property
    def rows(self) -> Index:
        """Rows of the product."""
        return static(product(static(d) for d in self.lead))

    def dot(self, isa: Isa) -> Dot:
        """What is multiplied."""
        return dot_of(isa, self.dtype, self.k)

    def depth(self, isa: Isa) -> int:
        """Steps of the reduction."""
        return self.k // self.dot(isa).kpack

    def columns(self, isa: Isa) -> tuple[Columns, ...]:
        """Column blocks, which are also the layout of the packed weights."""
        rows = self.rows if isinstance(self.rows, int) else None
        return tile_columns(isa, rows, self.depth(isa), self.n, self.tile, dtype=self.dtype)


def packed_size(depth: int, n: int, isa: Isa) -> int:
    """Elements of weights packed in column blocks."""
    return depth * vector_count(n, isa) * isa.lanes


def as_stored(w: npt.ArrayLike) -> FloatArray:
    """Weights in the type that they are packed in: 16-bit floats as they are, else float32."""
    array = np.asarray(w)
    return array if array.dtype.name in NARROW else array.astype(np.float32, copy=False)


def pack_columns(w: npt.NDArray[Any], columns: tuple[Columns, ...], isa: Isa) -> npt.NDArray[Any]:
    """Weights [depth, N] by column blocks: block, depth, column in the block; 1-D.

    The columns of the last vector that ``w`` does not have are 0.
    """
    depth, n = w.shape
    padded = np.zeros((depth, vector_count(n, isa) * isa.lanes), w.dtype)
    padded[:, :n] = w
    parts = []
    for c in columns:
        width = c.tile.vectors * isa.lanes
        block = padded[:, c.first * isa.lanes :][:, : c.blocks * width]
        parts.append(block.reshape(depth, c.blocks, width).transpose(1, 0, 2).reshape(-1))
    return np.concatenate(parts)


def pack_depth(w: FloatArray, columns: tuple[Columns, ...], isa: Isa, dot: Dot) -> FloatArray:
    """Weights [depth, N] by column blocks as ``dot`` reads them; see :func:`pack_columns`."""
    if dot.kpack == 1:
        return pack_columns(w, columns, isa)
    packed = pack_columns(pair_rows(w), columns, isa)
    return np.ascontiguousarray(packed).view(w.dtype)


def pack_gemm(w: npt.ArrayLike, spec: GemmSpec, isa: Isa) -> FloatArray:
    """Constant ``w`` [K, N] as the kernel of ``spec`` reads it: 1-D."""
    array = as_stored(w)
    if array.shape != (spec.k, spec.n):
        raise ValueError(f"weights of shape {array.shape} for a spec of {(spec.k, spec.n)}")
    return pack_depth(array, spec.columns(isa), isa, spec.dot(isa))


def gemm(isa: Isa, spec: GemmSpec, name: str = "gemm") -> Kernel:
    """Build the kernel of ``spec``; arguments as in the module's docstring.

    Raises:
        CompileError: Passes over a result that is stored in less than float32.
    """
    columns = spec.columns(isa)
    if spec.steps and spec.dtype != "float32":
        raise CompileError(f"a product in passes whose sums are stored in {spec.dtype}")
    with kernel(name, isa, spec.dtype) as k:
        x = k.input("x", (*spec.lead, spec.k))
        w = k.input("w", (packed_size(spec.k, spec.n, isa),))
        epilogue = Epilogue.declare(k, spec.postops, (*spec.lead, spec.n))
        y = k.output("y", (*spec.lead, spec.n))
        dot, order = spec.dot(isa), spec.rows_first
        x, w, depth = pairs(x, dot), pairs(w, dot), spec.depth(isa)
        emit_gemm(isa, x, w, y, epilogue, spec.rows, depth, spec.n, columns, spec.steps, order, dot)
    return k.result


def weights_first(depth: int, n: int) -> bool:
    """Whether the outer loop of a product is over column blocks by default."""
    return 4 * depth * n > _LARGE_WEIGHTS


def emit_gemm(
    isa: Isa,
    x: Tensor,
    w: Tensor,
    y: Tensor,
    epilogue: Epilogue,
    rows: Index,
    depth: int,
    n: int,
    columns: tuple[Columns, ...],
    steps: int = 0,
    rows_first: bool | None = None,
    dot: Dot = F32,
    to: Tensor | None = None,
    line: int | None = None,
) -> None:
    """The loops of a product of ``x`` [rows, depth] and packed ``w``, as one parallel loop.

    A pass covers ``steps`` steps of the reduction (0: all): one after the other, each for all rows
    of a task, so that its weights stay in the second-level cache. With deferred steps the results
    go ``to`` another tensor of the shape of ``y``, if it is given. Rows of ``y`` begin ``line``
    elements apart, ``n`` by default.
    """
    line = n if line is None else line
    blocks = sum(c.blocks for c in columns)
    fixed = rows if isinstance(rows, int) else None
    chunk = row_chunk(fixed, depth, n, blocks, columns[0].tile.rows, steps)
    chunks = ceildiv(rows, chunk)
    weights_outside = weights_first(depth, n) if rows_first is None else not rows_first
    with parallel(chunks * blocks) as task:
        if weights_outside:
            block, part = floordiv(task, chunks), floormod(task, chunks)
        else:
            part, block = floordiv(task, blocks), floormod(task, blocks)
        part, block = hold(part), hold(block)
        begin = hold(part * chunk)
        end = hold(minimum(begin + chunk, rows))
        acc = accumulators(columns, isa, dot)
        operands = _Operands(acc, x, w, y, epilogue, rows, depth, n, dot, line)

        def run(c: Columns, index: Index) -> None:
            with _passes(depth, steps) as span:

                def tile(row: Index, count: int) -> None:
                    _micro(operands, c, index, row, count, span)

                row_tiles(begin, end, rows, chunk, c.tile.rows, tile)
            if epilogue.deferred:
                finish_rows(isa, y, epilogue, begin, end, line, c, index, to=to)

        for_columns(columns, block, run)


@dataclass(frozen=True)
class _Operands:
    """What all tiles of a product share."""

    acc: Acc
    x: Tensor
    w: Tensor
    y: Tensor
    epilogue: Epilogue
    rows: Index
    depth: int
    n: int
    dot: Dot
    line: int


@dataclass(frozen=True)
class _Pass:
    """Some steps of the reduction.

    Attributes:
        start: The first one.
        steps: How many.
        first: Whether sums begin at zero: decided now, or a condition.
        last: Whether sums are complete at the end.
    """

    start: Index
    steps: Index
    first: Expr
    last: Expr


@contextmanager
def _passes(depth: int, steps: int) -> Iterator[_Pass]:
    """A loop over the passes of a reduction; no loop if one covers it."""
    if steps in (0, depth):
        yield _Pass(0, depth, True, True)
        return
    count = -(-depth // steps)
    with serial(count) as number:
        start = hold(number * steps)
        inside = hold(minimum(steps, depth - start)) if depth % steps else steps
        yield _Pass(start, inside, number < 1, number >= count - 1)


def accumulators(columns: tuple[Columns, ...], isa: Isa, dot: Dot = F32) -> Acc:
    """Enough accumulators for every tile."""
    return Acc(max(c.tile.rows * c.tile.vectors for c in columns), isa.lanes, dot.result)


def for_columns(
    columns: tuple[Columns, ...], block: Index, run: Callable[[Columns, Index], None]
) -> None:
    """Call ``run(columns, first vector)`` with the kind of blocks that number ``block`` is of."""
    head, *rest = columns
    first = head.first + block * head.tile.vectors

    def others() -> None:
        for_columns(tuple(rest), block - head.blocks, run)

    if not rest:
        run(head, first)
    else:
        branch(block < head.blocks, lambda: run(head, first), others)


def row_tiles(
    begin: Index,
    end: Index,
    rows: Index,
    chunk: int,
    step: int,
    tile: Callable[[Index, int], None],
    done: Index = 0,
) -> None:
    """Cover rows [begin, end), without the first ``done``, with tiles of ``step`` rows and a rest.

    ``tile(row, count)`` is called once for each count that can occur: if ``rows`` is static only
    its own remainder, else all, as a chain of branches.
    """
    begin = begin + done
    count = end - begin
    whole = hold(floordiv(count, step))
    if not (isinstance(rows, int) and rows - done < step):
        with serial(whole) as i:
            tile(begin + i * step, step)
    rest = hold(floormod(count, step))
    base = hold(begin + whole * step)
    if isinstance(rows, int):
        remainders = {(min(chunk, rows - b) - done) % step for b in range(0, rows, chunk)} - {0}
    else:
        remainders = set(range(1, step))
    for r in sorted(remainders):
        if isinstance(rest, int):
            tile(base, r)
        else:
            with when(rest == r):
                tile(base, r)


def _micro(
    given: _Operands, columns: Columns, first: Index, row: Index, count: int, span: _Pass
) -> None:
    """One register tile: ``count`` rows from ``row``, the block that starts at vector ``first``."""
    x, w, y, epilogue, acc = given.x, given.w, given.y, given.epilogue, given.acc
    vectors, lanes = columns.tile.vectors, acc.lanes
    places = [(r, v) for r in range(count) for v in range(vectors)]
    column = first * lanes

    def at(r: int, v: int) -> tuple[Index, int | None]:
        """Offset in ``y`` and valid lanes of an accumulator."""
        valid = columns.tail if v == vectors - 1 else None
        return (row + r) * given.line + column + v * lanes, valid

    tile = RegisterTile(count, vectors, acc, given.dot)

    def load_sums() -> None:
        for r, v in places:
            offset, valid = at(r, v)
            acc[r * vectors + v] = y.load(offset, lanes, valid)

    def store_sums() -> None:
        for r, v in places:
            offset, valid = at(r, v)
            y.store(offset, tile.at(r, v), valid)

    def store_results() -> None:
        for r in range(count):
            offset, place = (row + r) * given.n + column, (row + r) * given.line + column
            values = [tile.at(r, v) for v in range(vectors)]
            epilogue.store_row(y, values, offset, place, column, columns.tail)

    branch(span.first, tile.clear, load_sums)
    starts = [hold((row + r) * given.depth + span.start) for r in range(count)]
    panel = hold((column * given.depth) + span.start * (vectors * lanes))
    tile.stream(
        x.flat,
        lambda step: [s + step for s in starts],
        w.flat,
        lambda step: panel + step * (vectors * lanes),
        (0, span.steps),
        before=next_block(w, panel, given.rows, row, count, columns.tile, span.steps, lanes),
    )
    branch(span.last, store_results, store_sums)


def next_block(
    w: Tensor,
    panel: Index,
    rows: Index,
    row: Index,
    count: int,
    tile: Tile,
    steps: Index,
    lanes: int,
) -> Callable[[Index], None]:
    """What a tile of ``count`` rows from ``row`` does in each step to bring in the next block.

    Weights come from memory once in a run of a model. While a block of columns is multiplied with
    one tile of rows after the other, the next block comes in: a line in each step.

    Args:
        w: Packed weights.
        panel: Where those of this block begin.
        rows: Rows that pass by the block.
        row: First row of the tile.
        count: Its rows; only whole tiles take part.
        tile: The whole tile.
        steps: Steps of the reduction.
        lanes: Lanes of a vector.
    """
    if count != tile.rows:
        return lambda step: None
    tiles = -(-rows // count) if isinstance(rows, int) else tile.vectors
    lines = -(-tile.vectors // tiles)
    if tiles == 1 and isinstance(rows, int):
        # Weights are one stream: a whole block ahead, they might be gone before they are used.
        distance = minimum(steps * tile.vectors, _STREAM_AHEAD // (4 * lanes))
        ahead = hold(panel + distance * lanes)
    else:
        # The last tiles repeat what is there: blocks after the next would push out this one.
        number = minimum(floordiv(row, count) * lines, max(tile.vectors - lines, 0)) + tile.vectors
        ahead = hold(panel + number * (steps * lanes))

    def bring(step: Index) -> None:
        for line in range(lines):
            prefetch(w.flat, ahead + (step * lines + line) * lanes)

    return bring


def finish_rows(
    isa: Isa,
    y: Tensor,
    epilogue: Epilogue,
    begin: Index,
    end: Index,
    n: int,
    columns: Columns,
    first: Index,
    origin: Index = 0,
    to: Tensor | None = None,
) -> None:
    """Apply the deferred steps to rows [begin, end) of one column block of ``y``.

    Column 0 of the block structure is column ``origin`` of ``y``. The results go to ``to``, or
    where they were.
    """
    final = to or y
    vectors = columns.tile.vectors

    def one(row: Index, v: Index, valid: int | None) -> None:
        column = origin + (first + v) * isa.lanes
        offset = hold(row * n + column)
        value = y.load(offset, isa.lanes, valid)
        final.store(offset, epilogue.finish(value, offset, column, valid), valid)

    full = vectors - (columns.tail is not None)
    with serial(begin, end) as row:
        if full:
            with serial(full) as v:
                one(row, v, None)
        if columns.tail is not None:
            one(row, full, columns.tail)
