"""Transposes of any rank, as square tiles in registers or as copies of contiguous blocks.

Axes of size 1 are dropped and neighbours that stay together are merged first, so NCHW to NHWC is a
batch of matrix transposes, and swapping sequence and heads a copy of blocks.

Arguments: ``x`` of the spec's shape, ``y`` of the permuted shape.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from burnish.backends.cpu.isa import Isa
from burnish.backends.cpu.narrow import NARROW
from burnish.backends.cpu.rows import SERIAL_ELEMENTS, TASK_ELEMENTS, each_vector
from burnish.backends.cpu.tile_transpose import transpose_tile, transpose_vectors
from burnish.backends.cpu.tir import (
    Expr,
    Index,
    Kernel,
    Tensor,
    branch,
    ceildiv,
    floordiv,
    floormod,
    kernel,
    let,
    load,
    minimum,
    parallel,
    product,
    serial,
    static,
    store,
    when,
)

#: Up to this extent an axis is unrolled instead of tiled.
_NARROW = 4


@dataclass(frozen=True, eq=False)
class TransposeSpec:
    """ONNX Transpose-13.

    Attributes:
        shape: Input shape: ints or int64 expressions.
        perm: Output axis i is input axis ``perm[i]``.
        dtype: Element type. Tiles in registers are for 4-byte types and for 16-bit floats, which
            are widened in them; others are copied one by one.
    """

    shape: tuple[Index, ...]
    perm: tuple[int, ...]
    dtype: str = "float32"


@dataclass(frozen=True)
class _Axis:
    """An axis of the output."""

    extent: Index
    source: Index  # stride in the input
    target: Index  # stride in the output


def _axes(spec: TransposeSpec) -> list[_Axis]:
    """Output axes from outer to inner, without those of size 1 and merged."""
    strides: list[Index] = []
    step: Index = 1
    for extent in reversed(spec.shape):
        strides.insert(0, step)
        step = step * static(extent)
    merged: list[tuple[int, Index]] = []  # last input axis of the run, extent
    kept = [a for a in range(len(spec.shape)) if not _is_one(spec.shape[a])]
    rank = {axis: i for i, axis in enumerate(kept)}
    for axis in spec.perm:
        if axis not in rank:
            continue
        extent = static(spec.shape[axis])
        if merged and rank[merged[-1][0]] + 1 == rank[axis]:
            merged[-1] = (axis, static(merged[-1][1] * extent))
        else:
            merged.append((axis, extent))
    axes: list[_Axis] = []
    target: Index = 1
    for axis, extent in reversed(merged):
        axes.insert(0, _Axis(extent, strides[axis], target))
        target = target * extent
    return axes


def _is_one(extent: Index) -> bool:
    extent = static(extent)
    return isinstance(extent, int) and extent == 1


def transpose(isa: Isa, spec: TransposeSpec, name: str = "transpose") -> Kernel:
    """Build the kernel of ``spec``; arguments as in the module's docstring."""
    narrow = spec.dtype in NARROW
    with kernel(name, isa, spec.dtype if narrow else "float32") as k:
        given = None if narrow else spec.dtype
        x = k.input("x", spec.shape, given)
        y = k.output("y", tuple(spec.shape[a] for a in spec.perm), given)
        axes = _axes(spec)
        lanes = isa.lanes if spec.dtype in ("float32", "int32", "uint32", *NARROW) else 1
        if not axes or _is_one(axes[-1].source):
            _copy_blocks(x, y, axes, lanes)
        else:
            _transpose_planes(isa, x, y, axes, spec.dtype in ("float32", *NARROW))
    return k.result


@contextmanager
def _tasks(extents: Sequence[Index], elements: Index) -> Iterator[list[Index]]:
    """Indices of all combinations, in parallel if the whole is worth it."""
    count = product(extents)
    small = isinstance(elements, int) and elements < SERIAL_ELEMENTS
    with serial(count) if small else parallel(count) as task:
        indices: list[Index] = []
        for extent in reversed(extents):
            indices.insert(0, let(floormod(task, extent)))
            task = floordiv(task, extent)
        yield indices


