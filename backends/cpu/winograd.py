"""Winograd convolutions F(2x2, 3x3) and F(4x4, 3x3) on NHWC data with constant weights (ONNX Conv).

``y = post(conv(x, w))`` for 3x3 filters with stride 1, no dilation and one group, as
:mod:`burnish.backends.cpu.conv`. Arguments: ``x``, ``w`` (:func:`pack_winograd`), the operands of
the post-ops in order, ``y``, and ``v`` if the plan shares the transformed input between tasks.

A tile of m x m output pixels takes (m+2)^2 multiply-adds for a pair of channels instead of 9 m^2:
16 for 36 and 36 for 144. Its input is transformed channel by channel, the products over the input
channels are matrix products, one for each of the (m+2)^2 points, and the result is transformed back
and given to the post-ops.

An infinity or NaN in the input reaches every output of the tiles that read it, and an infinity may
turn into NaN: the direct kernel keeps both to the pixels whose windows have them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import tirx

from burnish.backends.cpu.conv import ConvSpec
from burnish.backends.cpu.epilogue import Epilogue
from burnish.backends.cpu.gemm import (
    accumulators,
    for_columns,
    pack_columns,
    packed_size,
    row_tiles,
)
from burnish.backends.cpu.isa import Isa
from burnish.backends.cpu.microkernel import RegisterTile
from burnish.backends.cpu.place import result_of
from burnish.backends.cpu.stack import stack
from burnish.backends.cpu.tiling import Columns
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
    i64,
    kernel,
    let,
    load,
    maximum,
    minimum,
    parallel,
    prefetch,
    select,
    serial,
    store,
)
from burnish.backends.cpu.winograd_matrices import (
    Program,
    combine,
    input_program,
    output_program,
    transform_filters,
)
from burnish.backends.cpu.winograd_plan import Plan, plan_winograd, tile_counts

F32Array = npt.NDArray[np.float32]

#: Packed weights up to this size stay in the second-level cache.
_SMALL_WEIGHTS = 512 * 1024
#: Vectors that a task of the first loop of a shared plan transforms at least.
_TRANSFORM_VECTORS = 256


def pack_winograd(w: npt.ArrayLike, spec: ConvSpec, isa: Isa, m: int) -> F32Array:
    """Constant ONNX weights [OC, IC, 3, 3] as the kernel of ``spec`` reads them: 1-D.

    They are transformed in float64 and rounded once.
    """
    array = np.asarray(w, np.float32)
    if array.shape != (spec.oc, spec.ic, 3, 3):
        raise ValueError(f"weights of shape {array.shape} for {(spec.oc, spec.ic, 3, 3)}")
    points = transform_filters(array, m).reshape(-1, spec.oc).astype(np.float32)
    return pack_columns(points, plan_winograd(spec, isa, m).columns, isa).astype(np.float32)


def winograd(isa: Isa, spec: ConvSpec, m: int, name: str = "winograd") -> Kernel:
    """Build the kernel of ``spec`` with tiles of m x m; arguments as in the module's docstring."""
    plan = plan_winograd(spec, isa, m)
    with kernel(name, isa, spec.dtype) as k:
        shape = (spec.n, spec.oh, spec.ow, spec.oc)
        x = k.input("x", (spec.n, spec.h, spec.w, spec.ic))
        w = k.input("w", (packed_size(plan.points * spec.ic, spec.oc, isa),), "float32")
        epilogue = Epilogue.declare(k, spec.postops, shape)
        y = result_of(k, epilogue, shape, spec.place, over=spec.over)
        v = k.output("v", (plan.scratch,), "float32") if plan.scratch else None
        emitter = _Winograd(isa, spec, plan, x, w, y, epilogue)
        if v is None:
            emitter.private()
        else:
            emitter.shared(v)
    return k.result


@dataclass(frozen=True)
class _Place:
    """A tile: its image, its first row and column of output pixels."""

    image: Index
    top: Index
    left: Index


