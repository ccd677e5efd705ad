"""Reading weights in 8 or 4 bits, and where the results of a block of columns go."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from tvm import tirx

from burnish.backends.cpu.epilogue import Epilogue
from burnish.backends.cpu.isa import Isa
from burnish.backends.cpu.look_up import entries, look_up
from burnish.backends.cpu.nbits_spec import WORD, NBitsSpec
from burnish.backends.cpu.tiling import Columns
from burnish.backends.cpu.tir import (
    Expr,
    Index,
    Tensor,
    constant,
    lanes_of,
    let,
    load,
    prefetch,
    splat,
    with_lanes,
)

#: Bytes by which words are fetched ahead.
_AHEAD = 16384
#: The same for scales.
_SCALES_AHEAD = 4096


@dataclass(frozen=True)
class Operands:
    """The arguments of a product."""

    isa: Isa
    spec: NBitsSpec
    x: Tensor
    w: Tensor
    scale: Tensor
    zero: Tensor | None
    epilogue: Epilogue
    y: Tensor


@dataclass(frozen=True)
class Place:
    """One block of columns.

    Attributes:
        of: The product.
        c: The kind of block.
        column: First column.
    """

    of: Operands
    c: Columns
    column: Index

    @property
    def vectors(self) -> int:
        """Vectors of the block."""
        return self.c.tile.vectors

    @property
    def lanes(self) -> int:
        """Lanes of a vector."""
        return self.of.isa.lanes

    @property
    def all(self) -> range:
        """All vectors."""
        return range(self.vectors)

    @property
    def stride(self) -> int:
        """Columns of the block."""
        return self.vectors * self.lanes

    def scales(self, block: Index, part: range) -> list[Expr]:
        """Scales of some vectors."""
        at = self.column * self.of.spec.blocks + block * self.stride
        return [let(self.of.scale.load(at + v * self.lanes, self.lanes)) for v in part]

    def zeros(self, block: Index, part: range) -> list[Expr]:
        """Zero points in float32; none if all are 0."""
        zero = self.of.zero
        if zero is None:
            return []
        at = self.column * self.of.spec.blocks + block * self.stride
        codes = [zero.load(at + v * self.lanes, self.lanes) for v in part]
        return [let(as_real(let(tirx.Cast(with_lanes("int32", self.lanes), c)))) for c in codes]

    def factors(self, block: Index, part: range) -> tuple[list[Expr], list[Expr]]:
        """Scales, and what to take off scaled codes (none if all zero points are 0).

        Brings in those that come next.
        """
        scale, at = self.of.scale, self.column * self.of.spec.blocks + block * self.stride
        for line in range(part.start * self.lanes * 4, part.stop * self.lanes * 4, 64):
            prefetch(scale.flat, at + (_SCALES_AHEAD + line) // 4)
        if self.of.zero is not None and not part.start:
            prefetch(self.of.zero.flat, at + _SCALES_AHEAD // 4)
        scales, zeros = self.scales(block, part), self.zeros(block, part)
        return scales, [let(z * s) for z, s in zip(zeros, scales, strict=False)]

    def words(self, step: Index, part: range) -> list[Expr]:
        """Words of some vectors; brings in those that come next."""
        at = self.column * self.of.spec.words + step * self.stride
        words = self.of.w.flat
        for line in range(part.start * self.lanes * 4, part.stop * self.lanes * 4, 64):
            prefetch(words, at + (_AHEAD + line) // 4)
        return [let(load(words, at + v * self.lanes, self.lanes)) for v in part]

    def in_word(self, count: int) -> Iterator[tuple[int, Callable[[Expr], Expr]]]:
        """The first ``count`` codes of a word: which, and how they are made real numbers."""
        bits = self.of.spec.bits
        for index in range(self.of.spec.codes):
            position = index if bits == 8 else index % 4 * 2 + index // 4
            if index < count:
                yield index, partial(_code, shift=position * bits, bits=bits)

    def weights(
        self, word: Index, count: int, factors: tuple[list[Expr], list[Expr]], part: range
    ) -> Iterator[tuple[int, list[Expr]]]:
        """The first codes of a word as weights: which, and some vectors of them."""
        words = self.words(word, part)
        for index, read in self.in_word(count):
            made = [affine(read(w), *factors, i) for i, w in enumerate(words)]
            yield index, [let(weight) for weight in made]

    def broadcast(self, at: Index) -> Expr:
        """An element of ``x`` in every lane."""
        return let(splat(let(self.of.x.load(at)), self.lanes))

    def at(self, row: Index, v: int) -> tuple[Index, int]:
        """Where a vector of the result lies, and its lanes."""
        return row * self.of.spec.n + self.column + v * self.lanes, self.lanes

    def _valid(self, v: int) -> int | None:
        return self.c.tail if v == self.vectors - 1 else None

    def write(self, row: Index, v: int, value: Expr, *, whole: bool) -> None:
        """Store sums with post-ops; with ``whole``, those too that can wait."""
        epilogue, valid = self.of.epilogue, self._valid(v)
        offset, channel = self.at(row, v)[0], self.column + v * self.lanes
        value = epilogue.start(value, offset, channel, valid)
        if whole and epilogue.deferred:
            value = epilogue.finish(let(value), offset, channel, valid)
        self.of.y.store(offset, value, valid)


def as_real(code: Expr) -> Expr:
    """Integers as float32."""
    return tirx.Cast(with_lanes("float32", lanes_of(code)), code)


def affine(code: Expr, scales: list[Expr], offsets: list[Expr], v: int) -> Expr:
    """A code as a weight, of a vector, with the factors of its block."""
    scaled = code * scales[v]
    return scaled - offsets[v] if offsets else scaled


def _code(words: Expr, shift: int, bits: int) -> Expr:
    """The codes at bit ``shift`` of words as float32, around 0."""
    lanes = lanes_of(words)
    if bits == 8:
        left = WORD - bits - shift
        high = let(words << constant(left, lanes, "int32")) if left else words
        return as_real(let(high >> constant(WORD - bits, lanes, "int32")))
    low = let(words >> constant(shift, lanes, "int32")) if shift else words
    if count := entries(lanes):
        return look_up([code % 16 - 8.0 for code in range(count)], low)
    nibble = let(low & constant(15, lanes, "int32"))
    return as_real(let(nibble - constant(8, lanes, "int32")))
