"""Depthwise convolution of 8 bits on NHWC data by integer dot products over the window's rows.

Arguments: those of :mod:`burnish.backends.cpu.quantized`, with weights, ``scale`` and ``offset``
of this module. Four rows of the window are a word: bytes of four neighbouring rows of the image are
interleaved, so that one word holds four factors of one channel, and a dot product adds a column of
the window. Interleaving works inside 128 bits as packing results does, so that the channels of a
group come out in order, though not in between: the constants lie as the sums do.

Taps outside of the image read the zero point.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
from tvm import tirx
from tvm.tirx.script import builder as T  # noqa: N812

from burnish.backends.cpu.conv import ConvSpec, for_powers
from burnish.backends.cpu.dot8 import PACK, dot8
from burnish.backends.cpu.epilogue import Epilogue
from burnish.backends.cpu.isa import Isa
from burnish.backends.cpu.quantized import (
    CodeEpilogue,
    Codes8,
    F32Array,
    QuantizedSpec,
    declare_epilogue,
    declare_results,
    scale_and_offset,
)
from burnish.backends.cpu.requantize import QUAD, store_codes
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
    local,
    minimum,
    parallel,
    serial,
    splat,
    static,
    store,
    when,
    with_lanes,
)
from burnish.backends.cpu.vmath import LONG
from burnish.errors import CompileError

#: Pixels of a tile: more would only make the code longer.
_MAX_PIXELS = 8
#: Dot products for a vector of sums that a tile unrolls, if they are one instruction or several.
_UNROLLED = {"vnni": 64}
_UNROLLED_EMULATED = 24
#: Bytes of the input that a task reads.
_CACHED = 128 * 1024
#: Taps of the windows that are unrolled.
_MAX_TAPS = 64
#: 32-bit integers in the 128 bits inside which bytes are interleaved.
_LANE = 4


@dataclass(frozen=True)
class Group:
    """Neighbouring channels whose sums are one tile.

    Attributes:
        first: The first channel; also where the constants of the group begin.
        channels: How many.
        vectors: Vectors of sums: four, interleaved, or one or two, in order.
    """

    first: int
    channels: int
    vectors: int

    @property
    def interleaved(self) -> bool:
        """Whether the sums lie as four interleaved rows do."""
        return self.vectors == QUAD


def takes(spec: QuantizedSpec, isa: Isa) -> bool:
    """Whether the template is for this convolution: post-ops are short and read constants only."""
    posts = spec.conv.postops
    return (
        spec.depthwise
        and spec.y_dtype != "int32"
        and bool(isa.dot8)
        and spec.conv.kernel[0] * spec.conv.kernel[1] <= _MAX_TAPS
        and not any(p.operand not in ("", "channel", "scalar") or p.op in LONG for p in posts)
    )


def groups_of(spec: QuantizedSpec, isa: Isa) -> list[Group]:
    """Whole groups, and one for the rest: where two vectors hold it, it is not interleaved.

    Results in float32 are not packed, which would bring them in order: none is interleaved.
    """
    channels = spec.conv.oc
    if not spec.stores_codes:
        width = 2 * isa.lanes
        sizes = [min(width, channels - first) for first in range(0, channels, width)]
        return [Group(i * width, n, -(-n // isa.lanes)) for i, n in enumerate(sizes)]
    width = QUAD * isa.lanes
    groups = [Group(first, width, QUAD) for first in range(0, channels - width + 1, width)]
    rest = channels % width
    if rest:
        vectors = -(-rest // isa.lanes)
        groups.append(Group(channels - rest, rest, vectors if vectors <= 2 else QUAD))
    return groups


def channel_order(spec: QuantizedSpec, isa: Isa) -> npt.NDArray[np.int64]:
    """Which channel each of the constants belongs to; beyond the last they have no meaning."""
    parts = []
    for group in groups_of(spec, isa):
        place = np.arange(group.vectors * isa.lanes)
        if group.interleaved:
            vector, lane = place // isa.lanes, place % isa.lanes
            place = lane // _LANE * (QUAD * _LANE) + vector * _LANE + lane % _LANE
        parts.append(group.first + place)
    return np.concatenate(parts)


def pack_taps(w: Codes8, spec: QuantizedSpec, isa: Isa) -> Codes8:
    """Weights [C, 1, KH, KW] in int8 as the kernel reads them: 1-D.

    For each four rows of the window, column and channel a word; rows beyond the window are 0.
    """
    kh, kw = spec.conv.kernel
    order = channel_order(spec, isa)
    padded = np.zeros((_fours(kh) * PACK, kw, order.max() + 1), np.int8)
    padded[:kh, :, : spec.conv.oc] = w[:, 0].transpose(1, 2, 0)
    words = padded[:, :, order].reshape(_fours(kh), PACK, kw, order.size)
    return np.ascontiguousarray(words.transpose(0, 2, 3, 1)).reshape(-1)


def pack_affine_taps(
    w: Codes8, scale: F32Array, bias: F32Array | None, spec: QuantizedSpec, isa: Isa
) -> tuple[F32Array, F32Array]:
    """``scale`` and ``offset`` as :func:`quantized.pack_affine`, in the order of the sums."""
    factors, offset = scale_and_offset(w, scale, bias, spec, spec.read_zero)
    return pack_channel_taps(factors, spec, isa), pack_channel_taps(offset, spec, isa)


def pack_channel_taps(values: npt.ArrayLike, spec: QuantizedSpec, isa: Isa) -> F32Array:
    """A ``channel`` operand in the order of the sums."""
    flat = np.asarray(values, np.float32).reshape(-1)
    order = channel_order(spec, isa)
    padded = np.zeros(max(order.max() + 1, flat.size), np.float32)
    padded[: flat.size] = flat
    return padded[order]


def packed_taps_size(spec: QuantizedSpec, isa: Isa) -> int:
    """Bytes of the packed weights."""
    kh, kw = spec.conv.kernel
    return PACK * _fours(kh) * kw * channel_order(spec, isa).size


def _fours(rows: int) -> int:
    return -(-rows // PACK)


def pixels_of(conv: ConvSpec, isa: Isa) -> int:
    """Pixels of a tile: few that are left over, and columns that they share."""
    dots = _fours(conv.kernel[0]) * conv.kernel[1]
    most = _UNROLLED.get(isa.dot8, _UNROLLED_EMULATED) // dots
    most = max(1, min(_MAX_PIXELS, most))
    if not isinstance(conv.ow, int):
        return most
    width: int = conv.ow

    def cost(pixels: int) -> int:
        columns = (pixels - 1) * conv.strides[1] + conv.kernel[1]
        return -(-width // pixels) * (2 * columns + 3 * pixels)

    return min(range(1, min(most, width) + 1), key=lambda p: (cost(p), -p))


def quantized_depthwise(isa: Isa, spec: QuantizedSpec, name: str = "qdepthwise") -> Kernel:
    """Build the kernel of ``spec``; arguments as in the module's docstring."""
    conv = spec.conv
    if not takes(spec, isa):
        raise CompileError(f"no depthwise template for {spec.y_dtype} on {isa.name}")
    shape = (conv.n, conv.oh, conv.ow, conv.oc)
    padded = channel_order(spec, isa).size
    with kernel(name, isa) as k:
        x = k.input("x", (conv.n, conv.h, conv.w, conv.ic), spec.x_dtype)
        w = k.input("w", (packed_taps_size(spec, isa),), "int8")
        epilogue = declare_epilogue(k, spec, shape, padded)
        y, _ = declare_results(k, spec, shape)
        words = T.decl_buffer((i64(w.size // PACK),), "int32", data=w.buffer.data, align=PACK)
        _Loops(isa, spec, x, words, y, epilogue, padded).emit()
    return k.result


@dataclass(frozen=True)
class _Place:
    """Where a tile stands: a group of channels and the output row."""

    group: Group
    image: Index
    oh: Index
    top: Index
    inside: bool


@dataclass(frozen=True)
class _Loops:
    """Emits the loops."""

    isa: Isa
    spec: QuantizedSpec
    x: Tensor
    words: object
    y: Tensor
    epilogue: Epilogue
    padded: int

    def emit(self) -> None:
        """One parallel loop over images, runs of rows and groups of channels."""
        conv = self.spec.conv
        groups = groups_of(self.spec, self.isa)
        whole = [g for g in groups if g.channels == groups[0].channels]
        run = self._rows_per_task(len(groups))
        runs = ceildiv(conv.oh, run)
        with parallel(static(conv.n) * runs * len(groups)) as task:
            number = hold(floormod(task, len(groups)))
            rest = hold(floordiv(task, len(groups)))
            part, image = hold(floormod(rest, runs)), hold(floordiv(rest, runs))
            begin = hold(part * run)
            end = hold(minimum(begin + run, conv.oh))

            def rows(group: Group) -> None:
                with serial(begin, end) as oh:
                    self._row(group, image, oh)

            def first() -> None:
                head = groups[0]
                rows(Group(number * head.channels, head.channels, head.vectors))

            if len(whole) == len(groups):
                first()
            else:
                branch(number < len(whole), first, partial(rows, groups[-1]))

    def _rows_per_task(self, groups: int) -> int:
        """Output rows of a task: its input stays in the second-level cache for all groups."""
        conv = self.spec.conv
        ow = conv.ow if isinstance(conv.ow, int) else 64
        cached = _CACHED // (ow * conv.strides[0] * conv.strides[1] * conv.ic)
        want = max(2 * conv.kernel[0], min(4096 // ow, cached))
        if isinstance(conv.oh, int):
            n = conv.n if isinstance(conv.n, int) else 1
            want = min(conv.oh, max(want, conv.oh * n * groups // 64))
        return int(want)

    def _row(self, group: Group, image: Index, oh: Index) -> None:
        """A row of output pixels, in the variant with or without rows outside of the image."""
        conv = self.spec.conv
        top = hold(oh * conv.strides[0] - conv.pads[0])
        reach = (conv.kernel[0] - 1) * conv.dilations[0]

        def tiles(inside: bool) -> None:
            self._tiles(_Place(group, image, oh, top, inside))

        if not (conv.pads[0] or conv.pads[2]):
            tiles(True)
            return
        condition = tirx.all(i64(top) >= 0, i64(top) + reach < i64(conv.h))
        branch(condition, lambda: tiles(True), lambda: tiles(False))

    def _tiles(self, at: _Place) -> None:
        conv = self.spec.conv
        ow, step = conv.ow, pixels_of(conv, self.isa)
        if not (isinstance(ow, int) and isinstance(conv.w, int)):
            whole = hold(floordiv(ow, step))
            with serial(whole) as t:
                self._tile(at, hold(t * step), step)
            for_powers(hold(whole * step), ow, step, lambda o, count: self._tile(at, o, count))
            return
        begin = 0
        while begin < ow:
            count = min(step, ow - begin)
            loops = 1
            while (
                self._within(begin, count)
                and begin + (loops + 1) * step <= ow
                and self._within(begin + loops * step, step)
            ):
                loops += 1
            inner = self._within(begin, count)
            with serial(loops) as t:
                self._tile(at, begin + t * step, count, within=inner)
            begin += loops * count

    def _within(self, begin: int, count: int) -> bool:
        """Whether all columns of static pixels lie in the image."""
        conv = self.spec.conv
        left = begin * conv.strides[1] - conv.pads[1]
        reach = (count - 1) * conv.strides[1] + (conv.kernel[1] - 1) * conv.dilations[1]
        return left >= 0 and left + reach < conv.w

    def _tile(self, at: _Place, begin: Index, count: int, within: bool = False) -> None:
        """``count`` pixels of a row; each is stored as soon as its last column is added."""
        conv, vectors = self.spec.conv, at.group.vectors
        stride, kw, dw = conv.strides[1], conv.kernel[1], conv.dilations[1]
        acc = Acc(count * vectors, self.isa.lanes, "int32")
        acc.fill()
        left = begin * stride - conv.pads[1]
        left = left if isinstance(left, int) else hold(left)
        pixel = hold((at.image * conv.oh + at.oh) * conv.ow + begin)
        for column in range((count - 1) * stride + (kw - 1) * dw + 1):
            pairs = [
                (r, t) for r in range(count) for t in range(kw) if r * stride + t * dw == column
            ]
            if not pairs:
                continue
            for four in range(_fours(conv.kernel[0])):
                bytes_ = self._column(at, four, left, column, within)
                for r, t in pairs:
                    self._add(acc, r, at.group, four * kw + t, bytes_)
            for r in (r for r, t in pairs if t == kw - 1):
                self._store(acc, r, at.group, hold(pixel + r))

    def _add(self, acc: Acc, r: int, group: Group, tap: int, column: Sequence[Expr]) -> None:
        """Add a column of the window to the sums of a pixel."""
        dot = dot8(self.isa)
        assert dot is not None
        lanes = self.isa.lanes
        for u in range(group.vectors):
            i = r * group.vectors + u
            weights = load(self.words, tap * self.padded + group.first + u * lanes, lanes)
            acc[i] = dot.accumulate(acc[i], column[u], let(weights))

    def _store(self, acc: Acc, r: int, group: Group, pixel: Index) -> None:
        lanes, epilogue = self.isa.lanes, self.epilogue
        sums = [acc[r * group.vectors + u] for u in range(group.vectors)]
        place = pixel * self.spec.conv.line + group.first
        if not isinstance(epilogue, CodeEpilogue):
            rest = group.channels - (group.vectors - 1) * lanes
            tail = rest if rest < lanes else None
            epilogue.store_row(self.y, sums, place, place, group.first, tail)
            return
        values = [epilogue.units(v, 0, group.first + u * lanes) for u, v in enumerate(sums)]
        codes = epilogue.rounding.codes(self.isa, values, ordered=not group.interleaved)
        store_codes(self.y, place, codes, group.channels)

    def _column(self, at: _Place, four: int, left: Index, column: int, within: bool) -> list[Expr]:
        """Words of up to four rows of the image at one column, a vector for each of sums."""
        conv = self.spec.conv
        position = left + column
        rows = range(four * PACK, min(conv.kernel[0], (four + 1) * PACK))
        outside: Expr | None = None
        if not within and isinstance(position, int) and isinstance(conv.w, int):
            if not 0 <= position < conv.w:
                zero = self.spec.read_zero * 0x01010101
                word = zero - (1 << 32) if zero >= 1 << 31 else zero
                return [constant(word, self.isa.lanes, "int32")] * at.group.vectors
        elif not within:
            outside = tirx.all(i64(position) >= 0, i64(position) < i64(conv.w))

        def pixel(row: int) -> tuple[Index, Expr | None]:
            """Where a pixel begins, and whether it may be read; None if it always may."""
            line = at.top + row * conv.dilations[0]
            offset = ((at.image * conv.h + line) * conv.w + position) * conv.oc + at.group.first
            inside = None if at.inside else tirx.all(i64(line) >= 0, i64(line) < i64(conv.h))
            if outside is not None:
                inside = outside if inside is None else tirx.all(inside, outside)
            return hold(offset), inside

        pixels = [pixel(row) for row in rows]
        if at.group.interleaved:
            width = QUAD * self.isa.lanes
            return self._interleaved([self._bytes(p, width, at.group.channels) for p in pixels])
        lanes, channels = self.isa.lanes, at.group.channels
        return [
            self._shifted(
                [self._bytes((o + u * lanes, c), lanes, channels - u * lanes) for o, c in pixels]
            )
            for u in range(at.group.vectors)
        ]

    def _bytes(self, pixel: tuple[Index, Expr | None], width: int, valid: int) -> Expr:
        """The bytes of a pixel as the dot products read them, or those of the zero point."""
        offset, inside = pixel
        dtype = self.spec.x_dtype

        def read() -> Expr:
            return load(self.x.flat, offset, width, valid)

        if inside is None:
            value = let(read())
        else:
            cell = local(width, dtype)
            store(cell, 0, splat(tirx.const(self.spec.x_zero, dtype), width))
            with when(inside):
                store(cell, 0, read())
            value = load(cell, 0, width)
        if dtype == "uint8":
            return value
        flip = splat(tirx.const(0x80, "uint8"), width)
        return let(let(tirx.reinterpret(with_lanes("uint8", width), let(value))) ^ flip)

    def _interleaved(self, rows: Sequence[Expr]) -> list[Expr]:
        """Four vectors of words from up to four rows of bytes."""
        rows = [*rows, *[rows[-1]] * (PACK - len(rows))]
        width = QUAD * self.isa.lanes

        def halves(a: Expr, b: Expr, kind: str, count: int) -> list[Expr]:
            """Neighbours of two vectors, in turns: the low and the high half of each 128 bits."""
            return [
                let(tirx.reinterpret(kind, let(_shuffle(a, b, width // 16 * count, count, high))))
                for high in (False, True)
            ]

        pairs, words = with_lanes("int16", width // 2), with_lanes("int32", width // 4)
        first = halves(rows[0], rows[1], pairs, 16)
        second = halves(rows[2], rows[3], pairs, 16)
        return [word for a, b in zip(first, second, strict=True) for word in halves(a, b, words, 8)]

    def _shifted(self, rows: Sequence[Expr]) -> Expr:
        """A vector of words from up to four rows of as many bytes as it has lanes."""
        lanes = self.isa.lanes
        wide = with_lanes("int32", lanes)
        word: Expr | None = None
        for i, row in enumerate(rows):
            part = let(tirx.Cast(wide, row))
            if i:
                part = let(part << constant(8 * i, lanes, "int32"))
            word = part if word is None else let(word | part)
        assert word is not None
        return word


def _shuffle(a: Expr, b: Expr, size: int, lane: int, high: bool) -> Expr:
    """Elements of ``a`` and ``b``, of ``size`` each, in turns: half of each ``lane`` elements."""
    order: list[int] = []
    for start in range(0, size, lane):
        for i in range(lane // 2):
            source = start + i + (lane // 2 if high else 0)
            order += [source, size + source]
    return tirx.Shuffle([a, b], [tirx.const(i, "int32") for i in order])
