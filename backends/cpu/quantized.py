"""Convolutions and matrix products of 8 bits on NHWC data with constant weights.

``y = store(post(sum(codes(x) * w) * scale + offset))``, where ``offset`` takes the zero point off
again: ``sum((x - zero) * w) = sum(x * w) - zero * sum(w)``. Arguments: ``x``, ``w``
(:func:`pack_codes` or :func:`pack_depthwise`), ``scale`` and ``offset`` (:func:`pack_affine`), the
operands of the post-ops in order, ``y``, and float32 memory of the shape of ``y`` if ``staged``.

If ``y`` is int32 it is the sums: in place of ``scale`` and ``offset`` stands the ``offset`` of
:func:`pack_sums`, and there are no post-ops.

The loops are those of the float32 templates, with channels counted in words of four codes. They
skip taps outside of the image, which stand for the real number 0: a zero point other than 0 needs
its padding written out (:func:`pad_codes.pad_codes`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from tvm import tirx
from tvm.tirx.script import builder as T  # noqa: N812

from burnish.backends.cpu.codes import LIMITS, Words, coded
from burnish.backends.cpu.conv import ConvSpec, DirectLoops
from burnish.backends.cpu.depthwise import DepthwiseLoops, depthwise_tile
from burnish.backends.cpu.dot8 import PACK, dot8
from burnish.backends.cpu.epilogue import Epilogue, padded_channels
from burnish.backends.cpu.gemm import emit_gemm, pack_columns, packed_size
from burnish.backends.cpu.isa import Isa
from burnish.backends.cpu.near import near_last
from burnish.backends.cpu.place import placed
from burnish.backends.cpu.requantize import LARGE, Rounding, store_codes
from burnish.backends.cpu.tiling import Columns, Tile, fits, plan_columns, vector_count
from burnish.backends.cpu.tir import (
    Expr,
    Index,
    Kernel,
    KernelBuilder,
    Tensor,
    ceildiv,
    constant,
    i64,
    kernel,
    lanes_of,
    let,
    static,
    with_lanes,
)
from burnish.backends.cpu.vmath import LONG
from burnish.errors import CompileError
from burnish.ir.postops import PostOp

#: A tile whose rounding overlaps best with the next one's dot products, which matters where there
#: are few words to sum and many rows. Larger ones would read less, which takes no time then.
_OVERLAPPING = Tile(4, 4)
_SHORT = 32
_MANY = 64

Codes8 = npt.NDArray[np.int8]
F32Array = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class QuantizedSpec:
    """What a kernel computes.

    Attributes:
        conv: The convolution: the channels of a group are a multiple of 4 unless it is depthwise.
            Only results that are not :attr:`staged` have a place.
        x_dtype: ``uint8`` or ``int8``.
        x_zero: The code of 0 in ``x``.
        y_dtype: ``float32``, ``uint8`` or ``int8``, or ``int32`` for the sums themselves.
        y_scale: Distance of neighbouring results.
        y_zero: The code of 0 in ``y``.
        codes: Types of the quantized operands of post-ops, in order.
        bounded: Whether :func:`is_bounded` holds.
    """

    conv: ConvSpec
    x_dtype: str
    x_zero: int
    y_dtype: str = "float32"
    y_scale: float = 1.0
    y_zero: int = 0
    codes: tuple[str, ...] = ()
    bounded: bool = False

    @property
    def depthwise(self) -> bool:
        """Whether each channel has a filter of its own."""
        return self.conv.groups == self.conv.ic == self.conv.oc and self.conv.groups > 1

    @property
    def staged(self) -> bool:
        """Whether results lie in float32 before they are stored: the kernel has a second output."""
        long = any(p.op in LONG for p in self.conv.postops)
        return self.stores_codes and long and self.last is None

    @property
    def last(self) -> Callable[[Expr, float], Expr] | None:
        """What stands for the last post-op where that need not be exact."""
        if not self.stores_codes or self.depthwise:
            return None
        return near_last(self.conv.postops, self.y_scale)

    @property
    def stores_codes(self) -> bool:
        """Whether results are rounded to 8 bits."""
        return self.y_dtype not in ("float32", "int32")

    @property
    def in_codes(self) -> CodeChain | None:
        """The post-ops in units of the codes of ``y``; None if they need real numbers."""
        if not self.stores_codes:
            return None
        chain = code_chain(self.conv.postops, self.y_dtype, self.y_scale, self.y_zero)
        if chain is None or not self.bounded:
            return chain
        return replace(chain, rounding=replace(chain.rounding, bounded=True))

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
        words = replace(self.conv, ic=self.conv.ic // PACK, dot=dot)
        return replace(words, tile=words.tile or _tile_of(words, isa))


def _tile_of(words: ConvSpec, isa: Isa) -> Tile | None:
    """The tile of a product whose results take long beside their sums; None for what costs say."""
    rows, columns = words.tile_rows, _OVERLAPPING.vectors * isa.lanes
    short = words.pointwise and words.ic <= _SHORT and rows is not None and rows >= _MANY
    whole = words.oc % columns == 0 and fits(_OVERLAPPING, isa)
    return _OVERLAPPING if short and whole else None


@dataclass(frozen=True)
class CodeChain:
    """Sums and bounds in units of codes: multiplying by the scale of the result is saved.

    Attributes:
        postops: The sums.
        shift: Added to each result, for the zero points of what is added.
        rounding: With the bounds.
    """

    postops: tuple[PostOp, ...]
    shift: float
    rounding: Rounding


def code_chain(postops: Sequence[PostOp], dtype: str, scale: float, zero: int) -> CodeChain | None:
    """Post-ops as sums of quantized operands and then bounds; None if they are something else.

    Rounding is monotonic, so that the code of a bounded number is the bounded code.
    """
    sums = [p for p in postops if p.operand == "quantized" and p.op == "Add"]
    bounds = postops[len(sums) :]
    if list(postops[: len(sums)]) != sums or any(p.op not in ("Relu", "Clip") for p in bounds):
        return None
    low, high = LIMITS[dtype]
    for post in bounds:
        ends = (0.0, math.inf) if post.op == "Relu" else post.params
        # The upper bound wins where they cross (ONNX Clip-13).
        least, most = (_code(end, scale, zero, dtype) for end in ends)
        low, high = min(max(low, least), most), min(max(high, least), most)
    made = tuple(PostOp("Add", "quantized", (p.params[0] / scale, 0.0)) for p in sums)
    shift = -sum(p.params[0] * p.params[1] for p in sums) / scale
    return CodeChain(made, shift, Rounding(dtype, zero, low, high))


def _code(value: float, scale: float, zero: int, dtype: str) -> int:
    low, high = LIMITS[dtype]
    if math.isinf(value):
        return high if value > 0 else low
    return min(max(round(value / scale) + zero, low), high)


@dataclass(frozen=True)
class ScaledEpilogue(Epilogue):
    """Post-ops on sums that are scaled first.

    Attributes:
        scale: [channels] float32, padded as channel operands are.
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
class CodeEpilogue(ScaledEpilogue):
    """Post-ops on sums that are scaled first, rounded to 8 bits a row of a tile at a time.

    Attributes:
        isa: The instruction set.
        rounding: How results become codes.
        unit: Distance of neighbouring codes, in what the post-ops compute.
        last: What follows the steps, and gives its results in units of codes.
    """

    isa: Isa
    rounding: Rounding
    unit: float
    last: Callable[[Expr, float], Expr] | None = None

    def units(self, value: Expr, offset: Index, channel: Index, valid: int | None = None) -> Expr:
        """Results in units of codes, with the arguments of :meth:`start`."""
        real = self.start(value, offset, channel, valid)
        if self.last is not None:
            return self.last(real, self.unit)
        return real if self.unit == 1.0 else real * constant(1.0 / self.unit, lanes_of(real))

    def store_row(
        self,
        y: Tensor,
        values: Sequence[Expr],
        offset: Index,
        place: Index,
        channel: Index,
        tail: int | None,
    ) -> None:
        """Pack up to four vectors into one."""
        lanes = lanes_of(values[0])
        made = []
        for v, value in enumerate(values):
            valid = tail if v == len(values) - 1 else None
            made.append(self.units(value, offset + v * lanes, channel + v * lanes, valid))
        count = (len(values) - 1) * lanes + (lanes if tail is None else tail)
        store_codes(y, place, self.rounding.codes(self.isa, made), count)


