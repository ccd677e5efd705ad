"""Batched product of two run-time operands of 8 bits.

``y[B, M, N] = store(sum((a - a_zero) * (b - b_zero)) * a_scale * b_scale)`` for ``a`` [B, M, K] and
``b`` [B, K, N] (ONNX QLinearMatMul-21 and MatMulInteger-10). Arguments: ``a``, ``b``, ``y``. Any
size may be symbolic. Sums are exact in int32:

``sum((a - za) * (b - zb)) = sum(a * b) - za * sum(b) - zb * sum(a) + K * za * zb``

with ``a`` read as unsigned and ``b`` as signed bytes. The second term is one number for each
column, the last two one for each row: accumulators start with them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T  # noqa: N812

from burnish.backends.cpu.attention_int8 import Bytes
from burnish.backends.cpu.codes import Words, coded
from burnish.backends.cpu.dot8 import PACK, dot8
from burnish.backends.cpu.gemm import accumulators, for_columns, row_tiles
from burnish.backends.cpu.isa import Isa
from burnish.backends.cpu.microkernel import Dot, RegisterTile
from burnish.backends.cpu.tiling import Columns, Tile, tile_columns
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
    floormod,
    hold,
    i64,
    kernel,
    let,
    load,
    minimum,
    parallel,
    reduce_add,
    scratch,
    select,
    serial,
    splat,
    static,
    store,
    with_lanes,
)
from burnish.errors import CompileError

_ONES = 0x01010101


@dataclass(frozen=True, eq=False)
class QuantizedBatchSpec:
    """What :func:`quantized_batch_matmul` computes. Sizes are ints or int64 expressions.

    Attributes:
        batch: Number of matrices.
        m: Rows of ``a`` and ``y``.
        k: Columns of ``a``.
        n: Columns of ``y``.
        a: How ``a`` is stored.
        b: How ``b`` is stored.
        y: How ``y`` is stored; None for float32.
    """

    batch: Index
    m: Index
    k: Index
    n: Index
    a: Bytes
    b: Bytes
    y: Bytes | None = None

    def columns(self, isa: Isa) -> tuple[Columns, ...]:
        """Column blocks; of two vectors if the number of columns is not known."""
        m, n, k = (static(d) for d in (self.m, self.n, self.k))
        if isinstance(n, int):
            depth = ceildiv(k, PACK) if isinstance(k, int) else 64
            return tile_columns(isa, m if isinstance(m, int) else None, depth, n)
        tile = Tile(8, 2) if isa.registers >= 32 else Tile(4, 2)
        return (Columns(0, ceildiv(n, 2 * isa.lanes), tile),)


def quantized_batch_matmul(
    isa: Isa, spec: QuantizedBatchSpec, name: str = "quantized_batch_matmul"
) -> Kernel:
    """Build the kernel of ``spec``; arguments as in the module's docstring.

    Raises:
        CompileError: The instruction set has no integer dot product.
    """
    dot = dot8(isa)
    if dot is None:
        raise CompileError(f"no integer dot products for {isa.name}")
    with kernel(name, isa) as k:
        a = k.input("a", (spec.batch, spec.m, spec.k), spec.a.dtype)
        b = k.input("b", (spec.batch, spec.k, spec.n), spec.b.dtype)
        y = k.output("y", (spec.batch, spec.m, spec.n), spec.y.dtype if spec.y else "float32")
        if spec.y is not None:
            y = coded(y, spec.y.scale, spec.y.zero)
        _Batch(isa, spec, dot, a, b, y).emit()
    return k.result


@dataclass(frozen=True)
class _Task:
    """What one task multiplies.

    Attributes:
        words: Rows of ``a`` as words of four codes.
        rows_at: Offset of the first row in ``words``.
        packed: [K / 4, width] words of four codes of a column.
        starts: [width] what the sums of each column start with.
        row_starts: [M] what those of each row start with; None if they are 0.
        width: Columns of the block.
    """

    words: Words
    rows_at: Index
    packed: Any
    starts: Any
    row_starts: Any
    width: int


@dataclass(frozen=True)
class _Batch:
    """Emits the loops of a product."""

    isa: Isa
    spec: QuantizedBatchSpec
    dot: Dot
    a: Tensor
    b: Tensor
    y: Tensor

    @property
    def sizes(self) -> tuple[Index, Index, Index]:
        """M, K, N."""
        spec = self.spec
        return static(spec.m), static(spec.k), static(spec.n)

    def emit(self) -> None:
        """One parallel loop over matrices and blocks of columns."""
        columns = self.spec.columns(self.isa)
        blocks = columns[0].blocks
        for c in columns[1:]:
            blocks = blocks + c.blocks
        with parallel(static(self.spec.batch) * blocks) as task:
            block, index = hold(floormod(task, blocks)), hold(floordiv(task, blocks))
            acc = accumulators(columns, self.isa, self.dot)

            def run(c: Columns, first: Index) -> None:
                self._block(c, hold(first * self.isa.lanes), index, acc)

            for_columns(columns, block, run)

    def _block(self, c: Columns, column: Index, index: Index, acc: Acc) -> None:
        """All rows of one block of columns of matrix ``index``."""
        m, k, _ = self.sizes
        wide, groups = c.tile.vectors * self.isa.lanes, ceildiv(k, PACK)
        words, rows_at = self._rows(index)
        packed, starts = scratch(groups * wide, "int32"), scratch(wide, "int32")
        row_starts = self._row_starts(words, rows_at) if self.spec.b.signed_zero else None
        self._pack(c, column, hold(index * (k * self.sizes[2])), packed, starts)
        task = _Task(words, rows_at, packed, starts, row_starts, wide)

        def tile(row: Index, count: int) -> None:
            self._tile(c, column, hold(index * m), (row, count), task, acc)

        row_tiles(0, m, m, 1 << 30, c.tile.rows, tile)

    # -- rows of a ---------------------------------------------------------------------------------

    def _rows(self, index: Index) -> tuple[Words, Index]:
        """The rows of a matrix of ``a`` as words, and where they begin."""
        m, k, _ = self.sizes
        signed = self.spec.a.dtype == "int8"
        if isinstance(k, int) and k % PACK == 0:
            size = i64(floordiv(self.a.size, PACK))
            words = T.decl_buffer((size,), "int32", data=self.a.buffer.data, align=PACK)
            return Words(words, signed), hold(index * (m * (k // PACK)))
        # Rows that do not begin with a word are copied; what fills the last word is read as 0.
        groups = hold(ceildiv(k, PACK))
        copy = scratch(m * groups, "int32")
        size = i64(m * groups * PACK)
        codes = T.decl_buffer((size,), self.spec.a.dtype, data=copy.data, align=1)
        fill = constant(-0x7F7F7F80 if signed else 0, 1, "int32")
        with serial(m) as row:
            store(copy, row * groups + (groups - 1), fill)
            source, target = hold((index * m + row) * k), hold(row * groups * PACK)
            with serial(k) as i:
                store(codes, target + i, load(self.a.flat, source + i))
        return Words(copy, signed), 0

    def _row_starts(self, words: Words, rows_at: Index) -> Any:
        """``K * za * zb - zb * sum(a)`` of each row."""
        m, k, _ = self.sizes
        lanes, groups = self.isa.lanes, ceildiv(k, PACK)
        starts = scratch(m, "int32")
        both = self.spec.a.unsigned_zero * self.spec.b.signed_zero
        total = Acc(1, lanes, "int32")
        with serial(m) as row:
            total[0] = constant(0, lanes, "int32")
            with serial(ceildiv(groups, lanes)) as v:
                valid = let(groups - v * lanes)
                ones = constant(_ONES, lanes, "int32")
                ones = let(select(first_lanes(valid, lanes), ones, constant(0, lanes, "int32")))
                at = rows_at + row * groups + v * lanes
                total[0] = self.dot.accumulate(total[0], let(words.load(at, lanes, valid)), ones)
            count = tirx.Cast("int32", k) if not isinstance(k, int) else constant(k, 1, "int32")
            sums = reduce_add(total[0])
            store(starts, row, let(count * both - sums * self.spec.b.signed_zero))
        return starts

    # -- columns of b ------------------------------------------------------------------------------

    def _pack(self, c: Columns, column: Index, at: Index, packed: Any, starts: Any) -> None:
        """Words of four codes of each column, and ``-za * sum(b)``."""
        _, k, n = self.sizes
        lanes, zero = self.isa.lanes, self.spec.a.unsigned_zero
        wide = c.tile.vectors * lanes
        kind = with_lanes("int32", lanes)
        total = Acc(c.tile.vectors, lanes, "int32")
        for v in range(c.tile.vectors):
            total[v] = constant(0, lanes, "int32")
        whole = isinstance(k, int) and k % PACK == 0
        with serial(ceildiv(k, PACK)) as group:
            for v in range(c.tile.vectors):
                word: Expr = None
                for i in range(PACK):
                    row = group * PACK + i
                    source = at + (row if whole else minimum(row, k - 1)) * n + column + v * lanes
                    value = tirx.Cast(
                        kind, load(self.b.flat, hold(source), lanes, self._valid(c, v, column))
                    )
                    if self.spec.b.dtype == "uint8":
                        value = let(value) ^ constant(128, lanes, "int32")
                    value = let(value) & constant(255, lanes, "int32")
                    if not whole:
                        inside = splat(let(tirx.Cast("int32", i64(row) < k)), lanes)
                        value = let(value) * inside
                    value = let(value) << constant(8 * i, lanes, "int32")
                    word = let(value if word is None else word | value)
                store(packed, group * wide + v * lanes, word)
                if zero:
                    total[v] = self.dot.accumulate(total[v], constant(_ONES, lanes, "int32"), word)
        for v in range(c.tile.vectors):
            store(starts, v * lanes, let(total[v] * constant(-zero, lanes, "int32")))

    def _valid(self, c: Columns, v: int, column: Index) -> Index | None:
        """How many columns of a vector there are; None for all."""
        n = self.sizes[2]
        if not isinstance(n, int):
            return let(minimum(n - (column + v * self.isa.lanes), self.isa.lanes))
        return c.tail if v == c.tile.vectors - 1 else None

    # -- products ----------------------------------------------------------------------------------

    def _tile(
        self, c: Columns, column: Index, first: Index, rows: tuple[Index, int], task: _Task,
        acc: Acc,
    ) -> None:  # fmt: skip
        """One register tile, from row ``rows[0]``, ``rows[1]`` of them."""
        _, k, n = self.sizes
        (row, count), lanes, groups = rows, self.isa.lanes, ceildiv(k, PACK)
        tile = RegisterTile(count, c.tile.vectors, acc, self.dot)
        begin = [let(load(task.starts, v * lanes, lanes)) for v in range(c.tile.vectors)]
        for r in range(count):
            of_row = None
            if task.row_starts is not None:
                of_row = let(splat(let(load(task.row_starts, row + r)), lanes))
            for v in range(c.tile.vectors):
                value = begin[v] if of_row is None else begin[v] + of_row
                tile.acc[r * c.tile.vectors + v] = value
        at = [hold(task.rows_at + (row + r) * groups) for r in range(count)]
        tile.stream(
            task.words,
            lambda step: [start + step for start in at],
            task.packed,
            lambda step: step * task.width,
            (0, groups),
        )
        factor = constant(self.spec.a.scale * self.spec.b.scale, lanes)
        for r in range(count):
            target = hold((first + row + r) * n + column)
            for v in range(c.tile.vectors):
                real = tirx.Cast(with_lanes("float32", lanes), tile.at(r, v))
                valid = self._valid(c, v, column)
                self.y.store(target + v * lanes, let(let(real) * factor), valid)
