"""Matrix product with weights in 8 or 4 bits, computed in 8 bits.

Each row of ``x`` is rounded to 8 bits block by block (:func:`quantize_blocks`), with the largest
magnitude of a block as 127, so that products of a block are integers::

    sum(x * w) = x_scale * w_scale * (sum(q * code) - zero * sum(q))

Arguments of :func:`dots_nbits`: ``q``, ``q_scale`` and ``q_sum`` (what :func:`quantize_blocks`
makes), then those of :func:`burnish.backends.cpu.nbits.matmul_nbits` after ``x``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T  # noqa: N812

from burnish.backends.cpu.dot8 import PACK, dot8
from burnish.backends.cpu.epilogue import Epilogue
from burnish.backends.cpu.gemm import for_columns, packed_size, row_tiles
from burnish.backends.cpu.isa import Isa
from burnish.backends.cpu.nbits_spec import NBitsSpec
from burnish.backends.cpu.nbits_weights import as_real
from burnish.backends.cpu.tiling import Columns
from burnish.backends.cpu.tir import (
    Acc,
    Expr,
    Index,
    Kernel,
    Tensor,
    ceildiv,
    constant,
    floordiv,
    floormod,
    hold,
    kernel,
    lanes_of,
    let,
    load,
    minimum,
    parallel,
    product,
    reduce_add,
    reduce_max,
    select,
    serial,
    splat,
    static,
    with_lanes,
)
from burnish.errors import CompileError

_LARGEST = 127.0
#: Rows of a tile, and up to how many of them it is as wide as a block of columns.
_ROWS = 6
_WIDE_ROWS = 3
_CHUNK = 96
#: The sign bits of four bytes, 0x80808080, and their low halves, 0x0F0F0F0F, as int32.
_SIGNS = -0x7F7F7F80
_NIBBLES = 0x0F0F0F0F


def takes(spec: NBitsSpec, isa: Isa) -> bool:
    """Whether there are kernels for a product."""
    whole = spec.k % spec.block == 0 and spec.block % max(isa.lanes, spec.codes) == 0
    return whole and dot8(isa) is not None


# --- activations ---------------------------------------------------------------------------------


def quantize_blocks(isa: Isa, spec: NBitsSpec, name: str = "quantize_blocks") -> Kernel:
    """Build the kernel that rounds rows to 8 bits.

    Arguments: ``x`` [..., K] float32; ``q`` of its shape in int8, ``q_scale`` [..., blocks] and
    ``q_sum`` [..., blocks], the sums of a block's numbers times its scale, in float32. A NaN or an
    infinity makes the sum NaN, and with it every result of the row.
    """
    with kernel(name, isa) as k:
        x = k.input("x", (*spec.lead, spec.k))
        q = k.output("q", (*spec.lead, spec.k), "int8")
        scale = k.output("q_scale", (*spec.lead, spec.blocks))
        total = k.output("q_sum", (*spec.lead, spec.blocks))
        with parallel(spec.rows) as row, serial(spec.blocks) as block:
            at = hold(row * spec.k + block * spec.block)
            largest = _largest(isa, x, at, spec.block)
            step = let(largest * constant(1 / _LARGEST))
            inverse = let(select(largest > constant(0.0), constant(_LARGEST) / largest, largest))
            place = hold(row * spec.blocks + block)
            scale.store(place, step)
            total.store(place, step * _rounded(isa, x, q, at, spec.block, inverse))
    return k.result


def _largest(isa: Isa, x: Tensor, at: Index, count: int) -> Expr:
    acc = Acc(1, isa.lanes)
    acc.fill()
    with serial(count // isa.lanes) as v:
        value = let(x.load(at + v * isa.lanes, isa.lanes))
        magnitude = let(tirx.Max(value, constant(0.0, isa.lanes) - value))
        acc[0] = tirx.Max(acc[0], magnitude)
    return reduce_max(acc[0])


def _rounded(isa: Isa, x: Tensor, q: Tensor, at: Index, count: int, inverse: Expr) -> Expr:
    """Store codes; their sum in float32, which is exact."""
    acc = Acc(1, isa.lanes)
    acc.fill()
    with serial(count // isa.lanes) as v:
        scaled = let(x.load(at + v * isa.lanes, isa.lanes) * splat(inverse, isa.lanes))
        whole = let(tirx.nearbyint(scaled))
        acc[0] = acc[0] + whole
        code = let(tirx.Cast(with_lanes("int32", isa.lanes), whole))
        q.store(at + v * isa.lanes, tirx.Cast(with_lanes("int8", isa.lanes), code))
    return reduce_add(acc[0])


# --- products ------------------------------------------------------------------------------------


def dots_nbits(isa: Isa, spec: NBitsSpec, name: str = "dots_nbits") -> Kernel:
    """Build the kernel of ``spec``; arguments as in the module's docstring.

    Raises:
        CompileError: :func:`takes` does not take the spec.
    """
    if not takes(spec, isa):
        raise CompileError(f"no integer products for blocks of {spec.block} on {isa.name}")
    with kernel(name, isa) as k:
        q = k.input("q", (*spec.lead, spec.k), "int8")
        q_scale = k.input("q_scale", (*spec.lead, spec.blocks))
        q_sum = k.input("q_sum", (*spec.lead, spec.blocks))
        w = k.input("w", (packed_size(spec.words, spec.n, isa),), "int32")
        scale = k.input("scale", (packed_size(spec.blocks, spec.n, isa),))
        zero = None
        if not spec.symmetric:
            zero = k.input("zero", (packed_size(spec.blocks, spec.n, isa),), "int8")
        epilogue = Epilogue.declare(k, spec.postops, (*spec.lead, spec.n))
        y = k.output("y", (*spec.lead, spec.n))
        words = static(product(static(d) for d in spec.lead)) * (spec.k // PACK)
        alias = T.decl_buffer((words,), "int32", data=q.buffer.data, align=4)
        _Dots(isa, spec, alias, q_scale, q_sum, w, scale, zero, epilogue, y).emit()
    return k.result


@dataclass(frozen=True)
class _Dots:
    """Emits the loops."""

    isa: Isa
    spec: NBitsSpec
    q: Any
    q_scale: Tensor
    q_sum: Tensor
    w: Tensor
    scale: Tensor
    zero: Tensor | None
    epilogue: Epilogue
    y: Tensor

    def emit(self) -> None:
        """One parallel loop over column blocks and runs of rows."""
        rows, columns = self.spec.rows, self.spec.columns(self.isa)
        chunks = ceildiv(rows, _CHUNK)
        with parallel(sum(c.blocks for c in columns) * chunks) as task:
            block, part = hold(floordiv(task, chunks)), hold(floormod(task, chunks))
            begin = hold(part * _CHUNK)
            end = hold(minimum(begin + _CHUNK, rows))

            def run(c: Columns, first: Index) -> None:
                column = hold(first * self.isa.lanes)

                def tile(row: Index, count: int) -> None:
                    vectors = c.tile.vectors
                    width = vectors if count <= _WIDE_ROWS else max(1, vectors // 2)
                    for start in range(0, vectors, width):
                        part = range(start, min(start + width, vectors))
                        _Tile(self, c, column, part).rows(row, count)

                row_tiles(begin, end, rows, _CHUNK, _ROWS, tile)

            for_columns(columns, block, run)


@dataclass(frozen=True)
class _Tile:
    """Some vectors of a block of columns.

    Attributes:
        of: The product.
        c: The kind of block.
        column: First column of the block.
        vectors: Which of its vectors.
    """

    of: _Dots
    c: Columns
    column: Index
    vectors: range

    def rows(self, row: Index, count: int) -> None:
        """``count`` rows from ``row``."""
        spec, lanes = self.of.spec, self.of.isa.lanes
        places = [(r, i) for r in range(count) for i in range(len(self.vectors))]
        total, part = Acc(len(places), lanes), Acc(len(places), lanes, "int32")
        total.fill()
        with serial(spec.blocks) as block:
            part.fill(0)
            with serial(spec.block // spec.codes) as step:
                self._word(row, count, hold(block * (spec.block // spec.codes) + step), part)
            scales, zeros = self._scales(block)
            for r in range(count):
                at = hold((row + r) * spec.blocks + block)
                x_scale, x_sum = (
                    let(splat(let(t.load(at)), lanes)) for t in (self.of.q_scale, self.of.q_sum)
                )
                for i in range(len(self.vectors)):
                    number = r * len(self.vectors) + i
                    real = as_real(part[number]) * x_scale - zeros[i] * x_sum
                    total[number] = total[number] + real * scales[i]
        for r, i in places:
            self._write(row + r, self.vectors[i], total[r * len(self.vectors) + i])

    def _word(self, row: Index, count: int, word: Index, part: Acc) -> None:
        """Add the products of one word of each column."""
        spec, lanes = self.of.spec, self.of.isa.lanes
        dot = dot8(self.of.isa)
        assert dot is not None
        stride = self.c.tile.vectors * lanes
        base = hold(self.column * spec.words + word * stride)
        words = [let(load(self.of.w.flat, base + v * lanes, lanes)) for v in self.vectors]
        for half in range(spec.codes // PACK):
            weights = [let(_bytes(w, half, spec.bits)) for w in words]
            for r in range(count):
                at = (row + r) * (spec.k // PACK) + word * (spec.codes // PACK) + half
                x = let(splat(let(load(self.of.q, at)), lanes))
                for i, w in enumerate(weights):
                    number = r * len(weights) + i
                    part[number] = dot.accumulate(part[number], w, x)

    def _scales(self, block: Index) -> tuple[list[Expr], list[Expr]]:
        """Scales of a block, and what stands for 0 among unsigned codes."""
        of, lanes = self.of, self.of.isa.lanes
        middle = constant(float(2 ** (of.spec.bits - 1)), lanes)
        base = self.column * of.spec.blocks + block * (self.c.tile.vectors * lanes)
        scales = [let(of.scale.load(base + v * lanes, lanes)) for v in self.vectors]
        if of.zero is None:
            return scales, [middle] * len(scales)
        codes = [of.zero.load(base + v * lanes, lanes) for v in self.vectors]
        wide = [let(tirx.Cast(with_lanes("int32", lanes), code)) for code in codes]
        return scales, [let(as_real(value) + middle) for value in wide]

    def _write(self, row: Index, v: int, value: Expr) -> None:
        epilogue, lanes = self.of.epilogue, self.of.isa.lanes
        valid = self.c.tail if v == self.c.tile.vectors - 1 else None
        channel = self.column + v * lanes
        offset = row * self.of.spec.n + channel
        value = epilogue.start(value, offset, channel, valid)
        if epilogue.deferred:
            value = epilogue.finish(let(value), offset, channel, valid)
        self.of.y.store(offset, value, valid)


def _bytes(words: Expr, half: int, bits: int) -> Expr:
    """Four codes of each word as unsigned bytes."""
    lanes = lanes_of(words)
    if bits == 8:
        return words ^ constant(_SIGNS, lanes, "int32")
    shifted = let(words >> constant(4, lanes, "int32")) if half else words
    return shifted & constant(_NIBBLES, lanes, "int32")
