"""Fused scaled dot-product attention (Vaswani et al., 2017; ONNX Attention-23).

For a block of queries the scores are computed transposed, one vector of queries for each key: then
keys and values are read where they lie, with any strides, a softmax over keys has no horizontal
reduction, and masks of padded keys are scalars. A block's scores stay in the second-level cache;
they are complete, so the softmax is the ordinary one and rows without a key behave like the
decomposed operators.

Arguments: those of the spec in order, the mask if there is one, the output.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm import tirx

from burnish.backends.cpu import vmath
from burnish.backends.cpu.attention_decode import emit_rows
from burnish.backends.cpu.attention_mask import Mask
from burnish.backends.cpu.attention_spec import AttentionSpec, Heads
from burnish.backends.cpu.isa import Isa
from burnish.backends.cpu.microkernel import RegisterTile
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
_FEW_QUERIES = 3
#: Most rows of a register tile: more would read from too many streams at once.
_MOST_ROWS = 12


def attention(isa: Isa, spec: AttentionSpec, name: str = "attention") -> Kernel:
    """Build the kernel of ``spec``; arguments as in the module's docstring."""
    with kernel(name, isa) as k:
        args = [k.input(f"x{i}", shape) for i, shape in enumerate(spec.arguments)]
        mask = Mask.declare(k, spec)
        out = k.output("out", spec.output_shape())
        k.symbols(spec.queries, spec.keys, spec.batch, spec.causal_offset)
        block = _Blocks(isa, spec, args, mask, out)
        parts = block.count
        with parallel(static(spec.batch) * spec.heads * parts) as task:
            part, rest = let(floormod(task, parts)), let(floordiv(task, parts))
            place = _Place(let(floordiv(rest, spec.heads)), let(floormod(rest, spec.heads)))
            block.emit(place, part)
    return k.result


@dataclass(frozen=True)
class _Place:
    """Batch index and query head of a task."""

    batch: Index
    head: Index

    def start(self, where: Heads, group: int = 1) -> Index:
        """First element of a head; ``group`` query heads share it."""
        head = self.head if group == 1 else floordiv(self.head, group)
        return let(self.batch * where.batch + head * where.head + where.offset)


