"""Convolutions with fewer filters than a vector has lanes (ONNX Conv): lanes along the reduction.

``y[N, OH, OW, OC] = post(conv(x[N, H, W, IC], w))``. Arguments: ``x``, ``w`` (:func:`pack_dots`),
the operands of the post-ops in order, ``y``.

Where lanes run over output channels, most of them are idle if there are few. In channels-last
data a row of the window is contiguous, so that each result is a sum of dot products of whole
vectors. A tile is some neighbouring pixels by all filters; in the end the lanes of all its
accumulators are added up at once, which gives the results in the order in which they are stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from tvm.ir.prim import Shuffle

from burnish.backends.cpu.conv import ConvSpec, kernel_rows
from burnish.backends.cpu.epilogue import Epilogue
from burnish.backends.cpu.gemm import FloatArray, as_stored
from burnish.backends.cpu.isa import Isa
from burnish.backends.cpu.place import result_of
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
    local,
    maximum,
    minimum,
    parallel,
    serial,
    static,
    store,
    when,
)

#: More pixels than this hide the latency of additions; further ones only cost registers.
_MAX_PIXELS = 12
#: Tasks that a picture of few rows is cut into, so that several threads have work.
_LEAST_TASKS = 16
_LATENCY = 4.0


def takes(spec: ConvSpec, isa: Isa) -> bool:
    """Whether the template computes ``spec``, and may be faster than lanes over channels."""
    whole = spec.groups == 1 and spec.dilations[1] == 1 and spec.dtype == "float32"
    return whole and spec.oc < isa.lanes and not spec.pointwise


def dots_tile(spec: ConvSpec, isa: Isa) -> int:
    """Pixels of a tile: accumulators, a vector of each pixel and one of weights fit."""
    most = max(1, min(_MAX_PIXELS, (isa.registers - 1) // (spec.oc + 1)))
    if not isinstance(spec.ow, int):
        return most
    width: int = spec.ow
    return min(range(1, min(most, width) + 1), key=lambda p: (_row_cycles(spec, isa, p, width), -p))


def dots_cost(spec: ConvSpec, isa: Isa, pixels: int, width: int) -> float:
    """Estimated cycles for ``pixels`` results of each filter, in rows of ``width``."""
    return pixels / width * _row_cycles(spec, isa, dots_tile(spec, isa), width)


def _row_cycles(spec: ConvSpec, isa: Isa, tile: int, width: int) -> float:
    steps = spec.kernel[0] * -(-spec.kernel[1] * spec.ic // isa.lanes)

    def cycles(pixels: int) -> float:
        sums = pixels * spec.oc
        # Most vectors of pixels lie in two cache lines, which takes two reads.
        reads = (2 * pixels + spec.oc) / 2
        return steps * max(sums / 2, reads, _LATENCY) + 1.5 * sums + 16

    whole, rest = divmod(width, tile)
    return whole * cycles(tile) + rest * cycles(1)


def _line(spec: ConvSpec, isa: Isa) -> int:
    """Elements of one row of a packed filter: whole vectors."""
    return -(-spec.kernel[1] * spec.ic // isa.lanes) * isa.lanes


def packed_dots_size(spec: ConvSpec, isa: Isa) -> int:
    """Elements of packed weights."""
    # Behind the last row stands a vector for reads that start within the row.
    return spec.kernel[0] * spec.oc * _line(spec, isa) + isa.lanes


def pack_dots(w: npt.ArrayLike, spec: ConvSpec, isa: Isa) -> FloatArray:
    """Constant ONNX weights [OC, IC, KH, KW] as the kernel reads them: 1-D.

    Kernel row, filter, position in the row of the window, padded to whole vectors with 0.
    """
    array = as_stored(w)
    if array.shape != (spec.oc, spec.ic, *spec.kernel):
        raise ValueError(f"weights of shape {array.shape} for {(spec.oc, spec.ic, *spec.kernel)}")
    rows = array.transpose(2, 0, 3, 1).reshape(spec.kernel[0], spec.oc, -1)
    packed = np.zeros(packed_dots_size(spec, isa), array.dtype)
    view = packed[: -isa.lanes].reshape(spec.kernel[0], spec.oc, _line(spec, isa))
    view[:, :, : rows.shape[2]] = rows
    return packed


def conv_dots(isa: Isa, spec: ConvSpec, name: str = "conv_dots") -> Kernel:
    """Build the kernel of ``spec``; arguments as in the module's docstring."""
    with kernel(name, isa, spec.dtype) as k:
        shape = (spec.n, spec.oh, spec.ow, spec.oc)
        x = k.input("x", (spec.n, spec.h, spec.w, spec.ic))
        w = k.input("w", (packed_dots_size(spec, isa),))
        epilogue = Epilogue.declare(k, spec.postops, shape)
        y = result_of(k, epilogue, shape, over=spec.over)
        _Dots(isa, spec, dots_tile(spec, isa), x, w, y, epilogue).emit()
    return k.result


