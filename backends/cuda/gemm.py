"""Matrix products with constant weights, and batched products of two computed matrices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tvm import tirx

from burnish.backends.cuda.arch import Arch
from burnish.backends.cuda.epilogue import Epilogue
from burnish.backends.cuda.product import (
    Problem,
    Tile,
    choose_splits,
    choose_tile,
    multiply,
)
from burnish.backends.cuda.sources import Across, Lines, widened
from burnish.backends.cuda.staging import Source
from burnish.backends.cuda.tir import (
    Expr,
    Index,
    Kernel,
    Tensor,
    common_lanes,
    kernel,
    name,
    product,
    unravel,
)
from burnish.ir.postops import PostOp

Array = npt.NDArray[np.generic]


def padded(size: int, step: int) -> int:
    """The next multiple of ``step``."""
    return -(-size // step) * step


def packed_shape(depth: int, columns: int, tile: Tile) -> tuple[int, int]:
    """Shape of packed weights: whole tiles."""
    return padded(depth, tile.depth), padded(columns, tile.columns)


def pack(weights: Array, tile: Tile) -> Array:
    """Weights [depth, columns] filled up with zeros to whole tiles."""
    depth, columns = weights.shape
    packed = np.zeros(packed_shape(depth, columns, tile), weights.dtype)
    packed[:depth, :columns] = weights
    return packed


def packed_source(tensor: Tensor, offset: Index = 0) -> Across:
    """The packed weights as an operand."""
    depth, columns = tensor.shape[-2:]
    lanes = common_lanes(tensor.dtype, columns)
    return Across(tensor, offset, columns, columns, depth, lanes, padded=True)


@dataclass(frozen=True)
class GemmSpec:
    """``x [*rows, depth] @ weights [depth, columns]`` and post-ops.

    Attributes:
        rows: Leading dims.
        depth: Length of the sums.
        columns: Columns of the result.
        dtype: Element type of operands and result.
        postops: What happens to the result.
        operands: Element types of the post-ops' operands.
    """

    rows: tuple[Index, ...]
    depth: int
    columns: int
    dtype: str
    postops: tuple[PostOp, ...] = ()
    operands: tuple[str, ...] = ()

    @property
    def problem(self) -> Problem:
        """Its sizes."""
        return Problem(1, product(self.rows), self.columns, self.depth)

    def tile(self, arch: Arch) -> Tile:
        """How it is cut."""
        return choose_tile(self.problem, self.dtype, arch.multiprocessors)


def gemm(arch: Arch, spec: GemmSpec) -> Kernel:
    """The kernel: x, packed weights, operands of the post-ops, result."""
    problem, tile = spec.problem, spec.tile(arch)
    with kernel("gemm") as k:
        x = k.input("x", (*spec.rows, spec.depth), spec.dtype)
        w = k.input("w", packed_shape(spec.depth, spec.columns, tile), spec.dtype)
        shape = (*spec.rows, spec.columns)
        epilogue = Epilogue.declare(k, spec.postops, spec.operands, shape)
        y = k.output("y", shape, spec.dtype)
        lanes = common_lanes(spec.dtype, spec.depth)
        left = Lines(x, 0, spec.depth, problem.rows, spec.depth, lanes)

        def store(_: Expr, row: Expr, column: Expr, value: Expr) -> None:
            epilogue.store(y, value, name(widened(row) * spec.columns + column), column)

        splits = choose_splits(problem, tile, arch.multiprocessors)
        multiply(problem, tile, lambda _: (left, packed_source(w)), store, spec.dtype, splits)
    return k.result


@dataclass(frozen=True)
class MatmulSpec:
    """``scale * a [*a_batch, rows, depth] @ b [*b_batch, depth, columns]`` and post-ops.

    Attributes:
        a_batch: Batch dims of the left operand, broadcast against those of the right one.
        b_batch: Batch dims of the right operand.
        rows: Rows of a result.
        depth: Length of the sums.
        columns: Columns of a result.
        transposed: The right operand is [*b_batch, columns, depth].
        scale: Factor of the result.
        dtype: Element type of the operands.
        out_dtype: Element type of the result.
        postops: What happens to the result.
        operands: Element types of the post-ops' operands.
    """

    a_batch: tuple[Index, ...]
    b_batch: tuple[Index, ...]
    rows: Index
    depth: Index
    columns: Index
    transposed: bool
    scale: float
    dtype: str
    out_dtype: str
    postops: tuple[PostOp, ...] = ()
    operands: tuple[str, ...] = ()

    @property
    def batch(self) -> tuple[Index, ...]:
        """Batch dims of the result."""
        rank = max(len(self.a_batch), len(self.b_batch))
        pairs = zip(_aligned(self.a_batch, rank), _aligned(self.b_batch, rank), strict=True)
        return tuple(b if isinstance(a, int) and a == 1 else a for a, b in pairs)

    @property
    def problem(self) -> Problem:
        """Its sizes."""
        return Problem(product(self.batch), self.rows, self.columns, self.depth)


def _aligned(dims: Sequence[Index], rank: int) -> tuple[Index, ...]:
    return (1,) * (rank - len(dims)) + tuple(dims)


def _matrix_offset(where: Sequence[Index], dims: Sequence[Index], rank: int, size: Index) -> Index:
    """Flat offset of the matrix at a place of the batch, by NumPy's broadcasting."""
    offset: Index = 0
    for index, extent in zip(where, _aligned(dims, rank), strict=True):
        offset = offset * extent
        if not (isinstance(extent, int) and extent == 1):
            offset = offset + widened(index)
    return offset * size


def matmul(arch: Arch, spec: MatmulSpec) -> Kernel:
    """The kernel: a, b, operands of the post-ops, result."""
    problem = spec.problem
    tile = choose_tile(problem, spec.dtype, arch.multiprocessors)
    b_matrix = (spec.columns, spec.depth) if spec.transposed else (spec.depth, spec.columns)
    with kernel("matmul") as k:
        a = k.input("a", (*spec.a_batch, spec.rows, spec.depth), spec.dtype)
        b = k.input("b", (*spec.b_batch, *b_matrix), spec.dtype)
        shape = (*spec.batch, spec.rows, spec.columns)
        epilogue = Epilogue.declare(k, spec.postops, spec.operands, shape)
        y = k.output("y", shape, spec.out_dtype)
        rank = len(spec.batch)
        by_depth = common_lanes(spec.dtype, spec.depth)
        by_column = common_lanes(spec.dtype, spec.columns)

        def operands(index: Expr) -> tuple[Source, Source]:
            where = unravel(index, spec.batch) if rank else []
            start = _matrix_offset(where, spec.a_batch, rank, spec.rows * spec.depth)
            left = Lines(a, start, spec.depth, spec.rows, spec.depth, by_depth)
            start = _matrix_offset(where, spec.b_batch, rank, spec.depth * spec.columns)
            if spec.transposed:
                return left, Lines(b, start, spec.depth, spec.columns, spec.depth, by_depth)
            return left, Across(b, start, spec.columns, spec.columns, spec.depth, by_column)

        def store(index: Expr, row: Expr, column: Expr, value: Expr) -> None:
            if spec.scale != 1.0:
                value = value * tirx.const(spec.scale, "float32")
            place = (widened(index) * spec.rows + row) * spec.columns + column
            epilogue.store(y, value, name(place), column)

        multiply(problem, tile, operands, store, spec.dtype)
    return k.result
