"""Transposed convolution on NHWC data with constant weights (ONNX ConvTranspose).

``y[N, OH, OW, OC] = post(conv_transpose(x[N, H, W, IC], w))``. Arguments: ``x``, ``w``
(:func:`pack_conv_transpose`), the operands of the post-ops in order, ``y``.

Each output pixel is computed once, by gathering. Output columns with the same remainder by the
stride (a phase) use the same kernel columns on neighbouring input pixels, so that a phase is an
ordinary convolution of stride 1; with kernel = stride it is a product over the pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tvm import tirx

from burnish.backends.cpu.conv import for_powers, locate
from burnish.backends.cpu.epilogue import Epilogue
from burnish.backends.cpu.gemm import (
    FloatArray,
    accumulators,
    as_stored,
    finish_rows,
    for_columns,
    pack_columns,
    packed_size,
)
from burnish.backends.cpu.isa import Isa
from burnish.backends.cpu.microkernel import RegisterTile
from burnish.backends.cpu.tiling import Columns, Tile, tile_columns
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
    i64,
    kernel,
    minimum,
    parallel,
    serial,
    static,
    when,
)
from burnish.ir.postops import PostOp


@dataclass(frozen=True, eq=False)
class ConvTransposeSpec:
    """What a transposed convolution computes; a 1-D one has ``h`` = 1.

    Attributes:
        n: Batch: int or int64 expression.
        h: Input rows: int or expression.
        w: Input columns: int or expression.
        ic: Input channels.
        oc: Output channels.
        kernel: Kernel height and width.
        strides: Along rows and columns.
        pads: Top, left, bottom, right: taken off the output.
        dilations: Along rows and columns.
        groups: Groups; ``ic`` and ``oc`` are divisible by it.
        output_padding: Rows and columns added at the end of the output.
        postops: Applied to the result.
        tile: Overrides the tile rule: pixels by vectors of output channels.
        dtype: Element type of the tensors, ``float32`` or a 16-bit float; sums are float32.
    """

    n: Index
    h: Index
    w: Index
    ic: int
    oc: int
    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)
    groups: int = 1
    output_padding: tuple[int, int] = (0, 0)
    postops: tuple[PostOp, ...] = ()
    tile: Tile | None = None
    dtype: str = "float32"

    def _out(self, size: Index, axis: int) -> Index:
        reach = self.dilations[axis] * (self.kernel[axis] - 1) + 1 + self.output_padding[axis]
        cut = self.pads[axis] + self.pads[axis + 2]
        return static((static(size) - 1) * self.strides[axis] + (reach - cut))

    @property
    def oh(self) -> Index:
        """Output rows."""
        return self._out(self.h, 0)

    @property
    def ow(self) -> Index:
        """Output columns."""
        return self._out(self.w, 1)

    def columns(self, isa: Isa) -> tuple[Columns, ...]:
        """Blocks of output channels of one group."""
        taps = -(-self.kernel[0] // self.strides[0]) * -(-self.kernel[1] // self.strides[1])
        depth = taps * self.ic // self.groups
        rows = static(self.w)
        limit = rows if isinstance(rows, int) else None
        return tile_columns(isa, limit, depth, self.oc // self.groups, self.tile, dtype=self.dtype)


def pack_conv_transpose(w: npt.ArrayLike, spec: ConvTransposeSpec, isa: Isa) -> FloatArray:
    """Constant ONNX weights [IC, OC/groups, KH, KW] as the kernel of ``spec`` reads them: 1-D."""
    array = as_stored(w)
    ic, oc = spec.ic // spec.groups, spec.oc // spec.groups
    if array.shape != (spec.ic, oc, *spec.kernel):
        raise ValueError(f"weights of shape {array.shape} for {(spec.ic, oc, *spec.kernel)}")
    depth = ic * spec.kernel[0] * spec.kernel[1]
    columns = spec.columns(isa)
    parts = [
        pack_columns(g.transpose(2, 3, 0, 1).reshape(depth, oc), columns, isa)
        for g in array.reshape(spec.groups, ic, oc, *spec.kernel)
    ]
    return np.concatenate(parts)


def conv_transpose(isa: Isa, spec: ConvTransposeSpec, name: str = "conv_transpose") -> Kernel:
    """Build the kernel of ``spec``; arguments as in the module's docstring."""
    depth = spec.ic // spec.groups * spec.kernel[0] * spec.kernel[1]
    with kernel(name, isa, spec.dtype) as k:
        shape = (spec.n, spec.oh, spec.ow, spec.oc)
        x = k.input("x", (spec.n, spec.h, spec.w, spec.ic))
        w = k.input("w", (spec.groups * packed_size(depth, spec.oc // spec.groups, isa),))
        epilogue = Epilogue.declare(k, spec.postops, shape)
        y = k.output("y", shape)
        _Transposed(isa, spec, x, w, y, epilogue).emit()
    return k.result


@dataclass(frozen=True)
class _Row:
    """Where a task stands: its block of channels and one row of output pixels."""

    acc: Acc
    columns: Columns
    first: Index
    group: Index
    image: Index
    oh: Index


@dataclass(frozen=True)
class _Transposed:
    """Emits the loops of a transposed convolution."""

    isa: Isa
    spec: ConvTransposeSpec
    x: Tensor
    w: Tensor
    y: Tensor
    epilogue: Epilogue

    def emit(self) -> None:
        """One parallel loop over groups, blocks of output channels, images and runs of rows."""
        spec = self.spec
        columns = spec.columns(self.isa)
        blocks = sum(c.blocks for c in columns)
        run = self._rows_per_task(blocks)
        runs = ceildiv(spec.oh, run)
        n = static(spec.n)
        with parallel(n * runs * blocks * spec.groups) as task:
            taps = spec.kernel[0] * spec.kernel[1]
            weights = 4 * taps * spec.ic * (spec.oc // spec.groups)
            block, group, image, part = locate(task, blocks, spec.groups, n, runs, weights)
            begin = hold(part * run)
            end = hold(minimum(begin + run, spec.oh))
            acc = accumulators(columns, self.isa)

            def one(c: Columns, first: Index) -> None:
                with serial(begin, end) as oh:
                    self._row(_Row(acc, c, first, group, image, oh))

            for_columns(columns, block, one)

    def _rows_per_task(self, blocks: int) -> int:
        """Output rows of a task: at least 0.5 MFLOP, and at most 1/64 of the work if known."""
        spec = self.spec
        ow = spec.ow if isinstance(spec.ow, int) else 64
        taps = max(1, spec.kernel[0] * spec.kernel[1] // (spec.strides[0] * spec.strides[1]))
        width = max(1, spec.oc // (blocks * spec.groups))
        want = max(1, 500_000 // (2 * ow * taps * (spec.ic // spec.groups) * width))
        if isinstance(spec.oh, int):
            n = spec.n if isinstance(spec.n, int) else 1
            want = max(1, min(spec.oh, max(want, spec.oh * n * blocks * spec.groups // 64)))
        return int(want)

    def _row(self, row: _Row) -> None:
        """One row of output pixels, phase by phase."""
        spec = self.spec
        stride = spec.strides[1]
        for phase in range(stride):
            taps = self._taps(phase)
            count = floordiv(spec.ow - phase + (stride - 1), stride)
            self._phase(row, phase, taps, static(count))
        if self.epilogue.deferred:
            base = hold((row.image * spec.oh + row.oh) * spec.ow)
            channel = row.group * (spec.oc // spec.groups)
            finish_rows(
                self.isa, self.y, self.epilogue, base, base + spec.ow, spec.oc, row.columns,
                row.first, channel,
            )  # fmt: skip

    def _taps(self, phase: int) -> list[tuple[int, int]]:
        """Kernel columns of a phase, with the input column of its first output column."""
        spec = self.spec
        out = []
        for kw in range(spec.kernel[1]):
            at = phase + spec.pads[1] - kw * spec.dilations[1]
            if at % spec.strides[1] == 0:
                out.append((kw, at // spec.strides[1]))
        return out

    def _phase(self, row: _Row, phase: int, taps: list[tuple[int, int]], count: Index) -> None:
        """The ``count`` output pixels of a phase, in tiles of neighbours."""
        step = row.columns.tile.rows
        if not isinstance(count, int) or not isinstance(self.spec.w, int):
            whole = hold(floordiv(count, step))
            with serial(whole) as t:
                self._tile(row, phase, taps, hold(t * step), step, None)
            for_powers(
                hold(whole * step), count, step,
                lambda at, size: self._tile(row, phase, taps, at, size, None),
            )  # fmt: skip
            return
        starts = [(j, min(step, count - j)) for j in range(0, count, step)]
        i = 0
        while i < len(starts):
            begin, size = starts[i]
            rows = self._rows_inside(taps, begin, size)
            same = i + 1
            while (
                same < len(starts)
                and starts[same][1] == size
                and (
                    all(len(r) == size for r in rows)
                    and self._rows_inside(taps, *starts[same]) == rows
                )
            ):
                same += 1
            with serial(same - i) as t:
                self._tile(row, phase, taps, begin + t * step, size, rows)
            i = same

    def _rows_inside(self, taps: list[tuple[int, int]], begin: int, size: int) -> list[list[int]]:
        """For each tap, the pixels of a static tile whose input lies in the image."""
        w = self.spec.w
        return [[r for r in range(size) if 0 <= begin + r + at < w] for _, at in taps]

    def _tile(
        self,
        row: _Row,
        phase: int,
        taps: list[tuple[int, int]],
        begin: Index,
        count: int,
        rows: list[list[int]] | None,
    ) -> None:
        """Pixels [begin, begin + count) of a phase; ``rows`` is None if borders are unknown."""
        spec, lanes = self.spec, self.isa.lanes
        vectors = row.columns.tile.vectors
        oc = spec.oc // spec.groups
        tile = RegisterTile.zero(count, vectors, row.acc)
        self._reduce(row, tile, taps, begin, rows)
        pixel = hold((row.image * spec.oh + row.oh) * spec.ow + begin * spec.strides[1] + phase)
        for r in range(count):
            for v in range(vectors):
                channel = row.group * oc + row.first * lanes + v * lanes
                offset = (pixel + r * spec.strides[1]) * spec.oc + channel
                valid = row.columns.tail if v == vectors - 1 else None
                value = self.epilogue.start(tile.at(r, v), offset, channel, valid)
                self.y.store(offset, value, valid)

    def _reduce(
        self,
        row: _Row,
        tile: RegisterTile,
        taps: list[tuple[int, int]],
        begin: Index,
        rows: list[list[int]] | None,
    ) -> None:
        """Sum over the kernel rows that meet the output row, and the phase's kernel columns."""
        spec, lanes = self.spec, self.isa.lanes
        kh, kw = spec.kernel
        ic, oc = spec.ic // spec.groups, spec.oc // spec.groups
        stride = spec.strides[0]
        wide = tile.vectors * lanes
        depth = ic * kh * kw
        panel = hold(row.group * packed_size(depth, oc, self.isa) + row.first * (lanes * depth))
        with serial(kh) as i:
            source = hold(row.oh + spec.pads[0] - i * spec.dilations[0])
            ih = hold(floordiv(source, stride))
            meets = tirx.EQ(i64(floormod(source, stride)), i64(0))
            with when(tirx.all(i64(source) >= 0, meets, i64(ih) < i64(spec.h))):
                line = (row.image * spec.h + ih) * spec.w + begin
                for t, (j, at) in enumerate(taps):
                    base = hold((line + at) * spec.ic + row.group * ic)
                    weights = hold(panel + (i * kw + j) * (ic * wide))

                    def channels(
                        which: Sequence[int], base: Index = base, weights: Index = weights
                    ) -> None:
                        tile.stream(
                            self.x.flat,
                            lambda c: [base + (r * spec.ic + c) for r in range(tile.rows)],
                            self.w.flat,
                            lambda c: weights + c * wide,
                            (0, ic),
                            rows=which,
                        )

                    if rows is None:
                        self._guarded(tile.rows, begin + at, channels)
                    elif rows[t]:
                        channels(rows[t])

    def _guarded(self, rows: int, first: Index, channels: Callable[[Sequence[int]], None]) -> None:
        """One tap of a tile whose input pixels, from column ``first``, may lie outside."""
        w = self.spec.w
        first = hold(first)

        def apart() -> None:
            for r in range(rows):
                with when(tirx.all(first + r >= 0, first + r < w)):
                    channels([r])

        inside = tirx.all(first >= 0, first + rows <= w)
        branch(inside, lambda: channels(range(rows)), apart)