def _multiply(
    program: Program,
    cells: Acc,
    first: int,
    operand: Callable[[int], Expr],
    result: Callable[[int, Expr], None],
) -> None:
    """Multiply a vector of vectors by a program's matrix.

    Args:
        program: The matrix.
        cells: Registers; those from ``first`` on are overwritten.
        first: Where operands and partial sums go.
        operand: Element of the vector.
        result: Takes an element of the product.
    """

    def at(i: int) -> Expr:
        return cells[first + i]

    def times(coefficient: float, value: Expr) -> Expr:
        return constant(coefficient, cells.lanes) * value

    for i in range(program.size):
        cells[first + i] = operand(i)
    for k, terms in enumerate(program.shared):
        cells[first + program.size + k] = combine(terms, at, times)
    for k, terms in enumerate(program.results):
        result(k, combine(terms, at, times))


@dataclass(frozen=True)
class _Winograd:
    """Emits the loops of a Winograd convolution."""

    isa: Isa
    spec: ConvSpec
    plan: Plan
    x: Tensor
    w: Tensor
    y: Tensor
    epilogue: Epilogue

    @property
    def _side(self) -> int:
        return self.plan.m + 2

    def private(self) -> None:
        """One parallel loop over blocks of tiles."""
        plan = self.plan
        _, _, tiles = tile_counts(self.spec, plan.m)
        with parallel(ceildiv(tiles, plan.block)) as task:
            task = hold(task)
            begin = hold(task * plan.block)
            count = hold(minimum(plan.block, tiles - begin))
            v = stack(plan.points * plan.input_plane)
            products = stack(plan.points * plan.product_plane)
            cells = self._cells()
            self._transform_input(cells, v, begin, 0, count)
            acc = accumulators(plan.columns, self.isa)
            with serial(sum(c.blocks for c in plan.columns)) as block:
                block = hold(block)

                def one(c: Columns, first: Index) -> None:
                    self._multiply_tiles(acc, v, 0, products, count, tiles, c, first)
                    self._transform_output(cells, products, begin, count, c, first)

                for_columns(plan.columns, block, one)

    def shared(self, v: Tensor) -> None:
        """Panel by panel, a parallel loop over tiles and one over blocks of tiles and channels."""
        plan = self.plan
        _, _, tiles = tile_counts(self.spec, plan.m)
        chunk = max(1, _TRANSFORM_VECTORS * self.isa.lanes // (plan.points * plan.depth))
        blocks = sum(c.blocks for c in plan.columns)
        with serial(ceildiv(tiles, plan.panel)) as panel:
            start = hold(panel * plan.panel)
            count = hold(minimum(plan.panel, tiles - start))
            with parallel(ceildiv(count, chunk)) as task:
                begin = hold(task * chunk)
                end = minimum(count, begin + chunk)
                self._transform_input(
                    self._cells(), v.flat, start + begin, begin, hold(end - begin)
                )
            parts = hold(ceildiv(count, plan.block))
            with parallel(parts * blocks) as task:
                # Neighbouring tasks share weights: there are more of them than of V.
                part, block = hold(floormod(task, parts)), hold(floordiv(task, parts))
                begin = hold(part * plan.block)
                length = hold(minimum(plan.block, count - begin))
                products = stack(plan.points * plan.product_plane)
                cells = self._cells()
                acc = accumulators(plan.columns, self.isa)

                def one(c: Columns, first: Index) -> None:
                    self._multiply_tiles(acc, v.flat, begin, products, length, tiles, c, first)
                    self._transform_output(cells, products, start + begin, length, c, first)

                for_columns(plan.columns, block, one)

    def _cells(self) -> Acc:
        """Registers of both transforms: a tile, a vector of it and its partial sums."""
        side = self._side
        programs = (input_program(self.plan.m), output_program(self.plan.m))
        spare = max(p.size + len(p.shared) for p in programs)
        return Acc(side * side + spare, self.isa.lanes)

    def _place(self, tile: Index) -> _Place:
        """Where a tile of the batch lies."""
        rows, cols, _ = tile_counts(self.spec, self.plan.m)
        line = hold(floordiv(tile, cols))
        image = hold(floordiv(line, rows))
        m = self.plan.m
        return _Place(image, hold((line - image * rows) * m), hold((tile - line * cols) * m))

    # --- input -----------------------------------------------------------------------------------

    def _transform_input(self, cells: Acc, v: Any, tile: Index, at: Index, count: Index) -> None:
        """``count`` tiles from ``tile`` on to the rows of V from ``at`` on."""
        spec, plan, lanes = self.spec, self.plan, self.isa.lanes
        side = self._side
        patch = stack(plan.points * lanes)
        vectors, whole = -(-spec.ic // lanes), spec.ic // lanes
        with serial(count) as i:
            place = self._place(hold(tile + i))
            top, left = hold(place.top - spec.pads[0]), hold(place.left - spec.pads[1])
            row = hold((at + i) * plan.depth)
            inside = tirx.all(
                i64(top) >= 0,
                i64(left) >= 0,
                i64(top + side) <= i64(spec.h),
                i64(left + side) <= i64(spec.w),
            )
            first = hold((place.image * spec.h + top) * spec.w + left)

            def source(y: Index, x: Index, chunk: Index, first: Index = first) -> Index:
                return (first + y * spec.w + x) * spec.ic + chunk * lanes

            direct = hold(select(inside, i64(whole), i64(0)))
            with serial(0, direct) as chunk:

                def pixel(k: int, chunk: Index = chunk) -> Expr:
                    return self.x.load(source(k // side, k % side, chunk), lanes)

                self._transform_vector(cells, pixel, v, row + chunk * lanes)
            with serial(direct, vectors) as chunk:
                self._copy_patch(patch, top, left, chunk, source)
                self._transform_vector(
                    cells, lambda k: load(patch, k * lanes, lanes), v, row + chunk * lanes
                )

    def _copy_patch(
        self,
        patch: Any,
        top: Index,
        left: Index,
        chunk: Index,
        source: Callable[[Index, Index, Index], Index],
    ) -> None:
        """One vector of channels of a tile's input, 0 outside of the image and of the channels."""
        spec, lanes, side = self.spec, self.isa.lanes, self._side
        for k in range(side * side):
            store(patch, k * lanes, constant(0, lanes))
        valid = None if spec.ic % lanes == 0 else hold(minimum(lanes, spec.ic - chunk * lanes))
        low, high = hold(maximum(0 - top, 0)), hold(minimum(side, spec.h - top))
        begin, end = hold(maximum(0 - left, 0)), hold(minimum(side, spec.w - left))
        with serial(low, high) as y, serial(begin, end) as x:
            value = self.x.load(source(y, x, chunk), lanes, valid)
            store(patch, (y * side + x) * lanes, value)

    def _transform_vector(
        self, cells: Acc, pixel: Callable[[int], Expr], v: Any, offset: Index
    ) -> None:
        """``BT d B`` of one vector of channels, to the planes of V."""
        side, distance = self._side, self.plan.input_plane
        program = input_program(self.plan.m)
        spare = side * side
        for j in range(side):

            def keep(i: int, value: Expr, j: int = j) -> None:
                cells[i * side + j] = value

            _multiply(program, cells, spare, lambda i, j=j: pixel(i * side + j), keep)  # type: ignore[misc]
        for i in range(side):

            def write(j: int, value: Expr, i: int = i) -> None:
                store(v, offset + (i * side + j) * distance, value)

            _multiply(program, cells, spare, lambda j, i=i: cells[i * side + j], write)  # type: ignore[misc]

    # --- products --------------------------------------------------------------------------------

    def _multiply_tiles(
        self,
        acc: Acc,
        v: Any,
        at: Index,
        products: Any,
        count: Index,
        tiles: Index,
        columns: Columns,
        first: Index,
    ) -> None:
        """M of ``count`` tiles, whose rows of V start at ``at``, and one block of channels."""
        plan, ic, lanes = self.plan, self.spec.ic, self.isa.lanes
        vectors = columns.tile.vectors
        wide = vectors * lanes
        panel = hold(first * (lanes * plan.points * ic))
        with serial(plan.points) as point:
            weights = hold(panel + point * (ic * wide))
            inputs = hold(point * plan.input_plane + at * plan.depth)
            outputs = hold(point * plan.product_plane)

            def tile(row: Index, rows: int) -> None:
                register = RegisterTile.zero(rows, vectors, acc)
                starts = [hold(inputs + (row + r) * plan.depth) for r in range(rows)]
                register.stream(
                    v,
                    lambda step: [s + step for s in starts],
                    self.w.flat,
                    lambda step: weights + step * wide,
                    (0, ic),
                    before=self._bring_next(columns, weights, row, rows),
                )
                for r in range(rows):
                    for c in range(vectors):
                        store(
                            products,
                            outputs + (row + r) * plan.width + c * lanes,
                            register.at(r, c),
                        )

            row_tiles(0, count, tiles, plan.block, columns.tile.rows, tile)

    def _bring_next(
        self, columns: Columns, weights: Index, row: Index, rows: int
    ) -> Callable[[Index], None]:
        """What asks for the weights of the next point, a few lines in each step."""
        plan, ic, lanes = self.plan, self.spec.ic, self.isa.lanes
        if 4 * plan.points * ic * self.spec.oc <= _SMALL_WEIGHTS or rows < columns.tile.rows:
            return lambda step: None
        vectors = columns.tile.vectors
        lines = -(-vectors // max(1, plan.block // rows))
        ahead = hold(weights + (vectors + floordiv(row, rows) * lines) * (ic * lanes))

        def ask(step: Index) -> None:
            for line in range(lines):
                prefetch(self.w.flat, ahead + (step * lines + line) * lanes)

        return ask

    # --- output ----------------------------------------------------------------------------------

    def _transform_output(
        self,
        cells: Acc,
        products: Any,
        tile: Index,
        count: Index,
        columns: Columns,
        first: Index,
    ) -> None:
        """``AT M A`` of ``count`` tiles from ``tile`` on, the post-ops, and the result."""
        spec, plan, lanes = self.spec, self.plan, self.isa.lanes
        m = plan.m
        patch = stack(m * m * lanes)
        with serial(count) as i:
            place = self._place(hold(tile + i))
            high = hold(minimum(m, spec.oh - place.top)) if _ragged(spec.oh, m) else m
            wide = hold(minimum(m, spec.ow - place.left)) if _ragged(spec.ow, m) else m
            start = hold((place.image * spec.oh + place.top) * spec.ow + place.left)
            with serial(columns.tile.vectors) as c:
                self._transform_back(cells, products, i * plan.width + c * lanes, patch)
                channel = hold((first + c) * lanes)

                def write(valid: int | None, channel: Index = channel) -> None:
                    with serial(high) as row, serial(wide) as col:
                        pixel = hold(start + row * spec.ow + col)
                        offset = pixel * spec.oc + channel
                        value = load(patch, (row * m + col) * lanes, lanes)
                        value = self.epilogue.start(value, offset, channel, valid)
                        if self.epilogue.deferred:
                            value = self.epilogue.finish(let(value), offset, channel, valid)
                        self.y.store(pixel * spec.line + channel, value, valid)

                last = columns.tile.vectors - 1
                if columns.tail is None:
                    write(None)
                elif last == 0:
                    write(columns.tail)
                else:
                    branch(c < last, lambda: write(None), lambda: write(columns.tail))

    def _transform_back(self, cells: Acc, products: Any, offset: Index, patch: Any) -> None:
        """One vector of channels of a tile's m x m output pixels, to ``patch``."""
        m, side, lanes = self.plan.m, self._side, self.isa.lanes
        distance = self.plan.product_plane
        program = output_program(m)
        spare = side * side
        for j in range(side):

            def product(i: int, j: int = j) -> Expr:
                return load(products, offset + (i * side + j) * distance, lanes)

            def keep(i: int, value: Expr, j: int = j) -> None:
                cells[i * side + j] = value

            _multiply(program, cells, spare, product, keep)
        for i in range(m):

            def write(j: int, value: Expr, i: int = i) -> None:
                store(patch, (i * m + j) * lanes, value)

            _multiply(program, cells, spare, lambda j, i=i: cells[i * side + j], write)  # type: ignore[misc]


def _ragged(size: Index, m: int) -> bool:
    """Whether the last tile along an axis may be cut off."""
    return not isinstance(size, int) or size % m != 0
