"""Matrix product with a constant right operand in 8 or 4 bits, which stays packed in memory.

``y[..., M, N] = post(x[..., M, K] @ w[K, N])`` with
``w[k, n] = (code[k, n] - zero[k // block, n]) * scale[k // block, n]``. Arguments: ``x``, ``w``
(:func:`pack_codes`), ``scale``, ``zero`` unless all are 0 (:func:`pack_blocks`), the operands of
the post-ops in order, ``y``.

With few rows, weights go from memory through registers: what takes time is reading them. With many
rows, a panel of them is written out in float32 once and multiplied with one tile of rows after the
other, as in :mod:`burnish.backends.cpu.gemm`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from tvm import tirx

from burnish.backends.cpu.epilogue import Epilogue
from burnish.backends.cpu.gemm import (
    finish_rows,
    for_columns,
    pack_columns,
    packed_size,
    row_tiles,
)
from burnish.backends.cpu.isa import Isa
from burnish.backends.cpu.microkernel import F32, RegisterTile
from burnish.backends.cpu.tiling import Columns, Tile, best_rows, plan_columns
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
    hold,
    kernel,
    lanes_of,
    let,
    load,
    minimum,
    parallel,
    prefetch,
    product,
    scratch,
    serial,
    splat,
    static,
    store,
    with_lanes,
)
from burnish.errors import CompileError
from burnish.ir.postops import PostOp

I32Array: TypeAlias = npt.NDArray[np.int32]

#: Bits of a word, in which codes of one column lie.
_WORD = 32
#: Rows with which weights are unpacked in registers.
FEW_ROWS = 4
#: Rows of a task.
_CHUNK = 240
#: Steps of the reduction whose weights are written out at a time: they stay in a first-level cache
#: of 48 KiB.
_PANEL_STEPS = 128
#: Bytes by which words are fetched ahead.
_AHEAD = 16384
#: Look-up of a vector by the low bits of an index, by lanes: vpermps.
_LOOK_UP = {16: "llvm.x86.avx512.permvar.sf.512"}


@dataclass(frozen=True, eq=False)
class NBitsSpec:
    """What a kernel computes.

    Attributes:
        lead: All dimensions of ``x`` but the last: ints or int64 expressions.
        k: Last dimension of ``x``.
        n: Last dimension of ``y``.
        bits: 8 or 4.
        block: Rows of ``w`` that share a scale: a multiple of the codes in a word, or all.
        symmetric: Whether all zero points are 0.
        postops: Applied to the product.
    """

    lead: tuple[Index, ...]
    k: int
    n: int
    bits: int
    block: int
    symmetric: bool
    postops: tuple[PostOp, ...] = ()

    def __post_init__(self) -> None:
        if self.block % self.codes and self.block < self.k:
            raise CompileError(f"blocks of {self.block} rows, which cut words in two")

    @property
    def rows(self) -> Index:
        """Rows of the product."""
        return static(product(static(d) for d in self.lead))

    @property
    def codes(self) -> int:
        """Codes of a word."""
        return _WORD // self.bits

    @property
    def words(self) -> int:
        """Words of a column."""
        return -(-self.k // self.codes)

    @property
    def blocks(self) -> int:
        """Scales of a column."""
        return -(-self.k // self.block)

    def columns(self, isa: Isa) -> tuple[Columns, ...]:
        """Column blocks, which are also the layout of words, scales and zero points."""
        rows = self.rows if isinstance(self.rows, int) else None
        found = []
        for first, blocks, vectors, tail in plan_columns(self.n, _width(isa), isa):
            tile = best_rows(vectors, rows, self.k, isa)
            found.append(Columns(first, blocks, tile or Tile(1, vectors), tail))
        return tuple(found)


def _width(isa: Isa) -> int:
    """Vectors of a column block."""
    return 4 if isa.registers >= 32 else 2


def pack_codes(codes: npt.NDArray[np.integer[Any]], spec: NBitsSpec, isa: Isa) -> I32Array:
    """Codes [K, N] around 0, in [-2^(bits - 1), 2^(bits - 1)), as the kernel reads them: 1-D words.

    A word holds neighbours of a column. In 8 bits they are its bytes. In 4 bits its low nibbles are
    the first four, its high nibbles the others, so that each half is four bytes too.
    """
    padded = np.zeros((spec.words * spec.codes, spec.n), np.int8)
    padded[: spec.k] = codes
    group = padded.reshape(spec.words, spec.codes, spec.n).view(np.uint8)
    if spec.bits == 4:
        group = group + np.uint8(8)
        group = group[:, :4] | (group[:, 4:] << np.uint8(4))
    words = np.ascontiguousarray(group.transpose(0, 2, 1)).view(np.int32)[..., 0]
    packed: I32Array = pack_columns(words, spec.columns(isa), isa)
    return packed


def pack_blocks(values: npt.NDArray[Any], spec: NBitsSpec, isa: Isa) -> npt.NDArray[Any]:
    """Scales or zero points [blocks, N] as the kernel reads them: 1-D."""
    return pack_columns(values, spec.columns(isa), isa)


def matmul_nbits(isa: Isa, spec: NBitsSpec, name: str = "matmul_nbits") -> Kernel:
    """Build the kernel of ``spec``; arguments as in the module's docstring."""
    with kernel(name, isa) as k:
        x = k.input("x", (*spec.lead, spec.k))
        w = k.input("w", (packed_size(spec.words, spec.n, isa),), "int32")
        scale = k.input("scale", (packed_size(spec.blocks, spec.n, isa),))
        zero = None
        if not spec.symmetric:
            zero = k.input("zero", (packed_size(spec.blocks, spec.n, isa),), "int8")
        epilogue = Epilogue.declare(k, spec.postops, (*spec.lead, spec.n))
        y = k.output("y", (*spec.lead, spec.n))
        _Product(isa, spec, x, w, scale, zero, epilogue, y).emit()
    return k.result


