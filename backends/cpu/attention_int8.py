"""Attention whose two products are integer dot products of bytes.

The scores of a block of queries are exact sums in int32, which may be rounded to bytes; the softmax
is float32, its results are rounded to bytes, and their sums with the values are exact again. All
keys are one block: weights can only be rounded when their sum is known.

With codes ``q``, ``k`` and zero points, ``sum((k - zk) * (q - zq))`` is ``sum(k * q) - zk * sum(q)
- zq * sum(k) + width * zk * zq``: the second and fourth terms are one number for each query, the
third one for each key; accumulators start with them. The dot products take one unsigned and one
signed operand: keys and weights are the unsigned ones.

Arguments: codes of the spec's arguments in order, the mask if there is one, the output.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T  # noqa: N812

from burnish.backends.cpu.attention import Blocks
from burnish.backends.cpu.attention_mask import Mask
from burnish.backends.cpu.attention_spec import AttentionSpec
from burnish.backends.cpu.attention_task import MOST_ROWS, Buffers, Place, Range, row_tiles
from burnish.backends.cpu.codes import LIMITS, Words, coded
from burnish.backends.cpu.dot8 import PACK, dot8
from burnish.backends.cpu.isa import Isa
from burnish.backends.cpu.microkernel import Dot, RegisterTile
from burnish.backends.cpu.tile_transpose import transpose_words
from burnish.backends.cpu.tir import (
    Acc,
    Expr,
    Index,
    Kernel,
    Tensor,
    ceildiv,
    constant,
    first_lanes,
    floordiv,
    i64,
    kernel,
    let,
    load,
    local,
    minimum,
    reduce_add,
    scratch,
    select,
    serial,
    splat,
    store,
    with_lanes,
)
from burnish.backends.cpu.vmath import ROUND
from burnish.errors import CompileError

_LOG2_E = 1.4426950408889634
#: What four :data:`ROUND`, each a byte further up, leave in a word: taken off again, modulo 2**32.
_ROUND_WORD = -sum(0x4B400000 << (8 * i) for i in range(4)) % 2**32
_SIGN_BITS = -0x7F7F7F80  # 0x80808080 as int32
_ONES = 0x01010101


@dataclass(frozen=True)
class Bytes:
    """A tensor of codes: ``real = (code - zero) * scale``.

    Attributes:
        dtype: ``uint8`` or ``int8``.
        scale: Distance of neighbouring numbers.
        zero: The code of 0.
    """

    dtype: str
    scale: float
    zero: int

    @property
    def unsigned_zero(self) -> int:
        """The code of 0 where codes are read as unsigned bytes."""
        return self.zero + (128 if self.dtype == "int8" else 0)

    @property
    def signed_zero(self) -> int:
        """The code of 0 where codes are read as signed bytes."""
        return self.unsigned_zero - 128


@dataclass(frozen=True, eq=False)
class Attention8Spec:
    """What :func:`attention_int8` computes.

    Attributes:
        base: The attention; heads of queries and keys lie along their width, which is a multiple
            of 4.
        dtypes: Element types of the arguments of ``base``.
        q: The queries.
        k: The keys.
        v: The values.
        p_scale: Distance of neighbouring weights, of which the code 0 stands for 0.
        p_limit: The largest code of a weight.
        y: The result; None for float32.
        s: What products of queries and keys are rounded to, before they are scaled; None if they
            are not.
        t: What scaled products are rounded to; None if they are not.
    """

    base: AttentionSpec
    dtypes: tuple[str, ...]
    q: Bytes
    k: Bytes
    v: Bytes
    p_scale: float
    p_limit: int = 255
    y: Bytes | None = None
    s: Bytes | None = None
    t: Bytes | None = None


def attention_int8(isa: Isa, spec: Attention8Spec, name: str = "attention_int8") -> Kernel:
    """Build the kernel of ``spec``; arguments as in the module's docstring.

    Raises:
        CompileError: The instruction set has no integer dot product.
    """
    dot, base = dot8(isa), spec.base
    if dot is None:
        raise CompileError(f"no integer dot products for {isa.name}")
    with kernel(name, isa) as k:
        args = [
            k.input(f"x{i}", shape, dtype)
            for i, (shape, dtype) in enumerate(zip(base.arguments, spec.dtypes, strict=True))
        ]
        mask = Mask.declare(k, base)
        y = spec.y
        out = k.output("out", base.output_shape(), y.dtype if y else "float32")
        if y is not None:
            out = coded(out, y.scale, y.zero)
        k.symbols(base.queries, base.keys, base.batch, base.causal_offset)
        _Blocks8(isa, spec, dot, args, mask, out).emit_all()
    return k.result


@dataclass(frozen=True)
class _Buffers8(Buffers):
    """Memory of one task.

    Attributes:
        starts: What the sums of a query start with.
        key_starts: What the sums of a key start with.
        weights: Words of four neighbouring keys, [word, query].
        totals: Sums of the weights of a query.
        values: Words of four neighbouring keys, [word, value].
    """

    starts: Any
    key_starts: Any
    weights: Any
    totals: Any
    values: Any


class _Blocks8(Blocks):
    """Blocks of queries of one head."""

    def __init__(
        self, isa: Isa, spec: Attention8Spec, dot: Dot, args: list[Tensor], mask: Mask, out: Tensor
    ) -> None:
        super().__init__(isa, spec.base, args, mask, out)
        self.one_block = True
        self.codes = spec
        self.dot = dot
        self.q_words = Words(_alias(self.q, "int32", PACK), spec.q.dtype == "uint8")
        self.k_words = Words(_alias(self.k, "int32", PACK), spec.k.dtype == "int8")
        self.v_bytes = _alias(self.v, "uint8", 1)
        #: Words of a head of queries or keys, and of the keys.
        self.depth = spec.base.width // PACK
        self.groups = ceildiv(self.keys, PACK)
        self.value_stride = self.value_vectors * self.lanes

    def emit(self, place: Place, part: Index) -> None:
        """The work of one task: block ``part`` of a head."""
        self._block(place, part)

    def _allocate(self) -> _Buffers8:
        self.acc = Acc(self.isa.registers, self.lanes, "int32")
        tops, scales, sums, factors = (local(self.stride) for _ in range(4))
        return _Buffers8(
            packed=scratch(self.depth * self.stride, "int32"),
            scores=scratch((self.keys + MOST_ROWS) * self.stride),
            tops=tops,
            scales=scales,
            sums=sums,
            factors=factors,
            partial=None,
            starts=local(self.stride, "int32"),
            key_starts=scratch(self.keys + MOST_ROWS, "int32"),
            weights=scratch(self.groups * self.stride, "int32"),
            totals=local(self.stride, "int32"),
            values=scratch(self.groups * self.value_stride, "int32"),
        )

    # -- scores ------------------------------------------------------------------------------------

    def _pack_queries(self, place: Place, packed: Any, q0: Index, size: Index) -> None:
        """``packed[word, query]``; positions past the end repeat the last query."""
        where, lanes, depth = self.spec.q, self.lanes, self.depth
        base = place.start(where)
        with serial(size) as c:
            rows = [
                let(
                    floordiv(
                        base + minimum(q0 + (c * lanes + i), self.queries - 1) * where.sequence,
                        PACK,
                    )
                )
                for i in range(lanes)
            ]
            for d in range(0, depth, lanes):
                valid = min(lanes, depth - d)
                read = [let(load(self.q_words, r + d, lanes, valid)) for r in rows]
                for i, column in enumerate(transpose_words(read)[:valid]):
                    store(packed, (d + i) * self.stride + c * lanes, column)

    def _keys(self, place: Place, buffers: Buffers, part: Range) -> None:
        """What sums start with, then scores and exponentials."""
        assert isinstance(buffers, _Buffers8)
        self._query_starts(buffers, part.vectors)
        if self.codes.q.signed_zero:
            self._key_starts(place, buffers)
        super()._keys(place, buffers, part)

    def _query_starts(self, buffers: _Buffers8, vectors: Index) -> None:
        lanes, zero = self.lanes, self.codes.k.unsigned_zero
        both = self.spec.width * zero * self.codes.q.signed_zero
        total = Acc(1, lanes, "int32")
        with serial(vectors) as c:
            total[0] = constant(0, lanes, "int32")
            if zero:
                with serial(self.depth) as d:
                    word = let(load(buffers.packed, d * self.stride + c * lanes, lanes))
                    total[0] = self._sum(total[0], constant(_ONES, lanes, "int32"), word)
            start = constant(both, lanes, "int32") - total[0] * constant(zero, lanes, "int32")
            store(buffers.starts, c * lanes, let(start))

    def _key_starts(self, place: Place, buffers: _Buffers8) -> None:
        """The term of each key: it needs the sum of the key's codes."""
        where, lanes = self.spec.k, self.lanes
        base = place.start(where, self.spec.heads // self.spec.kv_heads)
        with serial(self.keys) as key:
            at = let(floordiv(base + key * where.sequence, PACK))
            total = constant(0, lanes, "int32")
            for d in range(0, self.depth, lanes):
                valid = min(lanes, self.depth - d)
                ones = constant(_ONES, lanes, "int32")
                if valid < lanes:
                    none = constant(0, lanes, "int32")
                    ones = let(select(first_lanes(valid, lanes), ones, none))
                word = let(load(self.k_words, at + d, lanes, valid))
                total = let(self._sum(total, word, ones))
            store(buffers.key_starts, key, reduce_add(total) * -self.codes.q.signed_zero)

    def _sum(self, acc: Expr, a: Expr, b: Expr) -> Expr:
        return let(self.dot.accumulate(acc, a, b))

    def _products(
        self,
        buffers: Buffers,
        keys: list[Index],
        starts: list[Index],
        column: Index,
        vectors: int,
    ) -> Callable[[int, int], Expr]:
        assert isinstance(buffers, _Buffers8)
        lanes, spec = self.lanes, self.codes
        tile = RegisterTile(len(keys), vectors, self.acc, self.dot)
        first = [load(buffers.starts, column + c * lanes, lanes) for c in range(vectors)]
        first = [let(start) for start in first]
        for r, key in enumerate(keys):
            of_key = None
            if spec.q.signed_zero:
                of_key = let(splat(let(load(buffers.key_starts, key)), lanes))
            for c in range(vectors):
                tile.acc[r * vectors + c] = first[c] if of_key is None else first[c] + of_key
        words = [let(floordiv(start, PACK)) for start in starts]
        tile.stream(
            self.k_words,
            lambda d: [w + d for w in words],
            buffers.packed,
            lambda d: d * self.stride + column,
            (0, self.depth),
        )
        return lambda r, c: self._score(tile.at(r, c))

    def _score(self, total: Expr) -> Expr:
        """What a sum of products of codes stands for, rounded where scores are, and scaled."""
        lanes, spec = self.lanes, self.codes
        number = let(tirx.Cast(with_lanes("float32", lanes), total))
        unit = spec.q.scale * spec.k.scale
        for rounded, scale in ((spec.s, self.spec.scale), (spec.t, 1.0)):
            if rounded is not None:
                low, high = (float(limit - rounded.zero) for limit in LIMITS[rounded.dtype])
                code = let(tirx.nearbyint(let(number * constant(unit / rounded.scale, lanes))))
                number = tirx.Max(tirx.Min(code, constant(high, lanes)), constant(low, lanes))
                number, unit = let(number), rounded.scale
            unit *= scale
        return number * constant(unit * (_LOG2_E if self.powers_of_two else 1.0), lanes)

    # -- values ------------------------------------------------------------------------------------

    def _values(self, place: Place, buffers: Buffers, part: Range) -> None:
        """Round the weights, then sum up the values."""
        assert isinstance(buffers, _Buffers8)
        self._round_weights(buffers, part)
        self._pack_values(place, buffers)
        super()._values(place, buffers, part)

    def _round_weights(self, buffers: _Buffers8, part: Range) -> None:
        """``weights[word, query]``, and their sums; weights of keys past the end are 0."""
        lanes, stride, spec = self.lanes, self.stride, self.codes
        zero = constant(0.0, lanes)
        with serial(PACK - 1) as i, serial(part.vectors) as c:
            store(buffers.scores, (part.keys + i) * stride + c * lanes, zero)
        total = Acc(1, lanes, "int32")
        with serial(part.vectors) as c:
            factor = load(buffers.factors, c * lanes, lanes) * constant(1.0 / spec.p_scale, lanes)
            factor = let(factor)
            total[0] = constant(0, lanes, "int32")
            with serial(ceildiv(part.keys, PACK)) as group:
                word = constant(_ROUND_WORD, lanes, "int32")
                for i in range(PACK):
                    at = (group * PACK + i) * stride + c * lanes
                    number = let(load(buffers.scores, at, lanes) * factor)
                    if 1.0 / spec.p_scale > spec.p_limit + 0.49:
                        number = let(tirx.Min(number, constant(float(spec.p_limit), lanes)))
                    code = tirx.reinterpret(
                        with_lanes("int32", lanes), let(number + constant(ROUND, lanes))
                    )
                    word = let(word + (let(code) << constant(8 * i, lanes, "int32")))
                store(buffers.weights, group * stride + c * lanes, word)
                if spec.v.signed_zero:
                    total[0] = self._sum(total[0], word, constant(_ONES, lanes, "int32"))
            store(buffers.totals, c * lanes, total[0])

    def _pack_values(self, place: Place, buffers: _Buffers8) -> None:
        """``values[word, value]``: keys past the end repeat the last one."""
        where, lanes = self.spec.v, self.lanes
        base = place.start(where, self.spec.heads // self.spec.kv_heads)
        kind = with_lanes("int32", lanes)
        with serial(self.groups) as group:
            rows = [
                let(base + minimum(group * PACK + i, self.keys - 1) * where.sequence)
                for i in range(PACK)
            ]
            for v in range(self.value_vectors):
                word: Expr = None
                for i, row in enumerate(rows):
                    codes = load(self.v_bytes, row + v * lanes, lanes, self._tail(v))
                    part = let(tirx.Cast(kind, codes)) << constant(8 * i, lanes, "int32")
                    word = let(part if word is None else word | part)
                if self.codes.v.dtype == "uint8":
                    word = word ^ constant(_SIGN_BITS, lanes, "int32")
                store(buffers.values, group * self.value_stride + v * lanes, word)

    def _value_columns(
        self, place: Place, buffers: Buffers, part: Range, column: int, vectors: int
    ) -> None:
        assert isinstance(buffers, _Buffers8)
        lanes, to = self.lanes, self.spec.output_heads()
        target = let(place.start(to) + column * lanes)
        for tiles in row_tiles(self.isa, vectors, part.queries):
            with serial(tiles.tiles) as step:
                queries = [let(tiles.first + step * tiles.rows + r) for r in range(tiles.rows)]
                if not tiles.whole:
                    # Rows past the end repeat the last one, and write the same result again.
                    queries = [let(minimum(query, part.queries - 1)) for query in queries]
                tile = RegisterTile.zero(len(queries), vectors, self.acc, self.dot)
                with serial(ceildiv(part.keys, PACK)) as group:
                    row = let(group * self.stride)
                    tile.step(
                        buffers.weights,
                        [row + query for query in queries],
                        buffers.values,
                        group * self.value_stride + column * lanes,
                    )
                self._store_sums(buffers, tile, queries, column, target + part.query * to.sequence)

    def _store_sums(
        self,
        buffers: _Buffers8,
        tile: RegisterTile,
        queries: list[Index],
        column: int,
        target: Index,
    ) -> None:
        lanes, to, spec = self.lanes, self.spec.output_heads(), self.codes
        scale = constant(spec.p_scale * spec.v.scale, lanes)
        for r, query in enumerate(queries):
            shift = None
            if spec.v.signed_zero:
                shift = let(load(buffers.totals, query) * spec.v.signed_zero)
                shift = let(splat(shift, lanes))
            for c in range(tile.vectors):
                whole = tile.at(r, c) if shift is None else let(tile.at(r, c) - shift)
                value = let(tirx.Cast(with_lanes("float32", lanes), whole)) * scale
                at = target + query * to.sequence + c * lanes
                self.out.store(at, let(value), self._tail(column + c))


def _alias(tensor: Tensor, dtype: str, align: int) -> Any:
    """A 1-D alias of codes with elements of another type."""
    size = tensor.size if dtype == "uint8" else floordiv(tensor.size, PACK)
    return T.decl_buffer((i64(size),), dtype, data=tensor.buffer.data, align=align)
