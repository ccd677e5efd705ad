"""Attention whose two products are dot products of pairs of bfloat16 (AVX512-BF16).

Queries and keys are multiplied as they are, and the scores scaled in float32. The softmax is
float32; its exponentials are rounded to bfloat16, two neighbouring keys side by side, and the
values of two keys are interleaved likewise. Sums of both products are float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from tvm import tirx

from burnish.backends.cpu import bfloat16
from burnish.backends.cpu.attention import LOG2_E, Blocks
from burnish.backends.cpu.attention_mask import Mask
from burnish.backends.cpu.attention_spec import AttentionSpec
from burnish.backends.cpu.attention_task import Buffers, Place, Range, row_tiles
from burnish.backends.cpu.dot2 import DOT2, PAIR, pairs
from burnish.backends.cpu.isa import Isa
from burnish.backends.cpu.microkernel import RegisterTile
from burnish.backends.cpu.tile_transpose import transpose_words
from burnish.backends.cpu.tir import (
    Expr,
    Index,
    Tensor,
    ceildiv,
    constant,
    floordiv,
    hold,
    let,
    load,
    minimum,
    scratch,
    serial,
    store,
    when,
    with_lanes,
)


def multiplies_pairs(isa: Isa, dtype: str, steps: Sequence[int]) -> bool:
    """Whether :class:`PairBlocks` computes an attention.

    Args:
        isa: The instruction set.
        dtype: Element type of queries, keys and values.
        steps: Width of a head, and elements between heads and between positions of queries and
            keys, and where they start: pairs must not be split.
    """
    return dtype == "bfloat16" and isa.bf16 and all(step % PAIR == 0 for step in steps)


@dataclass(frozen=True)
class _PairBuffers(Buffers):
    """Memory of one task.

    Attributes:
        weights: Exponentials of two neighbouring keys, [pair, query].
        values: Values of two neighbouring keys, [pair, value].
    """

    weights: Any
    values: Any


class PairBlocks(Blocks):
    """Blocks of queries of one head; heads lie along their width, in whole pairs."""

    def __init__(
        self, isa: Isa, spec: AttentionSpec, args: list[Tensor], mask: Mask, out: Tensor
    ) -> None:
        super().__init__(isa, spec, args, mask, out)
        self.dot = DOT2
        self.q_pairs, self.k_pairs = (pairs(x, DOT2).flat for x in (self.q, self.k))
        self.depth = spec.width // PAIR
        self.value_stride = self.value_vectors * self.lanes

    def _allocate(self) -> _PairBuffers:
        plain = super()._allocate()
        groups = ceildiv(self.block_keys, PAIR)
        given = {f.name: getattr(plain, f.name) for f in fields(plain)}
        return _PairBuffers(
            **given | {"packed": scratch(self.depth * self.stride, "int32")},
            weights=scratch(groups * self.stride, "int32"),
            values=scratch(groups * self.value_stride, "int32"),
        )

    # -- scores ------------------------------------------------------------------------------------

    def _pack_queries(self, place: Place, packed: Any, q0: Index, size: Index) -> None:
        """``packed[pair, query]``; positions past the end repeat the last query."""
        where, lanes = self.spec.q, self.lanes
        base = place.start(where)
        with serial(size) as c:
            rows = []
            for i in range(lanes):
                row = minimum(q0 + (c * lanes + i), self.queries - 1)
                rows.append(let(floordiv(base + row * where.sequence, PAIR)))
            for d in range(0, self.depth, lanes):
                valid = min(lanes, self.depth - d)
                read = [let(load(self.q_pairs, r + d, lanes, valid)) for r in rows]
                for i, column in enumerate(transpose_words(read)[:valid]):
                    store(packed, (d + i) * self.stride + c * lanes, column)

    def _products(
        self,
        buffers: Buffers,
        keys: list[Index],
        starts: list[Index],
        column: Index,
        vectors: int,
    ) -> Callable[[int, int], Expr]:
        tile = RegisterTile.zero(len(keys), vectors, self.acc, self.dot)
        words = [let(floordiv(start, PAIR)) for start in starts]
        tile.stream(
            self.k_pairs,
            lambda d: [w + d for w in words],
            buffers.packed,
            lambda d: d * self.stride + column,
            (0, self.depth),
        )
        scale = self.spec.scale * (LOG2_E if self.powers_of_two else 1.0)
        if scale == 1.0:
            return tile.at
        return lambda r, c: tile.at(r, c) * constant(scale, self.lanes)

    def _exponential_rows(
        self,
        buffers: Buffers,
        keys: Index,
        totals: list[Any],
        tops: list[Expr],
        columns: list[Index],
    ) -> None:
        """Exponentials of two keys at a time; the one past an odd number of keys is 0."""
        assert isinstance(buffers, _PairBuffers)
        lanes = self.lanes
        whole = hold(floordiv(keys, PAIR))
        words = with_lanes("int32", lanes)

        def half(t: Index, total: Any, top: Expr, column: Index) -> Expr:
            score = load(buffers.scores, let(t * self.stride + column), lanes)
            e = self._exp(score - top)
            store(total, 0, load(total, 0, lanes) + e)
            bits = let(bfloat16.rounded(let(self._weight(e))))
            return let(tirx.Cast(words, bits))

        with serial(whole) as pair:
            for total, top, column in zip(totals, tops, columns, strict=True):
                low = half(pair * PAIR, total, top, column)
                high = half(pair * PAIR + 1, total, top, column)
                both = low | (high << constant(16, lanes, "int32"))
                store(buffers.weights, pair * self.stride + column, both)

        def last() -> None:
            for total, top, column in zip(totals, tops, columns, strict=True):
                low = half(whole * PAIR, total, top, column)
                store(buffers.weights, whole * self.stride + column, low)

        odd = keys - whole * PAIR
        if not isinstance(odd, int):
            with when(odd > 0):
                last()
        elif odd:
            last()

    # -- values ------------------------------------------------------------------------------------

    def _values(self, place: Place, buffers: Buffers, part: Range) -> None:
        """Interleave the values of two keys, then sum them up."""
        assert isinstance(buffers, _PairBuffers)
        where, lanes = self.spec.v, self.lanes
        base = place.start(where, self.spec.heads // self.spec.kv_heads)
        words, bits = with_lanes("int32", lanes), self.v.flat.buffer
        with serial(ceildiv(part.keys, PAIR)) as pair:
            rows = []
            for i in range(PAIR):
                # Keys past the end repeat the last one; their weights are 0.
                key = minimum(part.key + (pair * PAIR + i), self.keys - 1)
                rows.append(let(base + key * where.sequence))
            for v in range(self.value_vectors):
                low, high = (
                    let(tirx.Cast(words, let(load(bits, row + v * lanes, lanes, self._tail(v)))))
                    for row in rows
                )
                both = low | (high << constant(16, lanes, "int32"))
                store(buffers.values, pair * self.value_stride + v * lanes, both)
        super()._values(place, buffers, part)

    def _value_columns(
        self, place: Place, buffers: Buffers, part: Range, column: int, vectors: int
    ) -> None:
        assert isinstance(buffers, _PairBuffers)
        lanes = self.lanes
        target = let(place.start(self.spec.output_heads()) + column * lanes)
        for tiles in row_tiles(self.isa, vectors, part.queries):
            with serial(tiles.tiles) as step:
                queries = [let(tiles.first + step * tiles.rows + r) for r in range(tiles.rows)]
                if not tiles.whole:
                    # Rows past the end repeat the last one, and write the same result again.
                    queries = [let(minimum(query, part.queries - 1)) for query in queries]
                tile = self._start_values(buffers, queries, column, vectors)
                with serial(ceildiv(part.keys, PAIR)) as pair:
                    row = let(pair * self.stride)
                    tile.step(
                        buffers.weights,
                        [row + query for query in queries],
                        buffers.values,
                        pair * self.value_stride + column * lanes,
                    )
                self._finish_values(buffers, tile, queries, column, target, part.query)
