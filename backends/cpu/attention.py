"""Fused scaled dot-product attention (Vaswani et al., 2017; ONNX Attention-23).

For a block of queries the scores are computed transposed, one vector of queries for each key: then
keys and values are read where they lie, with any strides, a softmax over keys has no horizontal
reduction, and masks of padded keys are scalars.

Many keys are taken in blocks, and the softmax is the online one (Milakov and Gimelshein, 2018; Dao
et al., 2022). Rows without a key behave like the decomposed operators: their sum is 0, and 0 times
infinity is not a number.

Arguments: those of the spec in order, the mask if there is one, the output.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

from tvm import tirx

from burnish.backends.cpu import vmath
from burnish.backends.cpu.attention_decode import emit_rows
from burnish.backends.cpu.attention_mask import Mask
from burnish.backends.cpu.attention_spec import AttentionSpec
from burnish.backends.cpu.attention_task import MOST_ROWS, Buffers, Place, Range, row_tiles
from burnish.backends.cpu.isa import Isa
from burnish.backends.cpu.microkernel import F32, Dot, RegisterTile
from burnish.backends.cpu.rows import is_number
from burnish.backends.cpu.tile_transpose import transpose_vectors
from burnish.backends.cpu.tir import (
    Acc,
    Expr,
    Index,
    Kernel,
    Tensor,
    branch,
    ceildiv,
    constant,
    floordiv,
    floormod,
    kernel,
    let,
    load,
    local,
    maximum,
    minimum,
    parallel,
    scratch,
    select,
    serial,
    splat,
    static,
    store,
)

#: Up to so many queries are computed one by one.
FEW_QUERIES = 3
#: Keys in a block, if there are more than fit into one. A multiple of the rows of most tiles.
_KEY_BLOCK = 504
#: Up to so many keys (known at compile time) are one block.
_ONE_BLOCK = 640
LOG2_E = math.log2(math.e)


def attention(
    isa: Isa, spec: AttentionSpec, name: str = "attention", blocks: type[Blocks] | None = None
) -> Kernel:
    """Build the kernel of ``spec`` with some kind of blocks; arguments as in the docstring."""
    with kernel(name, isa, spec.dtype) as k:
        args = [k.input(f"x{i}", shape) for i, shape in enumerate(spec.arguments)]
        mask = Mask.declare(k, spec)
        out = k.output("out", spec.output_shape())
        k.symbols(spec.queries, spec.keys, spec.batch, spec.causal_offset)
        (blocks or Blocks)(isa, spec, args, mask, out).emit_all()
    return k.result


class Blocks:
    """Blocks of queries of one head: the tasks of the kernel."""

    def __init__(
        self, isa: Isa, spec: AttentionSpec, args: list[Tensor], mask: Mask, out: Tensor
    ) -> None:
        self.isa = isa
        self.spec = spec
        self.lanes = isa.lanes
        self.q, self.k, self.v = (args[h.argument] for h in (spec.q, spec.k, spec.v))
        self.mask = mask
        self.out = out
        self.queries, self.keys = static(spec.queries), static(spec.keys)
        #: Vectors of queries in the largest block.
        self.most = 4 if isa.registers >= 32 else 2
        self.stride = self.most * self.lanes
        self.vectors = ceildiv(self.queries, self.lanes)
        self.count = ceildiv(self.vectors, self.most)
        #: Whether the scores are logarithms to the base 2. What a mask adds is one to the base e.
        self.powers_of_two = spec.mask != "float"
        self.one_block = isinstance(self.keys, int) and self.keys <= _ONE_BLOCK
        self.value_vectors = -(-spec.value_width // self.lanes)
        #: Vectors in the blocks; None if not known.
        self.sizes: set[int] | None = None
        #: Queries of a block, if known and the same for all; else 0.
        self.block_queries = 0
        if isinstance(self.vectors, int) and isinstance(self.count, int):
            ends = [p * self.vectors // self.count for p in range(self.count + 1)]
            self.sizes = {b - a for a, b in itertools.pairwise(ends)}
            if len(self.sizes) == 1 and self.queries == self.vectors * self.lanes:
                self.block_queries = min(self.sizes) * self.lanes
        #: What is multiplied.
        self.dot: Dot = F32
        self.acc: Acc

    @property
    def block_keys(self) -> Index:
        """Keys of a block, at most."""
        return self.keys if self.one_block else _KEY_BLOCK

    def emit_all(self) -> None:
        """One parallel loop over all blocks of all heads."""
        spec, parts = self.spec, self.count
        with parallel(static(spec.batch) * spec.heads * parts) as task:
            part, rest = let(floormod(task, parts)), let(floordiv(task, parts))
            if spec.causal and parts != 1:
                # Later queries see more keys: among the neighbours that a thread gets, early and
                # late ones take turns.
                turn = let(floordiv(part, 2))
                part = let(select(floormod(part, 2) < 1, turn, parts - 1 - turn))
            place = Place(let(floordiv(rest, spec.heads)), let(floormod(rest, spec.heads)))
            self.emit(place, part)

    def emit(self, place: Place, part: Index) -> None:
        """The work of one task: block ``part`` of a head."""
        few = self.queries <= FEW_QUERIES
        direct = self.spec.k.width == 1 and self.spec.q.width == 1
        if not direct or few is False:
            self._block(place, part)
            return
        branch(
            few,
            lambda: emit_rows(
                self.isa, self.spec, (self.q, self.k, self.v), self.mask, self.out, place
            ),
            lambda: self._block(place, part),
        )

    def _block(self, place: Place, part: Index) -> None:
        spec, lanes = self.spec, self.lanes
        first = let(floordiv(part * self.vectors, self.count))
        size = let(floordiv((part + 1) * self.vectors, self.count) - first)
        query = let(first * lanes)
        count: Index = self.block_queries or let(minimum(self.queries - query, size * lanes))
        limit: Index = self.keys
        if spec.causal:
            limit = let(maximum(minimum(self.keys, query + count + spec.causal_offset), 0))
        buffers = self._allocate()
        self._pack_queries(place, buffers.packed, query, size)
        with serial(self.most) as c:
            store(buffers.tops, c * lanes, constant(-math.inf, lanes))
            store(buffers.sums, c * lanes, constant(0.0, lanes))
        if self.one_block:
            self._keys(place, buffers, Range(query, count, size, 0, limit))
            self._invert(buffers, size)
            self._values(place, buffers, Range(query, count, size, 0, limit))
            return
        with serial(count) as row, serial(self.value_vectors) as v:
            store(buffers.partial, self._partial_at(row, v), constant(0.0, lanes))
        with serial(ceildiv(limit, _KEY_BLOCK)) as step:
            key = let(step * _KEY_BLOCK)
            part_of = Range(query, count, size, key, let(minimum(_KEY_BLOCK, limit - key)))
            self._keys(place, buffers, part_of)
            self._values(place, buffers, part_of)
        self._invert(buffers, size)
        self._store_partial(place, buffers, query, count)

    def _allocate(self) -> Buffers:
        self.acc = Acc(self.isa.registers, self.lanes)
        partial = None
        if not self.one_block:
            partial = scratch(self.stride * self.value_vectors * self.lanes)
        packed = scratch(self.spec.width * self.stride)
        scores = scratch((self.block_keys + MOST_ROWS) * self.stride)
        tops, scales, sums, factors = (local(self.stride) for _ in range(4))
        return Buffers(packed, scores, tops, scales, sums, factors, partial)

    def _keys(self, place: Place, buffers: Buffers, part: Range) -> None:
        """Scores of a block of keys and their exponentials; updates maxima and sums."""
        lanes = self.lanes
        if not self.one_block:
            with serial(part.vectors) as c:
                store(buffers.scales, c * lanes, let(load(buffers.tops, c * lanes, lanes)))
        self._each_size(part.vectors, lambda n, first: self._scores(place, buffers, part, n, first))
        self.mask.add_rows(
            place, (buffers.scores, buffers.tops), self.stride,
            (part.query, part.vectors), (part.key, part.keys),
        )  # fmt: skip
        self._each_size(part.vectors, lambda n, first: self._exponentials(buffers, part, n, first))

    def _each_size(self, size: Index, emit: Callable[[int, Index], None]) -> None:
        """Cover a block of ``size`` vectors with code for those numbers that are worth their own.

        ``emit`` gets the number of vectors and the first.
        """
        wide = [self.most, 3] if self.most > 3 else [self.most]
        single = True
        if self.sizes is not None:
            wide = sorted(self.sizes - {1}, reverse=True)
            single = 1 in self.sizes

        def one_by_one() -> None:
            with serial(size) as c:
                emit(1, c)

        def choose(rest: list[int]) -> None:
            if not rest:
                one_by_one()
            elif len(rest) == 1 and not single:
                emit(rest[0], 0)
            else:
                branch(size == rest[0], lambda: emit(rest[0], 0), lambda: choose(rest[1:]))

        choose(wide)

    # -- queries -----------------------------------------------------------------------------------

    def _pack_queries(self, place: Place, packed: Any, q0: Index, size: Index) -> None:
        """``packed[d, query]`` = scale * q; positions past the end repeat the last query."""
        where, lanes, width = self.spec.q, self.lanes, self.spec.width
        base = place.start(where)
        scale = self.spec.scale * (LOG2_E if self.powers_of_two else 1.0)
        factor = None if scale == 1.0 else constant(scale, lanes)
        with serial(size) as c:
            rows = [
                let(base + minimum(q0 + (c * lanes + i), self.queries - 1) * where.sequence)
                for i in range(lanes)
            ]

            def tile(d: Index, valid: int | None) -> None:
                if where.width == 1:
                    read = [load(self.q.flat, r + d, lanes, valid) for r in rows]
                    columns = transpose_vectors([let(v) for v in read])
                else:
                    columns = [self._strided(rows, d + i) for i in range(valid or lanes)]
                for i, column in enumerate(columns[:valid]):
                    value = column if factor is None else column * factor
                    store(packed, (d + i) * self.stride + c * lanes, value)

            if width // lanes:
                with serial(width // lanes) as d:
                    tile(d * lanes, None)
            if width % lanes:
                tile(width // lanes * lanes, width % lanes)

    def _strided(self, rows: list[Index], d: Index) -> Expr:
        """Element ``d`` of each row as one vector: queries that do not lie along their width."""
        cell = local(self.lanes)
        for i, row in enumerate(rows):
            store(cell, i, load(self.q.flat, row + d * self.spec.q.width))
        return let(load(cell, 0, self.lanes))

    # -- scores ------------------------------------------------------------------------------------

    def _scores(
        self, place: Place, buffers: Buffers, part: Range, vectors: int, first: Index
    ) -> None:
        """``scores[key, query]`` with scalar masks applied, and the maximum for each query."""
        where, lanes = self.spec.k, self.lanes
        start = first * lanes
        base = place.start(where, self.spec.heads // self.spec.kv_heads)
        scalars = self.mask.scalars(place)
        for tiles in row_tiles(self.isa, vectors, part.keys):
            with serial(tiles.tiles) as step:
                row = let(tiles.first + step * tiles.rows)
                keys = [part.key + (row + r) for r in range(tiles.rows)]
                if not tiles.whole:
                    # Keys past the end repeat the last one: the maximum does not change.
                    keys = [let(minimum(key, self.keys - 1)) for key in keys]
                starts = [let(base + key * where.sequence) for key in keys]
                score = self._products(buffers, keys, starts, start, vectors)
                for c in range(vectors):
                    column = start + c * lanes
                    top = load(buffers.tops, column, lanes)
                    for r, key in enumerate(keys):
                        value = scalars(score(r, c), key)
                        value = let(self._causal(value, key, part.query + column))
                        store(buffers.scores, (row + r) * self.stride + column, value)
                        top = let(select(top < value, value, top))
                    if not self.mask.by_query:
                        store(buffers.tops, column, top)

    def _products(
        self,
        buffers: Buffers,
        keys: list[Index],
        starts: list[Index],
        column: Index,
        vectors: int,
    ) -> Callable[[int, int], Expr]:
        """Scaled products of keys, which begin at ``starts``, with queries from ``column`` on."""
        tile = RegisterTile.zero(len(keys), vectors, self.acc, self.dot)
        self._dot_keys(tile, starts, buffers.packed, column)
        return tile.at

    def _dot_keys(
        self, tile: RegisterTile, starts: list[Index], packed: Any, column: Index
    ) -> None:
        """Dot products of keys with the packed queries from ``column`` on."""
        where, stride = self.spec.k, self.stride
        if where.width == 1:
            tile.stream(
                self.k.flat,
                lambda d: [s + d for s in starts],
                packed,
                lambda d: d * stride + column,
                (0, self.spec.width),
            )
            return
        with serial(self.spec.width) as d:
            offsets = [s + d * where.width for s in starts]
            tile.step(self.k.flat, offsets, packed, d * stride + column)

    def _causal(self, value: Expr, key: Index, query: Index) -> Expr:
        if not self.spec.causal:
            return value
        lanes = self.lanes
        ramp = tirx.Ramp(tirx.const(0, "int32"), tirx.const(1, "int32"), lanes)
        first = tirx.Cast("int32", key - query - self.spec.causal_offset)
        return select(ramp >= splat(first, lanes), value, constant(-math.inf, lanes))

    def _exponentials(self, buffers: Buffers, part: Range, vectors: int, first: Index) -> None:
        """Replace scores by their exponentials and add them up."""
        lanes, clean = self.lanes, self.spec.nan_to_zero
        zero, lowest = constant(0.0, lanes), constant(-math.inf, lanes)
        columns = [let(first * lanes + c * lanes) for c in range(vectors)]
        tops = [let(load(buffers.tops, column, lanes)) for column in columns]
        if clean or not self.one_block:
            # Without a key so far: exponentials of -inf - 0 are 0, of -inf - -inf not a number.
            tops = [let(select(top <= lowest, zero, top)) for top in tops]
        totals = [local(lanes) for _ in range(vectors)]
        for total, top, column in zip(totals, tops, columns, strict=True):
            store(total, 0, load(buffers.sums, column, lanes))
            if not self.one_block:
                scale = self._exp(load(buffers.scales, column, lanes) - top)
                store(buffers.scales, column, scale)
                store(total, 0, load(total, 0, lanes) * scale)
        self._exponential_rows(buffers, part.keys, totals, tops, columns)
        for total, column in zip(totals, columns, strict=True):
            store(buffers.sums, column, let(load(total, 0, lanes)))

    def _exponential_rows(
        self,
        buffers: Buffers,
        keys: Index,
        totals: list[Any],
        tops: list[Expr],
        columns: list[Index],
    ) -> None:
        """Exponentials of the scores of all keys, added to ``totals``."""
        lanes = self.lanes
        with serial(keys) as t:
            for total, top, column in zip(totals, tops, columns, strict=True):
                at = let(t * self.stride + column)
                e = self._exp(load(buffers.scores, at, lanes) - top)
                store(total, 0, load(total, 0, lanes) + e)
                store(buffers.scores, at, self._weight(e))

    def _weight(self, e: Expr) -> Expr:
        """What an exponential counts: with ``nan_to_zero`` 0 if it is not a number."""
        zero = constant(0.0, self.lanes)
        return select(is_number(e), e, zero) if self.spec.nan_to_zero else e

    def _exp(self, x: Expr) -> Expr:
        """The exponential of a score less the largest one."""
        if not self.powers_of_two:
            x = x * constant(LOG2_E, self.lanes)
        return vmath.exp2_of_negative(let(x))

    def _invert(self, buffers: Buffers, vectors: Index) -> None:
        """Inverse sums; with ``nan_to_zero`` 0 where the sum is 0 or not a number."""
        lanes = self.lanes
        zero = constant(0.0, lanes)
        with serial(vectors) as c:
            whole = let(load(buffers.sums, c * lanes, lanes))
            factor = let(constant(1.0, lanes) / whole)
            if self.spec.nan_to_zero:
                factor = select(whole > zero, factor, zero)
            store(buffers.factors, c * lanes, factor)

    # -- values ------------------------------------------------------------------------------------

    def _values(self, place: Place, buffers: Buffers, part: Range) -> None:
        """Weighted sums of the values, in column blocks of a few vectors."""
        vectors = self.value_vectors
        widest = 5 if self.isa.registers >= 32 and vectors == 5 else self.most
        chunks = -(-vectors // widest)
        ends = [p * vectors // chunks for p in range(chunks + 1)]
        for a, b in itertools.pairwise(ends):
            self._value_columns(place, buffers, part, a, b - a)

    def _tail(self, vector: int) -> int | None:
        """Elements of a vector of values that exist; None for all."""
        left = self.spec.value_width - vector * self.lanes
        return left if left < self.lanes else None

    def _value_columns(
        self, place: Place, buffers: Buffers, part: Range, column: int, vectors: int
    ) -> None:
        where, lanes, to = self.spec.v, self.lanes, self.spec.output_heads()
        first = column * lanes
        base = let(place.start(where, self.spec.heads // self.spec.kv_heads) + first)
        base = let(base + part.key * where.sequence)
        target = let(place.start(to) + first)
        for tiles in row_tiles(self.isa, vectors, part.queries):
            with serial(tiles.tiles) as step:
                queries = [let(tiles.first + step * tiles.rows + r) for r in range(tiles.rows)]
                if not tiles.whole:
                    # Rows past the end repeat the last one, and write the same result again.
                    queries = [let(minimum(query, part.queries - 1)) for query in queries]
                tile = self._start_values(buffers, queries, column, vectors)
                with serial(part.keys) as t:
                    row = let(t * self.stride)
                    tile.step(
                        buffers.scores,
                        [row + query for query in queries],
                        self.v.flat,
                        base + t * where.sequence,
                        valid=self._tail(column + vectors - 1),
                    )
                self._finish_values(buffers, tile, queries, column, target, part.query)

    def _start_values(
        self, buffers: Buffers, queries: list[Index], column: int, vectors: int
    ) -> RegisterTile:
        """A tile of zeros, or of what was summed up before the block of keys."""
        tile = RegisterTile.zero(len(queries), vectors, self.acc, self.dot)
        if self.one_block:
            return tile
        for r, query in enumerate(queries):
            scale = let(splat(let(load(buffers.scales, query)), self.lanes))
            for c in range(vectors):
                before = load(buffers.partial, self._partial_at(query, column + c), self.lanes)
                tile.acc[r * vectors + c] = before * scale
        return tile

    def _finish_values(
        self,
        buffers: Buffers,
        tile: RegisterTile,
        queries: list[Index],
        column: int,
        target: Index,
        first: Index,
    ) -> None:
        """Write the sums of a tile: finished ones to the output, where ``target`` is."""
        lanes, to = self.lanes, self.spec.output_heads()
        for r, query in enumerate(queries):
            factor = let(splat(let(load(buffers.factors, query)), lanes)) if self.one_block else 1
            for c in range(tile.vectors):
                if not self.one_block:
                    store(buffers.partial, self._partial_at(query, column + c), tile.at(r, c))
                    continue
                at = target + (first + query) * to.sequence + c * lanes
                self.out.store(at, tile.at(r, c) * factor, self._tail(column + c))

    def _partial_at(self, query: Index, vector: int) -> Index:
        return let((query * self.value_vectors + vector) * self.lanes)

    def _store_partial(self, place: Place, buffers: Buffers, query: Index, count: Index) -> None:
        """Divide the finished sums and write them."""
        lanes, to = self.lanes, self.spec.output_heads()
        start = let(place.start(to) + query * to.sequence)
        with serial(count) as row:
            factor = let(splat(let(load(buffers.factors, row)), lanes))
            for v in range(self.value_vectors):
                value = load(buffers.partial, self._partial_at(row, v), lanes) * factor
                self.out.store(start + row * to.sequence + v * lanes, let(value), self._tail(v))
