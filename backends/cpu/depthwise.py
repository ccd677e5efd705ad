"""Depthwise convolution on NHWC data with constant weights (ONNX Conv, groups = channels).

``y[N, OH, OW, C] = post(conv(x[N, H, W, C], w))``. Arguments: ``x``, ``w``
(:func:`pack_depthwise`), the operands of the post-ops in order, ``y``.

Vectors run over channels. A tile is a run of output pixels: each input pixel is loaded once for
all windows of the tile that have it.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tvm import tirx

from burnish.backends.cpu.conv import ConvSpec, for_powers, kernel_rows
from burnish.backends.cpu.epilogue import Epilogue
from burnish.backends.cpu.gemm import FloatArray, as_stored, finish_rows, for_columns
from burnish.backends.cpu.isa import Isa
from burnish.backends.cpu.place import result_of
from burnish.backends.cpu.tiling import Columns, Tile, plan_columns, vector_count
from burnish.backends.cpu.tir import (
    Acc,
    Index,
    Kernel,
    Tensor,
    branch,
    ceildiv,
    floordiv,
    floormod,
    hold,
    kernel,
    let,
    load,
    maximum,
    minimum,
    parallel,
    serial,
    static,
    when,
)
from burnish.errors import CompileError

#: Kernels wider than this loop over their columns instead of keeping a row of weights.
_MAX_UNROLLED = 9


def pack_depthwise(w: npt.ArrayLike, spec: ConvSpec, isa: Isa) -> FloatArray:
    """Constant ONNX weights [C, 1, KH, KW] as the kernel reads them: 1-D of [KH, KW, C padded]."""
    array = as_stored(w)
    if array.shape != (spec.oc, 1, *spec.kernel):
        raise ValueError(f"weights of shape {array.shape} for {(spec.oc, 1, *spec.kernel)}")
    packed = np.zeros((*spec.kernel, vector_count(spec.oc, isa) * isa.lanes), array.dtype)
    packed[:, :, : spec.oc] = array[:, 0].transpose(1, 2, 0)
    return packed.reshape(-1)


def depthwise_tile(spec: ConvSpec, isa: Isa) -> Tile:
    """Pixels and vectors of a tile: accumulators, a row of weights and one input fit."""
    if spec.tile is not None:
        return spec.tile
    kw = spec.kernel[1]
    taps = kw if kw <= _MAX_UNROLLED else 1
    vectors = 2 if 2 * (8 + taps + 1) <= isa.registers and spec.oc > isa.lanes else 1
    most = max(1, min(8, isa.registers // vectors - taps - 1))
    if not isinstance(spec.ow, int):
        return Tile(most, vectors)

    width: int = spec.ow

    def cost(rows: int) -> int:
        loads = (rows - 1) * spec.strides[1] + 2 * taps + 2
        return -(-width // rows) * max(rows * taps, loads)

    rows = min(range(1, min(most, width) + 1), key=lambda r: (cost(r), -r))
    return Tile(rows, vectors)


def depthwise(isa: Isa, spec: ConvSpec, name: str = "depthwise") -> Kernel:
    """Build the kernel of ``spec``, which has ``ic == oc == groups``."""
    if not spec.ic == spec.oc == spec.groups:
        raise CompileError(
            f"not a depthwise convolution: {spec.ic} -> {spec.oc} channels, {spec.groups} groups",
            hint="use conv()",
        )
    tile = depthwise_tile(spec, isa)
    columns = tuple(
        Columns(f, b, Tile(tile.rows, v), t)
        for f, b, v, t in plan_columns(spec.oc, tile.vectors, isa)
    )
    with kernel(name, isa, spec.dtype) as k:
        shape = (spec.n, spec.oh, spec.ow, spec.oc)
        x = k.input("x", (spec.n, spec.h, spec.w, spec.ic))
        kh, kw = spec.kernel
        w = k.input("w", (kh * kw * vector_count(spec.oc, isa) * isa.lanes,))
        epilogue = Epilogue.declare(k, spec.postops, shape)
        y = result_of(k, epilogue, shape, spec.place, over=spec.over)
        DepthwiseLoops(isa, spec, columns, x, w, y, epilogue).emit()
    return k.result


@dataclass(frozen=True)
class DepthwiseLoops:
    """Emits the loops of a depthwise convolution; deferred steps may go ``to`` another tensor."""

    isa: Isa
    spec: ConvSpec
    columns: tuple[Columns, ...]
    x: Tensor
    w: Tensor
    y: Tensor
    epilogue: Epilogue
    to: Tensor | None = None

    def emit(self) -> None:
        """One parallel loop over images, runs of rows and channel blocks."""
        spec = self.spec
        blocks = sum(c.blocks for c in self.columns)
        run = self._rows_per_task(blocks)
        runs = ceildiv(spec.oh, run)
        with parallel(static(spec.n) * runs * blocks) as task:
            block = hold(floormod(task, blocks))
            rest = hold(floordiv(task, blocks))
            part = hold(floormod(rest, runs))
            image = hold(floordiv(rest, runs))
            begin = hold(part * run)
            end = hold(minimum(begin + run, spec.oh))

            def one(c: Columns, first: Index) -> None:
                with serial(begin, end) as oh:
                    self._row(c, first, image, oh)

            for_columns(self.columns, block, one)

    def _rows_per_task(self, blocks: int) -> int:
        """Rows of a task: a task's input stays in the first-level cache, for reuse by rows."""
        spec = self.spec
        ow = spec.ow if isinstance(spec.ow, int) else 64
        taps = spec.kernel[0] * spec.kernel[1]
        want = max(2 * spec.kernel[0], 200_000 // (2 * ow * taps * max(1, spec.oc // blocks)))
        if isinstance(spec.oh, int):
            n = spec.n if isinstance(spec.n, int) else 1
            want = min(spec.oh, max(want, spec.oh * n * blocks // 64))
        return int(want)

    def _row(self, c: Columns, first: Index, image: Index, oh: Index) -> None:
        spec = self.spec
        ow, step = spec.ow, c.tile.rows
        whole = hold(floordiv(ow, step))
        if isinstance(ow, int) and isinstance(spec.w, int):
            begin = 0
            while begin < ow:
                count = min(step, ow - begin)
                loops = 1
                while (
                    self._inside(begin, count)
                    and begin + (loops + 1) * step <= ow
                    and self._inside(begin + loops * step, step)
                ):
                    loops += 1
                inside = self._inside(begin, count)
                with serial(loops) as t:
                    self._tile(c, first, image, oh, begin + t * step, count, inside)
                begin += loops * count
        else:
            lo, hi = self._inner_tiles(step, whole)
            with serial(whole) as t:
                at = hold(t * step)
                branch(
                    tirx.all(t >= lo, t < hi),
                    lambda: self._tile(c, first, image, oh, at, step, True),
                    lambda: self._tile(c, first, image, oh, at, step, False),
                )
            base = hold(whole * step)
            for_powers(
                base, ow, step, lambda at, count: self._tile(c, first, image, oh, at, count, False)
            )
        if self.epilogue.deferred:
            base = hold((image * spec.oh + oh) * ow)
            rows = (base, base + ow)
            finish_rows(self.isa, self.y, self.epilogue, *rows, spec.line, c, first, to=self.to)

    def _inner_tiles(self, step: int, whole: Index) -> tuple[Index, Index]:
        """The tiles [lo, hi) all of whose taps lie in the image."""
        spec = self.spec
        stride, left = spec.strides[1], spec.pads[1]
        reach = (spec.kernel[1] - 1) * spec.dilations[1]
        lo = -(-left // (step * stride))
        room = maximum(spec.w + (left - reach - 1 + stride), 0)
        return lo, hold(minimum(floordiv(floordiv(room, stride), step), whole))

    def _inside(self, begin: int, count: int) -> bool:
        spec = self.spec
        left = begin * spec.strides[1] - spec.pads[1]
        reach = (count - 1) * spec.strides[1] + (spec.kernel[1] - 1) * spec.dilations[1]
        return left >= 0 and left + reach < spec.w

    def _tile(
        self, c: Columns, first: Index, image: Index, oh: Index, begin: Index, count: int,
        inside: bool,
    ) -> None:  # fmt: skip
        """``count`` pixels from column ``begin`` of row ``oh``, one block of channels."""
        spec, lanes = self.spec, self.isa.lanes
        vectors = c.tile.vectors
        acc = Acc(count * vectors, lanes)
        acc.fill()
        kw = spec.kernel[1]
        padded = vector_count(spec.oc, self.isa) * lanes
        top = hold(oh * spec.strides[0] - spec.pads[0])
        first_row, last_row = kernel_rows(spec, top)
        left = begin * spec.strides[1] - spec.pads[1]
        if not isinstance(left, int):
            left = hold(left)
        channel = first * lanes
        with serial(first_row, last_row) as row:
            line = hold(
                ((image * spec.h + top + row * spec.dilations[0]) * spec.w + left) * spec.oc
                + channel
            )
            weights = hold(row * (kw * padded) + channel)
            for v in range(vectors):
                valid = c.tail if v == vectors - 1 else None
                at = (line + v * lanes, weights + v * lanes)
                if kw <= _MAX_UNROLLED:
                    self._row_taps(acc, v, at, padded, left, count, inside, valid)
                else:
                    self._looped_taps(acc, v, at, padded, left, count, inside, valid)
        pixel = hold((image * spec.oh + oh) * spec.ow + begin)
        for r in range(count):
            values = [acc[r * vectors + v] for v in range(vectors)]
            offset, place = (pixel + r) * spec.oc + channel, (pixel + r) * spec.line + channel
            self.epilogue.store_row(self.y, values, offset, place, channel, c.tail)

    def _row_taps(
        self, acc: Acc, v: int, at: tuple[Index, Index], padded: int, left: Index, count: int,
        inside: bool, valid: int | None,
    ) -> None:  # fmt: skip
        """All taps of one kernel row: weights in registers, each input pixel loaded once."""
        spec, lanes = self.spec, self.isa.lanes
        stride, kw, dw = spec.strides[1], spec.kernel[1], spec.dilations[1]
        vectors = len(acc) // count
        ws = [let(load(self.w.flat, at[1] + t * padded, lanes)) for t in range(kw)]
        for column in range((count - 1) * stride + (kw - 1) * dw + 1):
            pairs = [
                (r, t) for r in range(count) for t in range(kw) if r * stride + t * dw == column
            ]
            if not pairs:
                continue
            position = left + column
            if inside:
                guard: object = None
            elif isinstance(position, int) and isinstance(spec.w, int):
                if not 0 <= position < spec.w:
                    continue
                guard = None
            else:
                guard = tirx.all(position >= 0, position < spec.w)
            with when(guard) if guard is not None else nullcontext():
                value = let(load(self.x.flat, at[0] + column * spec.oc, lanes, valid))
                for r, t in pairs:
                    acc[r * vectors + v] = acc[r * vectors + v] + value * ws[t]

    def _looped_taps(
        self, acc: Acc, v: int, at: tuple[Index, Index], padded: int, left: Index, count: int,
        inside: bool, valid: int | None,
    ) -> None:  # fmt: skip
        """All taps of one row of a wide kernel, in a loop over its columns."""
        spec, lanes = self.spec, self.isa.lanes
        vectors = len(acc) // count
        with serial(spec.kernel[1]) as t:
            weight = let(load(self.w.flat, at[1] + t * padded, lanes))
            for r in range(count):
                column = r * spec.strides[1] + t * spec.dilations[1]
                position = left + column
                guard = None if inside else tirx.all(position >= 0, position < spec.w)
                with when(guard) if guard is not None else nullcontext():
                    value = let(load(self.x.flat, at[0] + column * spec.oc, lanes, valid))
                    acc[r * vectors + v] = acc[r * vectors + v] + value * weight
