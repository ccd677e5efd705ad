"""Pooling on NHWC data (ONNX MaxPool, AveragePool, GlobalMaxPool, GlobalAveragePool).

Arguments: ``x`` [N, H, W, C], ``y`` [N, OH, OW, C]; float32. Vectors run over channels.
A maximum ignores NaN. Averages of 8 bits are exact sums in int32, scaled once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from tvm import tirx

from burnish.backends.cpu.codes import LIMITS, Codes, coded
from burnish.backends.cpu.gemm import for_columns
from burnish.backends.cpu.isa import Isa
from burnish.backends.cpu.place import Place, placed
from burnish.backends.cpu.tiling import Columns, Tile, plan_columns
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
    i64,
    kernel,
    lanes_of,
    let,
    maximum,
    minimum,
    parallel,
    product,
    select,
    serial,
    splat,
    static,
    with_lanes,
)
from burnish.ir.types import BY_NAME

_LOWEST = float("-inf")
#: Vectors of channels that are pooled together.
_VECTORS = 4
#: As many codes of 8 bits add up to a sum of 16 bits.
_SHORT_TAPS = 256
#: Lanes of float32 in the vectors of instruction sets that can mask bytes.
_MASKED_LANES = 16


@dataclass(frozen=True)
class CodeAverage:
    """How an average of 8 bits reads and writes.

    Attributes:
        x_zero: The code of 0 in ``x``.
        factor: Scale of ``x`` over that of ``y``.
        y_dtype: ``uint8``, ``int8``, or ``float32``, whose scale is 1.
        y_zero: The code of 0 in ``y``.
    """

    x_zero: int
    factor: float
    y_dtype: str = "float32"
    y_zero: int = 0


@dataclass(frozen=True, eq=False)
class PoolSpec:
    """What a pooling kernel computes.

    Attributes:
        kind: ``max`` or ``average``.
        n: Batch: int or int64 expression.
        h: Input rows: int or expression.
        w: Input columns: int or expression.
        c: Channels.
        kernel: Window height and width; None pools whole images (the Global operators).
        strides: Along rows and columns.
        pads: Top, left, bottom, right.
        dilations: Along rows and columns.
        ceil_mode: Round the output size up (ONNX ceil_mode = 1).
        count_include_pad: Average over padded positions too.
        dtype: Element type of the tensors, ``float32`` or a 16-bit float, whose sums are float32;
            of a maximum also ``uint8`` or ``int8``.
        codes: For an average of ``uint8`` or ``int8``.
        place: Where in a wider ``y`` the channels go.
    """

    kind: Literal["max", "average"]
    n: Index
    h: Index
    w: Index
    c: int
    kernel: tuple[int, int] | None = None
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)
    ceil_mode: bool = False
    count_include_pad: bool = False
    dtype: str = "float32"
    codes: CodeAverage | None = None
    place: Place | None = None

    @property
    def sums(self) -> str:
        """Element type of sums of codes: 16 bits where no window overflows them."""
        size = (self.h, self.w) if self.kernel is None else self.kernel
        taps = product(size)
        if not isinstance(taps, int) or taps > _SHORT_TAPS:
            return "int32"
        return f"{self.dtype.removesuffix('8')}16"

    @property
    def line(self) -> int:
        """Elements between the results of neighbouring pixels in ``y``."""
        return self.c if self.place is None else self.place.channels

    def _out(self, size: Index, axis: int) -> Index:
        if self.kernel is None:
            return 1
        before, after = self.pads[axis], self.pads[axis + 2]
        stride = self.strides[axis]
        room = static(size) + (before + after - self.dilations[axis] * (self.kernel[axis] - 1) - 1)
        if not self.ceil_mode:
            return static(floordiv(room, stride) + 1)
        # A window that starts in the padding at the end does not count.
        last = floordiv(static(size) + (before - 1), stride) + 1
        return static(minimum(ceildiv(room, stride) + 1, last))

    @property
    def oh(self) -> Index:
        """Output rows."""
        return self._out(self.h, 0)

    @property
    def ow(self) -> Index:
        """Output columns."""
        return self._out(self.w, 1)


def pool(isa: Isa, spec: PoolSpec, name: str = "pool") -> Kernel:
    """Build the kernel of ``spec``."""
    narrow = spec.dtype in LIMITS and spec.codes is None
    short = spec.codes is not None and BY_NAME[spec.sums].bits == 16
    wide = replace(isa, lanes=(2 if short else 4) * isa.lanes)
    # The rest of a vector of bytes is read under a mask, which AVX2 does not have for bytes.
    whole = spec.c % wide.lanes == 0 or isa.lanes == _MASKED_LANES
    if (narrow or short) and whole:
        isa, narrow = wide, False
    columns = tuple(
        Columns(f, b, Tile(1, v), t) for f, b, v, t in plan_columns(spec.c, _VECTORS, isa)
    )
    with kernel(name, isa, spec.dtype) as k:
        x = k.input("x", (spec.n, spec.h, spec.w, spec.c))
        dtype = None if spec.codes is None else spec.codes.y_dtype
        y = placed(k, (spec.n, spec.oh, spec.ow, spec.c), spec.place, dtype)
        if narrow:
            # Codes are compared as the numbers that they are.
            x, y = coded(x), coded(y)
        elif spec.codes is not None and dtype in LIMITS:
            y = coded(y, 1.0, spec.codes.y_zero)
        if spec.kernel is None:
            _emit_global(isa, spec, columns, x, y)
        else:
            _emit_windows(isa, spec, spec.kernel, columns, x, y)
    return k.result


def _started(spec: PoolSpec, x: Tensor, vectors: int, lanes: int) -> Acc:
    """Accumulators of no element: float32, or of codes if they are read as they are."""
    if spec.codes is not None:
        acc = Acc(vectors, lanes, spec.sums)
        acc.fill()
    elif spec.dtype in LIMITS and not isinstance(x.flat, Codes):
        acc = Acc(vectors, lanes, spec.dtype)
        acc.fill(LIMITS[spec.dtype][0])
    else:
        acc = Acc(vectors, lanes)
        acc.fill(0.0 if spec.kind == "average" else _LOWEST)
    return acc


def _combine(spec: PoolSpec, acc: Acc, v: int, value: Expr) -> None:
    if spec.codes is not None:
        value = tirx.Cast(with_lanes(spec.sums, lanes_of(value)), value)
    if spec.kind == "average":
        acc[v] = acc[v] + value
        return
    value = let(value)
    old = let(acc[v])
    acc[v] = select(old < value, value, old)


def _finished(spec: PoolSpec, taps: Index, count: Index, lanes: int) -> Callable[[Expr], Expr]:
    """What makes a result of a sum of ``taps`` elements that is divided by ``count``."""
    if spec.kind == "max":
        return lambda value: value
    number = tirx.Cast("float32", i64(count))
    if spec.codes is None and spec.kernel is None:
        divisor = let(splat(number, lanes))
        return lambda value: value / divisor
    if spec.codes is None:
        scale = let(splat(let(constant(1.0) / number), lanes))
        return lambda value: value * scale
    factor = let(splat(let(constant(spec.codes.factor) / number), lanes))
    zeros = tirx.Cast("int32", i64(taps)) * tirx.const(spec.codes.x_zero, "int32")
    shift = let(splat(let(zeros), lanes))
    whole, real = with_lanes("int32", lanes), with_lanes("float32", lanes)
    return lambda value: tirx.Cast(real, tirx.Cast(whole, value) - shift) * factor


def _emit_global(
    isa: Isa, spec: PoolSpec, columns: tuple[Columns, ...], x: Tensor, y: Tensor
) -> None:
    """Reduce all pixels of an image, a block of channels per task."""
    lanes = isa.lanes
    blocks = sum(c.blocks for c in columns)
    pixels = static(spec.h) * static(spec.w)
    with parallel(static(spec.n) * blocks) as task:
        image = hold(floordiv(task, blocks))

        def one(c: Columns, first: Index) -> None:
            vectors = c.tile.vectors
            acc = _started(spec, x, vectors, lanes)
            with serial(pixels) as p:
                base = (image * pixels + p) * spec.c + first * lanes
                for v in range(vectors):
                    valid = c.tail if v == vectors - 1 else None
                    _combine(spec, acc, v, x.load(base + v * lanes, lanes, valid))
            finished = _finished(spec, pixels, pixels, lanes)
            for v in range(vectors):
                valid = c.tail if v == vectors - 1 else None
                y.store(image * spec.line + (first + v) * lanes, finished(acc[v]), valid)

        for_columns(columns, hold(floormod(task, blocks)), one)


def _window(
    spec: PoolSpec, size: Index, start: Index, taps: int, axis: int
) -> tuple[Index, Index, Index]:
    """Taps [first, last) of a window that lie in the image, and how many an average counts."""
    dilation = spec.dilations[axis]
    first = hold(minimum(ceildiv(maximum(0 - start, 0), dilation), taps))
    last = hold(maximum(minimum(ceildiv(maximum(size - start, 0), dilation), taps), first))
    if not spec.count_include_pad:
        return first, last, last - first
    padded = size + spec.pads[axis + 2]
    return first, last, hold(minimum(ceildiv(maximum(padded - start, 0), dilation), taps))


def _emit_windows(
    isa: Isa,
    spec: PoolSpec,
    window: tuple[int, int],
    columns: tuple[Columns, ...],
    x: Tensor,
    y: Tensor,
) -> None:
    """One output row per task."""
    lanes = isa.lanes
    with parallel(static(spec.n) * spec.oh) as task:
        image, oh = hold(floordiv(task, spec.oh)), hold(floormod(task, spec.oh))
        top = hold(oh * spec.strides[0] - spec.pads[0])
        row_first, row_last, row_count = _window(spec, spec.h, top, window[0], 0)
        with serial(spec.ow) as ow:
            left = hold(ow * spec.strides[1] - spec.pads[1])
            first_tap, last_tap, column_count = _window(spec, spec.w, left, window[1], 1)
            pixel = hold(((image * spec.oh + oh) * spec.ow + ow) * spec.line)
            taps = (row_last - row_first) * (last_tap - first_tap)
            finished = _finished(spec, taps, row_count * column_count, lanes)

            def one(c: Columns, first: Index) -> None:
                vectors = c.tile.vectors
                acc = _started(spec, x, vectors, lanes)
                with serial(row_first, row_last) as kh:
                    row = (image * spec.h + top + kh * spec.dilations[0]) * spec.w + left
                    base = hold(row * spec.c + first * lanes)
                    with serial(first_tap, last_tap) as kw:
                        at = base + kw * (spec.dilations[1] * spec.c)
                        for v in range(vectors):
                            valid = c.tail if v == vectors - 1 else None
                            _combine(spec, acc, v, x.load(at + v * lanes, lanes, valid))
                for v in range(vectors):
                    valid = c.tail if v == vectors - 1 else None
                    y.store(pixel + first * lanes + v * lanes, finished(acc[v]), valid)

            _each_block(columns, one)


def _each_block(columns: tuple[Columns, ...], one: object) -> None:
    for c in columns:
        with serial(c.blocks) as block:
            one(c, c.first + block * c.tile.vectors)  # type: ignore[operator]
