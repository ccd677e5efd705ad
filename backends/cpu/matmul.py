"""Batched matrix product of two run-time operands.

``y[..., M, N] = post(scale * a[..., M, K] @ b[..., K, N])``, or ``b[..., N, K]`` if transposed;
batch dimensions broadcast (ONNX MatMul-13, and FusedMatMul of onnxruntime). Arguments: ``a``,
``b``, the operands of the post-ops in order, ``y``. Any size may be symbolic.

A task packs a block of columns of ``b`` once and multiplies many rows with it. With few rows
(:mod:`burnish.backends.cpu.gemv`) ``b`` is read in place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx

from burnish.backends.cpu.dot2 import DOT2, PAIR, dot_of, pairs
from burnish.backends.cpu.epilogue import Epilogue
from burnish.backends.cpu.gemm import accumulators, row_tiles
from burnish.backends.cpu.gemv import Panel, few_rows
from burnish.backends.cpu.isa import Isa
from burnish.backends.cpu.microkernel import F32, Dot, RegisterTile
from burnish.backends.cpu.tile_transpose import transpose_vectors, transpose_words
from burnish.backends.cpu.tiling import Columns, Tile, tile_columns
from burnish.backends.cpu.tir import (
    Acc,
    Index,
    Kernel,
    Tensor,
    branch,
    ceildiv,
    constant,
    floordiv,
    floormod,
    hold,
    i64,
    kernel,
    let,
    load,
    minimum,
    parallel,
    product,
    scratch,
    serial,
    static,
    store,
    with_lanes,
)
from burnish.errors import CompileError
from burnish.ir.postops import PostOp

#: With no more rows than this, packing a block of ``b`` costs more than it saves.
FEW_ROWS = 3
#: Rows of a task.
_CHUNK = 128


@dataclass(frozen=True, eq=False)
class MatmulSpec:
    """What a batched product computes. Sizes are ints or int64 expressions.

    Attributes:
        a_batch: Batch dimensions of ``a``.
        b_batch: Batch dimensions of ``b``; broadcast against those of ``a``, aligned at the right.
        m: Rows of ``a`` and ``y``.
        k: Columns of ``a``.
        n: Columns of ``y``.
        transpose_b: Whether ``b`` is [..., N, K].
        scale: Factor of the product.
        postops: Applied to the scaled product; need a static ``n``.
        dtype: Element type of the tensors, ``float32`` or a 16-bit float; sums are float32.
    """

    a_batch: tuple[Index, ...]
    b_batch: tuple[Index, ...]
    m: Index
    k: Index
    n: Index
    transpose_b: bool = False
    scale: float = 1.0
    postops: tuple[PostOp, ...] = ()
    dtype: str = "float32"

    @property
    def batch(self) -> tuple[Index, ...]:
        """Batch dimensions of ``y``. A dimension that is not the int 1 does not broadcast."""
        rank = max(len(self.a_batch), len(self.b_batch))
        a, b = (_aligned(d, rank) for d in (self.a_batch, self.b_batch))
        return tuple(y if _is_one(x) else x for x, y in zip(a, b, strict=True))

    def dot(self, isa: Isa) -> Dot:
        """What is multiplied, but for few rows; a ``k`` that is not known may be odd."""
        k = static(self.k)
        return dot_of(isa, self.dtype, k) if isinstance(k, int) else F32

    def columns(self, isa: Isa) -> tuple[Columns, ...]:
        """Column blocks; of two vectors if the number of columns is not known."""
        m, n, k = (static(d) for d in (self.m, self.n, self.k))
        rows = m if isinstance(m, int) else None
        if isinstance(n, int):
            depth = k // self.dot(isa).kpack if isinstance(k, int) else 64
            return tile_columns(isa, rows, depth, n, dtype=self.dtype)
        tile = Tile(8, 2) if isa.registers >= 32 else Tile(6, 2)
        return (Columns(0, ceildiv(n, 2 * isa.lanes), tile),)


def _is_one(dim: Index) -> bool:
    value = static(dim)
    return isinstance(value, int) and value == 1


def _aligned(dims: Sequence[Index], rank: int) -> tuple[Index, ...]:
    return (*(1 for _ in range(rank - len(dims))), *(static(d) for d in dims))


def matmul(isa: Isa, spec: MatmulSpec, name: str = "matmul") -> Kernel:
    """Build the kernel of ``spec``; arguments as in the module's docstring."""
    if spec.postops and not isinstance(static(spec.n), int):
        raise CompileError("post-ops of a product with a symbolic number of columns")
    with kernel(name, isa, spec.dtype) as k:
        a = k.input("a", (*spec.a_batch, spec.m, spec.k))
        inner = (spec.n, spec.k) if spec.transpose_b else (spec.k, spec.n)
        b = k.input("b", (*spec.b_batch, *inner))
        shape = (*spec.batch, spec.m, spec.n)
        epilogue = Epilogue.declare(k, spec.postops, shape) if spec.postops else None
        y = k.output("y", shape)
        _Matmul(isa, spec, a, b, y, epilogue).emit()
    return k.result