@dataclass(frozen=True)
class _Product:
    """Emits the loops."""

    isa: Isa
    spec: NBitsSpec
    x: Tensor
    w: Tensor
    scale: Tensor
    zero: Tensor | None
    epilogue: Epilogue
    y: Tensor

    def emit(self) -> None:
        """One parallel loop over column blocks and runs of rows."""
        rows, columns = self.spec.rows, self.spec.columns(self.isa)
        step = columns[0].tile.rows
        chunk = -(-_CHUNK // step) * step
        chunks = ceildiv(rows, chunk)
        with parallel(sum(c.blocks for c in columns) * chunks) as task:
            block, part = hold(floordiv(task, chunks)), hold(floormod(task, chunks))
            begin = hold(part * chunk)
            end = hold(minimum(begin + chunk, rows))

            def run(c: Columns, first: Index) -> None:
                place = _Place(self, c, hold(first * self.isa.lanes))
                branch(
                    rows <= FEW_ROWS,
                    lambda: row_tiles(begin, end, rows, chunk, FEW_ROWS, place.few),
                    lambda: place.many(begin, end, chunk, first),
                )

            for_columns(columns, block, run)


@dataclass(frozen=True)
class _Place:
    """One block of columns.

    Attributes:
        of: The product.
        c: The kind of block.
        column: First column.
    """

    of: _Product
    c: Columns
    column: Index

    @property
    def vectors(self) -> int:
        return self.c.tile.vectors

    @property
    def lanes(self) -> int:
        return self.of.isa.lanes

    @property
    def stride(self) -> int:
        """Columns of the block."""
        return self.vectors * self.lanes

    # --- reading weights -------------------------------------------------------------------------

    def _scales(self, block: Index) -> list[Expr]:
        at = self.column * self.of.spec.blocks + block * self.stride
        return [
            let(self.of.scale.load(at + v * self.lanes, self.lanes)) for v in range(self.vectors)
        ]

    def _zeros(self, block: Index) -> list[Expr]:
        """Zero points in float32; none if all are 0."""
        zero = self.of.zero
        if zero is None:
            return []
        at = self.column * self.of.spec.blocks + block * self.stride
        codes = [zero.load(at + v * self.lanes, self.lanes) for v in range(self.vectors)]
        return [let(as_real(let(tirx.Cast(with_lanes("int32", self.lanes), c)))) for c in codes]

    def _words(self, step: Index) -> list[Expr]:
        """Words of all columns; brings in those that come next."""
        at = self.column * self.of.spec.words + step * self.stride
        words = self.of.w.flat
        for line in range(0, self.stride * 4, 64):
            prefetch(words, at + (_AHEAD + line) // 4)
        return [let(load(words, at + v * self.lanes, self.lanes)) for v in range(self.vectors)]

    def _in_word(self, count: int) -> Iterator[tuple[int, Callable[[Expr], Expr]]]:
        """The first ``count`` codes of a word: which, and how they are made real numbers."""
        bits = self.of.spec.bits
        for index in range(self.of.spec.codes):
            position = index if bits == 8 else index % 4 * 2 + index // 4
            if index < count:
                yield index, partial(_code, shift=position * bits, bits=bits)

    # --- few rows --------------------------------------------------------------------------------

    def few(self, row: Index, count: int) -> None:
        """Rows ``row`` to ``row + count`` with weights that are unpacked in registers.

        One row takes the sums of a block times its scales; with more, scaling the weights first
        costs less and needs no sums besides.
        """
        spec = self.of.spec
        total = Acc(count * self.vectors, self.lanes)
        total.fill()
        starts = [hold((row + r) * spec.k) for r in range(count)]
        emit = self._scaled_sums if count == 1 else self._scaled_weights
        whole, rest = divmod(spec.k, spec.block)
        with serial(whole) as block:
            emit(block, spec.block, total, starts)
        if rest:
            emit(whole, rest, total, starts)
        for r in range(count):
            for v in range(self.vectors):
                self._write(row + r, v, total[r * self.vectors + v], whole=True)

    def _scaled_sums(self, block: Index, rows: int, total: Acc, starts: list[Index]) -> None:
        """Add a block's part of one row: ``(sum(x * code) - zero * sum(x)) * scale``."""
        part = Acc(self.vectors, self.lanes)
        part.fill()
        shift = None if self.of.zero is None else Acc(1, self.lanes)
        if shift is not None:
            shift.fill()

        def add(at: Index, codes: list[Expr]) -> None:
            x = self._broadcast(starts[0] + at)
            if shift is not None:
                shift[0] = shift[0] + x
            for v in range(self.vectors):
                part[v] = part[v] + x * codes[v]

        self._each_code(block, rows, add)
        zeros = self._zeros(block)
        for v, scale in enumerate(self._scales(block)):
            value = part[v]
            if shift is not None:
                value = value - shift[0] * zeros[v]
            total[v] = total[v] + value * scale

    def _scaled_weights(self, block: Index, rows: int, total: Acc, starts: list[Index]) -> None:
        """Add a block's part of several rows: ``sum(x * (code * scale - zero * scale))``."""
        scales, zeros = self._scales(block), self._zeros(block)
        offsets = [let(z * s) for z, s in zip(zeros, scales, strict=False)]

        def add(at: Index, codes: list[Expr]) -> None:
            xs = [self._broadcast(start + at) for start in starts]
            for v in range(self.vectors):
                weight = let(_affine(codes[v], scales, offsets, v))
                for r, x in enumerate(xs):
                    i = r * self.vectors + v
                    total[i] = total[i] + x * weight

        self._each_code(block, rows, add)

    def _broadcast(self, at: Index) -> Expr:
        return let(splat(let(self.of.x.load(at)), self.lanes))

    def _each_code(self, block: Index, rows: int, add: Callable[[Index, list[Expr]], None]) -> None:
        """Call ``add(row of the weights, codes by vector)`` for the first rows of a block."""
        codes = self.of.spec.codes
        first = hold(block * (self.of.spec.block // codes)) if self.of.spec.blocks > 1 else 0

        def word(step: Index, count: int) -> None:
            words = self._words(step)
            for index, read in self._in_word(count):
                add(step * codes + index, [read(w) for w in words])

        whole, rest = divmod(rows, codes)
        with serial(whole) as step:
            word(first + step, codes)
        if rest:
            word(first + whole, rest)

    # --- many rows -------------------------------------------------------------------------------

    def many(self, begin: Index, end: Index, chunk: int, first: Index) -> None:
        """Rows [begin, end), a panel of the weights after the other."""
        of, spec, codes = self.of, self.of.spec, self.of.spec.codes
        steps = min(_PANEL_STEPS, spec.words * codes)
        passes = -(-spec.k // steps)
        panel = scratch(steps * self.stride)
        acc = Acc(self.c.tile.rows * self.vectors, self.lanes)
        with serial(passes) as number:
            start = hold(number * steps)
            inside = hold(minimum(steps, spec.k - start))
            self._unpack(panel, floordiv(start, codes), ceildiv(inside, codes))
            span = (start, inside, number < 1, number >= passes - 1)

            def tile(row: Index, count: int) -> None:
                self._tile(acc, panel, row, count, span)

            row_tiles(begin, end, spec.rows, chunk, self.c.tile.rows, tile)
        if of.epilogue.deferred:
            finish_rows(of.isa, of.y, of.epilogue, begin, end, spec.n, self.c, first)

    def _unpack(self, panel: Any, first: Index, count: Index) -> None:
        """Write weights out: [codes of ``count`` words, columns of the block] in float32."""
        spec, codes = self.of.spec, self.of.spec.codes
        with serial(count) as step:
            word = hold(first + step)
            block = hold(floordiv(word * codes, spec.block)) if spec.blocks > 1 else 0
            scales, zeros = self._scales(block), self._zeros(block)
            offsets = [let(z * s) for z, s in zip(zeros, scales, strict=False)]
            words = self._words(word)
            for index, read in self._in_word(codes):
                for v in range(self.vectors):
                    at = (step * codes + index) * self.stride + v * self.lanes
                    store(panel, at, _affine(read(words[v]), scales, offsets, v))

    def _tile(
        self,
        acc: Acc,
        panel: Any,
        row: Index,
        count: int,
        span: tuple[Index, Index, Expr, Expr],
    ) -> None:
        """One register tile over the steps of a pass; sums lie in ``y`` between passes."""
        start, inside, first, last = span
        places = [(r, v) for r in range(count) for v in range(self.vectors)]
        tile = RegisterTile(count, self.vectors, acc, F32)

        def load_sums() -> None:
            for r, v in places:
                acc[r * self.vectors + v] = self.of.y.load(*self._at(row + r, v), self._valid(v))

        def store_sums() -> None:
            for r, v in places:
                self.of.y.store(self._at(row + r, v)[0], tile.at(r, v), self._valid(v))

        def store_results() -> None:
            for r, v in places:
                self._write(row + r, v, tile.at(r, v), whole=False)

        branch(first, tile.clear, load_sums)
        starts = [hold((row + r) * self.of.spec.k + start) for r in range(count)]
        tile.stream(
            self.of.x.flat,
            lambda step: [s + step for s in starts],
            panel,
            lambda step: step * self.stride,
            (0, inside),
        )
        branch(last, store_results, store_sums)

    # --- results ---------------------------------------------------------------------------------

    def _at(self, row: Index, v: int) -> tuple[Index, int]:
        """Where a vector of the result lies, and its lanes."""
        return row * self.of.spec.n + self.column + v * self.lanes, self.lanes

    def _valid(self, v: int) -> int | None:
        return self.c.tail if v == self.vectors - 1 else None

    def _write(self, row: Index, v: int, value: Expr, *, whole: bool) -> None:
        """Store sums with post-ops; with ``whole``, those too that can wait."""
        epilogue, valid = self.of.epilogue, self._valid(v)
        offset, channel = self._at(row, v)[0], self.column + v * self.lanes
        value = epilogue.start(value, offset, channel, valid)
        if whole and epilogue.deferred:
            value = epilogue.finish(let(value), offset, channel, valid)
        self.of.y.store(offset, value, valid)


def as_real(code: Expr) -> Expr:
    """Integers as float32."""
    return tirx.Cast(with_lanes("float32", lanes_of(code)), code)


def _affine(code: Expr, scales: list[Expr], offsets: list[Expr], v: int) -> Expr:
    scaled = code * scales[v]
    return scaled - offsets[v] if offsets else scaled


def _code(words: Expr, shift: int, bits: int) -> Expr:
    """The codes at bit ``shift`` of words as float32, around 0."""
    lanes = lanes_of(words)
    if bits == 8:
        left = _WORD - bits - shift
        high = let(words << constant(left, lanes, "int32")) if left else words
        return as_real(let(high >> constant(_WORD - bits, lanes, "int32")))
    low = let(words >> constant(shift, lanes, "int32")) if shift else words
    if lanes in _LOOK_UP:
        # It looks at four bits of the index.
        every = tirx.Ramp(tirx.const(-8, "int32"), tirx.const(1, "int32"), lanes)
        kind = with_lanes("float32", lanes)
        return tirx.call_llvm_pure_intrin(kind, _LOOK_UP[lanes], as_real(every), low)
    nibble = let(low & constant(15, lanes, "int32"))
    return as_real(let(nibble - constant(8, lanes, "int32")))
