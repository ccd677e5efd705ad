"""Matrix product with a constant right operand in 8 or 4 bits, which stays packed in memory.

``y[..., M, N] = post(x[..., M, K] @ w[K, N])`` with
``w[k, n] = (code[k, n] - zero[k // block, n]) * scale[k // block, n]``. Arguments: ``x``, ``w``
(:func:`nbits_spec.pack_codes`), ``scale``, ``zero`` unless all are 0
(:func:`nbits_spec.pack_blocks`), the operands of the post-ops in order, ``y``.

With few rows, weights go from memory through registers: what takes time is reading them. With many
rows, a panel of them is written out in float32 once and multiplied with one tile of rows after the
other, as in :mod:`burnish.backends.cpu.gemm`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from burnish.backends.cpu.epilogue import Epilogue
from burnish.backends.cpu.gemm import for_columns, packed_size, row_tiles
from burnish.backends.cpu.isa import Isa
from burnish.backends.cpu.nbits_panel import Panel
from burnish.backends.cpu.nbits_spec import FEW_ROWS, TOGETHER, NBitsSpec
from burnish.backends.cpu.nbits_weights import Operands, Place, affine
from burnish.backends.cpu.tiling import Columns
from burnish.backends.cpu.tir import (
    Acc,
    Expr,
    Index,
    Kernel,
    branch,
    ceildiv,
    floordiv,
    floormod,
    hold,
    kernel,
    let,
    minimum,
    parallel,
    serial,
)

#: Rows of a task, about.
_CHUNK = 240


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
        _emit(Operands(isa, spec, x, w, scale, zero, epilogue, y))
    return k.result


def _emit(of: Operands) -> None:
    """One parallel loop over column blocks and runs of rows."""
    rows, columns = of.spec.rows, of.spec.columns(of.isa)
    step = columns[0].tile.rows
    chunk = TOGETHER + -(-_CHUNK // step) * step
    chunks = ceildiv(rows, chunk)
    with parallel(sum(c.blocks for c in columns) * chunks) as task:
        block, part = hold(floordiv(task, chunks)), hold(floormod(task, chunks))
        begin = hold(part * chunk)
        end = hold(minimum(begin + chunk, rows))

        def run(c: Columns, first: Index) -> None:
            place = Place(of, c, hold(first * of.isa.lanes))
            branch(
                _are_few(rows, chunk, end - begin),
                lambda: row_tiles(begin, end, rows, chunk, FEW_ROWS, _Few(place).rows),
                lambda: Panel.of(place, begin, chunk).emit(end, chunk, first),
            )

        for_columns(columns, block, run)


def _are_few(rows: Index, chunk: int, count: Index) -> Expr:
    """Whether ``count`` rows of a task are few: known for all tasks, or a condition."""
    if not isinstance(rows, int):
        return count <= FEW_ROWS
    found = {min(chunk, rows - begin) <= FEW_ROWS for begin in range(0, rows, chunk)}
    return found.pop() if len(found) == 1 else count <= FEW_ROWS


@dataclass(frozen=True)
class _Few:
    """A few rows of a block of columns, with weights that are unpacked in registers."""

    place: Place

    def rows(self, row: Index, count: int) -> None:
        """Rows ``row`` to ``row + count`` with weights that are unpacked in registers.

        One row takes the sums of a block times its scales; with more, scaling the weights first
        costs less and needs no sums besides.
        """
        spec = self.place.of.spec
        total = Acc(count * self.place.vectors, self.place.lanes)
        total.fill()
        starts = [hold((row + r) * spec.k) for r in range(count)]
        emit = self._scaled_sums if count == 1 else self._scaled_weights
        whole, rest = divmod(spec.k, spec.block)
        with serial(whole) as block:
            emit(block, spec.block, total, starts)
        if rest:
            emit(whole, rest, total, starts)
        for r in range(count):
            for v in range(self.place.vectors):
                self.place.write(row + r, v, total[r * self.place.vectors + v], whole=True)

    def _scaled_sums(self, block: Index, rows: int, total: Acc, starts: list[Index]) -> None:
        """Add a block's part of one row: ``(sum(x * code) - zero * sum(x)) * scale``."""
        part = Acc(self.place.vectors, self.place.lanes)
        part.fill()
        shift = None if self.place.of.zero is None else Acc(1, self.place.lanes)
        if shift is not None:
            shift.fill()

        def add(at: Index, codes: list[Expr]) -> None:
            x = self.place.broadcast(starts[0] + at)
            if shift is not None:
                shift[0] = shift[0] + x
            for v in range(self.place.vectors):
                part[v] = part[v] + x * codes[v]

        self._each_code(block, rows, add)
        zeros = self.place.zeros(block, self.place.all)
        for v, scale in enumerate(self.place.scales(block, self.place.all)):
            value = part[v]
            if shift is not None:
                value = value - shift[0] * zeros[v]
            total[v] = total[v] + value * scale

    def _scaled_weights(self, block: Index, rows: int, total: Acc, starts: list[Index]) -> None:
        """Add a block's part of several rows: ``sum(x * (code * scale - zero * scale))``."""
        factors = self.place.factors(block, self.place.all)

        def add(at: Index, codes: list[Expr]) -> None:
            xs = [self.place.broadcast(start + at) for start in starts]
            for v in range(self.place.vectors):
                weight = let(affine(codes[v], *factors, v))
                for r, x in enumerate(xs):
                    i = r * self.place.vectors + v
                    total[i] = total[i] + x * weight

        self._each_code(block, rows, add)

    def _each_code(self, block: Index, rows: int, add: Callable[[Index, list[Expr]], None]) -> None:
        """Call ``add(row of the weights, codes by vector)`` for the first rows of a block."""
        spec = self.place.of.spec
        codes = spec.codes
        first = hold(block * (spec.block // codes)) if spec.blocks > 1 else 0

        def word(step: Index, count: int) -> None:
            words = self.place.words(step, self.place.all)
            for index, read in self.place.in_word(count):
                add(step * codes + index, [read(w) for w in words])

        whole, rest = divmod(rows, codes)
        with serial(whole) as step:
            word(first + step, codes)
        if rest:
            word(first + whole, rest)
