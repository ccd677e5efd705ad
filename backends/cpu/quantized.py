"""Convolutions and matrix products of 8 bits on NHWC data with constant weights.

``y = store(post(sum(codes(x) * w) * scale + offset))``, where ``offset`` takes the zero point off
again: ``sum((x - zero) * w) = sum(x * w) - zero * sum(w)``. Arguments: ``x``, ``w``
(:func:`pack_codes` or :func:`pack_depthwise`), ``scale`` and ``offset`` (:func:`pack_affine`), the
operands of the post-ops in order, ``y``, and float32 memory of the shape of ``y`` if ``staged``.

If ``y`` is int32 it is the sums: in place of ``scale`` and ``offset`` stands the ``offset`` of
:func:`pack_sums`, and there are no post-ops.

The loops are those of the float32 templates, with channels counted in words of four codes. They
skip taps outside of the image, which stand for the real number 0: a zero point other than 0 needs
its padding written out (:func:`pad_codes`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from tvm import tirx
from tvm.tirx.script import builder as T  # noqa: N812

from burnish.backends.cpu.codes import Words, coded
from burnish.backends.cpu.conv import ConvSpec, DirectLoops
from burnish.backends.cpu.depthwise import DepthwiseLoops, depthwise_tile
from burnish.backends.cpu.dot8 import PACK, dot8
from burnish.backends.cpu.epilogue import Epilogue, pack_channel
from burnish.backends.cpu.gemm import emit_gemm, pack_columns, packed_size
from burnish.backends.cpu.isa import Isa
from burnish.backends.cpu.tiling import Columns, Tile, plan_columns, vector_count
from burnish.backends.cpu.tir import (
    Expr,
    Index,
    Kernel,
    KernelBuilder,
    Tensor,
    branch,
    floordiv,
    floormod,
    hold,
    i64,
    kernel,
    lanes_of,
    let,
    load,
    parallel,
    serial,
    static,
    store,
    with_lanes,
)
from burnish.backends.cpu.vmath import LONG
from burnish.errors import CompileError

Codes8 = npt.NDArray[np.int8]
F32Array = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class QuantizedSpec:
    """What a kernel computes.

    Attributes:
        conv: The convolution: ``ic`` is a multiple of 4 unless it is depthwise.
        x_dtype: ``uint8`` or ``int8``.
        x_zero: The code of 0 in ``x``.
        y_dtype: ``float32``, ``uint8`` or ``int8``, or ``int32`` for the sums themselves.
        y_scale: Distance of neighbouring results.
        y_zero: The code of 0 in ``y``.
        codes: Types of the quantized operands of post-ops, in order.
    """

    conv: ConvSpec
    x_dtype: str
    x_zero: int
    y_dtype: str = "float32"
    y_scale: float = 1.0
    y_zero: int = 0
    codes: tuple[str, ...] = ()

    @property
    def depthwise(self) -> bool:
        """Whether each channel has a filter of its own."""
        return self.conv.groups == self.conv.ic == self.conv.oc and self.conv.groups > 1

    @property
    def staged(self) -> bool:
        """Whether results lie in float32 before they are stored: the kernel has a second output."""
        return self.stores_codes and any(p.op in LONG for p in self.conv.postops)

    @property
    def stores_codes(self) -> bool:
        """Whether results are rounded to 8 bits."""
        return self.y_dtype not in ("float32", "int32")

    @property
    def read_zero(self) -> int:
        """The code of 0 as the dot products read it: unsigned."""
        return self.x_zero + (128 if self.x_dtype == "int8" else 0)

    def words(self, isa: Isa) -> ConvSpec:
        """The convolution with channels counted in words.

        Raises:
            CompileError: The instruction set has no integer dot product.
        """
        dot = dot8(isa)
        if dot is None:
            raise CompileError(f"no integer dot products for {isa.name}")
        return replace(self.conv, ic=self.conv.ic // PACK, dot=dot)


@dataclass(frozen=True)
class ScaledEpilogue(Epilogue):
    """Post-ops on sums that are scaled first.

    Attributes:
        scale: [channels] float32, padded to whole vectors.
        offset: The same.
    """

    scale: Tensor
    offset: Tensor

    def start(self, value: Expr, offset: Index, channel: Index, valid: int | None = None) -> Expr:
        """Real numbers of the sums, then the short steps."""
        lanes = lanes_of(value)
        real = let(tirx.Cast(with_lanes("float32", lanes), value))
        real = real * self.scale.load(channel, lanes) + self.offset.load(channel, lanes)
        return super().start(let(real), offset, channel, valid)


@dataclass(frozen=True)
class SumEpilogue(Epilogue):
    """Sums in int32, stored as they are.

    Attributes:
        offset: [channels] int32, padded to whole vectors.
    """

    offset: Tensor

    def start(self, value: Expr, offset: Index, channel: Index, valid: int | None = None) -> Expr:
        """The sums; those of the depthwise template are whole numbers in float32."""
        lanes = lanes_of(value)
        whole = tirx.Cast(with_lanes("int32", lanes), value)
        return let(whole + self.offset.load(channel, lanes))


def pack_codes(w: Codes8, spec: QuantizedSpec, isa: Isa) -> Codes8:
    """Weights [OC, IC, KH, KW] in int8 as the dot products read them: 1-D.

    Input channels that ``w`` lacks to a multiple of 4 are 0.
    """
    oc, ic = w.shape[:2]
    kh, kw = spec.conv.kernel
    padded = np.zeros((kh, kw, spec.conv.ic, oc), np.int8)
    padded[:, :, :ic] = w.transpose(2, 3, 1, 0)
    words = padded.reshape(-1, PACK, oc).transpose(0, 2, 1)
    flat = np.ascontiguousarray(words).view(np.int32).reshape(-1, oc)
    packed = pack_columns(flat, spec.words(isa).columns(isa), isa)  # type: ignore[arg-type]
    return np.ascontiguousarray(packed).view(np.int8)


def pack_affine(
    w: Codes8, scale: F32Array, bias: F32Array | None, spec: QuantizedSpec, isa: Isa
) -> tuple[F32Array, F32Array]:
    """``scale`` and ``offset`` of the sums, one for each output channel, padded to whole vectors.

    Args:
        w: Weights [OC, ...] in int8.
        scale: Product of both scales, a scalar or [OC].
        bias: [OC], added to the scaled sums.
        spec: The kernel.
        isa: The instruction set.
    """
    factors = np.broadcast_to(scale.astype(np.float64), (w.shape[0],))
    offset = np.zeros(w.shape[0]) if bias is None else bias.astype(np.float64)
    if not spec.depthwise:
        total = w.astype(np.int64).reshape(w.shape[0], -1).sum(axis=1)
        offset = offset - spec.read_zero * total * factors
    return pack_channel(factors, isa), pack_channel(offset, isa)


def pack_sums(w: Codes8, spec: QuantizedSpec, isa: Isa) -> npt.NDArray[np.int32]:
    """What is added to the sums for the zero point, int32, padded to whole vectors.

    Args:
        w: Weights [OC, ...] in int8.
        spec: The kernel.
        isa: The instruction set.
    """
    offset = np.zeros(vector_count(w.shape[0], isa) * isa.lanes, np.int32)
    if not spec.depthwise:
        total = w.astype(np.int64).reshape(w.shape[0], -1).sum(axis=1)
        offset[: w.shape[0]] = -spec.read_zero * total
    return offset


def quantized_conv(isa: Isa, spec: QuantizedSpec, name: str = "qconv") -> Kernel:
    """Build the kernel of ``spec``; arguments as in the module's docstring."""
    conv = spec.conv
    shape = (conv.n, conv.oh, conv.ow, conv.oc)
    with kernel(name, isa) as k:
        x = k.input("x", (conv.n, conv.h, conv.w, conv.ic), spec.x_dtype)
        if spec.depthwise:
            kh, kw = conv.kernel
            w = k.input("w", (kh * kw * vector_count(conv.oc, isa) * isa.lanes,), "float32")
        else:
            words = spec.words(isa)
            depth = words.ic * conv.kernel[0] * conv.kernel[1]
            w = k.input("w", (PACK * packed_size(depth, conv.oc, isa),), "int8")
        epilogue = _declare(k, spec, shape)
        y = k.output("y", shape, spec.y_dtype)
        to = None
        if spec.stores_codes:
            y = coded(y, spec.y_scale, spec.y_zero)
        if spec.staged:
            # Steps in a loop of their own read what they have not rounded yet.
            y, to = k.output("staged", shape, "float32"), y
        if spec.depthwise:
            tile = depthwise_tile(conv, isa)
            columns = tuple(
                Columns(f, b, Tile(tile.rows, v), t)
                for f, b, v, t in plan_columns(conv.oc, tile.vectors, isa)
            )
            real = coded(x, 1.0, spec.x_zero)
            DepthwiseLoops(isa, conv, columns, real, w, y, epilogue, to).emit()
        else:
            _emit(isa, spec, x, w, y, epilogue, to)
    return k.result