@dataclass(frozen=True)
class SumEpilogue(Epilogue):
    """Sums in int32, stored as they are.

    Attributes:
        offset: [channels] int32, padded as channel operands are.
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
    conv, columns = spec.conv, spec.words(isa).columns(isa)
    kh, kw = conv.kernel
    oc = conv.oc // conv.groups
    parts = []
    for group in w.reshape(conv.groups, oc, -1, kh, kw):
        padded = np.zeros((kh, kw, conv.ic // conv.groups, oc), np.int8)
        padded[:, :, : group.shape[1]] = group.transpose(2, 3, 1, 0)
        words = padded.reshape(-1, PACK, oc).transpose(0, 2, 1)
        flat = np.ascontiguousarray(words).view(np.int32).reshape(-1, oc)
        parts.append(pack_columns(flat, columns, isa))
    return np.concatenate(parts).view(np.int8)


def packed_codes_size(spec: QuantizedSpec, isa: Isa) -> int:
    """Bytes of the packed weights."""
    conv = spec.conv
    depth = conv.ic // conv.groups // PACK * conv.kernel[0] * conv.kernel[1]
    return PACK * conv.groups * packed_size(depth, conv.oc // conv.groups, isa)


def pack_affine(
    w: Codes8, scale: F32Array, bias: F32Array | None, spec: QuantizedSpec, isa: Isa
) -> tuple[F32Array, F32Array]:
    """``scale`` and ``offset`` of the sums by output channel, padded as channel operands are.

    Args:
        w: Weights [OC, ...] in int8.
        scale: Product of both scales, a scalar or [OC].
        bias: [OC], added to the scaled sums.
        spec: The kernel.
        isa: The instruction set.
    """
    zero = 0 if spec.depthwise else spec.read_zero
    factors, offset = scale_and_offset(w, scale, bias, spec, zero)
    count = padded_channels(spec.conv.oc, isa)
    return _padded(factors, count), _padded(offset, count)


def _padded(values: npt.NDArray[np.float64], count: int) -> F32Array:
    padded = np.zeros(count, np.float32)
    padded[: values.size] = values
    return padded


def scale_and_offset(
    w: Codes8, scale: F32Array, bias: F32Array | None, spec: QuantizedSpec, zero: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """What :func:`pack_affine` packs; ``zero`` is the code of 0 that the sums were made with."""
    factors = np.broadcast_to(scale.astype(np.float64), (w.shape[0],))
    offset = np.zeros(w.shape[0]) if bias is None else bias.astype(np.float64)
    total = w.astype(np.int64).reshape(w.shape[0], -1).sum(axis=1)
    offset = offset - zero * total * factors
    chain = spec.in_codes
    if chain is not None:
        factors, offset = factors / spec.y_scale, offset / spec.y_scale + chain.shift
    return factors, offset


def is_bounded(w: Codes8, scale: F32Array, bias: F32Array | None, spec: QuantizedSpec) -> bool:
    """Whether weights as those of :func:`pack_affine` can only give results of moderate size."""
    chain = spec.in_codes
    alone = spec.last is not None and len(spec.conv.postops) == 1
    if chain is None and not alone:
        return False
    most = 255.0 * np.abs(w.reshape(w.shape[0], -1).astype(np.int32)).sum(axis=1)
    real = most * np.abs(scale.astype(np.float64)) + (0.0 if bias is None else np.abs(bias))
    added = 0.0
    if chain is not None:
        added = sum(255.0 * abs(p.params[0]) for p in chain.postops) + abs(chain.shift)
    return bool(2 * real.max(initial=0.0) / spec.y_scale + added < LARGE)


def pack_sums(w: Codes8, spec: QuantizedSpec, isa: Isa) -> npt.NDArray[np.int32]:
    """What is added to the sums for the zero point, int32, padded as channel operands are.

    Args:
        w: Weights [OC, ...] in int8.
        spec: The kernel.
        isa: The instruction set.
    """
    offset = np.zeros(padded_channels(spec.conv.oc, isa), np.int32)
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
            w = k.input("w", (packed_codes_size(spec, isa),), "int8")
        epilogue = declare_epilogue(k, spec, shape)
        y, to = declare_results(k, spec, shape)
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


def declare_results(
    k: KernelBuilder, spec: QuantizedSpec, shape: Sequence[Index]
) -> tuple[Tensor, Tensor | None]:
    """Declare the outputs: where a tile is stored, and where deferred steps store it then."""
    y = placed(k, shape, spec.conv.place, spec.y_dtype)
    if not spec.staged:
        return y, None
    # Steps in a loop of their own read what they have not rounded yet.
    return k.output("staged", shape, "float32"), coded(y, spec.y_scale, spec.y_zero)


def declare_epilogue(
    k: KernelBuilder, spec: QuantizedSpec, shape: Sequence[Index], channels: int | None = None
) -> Epilogue:
    """Declare scales, offsets and operands of post-ops as the next inputs.

    Args:
        k: The kernel.
        spec: What it computes.
        shape: Of the result.
        channels: Constants of each kind, if they are packed otherwise than channel operands are.
    """
    channels = padded_channels(spec.conv.oc, k.isa) if channels is None else channels
    if spec.y_dtype == "int32":
        return SumEpilogue((), 0, k.input("offset", (channels,), "int32"))
    scale = k.input("scale", (channels,), "float32")
    offset = k.input("offset", (channels,), "float32")
    chain = spec.in_codes
    postops = spec.conv.postops if chain is None else chain.postops
    last = spec.last
    steps = postops if last is None else postops[:-1]
    plain = Epilogue.declare(k, steps, shape, spec.codes, channels)
    if not spec.stores_codes or plain.deferred:
        return ScaledEpilogue(plain.steps, plain.cut, scale, offset)
    whole = replace(Rounding.whole(spec.y_dtype, spec.y_zero), bounded=spec.bounded)
    rounding, unit = (whole, spec.y_scale) if chain is None else (chain.rounding, 1.0)
    return CodeEpilogue(plain.steps, plain.cut, scale, offset, k.isa, rounding, unit, last)


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
    x = replace(x, flat=Words(as_words(x), spec.x_dtype == "int8"))
    w = replace(w, flat=as_words(w))
    columns = words.columns(isa)
    if words.pointwise:
        rows = static(x.shape[0] * x.shape[1] * x.shape[2])
        depth, oc, line = words.ic, words.oc, words.line
        emit_gemm(isa, x, w, y, epilogue, rows, depth, oc, columns, dot=words.dot, to=to, line=line)
    else:
        DirectLoops(isa, words, columns, x, w, y, epilogue, to).emit()


def as_words(tensor: Tensor) -> object:
    """A 1-D int32 alias of a tensor of codes, as many words as hold them all."""
    size = i64(ceildiv(tensor.size, PACK))
    return T.decl_buffer((size,), "int32", data=tensor.buffer.data, align=PACK)
