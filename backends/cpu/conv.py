"""Direct convolution on NHWC data with constant weights (ONNX Conv).

``y[N, OH, OW, OC] = post(conv(x[N, H, W, IC], w))``. Arguments: ``x``, ``w`` (:func:`pack_conv`),
the operands of the post-ops in order, ``y``.

No padded copy of the input is made. Rows above and below the image are skipped by the bounds of
the loop over kernel rows. In a tile of pixels that touches the left or right border, the kernel
columns are split into runs for which the same pixels lie inside the image, so the border pixels
of a tile drop out one after the other and the others stay in registers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from tvm import tirx

from burnish.backends.cpu.dot2 import DOT2, dot_of, pairs
from burnish.backends.cpu.epilogue import Epilogue
from burnish.backends.cpu.gemm import (
    FloatArray,
    accumulators,
    as_stored,
    emit_gemm,
    finish_rows,
    for_columns,
    pack_depth,
    packed_size,
)
from burnish.backends.cpu.isa import Isa
from burnish.backends.cpu.microkernel import F32, Dot, RegisterTile
from burnish.backends.cpu.place import Place, result_of
from burnish.backends.cpu.tiling import MAX_ROWS_WIDE, Columns, Tile, most_rows, tile_columns
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
    maximum,
    minimum,
    parallel,
    prefetch,
    serial,
    static,
    when,
)
from burnish.ir.postops import PostOp

_SMALL_WEIGHTS = 512 * 1024
_MAX_ROWS_SYMBOLIC = 6


@dataclass(frozen=True, eq=False)
class ConvSpec:
    """What a convolution kernel computes; a 1-D convolution has ``h`` = 1.

    Attributes:
        n: Batch: int or int64 expression.
        h: Input rows: int or expression.
        w: Input columns: int or expression.
        ic: Input channels.
        oc: Output channels.
        kernel: Kernel height and width.
        strides: Along rows and columns.
        pads: Top, left, bottom, right.
        dilations: Along rows and columns.
        groups: Groups; ``ic`` and ``oc`` are divisible by it.
        postops: Applied to the result.
        tile: Overrides the tile rule: pixels by vectors of output channels.
        dtype: Element type of the tensors, ``float32`` or a 16-bit float; sums are float32.
        over: Write the result over the post-ops' operand that has its shape, instead of ``y``.
        place: Where in a wider ``y`` the output channels go.
        dot: What is multiplied; channels are counted in its operands.
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
    postops: tuple[PostOp, ...] = ()
    tile: Tile | None = None
    dtype: str = "float32"
    over: bool = False
    place: Place | None = None
    dot: Dot = F32

    @property
    def oh(self) -> Index:
        """Output rows."""
        return _out(self.h, self.pads[0] + self.pads[2], self, 0)

    @property
    def ow(self) -> Index:
        """Output columns."""
        return _out(self.w, self.pads[1] + self.pads[3], self, 1)

    @property
    def pointwise(self) -> bool:
        """Whether it is a compact product over the pixels: 1x1, no stride, padding or groups."""
        return (
            self.kernel == (1, 1)
            and self.strides == (1, 1)
            and self.pads == (0, 0, 0, 0)
            and self.groups == 1
        )

    @property
    def line(self) -> int:
        """Elements between the results of neighbouring pixels in ``y``."""
        return self.oc if self.place is None else self.place.channels

    def inner(self, isa: Isa) -> ConvSpec:
        """The same with channels counted in what is multiplied: pairs of bfloat16 where it can."""
        if self.dot is not F32:
            return self
        dot = dot_of(isa, self.dtype, self.ic // self.groups)
        return self if dot is F32 else replace(self, ic=self.ic // dot.kpack, dot=dot)

    @property
    def tile_rows(self) -> int | None:
        """Pixels that tiles are taken from: a row of the output, or all of it; None if unknown."""
        if not self.pointwise:
            return self.ow if isinstance(self.ow, int) else None
        dims = [static(d) for d in (self.n, self.h, self.w)]
        return int(np.prod(dims)) if all(isinstance(d, int) for d in dims) else None

    def columns(self, isa: Isa) -> tuple[Columns, ...]:
        """Blocks of output channels of one group."""
        ic = self.inner(isa).ic // self.groups
        depth = ic * self.kernel[0] * self.kernel[1]
        oc, rows = self.oc // self.groups, self.tile_rows
        if isinstance(self.w, int) or self.pointwise:
            most = MAX_ROWS_WIDE
            if self.inner(isa).dot is DOT2 and not self.pointwise:
                size = static(2 * self.h * self.w * self.ic)
                most = most_rows(oc <= 2 * isa.lanes, size, 2 * self.ic * self.strides[1])
            return tile_columns(isa, rows, depth, oc, self.tile, dtype=self.dtype, most_wide=most)
        # The code for borders of unknown place grows with the square of the rows.
        return tile_columns(isa, rows, depth, oc, self.tile, _MAX_ROWS_SYMBOLIC, 2, self.dtype)


def _out(size: Index, pads: int, spec: ConvSpec, axis: int) -> Index:
    """Output size along an axis (ONNX Conv, explicit padding)."""
    reach = spec.dilations[axis] * (spec.kernel[axis] - 1) + 1
    return static(floordiv(static(size) + (pads - reach), spec.strides[axis]) + 1)


def locate(
    task: Index, blocks: int, groups: int, n: Index, runs: Index, weights: int
) -> tuple[Index, Index, Index, Index]:
    """Block of channels, group, image and run of rows of a task; ``weights`` in bytes.

    Small weights stay in the cache: then the blocks of a run follow each other, so that its
    output is written while it is there too. Else the tasks that share weights do.
    """
    if weights <= _SMALL_WEIGHTS:
        block, rest = hold(floormod(task, blocks)), hold(floordiv(task, blocks))
        group, rest = hold(floormod(rest, groups)), hold(floordiv(rest, groups))
        return block, group, hold(floordiv(rest, runs)), hold(floormod(rest, runs))
    part, rest = hold(floormod(task, runs)), hold(floordiv(task, runs))
    image, rest = hold(floormod(rest, n)), hold(floordiv(rest, n))
    return hold(floormod(rest, blocks)), hold(floordiv(rest, blocks)), image, part


def kernel_rows(spec: ConvSpec, top: Index) -> tuple[Index, Index]:
    """Kernel rows that lie in the image for the window whose first row is ``top``."""
    kh, dh = spec.kernel[0], spec.dilations[0]
    first: Index = 0
    last: Index = kh
    if spec.pads[0]:
        first = hold(minimum(ceildiv(maximum(0 - top, 0), dh), kh))
    if spec.pads[2]:
        last = hold(minimum(ceildiv(maximum(spec.h - top, 0), dh), kh))
    return first, last


def for_powers(begin: Index, end: Index, below: int, tile: Callable[[Index, int], None]) -> None:
    """Cover [begin, end), which has fewer than ``below`` places, by tiles of powers of two."""
    left = hold(end - begin)
    size = 1 << (below - 1).bit_length()
    while (size := size // 2) >= 1:
        with when(tirx.EQ(floormod(floordiv(left, size), 2), tirx.const(1, "int64"))):
            tile(hold(begin + floordiv(left, 2 * size) * (2 * size)), size)


def pack_conv(w: npt.ArrayLike, spec: ConvSpec, isa: Isa) -> FloatArray:
    """Constant ONNX weights [OC, IC/groups, KH, KW] as the kernel of ``spec`` reads them: 1-D."""
    array = as_stored(w)
    ic, oc = spec.ic // spec.groups, spec.oc // spec.groups
    if array.shape != (spec.oc, ic, *spec.kernel):
        raise ValueError(f"weights of shape {array.shape} for {(spec.oc, ic, *spec.kernel)}")
    depth = ic * spec.kernel[0] * spec.kernel[1]
    columns = spec.columns(isa)
    dot = spec.inner(isa).dot
    parts = [
        pack_depth(g.transpose(2, 3, 1, 0).reshape(depth, oc), columns, isa, dot)
        for g in array.reshape(spec.groups, oc, ic, *spec.kernel)
    ]
    return np.concatenate(parts)


def conv(isa: Isa, spec: ConvSpec, name: str = "conv") -> Kernel:
    """Build the kernel of ``spec``; arguments as in the module's docstring."""
    ic, oc = spec.ic // spec.groups, spec.oc // spec.groups
    depth = ic * spec.kernel[0] * spec.kernel[1]
    columns = spec.columns(isa)
    with kernel(name, isa, spec.dtype) as k:
        shape = (spec.n, spec.oh, spec.ow, spec.oc)
        x = k.input("x", (spec.n, spec.h, spec.w, spec.ic))
        w = k.input("w", (spec.groups * packed_size(depth, oc, isa),))
        epilogue = Epilogue.declare(k, spec.postops, shape)
        y = result_of(k, epilogue, shape, spec.place, over=spec.over)
        inner = spec.inner(isa)
        x, w = pairs(x, inner.dot), pairs(w, inner.dot)
        if spec.pointwise:
            rows = static(x.shape[0] * x.shape[1] * x.shape[2])
            depth, line = inner.ic, spec.line
            emit_gemm(
                isa, x, w, y, epilogue, rows, depth, spec.oc, columns, dot=inner.dot, line=line
            )
        else:
            DirectLoops(isa, inner, columns, x, w, y, epilogue).emit()
    return k.result


@dataclass(frozen=True)
class Row:
    """Where a task stands: its block of channels and one row of output pixels."""

    acc: Acc
    columns: Columns
    first: Index
    group: Index
    image: Index
    oh: Index


@dataclass(frozen=True)
class DirectLoops:
    """Emits the loops of a direct convolution; deferred steps may go ``to`` another tensor."""

    isa: Isa
    spec: ConvSpec
    columns: tuple[Columns, ...]
    x: Tensor
    w: Tensor
    y: Tensor
    epilogue: Epilogue
    to: Tensor | None = None

    @property
    def ic(self) -> int:
        """Input channels of a group."""
        return self.spec.ic // self.spec.groups

    @property
    def depth(self) -> int:
        """Steps of the reduction."""
        return self.ic * self.spec.kernel[0] * self.spec.kernel[1]

    def emit(self) -> None:
        """One parallel loop over groups, blocks of output channels, images and runs of rows."""
        spec = self.spec
        blocks = sum(c.blocks for c in self.columns)
        run = self._rows_per_task(blocks)
        runs = ceildiv(spec.oh, run)
        n = static(spec.n)
        with parallel(n * runs * blocks * spec.groups) as task:
            place = locate(task, blocks, spec.groups, n, runs, 4 * self.depth * spec.oc)
            block, group, image, part = place
            begin = let(part * run)
            end = hold(minimum(begin + run, spec.oh))
            acc = accumulators(self.columns, self.isa, spec.dot)

            def one(c: Columns, first: Index) -> None:
                with serial(begin, end) as oh:
                    self._row(Row(acc, c, first, group, image, oh))

            for_columns(self.columns, block, one)

    def _rows_per_task(self, blocks: int) -> int:
        """Output rows of a task: at least 0.5 MFLOP, and at most 1/64 of the work if known."""
        spec = self.spec
        ow = spec.ow if isinstance(spec.ow, int) else 64
        flops = 2 * ow * self.depth * max(1, spec.oc // (blocks * spec.groups))
        want = max(1, 500_000 // flops)
        if isinstance(spec.oh, int):
            n = spec.n if isinstance(spec.n, int) else 1
            share = spec.oh * n * blocks * spec.groups // 64
            return int(max(1, min(spec.oh, max(want, share))))
        return int(want)

    def _row(self, row: Row) -> None:
        """One row of output pixels, one block of channels."""
        spec = self.spec
        ow = spec.ow
        step = row.columns.tile.rows

        def tile(begin: Index, count: int, inside: bool) -> None:
            self._tile(row, begin, count, inside)

        if isinstance(ow, int) and isinstance(spec.w, int):
            self._static_row(ow, min(step, ow), tile)
        else:
            self._dynamic_row(ow, step, tile)
        if self.epilogue.deferred:
            base = hold((row.image * spec.oh + row.oh) * ow)
            channel = row.group * (spec.oc // spec.groups)
            finish_rows(
                self.isa, self.y, self.epilogue, base, base + ow, spec.line, row.columns,
                row.first, channel, self.to,
            )  # fmt: skip

    def _inside(self, begin: int, count: int) -> bool:
        """Whether all taps of static pixels [begin, begin + count) lie in the image."""
        spec = self.spec
        left = begin * spec.strides[1] - spec.pads[1]
        right = (begin + count - 1) * spec.strides[1] - spec.pads[1]
        return left >= 0 and right + (spec.kernel[1] - 1) * spec.dilations[1] < spec.w

    def _static_row(self, ow: int, step: int, tile: Callable[[Index, int, bool], None]) -> None:
        """Tiles of a row of known size; runs of inner tiles become a loop."""
        starts = [(o, min(step, ow - o)) for o in range(0, ow, step)]
        i = 0
        while i < len(starts):
            begin, count = starts[i]
            inside = self._inside(begin, count)
            j = i + 1
            while inside and j < len(starts) and starts[j][1] == count and self._inside(*starts[j]):
                j += 1
            with serial(j - i) as t:
                tile(begin + t * step, count, inside)
            i = j

    def _dynamic_row(self, ow: Index, step: int, tile: Callable[[Index, int, bool], None]) -> None:
        """Tiles of a row of unknown size: inner ones without bounds, then the general ones."""
        spec = self.spec
        whole = hold(floordiv(ow, step))
        stride, left = spec.strides[1], spec.pads[1]
        reach = (spec.kernel[1] - 1) * spec.dilations[1]
        # Tile t is inside if t*step*stride >= left, ((t+1)*step - 1)*stride - left + reach < w.
        lo = hold(minimum(-(-left // (step * stride)), whole))
        room = maximum(spec.w + left - reach - 1 + stride, 0)
        hi = hold(maximum(minimum(floordiv(floordiv(room, stride), step), whole), lo))
        with serial(whole) as t:
            begin = hold(t * step)
            branch(
                tirx.all(t >= lo, t < hi),
                lambda: tile(begin, step, True),
                lambda: tile(begin, step, False),
            )
        for_powers(hold(whole * step), ow, step, lambda at, count: tile(at, count, False))

    def _tile(self, row: Row, begin: Index, count: int, inside: bool) -> None:
        """One register tile: ``count`` pixels from column ``begin``."""
        spec, vectors = self.spec, row.columns.tile.vectors
        tile = RegisterTile.zero(count, vectors, row.acc, spec.dot)
        self._reduce(row, tile, begin, inside)
        pixel = hold((row.image * spec.oh + row.oh) * spec.ow + begin)
        channel = row.group * (spec.oc // spec.groups) + row.first * self.isa.lanes
        for r in range(count):
            values = [tile.at(r, v) for v in range(vectors)]
            offset, place = (pixel + r) * spec.oc + channel, (pixel + r) * spec.line + channel
            self.epilogue.store_row(self.y, values, offset, place, channel, row.columns.tail)

    def _reduce(self, row: Row, tile: RegisterTile, begin: Index, inside: bool) -> None:
        """Sum over the kernel window."""
        spec, lanes = self.spec, self.isa.lanes
        kw, dw, ic = spec.kernel[1], spec.dilations[1], self.ic
        oc = spec.oc // spec.groups
        top = hold(row.oh * spec.strides[0] - spec.pads[0])
        left = begin * spec.strides[1] - spec.pads[1]
        panel = hold(
            row.group * packed_size(self.depth, oc, self.isa) + row.first * (lanes * self.depth)
        )
        first_row, last_row = kernel_rows(spec, top)
        bounds = None if inside else self._bounds(tile.rows, left)
        pixels = [r * spec.strides[1] * spec.ic for r in range(tile.rows)]
        wide = tile.vectors * lanes
        ahead = self._ahead(row, panel, begin)
        with serial(first_row, last_row) as kh:
            line = (row.image * spec.h + top + kh * spec.dilations[0]) * spec.w
            base = hold((line + left) * spec.ic + row.group * ic)
            weights = hold(panel + kh * (kw * ic * wide))

            def taps(lo: Index, hi: Index, rows: Sequence[int]) -> None:
                """Kernel columns [lo, hi) for some pixels of the tile."""
                if isinstance(lo, int) and isinstance(hi, int) and lo >= hi:
                    return

                def bring_next(j: Index) -> None:
                    if ahead is not None and (len(rows) > 1 or tile.rows == 1):  # once a column
                        prefetch(self.w.flat, ahead + (kh * (kw * ic) + j) * lanes)

                if dw == 1 and spec.groups == 1:  # the window's row is contiguous
                    tile.stream(
                        self.x.flat,
                        lambda j: [base + (p + j) for p in pixels],
                        self.w.flat,
                        lambda j: weights + j * wide,
                        (lo * ic, hi * ic),
                        unit=ic,
                        rows=rows,
                        before=bring_next,
                    )
                    return
                with serial(lo, hi) as t:
                    tile.stream(
                        self.x.flat,
                        lambda i: [base + (p + t * (dw * spec.ic) + i) for p in pixels],
                        self.w.flat,
                        lambda i: weights + (t * ic + i) * wide,
                        (0, ic),
                        rows=rows,
                    )

            if bounds is None:
                taps(0, kw, range(tile.rows))
            else:
                _border(*bounds, taps)

    def _ahead(self, row: Row, panel: Index, begin: Index) -> Index | None:
        """Where in the next block of large weights this tile prefetches, a line in each step.

        They come from memory once in a run of a model, while the block before is in use.
        """
        if 4 * self.depth * self.spec.oc <= _SMALL_WEIGHTS:
            return None
        step = row.columns.tile.rows
        number = row.oh * ceildiv(self.spec.ow, step) + floordiv(begin, step)
        lanes = self.isa.lanes
        return hold(panel + self.depth * lanes * (number + row.columns.tile.vectors))

    def _bounds(self, rows: int, left: Index) -> tuple[list[Index], list[Index]]:
        """Kernel columns [begins[r], ends[r]) that lie in the image, for each pixel of a tile."""
        spec = self.spec
        kw, dw = spec.kernel[1], spec.dilations[1]
        begins: list[Index] = []
        ends: list[Index] = []
        for r in range(rows):
            at = left + r * spec.strides[1]
            lo = minimum(ceildiv(maximum(0 - at, 0), dw), kw) if spec.pads[1] else 0
            hi = minimum(ceildiv(maximum(spec.w - at, 0), dw), kw) if spec.pads[3] else kw
            begins.append(hold(lo))
            ends.append(hold(maximum(hi, lo)))
        return begins, ends


def _border(
    begins: list[Index],
    ends: list[Index],
    taps: Callable[[Index, Index, Sequence[int]], None],
) -> None:
    """Taps of a tile some of whose pixels have kernel columns outside the image.

    Both bounds fall with the pixel, so the runs of columns between neighbouring bounds have a
    suffix or a prefix of the pixels.
    """
    rows = len(begins)

    def shared() -> None:
        for r in reversed(range(1, rows)):
            taps(begins[r], begins[r - 1], range(r, rows))
        taps(begins[0], ends[-1], range(rows))
        for r in reversed(range(1, rows)):
            taps(ends[r], ends[r - 1], range(r))

    def apart() -> None:
        for r in range(rows):
            taps(begins[r], ends[r], [r])

    # A window wider than what is left of the image may have no column that all pixels share.
    branch(begins[0] <= ends[-1], shared, apart)