def sum_lanes(vectors: Sequence[Expr]) -> Expr:
    """A vector whose lane ``i`` is the sum of ``vectors[i]``; there are no more than lanes.

    Halves of two vectors are added to one vector, quarters of two of those, and so on: three
    instructions for each vector.
    """
    level = [let(v) for v in vectors]
    lanes = lanes_of(level[0])
    width = lanes
    while width > 1:
        width //= 2
        # Each sum of a vector so far fills 2 * width lanes; the lower and upper halves are added.
        low = [g * 2 * width + i for g in range(lanes // width) for i in range(width)]
        high = [lane + width for lane in low]
        level = [
            let(Shuffle([a, b], low) + Shuffle([a, b], high))
            for a, b in ((level[i], level[min(i + 1, len(level) - 1)]) for i in
                         range(0, len(level), 2))
        ]  # fmt: skip
    return level[0]


@dataclass(frozen=True)
class _Dots:
    """Emits the loops of a convolution of few filters."""

    isa: Isa
    spec: ConvSpec
    tile: int
    x: Tensor
    w: Tensor
    y: Tensor
    epilogue: Epilogue

    def emit(self) -> None:
        """One parallel loop over images, runs of rows and pieces of the rows."""
        spec = self.spec
        run, piece = self._task_size()
        runs, pieces = ceildiv(spec.oh, run), ceildiv(spec.ow, piece)
        with parallel(static(spec.n) * runs * pieces) as task:
            part, rest = hold(floormod(task, pieces)), hold(floordiv(task, pieces))
            image, rows = hold(floordiv(rest, runs)), hold(floormod(rest, runs))
            first = hold(part * piece)
            last = hold(minimum(first + piece, spec.ow))
            inner = self._inner()
            begin = hold(minimum(maximum(inner[0], first), last))
            end = hold(maximum(minimum(inner[1], last), begin))
            acc = Acc(self.tile * spec.oc, self.isa.lanes)
            epilogue = self._periodic()
            with serial(hold(rows * run), hold(minimum(rows * run + run, spec.oh))) as oh:
                row = _Row(self, acc, epilogue, image, oh)
                with serial(first, begin) as ow:
                    row.pixel(ow)
                whole = hold(floordiv(end - begin, self.tile))
                with serial(whole) as i:
                    row.inner(hold(begin + i * self.tile), self.tile)
                with serial(hold(begin + whole * self.tile), last) as ow:
                    row.pixel(ow)

    def _task_size(self) -> tuple[int, Index]:
        """Rows and columns of a task."""
        spec = self.spec
        ow = spec.ow if isinstance(spec.ow, int) else 64
        flops = 2 * ow * spec.oc * spec.ic * spec.kernel[0] * spec.kernel[1]
        want = max(1, 500_000 // flops)
        if not isinstance(spec.oh, int):
            return want, spec.ow
        n = spec.n if isinstance(spec.n, int) else 1
        run = max(1, min(spec.oh, max(want, spec.oh * n // 64)))
        tasks = n * -(-spec.oh // run)
        cuts = min(-(-_LEAST_TASKS // tasks), run * flops // 500_000)
        if cuts < 2 or not isinstance(spec.ow, int):
            return run, spec.ow
        return run, -(-spec.ow // (cuts * self.tile)) * self.tile

    def _inner(self) -> tuple[Index, Index]:
        """The pixels [begin, end) of a row whose whole windows lie in the image."""
        spec = self.spec
        stride, left = spec.strides[1], spec.pads[1]
        room = maximum(spec.w + (left - spec.kernel[1] + stride), 0)
        return -(-left // stride), hold(floordiv(room, stride))

    def _periodic(self) -> Epilogue:
        """The epilogue for runs of pixels: operands of channels repeat with their number."""
        spec, lanes = self.spec, self.isa.lanes
        count = -(-self.tile * spec.oc // lanes) * lanes
        steps = []
        for post, operand in self.epilogue.steps:
            if operand is not None and post.operand == "channel":
                cell = local(count)
                with serial(count) as i:
                    store(cell, i, operand.load(floormod(i, spec.oc)))
                operand = replace(operand, flat=cell)
            steps.append((post, operand))
        return Epilogue(tuple(steps), len(steps))


@dataclass(frozen=True)
class _Row:
    """One row of output pixels of an image."""

    dots: _Dots
    acc: Acc
    epilogue: Epilogue
    image: Index
    oh: Index

    def inner(self, begin: Index, count: int) -> None:
        """``count`` pixels from column ``begin``, whose windows lie in the image."""
        spec, lanes = self.dots.spec, self.dots.isa.lanes
        self._clear(count)
        whole, tail = divmod(spec.kernel[1] * spec.ic, lanes)
        left = begin * spec.strides[1] - spec.pads[1]

        def line(base: Index, weights: Index) -> None:
            with serial(whole) as i:
                self._step(count, base + i * lanes, weights + i * lanes, None)
            if tail:
                self._step(count, base + whole * lanes, weights + whole * lanes, tail)

        self._lines(left, line)
        self._finish(begin, count)

    def pixel(self, ow: Index) -> None:
        """One pixel, whose window may lie in part outside of the image."""
        spec, lanes = self.dots.spec, self.dots.isa.lanes
        self._clear(1)
        left = hold(ow * spec.strides[1] - spec.pads[1])
        lo = hold(maximum(0 - left, 0))
        hi = hold(maximum(minimum(spec.w - left, spec.kernel[1]), lo))
        whole = hold(floordiv((hi - lo) * spec.ic, lanes))
        tail = hold(floormod((hi - lo) * spec.ic, lanes))

        def line(base: Index, weights: Index) -> None:
            base, weights = hold(base + lo * spec.ic), hold(weights + lo * spec.ic)
            with serial(whole) as i:
                self._step(1, base + i * lanes, weights + i * lanes, None)
            with when(tail > 0):
                self._step(1, base + whole * lanes, weights + whole * lanes, tail)

        self._lines(left, line)
        self._finish(ow, 1)

    def _clear(self, count: int) -> None:
        for i in range(count * self.dots.spec.oc):
            self.acc[i] = constant(0, self.acc.lanes)

    def _lines(self, left: Index, line: Callable[[Index, Index], None]) -> None:
        """Call ``line`` with the places in ``x`` and ``w`` of each row of the window."""
        spec = self.dots.spec
        top = hold(self.oh * spec.strides[0] - spec.pads[0])
        first, last = kernel_rows(spec, top)
        size = spec.oc * _line(spec, self.dots.isa)
        with serial(first, last) as kh:
            row = (self.image * spec.h + top + kh * spec.dilations[0]) * spec.w
            line(hold((row + left) * spec.ic), hold(kh * size))

    def _step(self, count: int, at: Index, weights: Index, valid: Index | None) -> None:
        """Add a vector of each pixel times one of each filter."""
        spec, lanes = self.dots.spec, self.dots.isa.lanes
        apart = spec.strides[1] * spec.ic
        pixels = [let(load(self.dots.x.flat, at + r * apart, lanes, valid)) for r in range(count)]
        for o in range(spec.oc):
            place = weights + o * _line(spec, self.dots.isa)
            weight = let(load(self.dots.w.flat, place, lanes))
            for r, pixel in enumerate(pixels):
                i = r * spec.oc + o
                self.acc[i] = self.acc[i] + pixel * weight

    def _finish(self, begin: Index, count: int) -> None:
        """Add up the lanes, and store the results of ``count`` pixels."""
        spec, lanes = self.dots.spec, self.dots.isa.lanes
        sums = count * spec.oc
        base = hold(((self.image * spec.oh + self.oh) * spec.ow + begin) * spec.oc)
        for i in range(0, sums, lanes):
            size = min(lanes, sums - i)
            value = sum_lanes([self.acc[i + j] for j in range(size)])
            valid = size if size < lanes else None
            value = self.epilogue.start(value, base + i, i, valid)
            self.dots.y.store(base + i, value, valid)