def _declare(k: KernelBuilder, spec: QuantizedSpec, shape: Sequence[Index]) -> Epilogue:
    channels = vector_count(spec.conv.oc, k.isa) * k.isa.lanes
    if spec.y_dtype == "int32":
        return SumEpilogue((), 0, k.input("offset", (channels,), "int32"))
    scale = k.input("scale", (channels,), "float32")
    offset = k.input("offset", (channels,), "float32")
    plain = Epilogue.declare(k, spec.conv.postops, shape, spec.codes)
    return ScaledEpilogue(plain.steps, plain.cut, scale, offset)


def _emit(
    isa: Isa,
    spec: QuantizedSpec,
    x: Tensor,
    w: Tensor,
    y: Tensor,
    epilogue: Epilogue,
    to: Tensor | None,
) -> None:
    words = spec.words(isa)
    x = replace(x, flat=Words(_as_words(x), spec.x_dtype == "int8"))
    w = replace(w, flat=_as_words(w))
    columns = words.columns(isa)
    if words.pointwise:
        rows = static(x.shape[0] * x.shape[1] * x.shape[2])
        depth, oc = words.ic, words.oc
        emit_gemm(isa, x, w, y, epilogue, rows, depth, oc, columns, dot=words.dot, to=to)
    else:
        DirectLoops(isa, words, columns, x, w, y, epilogue, to).emit()