def tile_rows(isa: Isa, vectors: int, count: Index) -> int:
    """Rows of a register tile of that many vectors, with the least waste for ``count`` rows."""
    most = max(1, min(_MOST_ROWS, (isa.registers - vectors - 2) // vectors))
    if not isinstance(count, int):
        return most
    least = max(1, most * 2 // 3)
    return min(range(most, least - 1, -1), key=lambda r: -(-count // r) * r)


class _Blocks:
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
        self.acc: Acc

    def emit(self, place: _Place, part: Index) -> None:
        """The work of one task: block ``part`` of a head."""
        few = self.queries <= _FEW_QUERIES
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

    def _block(self, place: _Place, part: Index) -> None:
        spec, lanes = self.spec, self.lanes
        first = let(floordiv(part * self.vectors, self.count))
        size = let(floordiv((part + 1) * self.vectors, self.count) - first)
        q0 = let(first * lanes)
        count = let(minimum(self.queries - q0, size * lanes))
        limit: Index = self.keys
        if spec.causal:
            limit = let(maximum(minimum(self.keys, q0 + count + spec.causal_offset), 0))
        self.acc = Acc(self.isa.registers, lanes)
        packed = scratch(spec.width * self.stride)
        scores = scratch((self.keys + 16) * self.stride)
        tops, factors = local(self.stride), local(self.stride)
        self._pack_queries(place, packed, q0, size)
        with serial(self.stride // lanes) as c:
            store(tops, c * lanes, constant(-math.inf, lanes))
        self._each_size(
            size,
            lambda n, first: self._scores(place, (packed, scores, tops), (q0, limit), n, first),
        )
        self.mask.add_rows(place, scores, self.stride, tops, q0, size, limit)
        with serial(size) as c:
            self._exponentials(scores, tops, factors, c, limit)
        self._values(place, scores, factors, q0, count, limit)

    def _each_size(self, size: Index, emit: Callable[[int, Index], None]) -> None:
        """Cover a block of ``size`` vectors with code for those numbers that are worth their own.

        ``emit`` gets the number of vectors and the first.
        """
        wide = [self.most, 3] if self.most > 3 else [self.most]
        if isinstance(self.vectors, int) and isinstance(self.count, int):
            ends = [p * self.vectors // self.count for p in range(self.count + 1)]
            sizes = {b - a for a, b in itertools.pairwise(ends)}
            wide = sorted(sizes - {1}, reverse=True)
            single = 1 in sizes
        else:
            single = True

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

    def _pack_queries(self, place: _Place, packed: Any, q0: Index, size: Index) -> None:
        """``packed[d, query]`` = scale * q; positions past the end repeat the last query."""
        where, lanes, width = self.spec.q, self.lanes, self.spec.width
        base = place.start(where)
        factor = None if self.spec.scale == 1.0 else constant(self.spec.scale, lanes)
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
        self,
        place: _Place,
        buffers: tuple[Any, Any, Any],
        extent: tuple[Index, Index],
        vectors: int,
        first: Index,
    ) -> None:
        """``scores[key, query]`` with scalar masks applied, and the maximum for each query."""
        packed, scores, tops = buffers
        q0, limit = extent
        start = first * self.lanes
        where, lanes = self.spec.k, self.lanes
        base = place.start(where, self.spec.heads // self.spec.kv_heads)
        rows = tile_rows(self.isa, vectors, limit)
        scalars = self.mask.scalars(place)
        with serial(ceildiv(limit, rows)) as step:
            key = let(step * rows)
            # Keys past the end repeat the last one: the maximum does not change.
            keys = [let(minimum(key + r, self.keys - 1)) for r in range(rows)]
            starts = [let(base + at * where.sequence) for at in keys]
            tile = RegisterTile.zero(rows, vectors, self.acc)
            with serial(self.spec.width) as d:
                tile.step(
                    self.k.flat,
                    [s + d * where.width for s in starts],
                    packed,
                    d * self.stride + start,
                )
            for c in range(vectors):
                column = start + c * lanes
                top = load(tops, column, lanes)
                for r in range(rows):
                    value = scalars(tile.at(r, c), keys[r])
                    value = let(self._causal(value, keys[r], q0 + column))
                    store(scores, (key + r) * self.stride + column, value)
                    top = let(select(top < value, value, top))
                if not self.mask.by_query:
                    store(tops, column, top)

    def _causal(self, value: Expr, key: Index, query: Index) -> Expr:
        if not self.spec.causal:
            return value
        lanes = self.lanes
        ramp = tirx.Ramp(tirx.const(0, "int32"), tirx.const(1, "int32"), lanes)
        first = tirx.Cast("int32", key - query - self.spec.causal_offset)
        return select(ramp >= splat(first, lanes), value, constant(-math.inf, lanes))

    def _exponentials(self, scores: Any, tops: Any, factors: Any, c: Index, limit: Index) -> None:
        """Replace a column of scores by their exponentials; keep the inverse of their sum."""
        lanes, clean = self.lanes, self.spec.nan_to_zero
        zero = constant(0.0, lanes)
        top = let(load(tops, c * lanes, lanes))
        if clean:
            top = let(select(top == constant(-math.inf, lanes), zero, top))
        total = local(lanes)
        store(total, 0, zero)
        with serial(limit) as t:
            at = let(t * self.stride + c * lanes)
            e = vmath.exp(load(scores, at, lanes) - top)
            store(total, 0, load(total, 0, lanes) + e)
            store(scores, at, select(is_number(e), e, zero) if clean else e)
        whole = let(load(total, 0, lanes))
        factor = constant(1.0, lanes) / whole
        store(factors, c * lanes, select(whole > zero, factor, zero) if clean else factor)

    # -- values ------------------------------------------------------------------------------------

    def _values(
        self, place: _Place, scores: Any, factors: Any, q0: Index, count: Index, limit: Index
    ) -> None:
        """Weighted sums of the values, in column blocks of a few vectors."""
        lanes, width = self.lanes, self.spec.value_width
        vectors = -(-width // lanes)
        widest = 5 if self.isa.registers >= 32 and vectors == 5 else self.most
        chunks = -(-vectors // widest)
        ends = [p * vectors // chunks for p in range(chunks + 1)]
        for a, b in itertools.pairwise(ends):
            tail = min(width, b * lanes) - (b - 1) * lanes
            self._value_columns(place, scores, factors, (q0, count, limit), a * lanes, b - a, tail)

    def _value_columns(
        self,
        place: _Place,
        scores: Any,
        factors: Any,
        extent: tuple[Index, Index, Index],
        column: int,
        vectors: int,
        tail: int,
    ) -> None:
        q0, count, limit = extent
        where, lanes, to = self.spec.v, self.lanes, self.spec.output_heads()
        base = let(place.start(where, self.spec.heads // self.spec.kv_heads) + column)
        target = let(place.start(to) + column)
        rows = tile_rows(self.isa, vectors, count)
        with serial(ceildiv(count, rows)) as step:
            # Rows past the end repeat the last one, and write the same result again.
            queries = [let(minimum(step * rows + r, count - 1)) for r in range(rows)]
            tile = RegisterTile.zero(rows, vectors, self.acc)
            with serial(limit) as t:
                row = let(t * self.stride)
                tile.step(
                    scores,
                    [row + query for query in queries],
                    self.v.flat,
                    base + t * where.sequence,
                    valid=tail,
                )
            for r, query in enumerate(queries):
                factor = let(splat(let(load(factors, query)), lanes))
                for c in range(vectors):
                    at = target + (q0 + query) * to.sequence + c * lanes
                    valid = tail if c == vectors - 1 else None
                    self.out.store(at, tile.at(r, c) * factor, valid)