@dataclass(frozen=True)
class _Matmul:
    """Emits the loops of a batched product."""

    isa: Isa
    spec: MatmulSpec
    a: Tensor
    b: Tensor
    y: Tensor
    epilogue: Epilogue | None

    @property
    def dot(self) -> Dot:
        return self.spec.dot(self.isa)

    @property
    def depth(self) -> Index:
        """Steps of the reduction."""
        return floordiv(self.sizes[1], self.dot.kpack)

    @property
    def sizes(self) -> tuple[Index, Index, Index]:
        spec = self.spec
        return static(spec.m), static(spec.k), static(spec.n)

    def emit(self) -> None:
        """One parallel loop over batches, runs of rows and column blocks."""
        columns = self.spec.columns(self.isa)
        m, _, _ = self.sizes
        blocks = columns[0].blocks
        for c in columns[1:]:
            blocks = blocks + c.blocks
        step = columns[0].tile.rows
        chunk = -(-_CHUNK // step) * step
        chunks = ceildiv(m, chunk)
        batches = product(static(d) for d in self.spec.batch)
        with parallel(batches * chunks * blocks) as task:
            block = hold(floormod(task, blocks))
            rest = hold(floordiv(task, blocks))
            part = hold(floormod(rest, chunks))
            batch = hold(floordiv(rest, chunks))
            a_at, b_at = self._origins(batch)
            begin = hold(part * chunk)
            end = hold(minimum(begin + chunk, m))

            def run(c: Columns, index: Index) -> None:
                self._block(c, index, (a_at, b_at, hold(batch * m)), begin, end, chunk)

            _for_columns(columns, block, run)

    def _origins(self, batch: Index) -> tuple[Index, Index]:
        """Offsets of the matrices of ``a`` and ``b`` that belong to a batch of ``y``."""
        m, k, n = self.sizes
        shape = self.spec.batch
        a_dims = _aligned(self.spec.a_batch, len(shape))
        b_dims = _aligned(self.spec.b_batch, len(shape))
        a_at: Index = 0
        b_at: Index = 0
        a_step: Index = 1
        b_step: Index = 1
        rest = batch
        for size, a_dim, b_dim in zip(
            reversed([static(d) for d in shape]), reversed(a_dims), reversed(b_dims), strict=True
        ):
            index = hold(floormod(rest, size))
            rest = hold(floordiv(rest, size))
            if not _is_one(a_dim):
                a_at = a_at + index * a_step
            if not _is_one(b_dim):
                b_at = b_at + index * b_step
            a_step, b_step = a_step * a_dim, b_step * b_dim
        return hold(a_at * (m * k)), hold(b_at * (k * n))

    def _block(
        self,
        c: Columns,
        first: Index,
        at: tuple[Index, Index, Index],
        begin: Index,
        end: Index,
        chunk: int,
    ) -> None:
        """Rows [begin, end) of one column block."""
        spec, isa = self.spec, self.isa
        m, k, n = self.sizes
        column = hold(first * isa.lanes)
        panel = Panel(
            isa, self.a, self.b, self.y, at, (k, n), column, c.tile.vectors, c.tail,
            spec.transpose_b, spec.scale, self.epilogue,
        )  # fmt: skip

        def in_place() -> None:
            few_rows(panel, begin, end)

        def packed() -> None:
            wide = c.tile.vectors * isa.lanes
            buffer = scratch(self.depth * wide, self.dot.operand)
            self._pack(panel, buffer, wide)
            acc = accumulators((c,), isa)

            def tile(row: Index, count: int) -> None:
                self._tile(panel, acc, buffer, row, count)

            row_tiles(begin, end, m, chunk, c.tile.rows, tile)

        branch(m <= FEW_ROWS, in_place, packed)

    def _pack(self, panel: Panel, buffer: Any, wide: int) -> None:
        """Columns of ``b`` as [K, columns of the block], times the scale or in pairs."""
        if self.dot is DOT2:
            self._pack_pairs(panel, buffer, wide)
            return
        _, k, n = self.sizes
        lanes = self.isa.lanes
        factor = None if self.spec.scale == 1.0 else constant(self.spec.scale, lanes)
        if not self.spec.transpose_b:
            with serial(k) as step:
                for v in range(panel.vectors):
                    source = panel.at[1] + step * n + panel.column + v * lanes
                    value = load(self.b.flat, source, lanes, panel.valid(v))
                    target = step * wide + v * lanes
                    store(buffer, target, value if factor is None else value * factor)
            return

        def tiles() -> None:
            # The last tile starts earlier and overlaps the one before.
            with serial(ceildiv(k, lanes)) as t:
                start = hold(minimum(t * lanes, k - lanes))
                for v in range(panel.vectors):
                    self._pack_tile(panel, buffer, start, v, wide, factor)

        def elements() -> None:
            with serial(k) as step, serial(wide) as j:
                row = minimum(panel.column + j, n - 1)
                value = self.b.load(panel.at[1] + row * k + step)
                store(buffer, step * wide + j, value * constant(self.spec.scale))

        branch(k >= lanes, tiles, elements)

    def _pack_tile(
        self, panel: Panel, buffer: Any, start: Index, v: int, wide: int, factor: Any
    ) -> None:
        """Transpose ``lanes`` rows of ``b`` from column ``start`` into vector ``v`` of the block.

        Rows that do not exist repeat the last one; the columns they make are not stored.
        """
        _, k, n = self.sizes
        lanes = self.isa.lanes
        rows = []
        for i in range(lanes):
            row = minimum(panel.column + (v * lanes + i), n - 1)
            rows.append(let(self.b.load(panel.at[1] + row * k + start, lanes)))
        for i, value in enumerate(transpose_vectors(rows)):
            target = (start + i) * wide + v * lanes
            store(buffer, target, value if factor is None else value * factor)

    def _pack_pairs(self, panel: Panel, buffer: Any, wide: int) -> None:
        """Columns of ``b`` as [K / 2, columns of the block] of pairs."""
        _, k, n = self.sizes
        depth, lanes, columns = self.depth, self.isa.lanes, range(panel.vectors)
        if not self.spec.transpose_b:
            bits, words = self.b.flat.buffer, with_lanes("int32", lanes)
            with serial(depth) as step:
                for v in columns:
                    at = panel.at[1] + step * (PAIR * n) + panel.column + v * lanes
                    rows = (load(bits, at + i * n, lanes, panel.valid(v)) for i in range(PAIR))
                    low, high = (let(tirx.Cast(words, let(row))) for row in rows)
                    both = low | (high << constant(16, lanes, "int32"))
                    store(buffer, step * wide + v * lanes, both)
            return
        source = pairs(self.b, DOT2)

        def start_of(column: Index) -> Index:
            # Columns that do not exist repeat the last one; they are not stored.
            return floordiv(panel.at[1] + minimum(column, n - 1) * k, PAIR)

        def tiles() -> None:
            # The last tile starts earlier and overlaps the one before.
            with serial(ceildiv(depth, lanes)) as t:
                start = hold(minimum(t * lanes, depth - lanes))
                for v in columns:
                    first = panel.column + v * lanes
                    places = [hold(start_of(first + i) + start) for i in range(lanes)]
                    read = [let(source.load(place, lanes)) for place in places]
                    for i, value in enumerate(transpose_words(read)):
                        store(buffer, (start + i) * wide + v * lanes, value)

        def elements() -> None:
            with serial(depth) as step, serial(wide) as j:
                store(buffer, step * wide + j, source.load(start_of(panel.column + j) + step))

        branch(depth >= lanes, tiles, elements)

    def _tile(self, panel: Panel, acc: Acc, buffer: Any, row: Index, count: int) -> None:
        """One register tile."""
        _, k, _ = self.sizes
        lanes, dot = self.isa.lanes, self.dot
        tile = RegisterTile.zero(count, panel.vectors, acc, dot)
        starts = [hold(floordiv(panel.at[0] + (row + r) * k, dot.kpack)) for r in range(count)]
        tile.stream(
            pairs(self.a, dot).flat,
            lambda step: [s + step for s in starts],
            buffer,
            lambda step: step * (panel.vectors * lanes),
            (0, self.depth),
        )
        if dot is F32 or self.spec.scale == 1.0:
            panel.write(row, count, tile.at)
        else:
            scale = constant(self.spec.scale, lanes)
            panel.write(row, count, lambda r, v: tile.at(r, v) * scale)


def _for_columns(columns: tuple[Columns, ...], block: Index, run: Any) -> None:
    head, *rest = columns
    first = head.first + block * head.tile.vectors
    if not rest:
        run(head, first)
        return
    branch(
        block < head.blocks,
        lambda: run(head, first),
        lambda: _for_columns(tuple(rest), block - i64(head.blocks), run),
    )