def _copy_blocks(x: Tensor, y: Tensor, axes: list[_Axis], lanes: int) -> None:
    """The innermost axis stays innermost: copy its elements together."""
    *outer, inner = axes or [_Axis(1, 1, 1)]
    # A task takes the last outer axis in pieces of enough elements.
    length = inner.extent if isinstance(inner.extent, int) else 64
    piece = max(1, TASK_ELEMENTS // max(1, length))
    *rest, last = outer or [_Axis(1, 0, 0)]
    if isinstance(last.extent, int):
        piece = min(piece, last.extent)
    pieces = ceildiv(last.extent, piece)
    with _tasks([*(a.extent for a in rest), pieces], x.size) as indices:
        source: Index = 0
        target: Index = 0
        for axis, index in zip(rest, indices[:-1], strict=True):
            source, target = source + index * axis.source, target + index * axis.target
        source, target = let(source), let(target)
        first = let(indices[-1] * piece)
        count = piece
        if not isinstance(last.extent, int) or last.extent % piece:
            count = let(minimum(piece, last.extent - first))
        with serial(count) as i:
            at = let(first + i)
            a, b = let(source + at * last.source), let(target + at * last.target)
            if lanes == 1:
                with serial(inner.extent) as j:
                    store(y.flat, b + j, load(x.flat, a + j))
            else:
                each_vector(
                    inner.extent,
                    lanes,
                    lambda p, v: y.store(b + p, load(x.flat, a + p, lanes, v), v),
                    unroll=4 if not isinstance(inner.extent, int) or inner.extent > 64 else 1,
                )


def _transpose_planes(isa: Isa, x: Tensor, y: Tensor, axes: list[_Axis], vectors: bool) -> None:
    """The innermost axes differ: transpose planes of the input's and the output's innermost."""
    across = axes[-1]  # contiguous in the output
    along = next(a for a in axes if _is_one(a.source))  # contiguous in the input
    rest = [a for a in axes[:-1] if a is not along]
    size = isa.lanes
    narrow = any(isinstance(a.extent, int) and a.extent <= _NARROW for a in (across, along))
    if not vectors or narrow:
        size = 64
    strips = ceildiv(along.extent, size)
    with _tasks([*(a.extent for a in rest), strips], x.size) as indices:
        source: Index = 0
        target: Index = 0
        for axis, index in zip(rest, indices[:-1], strict=True):
            source, target = source + index * axis.source, target + index * axis.target
        start = let(indices[-1] * size)
        source, target = let(source + start), let(target + start * along.target)
        columns = let(minimum(size, along.extent - start))
        if isinstance(along.extent, int) and along.extent % size == 0:
            columns = size
        if not vectors or narrow:
            _plane_by_element(x, y, source, target, across, along, columns)
        else:
            _strip(isa.lanes, x, y, (source, target), across, along, columns)


def _plane_by_element(
    x: Tensor, y: Tensor, source: Index, target: Index, across: _Axis, along: _Axis, columns: Index
) -> None:
    """Element by element; a narrow axis is unrolled, so that LLVM can interleave whole vectors."""

    def element(i: Index, j: Index) -> None:
        store(y.flat, target + i * along.target + j, load(x.flat, source + j * across.source + i))

    if isinstance(across.extent, int) and across.extent <= _NARROW:
        with serial(columns) as i:
            for j in range(across.extent):
                element(i, j)
    elif isinstance(along.extent, int) and along.extent <= _NARROW:
        with serial(across.extent) as j:
            for i in range(along.extent):
                element(i, j)
    else:
        with serial(columns) as i, serial(across.extent) as j:
            element(i, j)


def _strip(
    lanes: int,
    x: Tensor,
    y: Tensor,
    start: tuple[Index, Index],
    across: _Axis,
    along: _Axis,
    columns: Index,
) -> None:
    """A strip of ``columns`` (at most ``lanes``) input columns, tile by tile."""
    source, target = start
    whole = floordiv(across.extent, lanes)
    rest = floormod(across.extent, lanes)

    def full_tile(row: Index) -> None:
        transpose_tile(
            x.flat, source + row * across.source, across.source,
            y.flat, target + row, along.target, lanes,
        )  # fmt: skip

    def edge_tile(row: Index, rows: Index) -> None:
        starts = [
            let(source + minimum(row + i, across.extent - 1) * across.source) for i in range(lanes)
        ]
        read: list[Expr] = [let(load(x.flat, s, lanes, columns)) for s in starts]
        for i, column in enumerate(transpose_vectors(read)):
            at = target + row + i * along.target
            if isinstance(columns, int):
                if i < columns:
                    store(y.flat, at, column, rows)
            else:
                with when(columns > i):
                    store(y.flat, at, column, rows)

    def tiles(full: bool) -> None:
        with serial(whole) as t:
            row = let(t * lanes)
            if full:
                full_tile(row)
            else:
                edge_tile(row, lanes)

    if not isinstance(whole, int) or whole:
        branch(_whole(columns, lanes), lambda: tiles(True), lambda: tiles(False))
    if isinstance(rest, int):
        if rest:
            edge_tile(whole * lanes, rest)
    else:
        with when(rest > 0):
            edge_tile(let(whole * lanes), let(rest))


def _whole(columns: Index, lanes: int) -> Expr:
    """Whether a strip has all its columns: decided now if possible."""
    return columns == lanes