def _as_words(tensor: Tensor) -> object:
    """A 1-D int32 alias of a tensor of codes."""
    size = i64(floordiv(tensor.size, PACK))
    return T.decl_buffer((size,), "int32", data=tensor.buffer.data, align=PACK)


@dataclass(frozen=True, eq=False)
class PadSpec:
    """A padded copy.

    Attributes:
        n: Batch.
        h: Rows.
        w: Columns.
        c: Channels.
        pads: Top, left, bottom, right.
        channels: Channels of the copy.
        value: The code that fills the padding.
        dtype: ``uint8`` or ``int8``.
    """

    n: Index
    h: Index
    w: Index
    c: int
    pads: tuple[int, int, int, int]
    channels: int
    value: int
    dtype: str


def pad_codes(isa: Isa, spec: PadSpec, name: str = "pad_codes") -> Kernel:
    """A copy of ``x`` [N, H, W, C] with the padding of a convolution written out."""
    top, left, bottom, right = spec.pads
    height, width = static(spec.h + (top + bottom)), static(spec.w + (left + right))
    with kernel(name, isa) as k:
        x = k.input("x", (spec.n, spec.h, spec.w, spec.c), spec.dtype)
        y = k.output("y", (spec.n, height, width, spec.channels), spec.dtype)
        fill = tirx.const(spec.value, spec.dtype)
        with parallel(spec.n * height) as task:
            image, row = hold(floordiv(task, height)), hold(floormod(task, height))
            inside = tirx.all(i64(row) >= top, i64(row) < spec.h + top)
            with serial(width) as column:
                to = hold((task * width + column) * spec.channels)
                within = tirx.all(i64(column) >= left, i64(column) < spec.w + left)

                def copy(to: Index = to, column: Index = column) -> None:
                    source = ((image * spec.h + (row - top)) * spec.w + (column - left)) * spec.c
                    at = hold(source)
                    with serial(spec.c) as c:
                        store(y.flat, to + c, load(x.flat, at + c))
                    _fill(y, to + spec.c, spec.channels - spec.c, fill)

                def blank(to: Index = to) -> None:
                    _fill(y, to, spec.channels, fill)

                branch(tirx.all(inside, within), copy, blank)
    return k.result


def _fill(y: Tensor, at: Index, count: int, value: Expr) -> None:
    if count:
        with serial(count) as c:
            store(y.flat, at + c, value)
