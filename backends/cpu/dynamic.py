"""Products of 8 bits whose scale and zero point are computed in every run, and what computes them.

``y = post(sum((codes(x) - x_zero) * w) * x_scale * w_scale)`` (ONNX DynamicQuantizeLinear-11,
MatMulInteger-10). Arguments of :func:`dynamic_matmul`: ``x``, ``w``
(:func:`burnish.backends.cpu.quantized.pack_codes`), ``w_scale`` ([N], padded to whole vectors),
``sums`` (:func:`column_sums`), ``x_scale`` and ``x_zero`` (scalars), the operands of the
post-ops in order, ``y``. The sums, the zero point taken off them, are exact in int32.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from tvm import tirx

from burnish.backends.cpu.codes import LIMITS, Words
from burnish.backends.cpu.conv import ConvSpec
from burnish.backends.cpu.dot8 import PACK
from burnish.backends.cpu.epilogue import Epilogue, padded_channels
from burnish.backends.cpu.gemm import emit_gemm, packed_size
from burnish.backends.cpu.isa import Isa
from burnish.backends.cpu.quantized import QuantizedSpec, as_words
from burnish.backends.cpu.rows import each_vector
from burnish.backends.cpu.tir import (
    Acc,
    Expr,
    Index,
    Kernel,
    Tensor,
    ceildiv,
    constant,
    hold,
    kernel,
    lanes_of,
    let,
    load,
    local,
    minimum,
    parallel,
    product,
    reduce_max,
    reduce_min,
    select,
    serial,
    splat,
    static,
    store,
    with_lanes,
)
from burnish.ir.postops import PostOp

#: Tensors of so many elements are quantized by one task; larger ones, or of unknown size, by many.
_SMALL = 16384
_PARTS = 16
#: Parts are a multiple of so many elements: whole cache lines of codes.
_GRAIN = 64
#: Vectors in which ends are looked for independently.
_CHAINS = 4


@dataclass(frozen=True, eq=False)
class DynamicSpec:
    """What :func:`dynamic_matmul` computes.

    Attributes:
        rows: Rows of ``x``.
        k: Columns of ``x``, a multiple of 4.
        n: Columns of ``y``.
        x_dtype: ``uint8`` or ``int8``.
        postops: Applied to the scaled sums.
    """

    rows: Index
    k: int
    n: int
    x_dtype: str = "uint8"
    postops: tuple[PostOp, ...] = ()

    @property
    def product(self) -> QuantizedSpec:
        """The product in the terms of :mod:`burnish.backends.cpu.quantized`, which packs ``w``."""
        conv = ConvSpec(1, 1, self.rows, self.k, self.n, (1, 1))
        return QuantizedSpec(replace(conv, postops=self.postops), self.x_dtype, 0)


@dataclass(frozen=True)
class _DynamicEpilogue(Epilogue):
    """Post-ops on sums whose zero point and scale are arguments.

    Attributes:
        w_scale: [channels] float32.
        sums: [channels] int32.
        x_scale: One float32.
        x_zero: One code.
    """

    w_scale: Tensor
    sums: Tensor
    x_scale: Tensor
    x_zero: Tensor

    def start(self, value: Expr, offset: Index, channel: Index, valid: int | None = None) -> Expr:
        """Real numbers of the sums, then the short steps."""
        lanes = lanes_of(value)
        zero = tirx.Cast("int32", self.x_zero.load(0))
        if self.x_zero.dtype == "int8":
            zero = zero + constant(128, 1, "int32")
        whole = value - splat(let(zero), lanes) * self.sums.load(channel, lanes)
        real = tirx.Cast(with_lanes("float32", lanes), let(whole))
        factor = self.w_scale.load(channel, lanes) * splat(let(self.x_scale.load(0)), lanes)
        return super().start(let(real * factor), offset, channel, valid)


def column_sums(w: npt.NDArray[np.int8], isa: Isa) -> npt.NDArray[np.int32]:
    """Sums of the columns of ``w`` [K, N], padded as channel operands are."""
    padded = np.zeros(padded_channels(w.shape[1], isa), np.int32)
    padded[: w.shape[1]] = w.astype(np.int32).sum(axis=0)
    return padded


def dynamic_matmul(isa: Isa, spec: DynamicSpec, name: str = "dynamic_matmul") -> Kernel:
    """Build the kernel of ``spec``; arguments as in the module's docstring."""
    words = spec.product.words(isa)
    channels = padded_channels(spec.n, isa)
    with kernel(name, isa) as k:
        x = k.input("x", (spec.rows, spec.k), spec.x_dtype)
        w = k.input("w", (PACK * packed_size(words.ic, spec.n, isa),), "int8")
        w_scale = k.input("w_scale", (channels,))
        sums = k.input("sums", (channels,), "int32")
        x_scale = k.input("x_scale", ())
        x_zero = k.input("x_zero", (), spec.x_dtype)
        plain = Epilogue.declare(k, spec.postops, (spec.rows, spec.n))
        y = k.output("y", (spec.rows, spec.n))
        epilogue = _DynamicEpilogue(plain.steps, plain.cut, w_scale, sums, x_scale, x_zero)
        emit_gemm(
            isa,
            replace(x, flat=Words(as_words(x), spec.x_dtype == "int8")),
            replace(w, flat=as_words(w)),
            y,
            epilogue,
            static(spec.rows),
            words.ic,
            spec.n,
            words.columns(isa),
            dot=words.dot,
        )
    return k.result


def dynamic_quantize(isa: Isa, dims: tuple[Index, ...], name: str = "dynamic_quantize") -> Kernel:
    """DynamicQuantizeLinear-11: codes between the least and the largest element, and 0.

    Arguments: ``x`` [dims] float32, ``y`` [dims] uint8, ``scale`` and ``zero`` (scalars), ``ends``
    [:func:`parts_of` x, 2] float32, memory for the ends of the parts of ``x``.
    """
    count = static(product(static(d) for d in dims))
    parts = parts_of(count)
    with kernel(name, isa) as k:
        x = k.input("x", dims)
        y = k.output("y", dims, "uint8")
        scale = k.output("scale", ())
        zero = k.output("zero", (), "uint8")
        ends = k.output("ends", (parts, 2))

        with parallel(parts) as task:
            _part_ends(isa.lanes, x, ends, task, _span(task, parts, count))
        _store_parameters(ends, parts, scale, zero)
        with parallel(parts) as task:
            _store_codes(isa.lanes, (x, y), (scale, zero), _span(task, parts, count))
    return k.result


def parts_of(count: Index) -> int:
    """Parts that tensors of ``count`` elements are cut into, one for each task."""
    return 1 if isinstance(count, int) and count <= _SMALL else _PARTS


def _span(task: Index, parts: int, count: Index) -> tuple[Index, Index]:
    """First element of a part, and how many it has."""
    if parts == 1:
        return 0, count
    each = ceildiv(ceildiv(count, parts), _GRAIN) * _GRAIN
    first = hold(minimum(task * each, count))
    return first, hold(minimum(each, count - first))


def _part_ends(lanes: int, x: Tensor, ends: Tensor, task: Index, span: tuple[Index, Index]) -> None:
    first, length = span
    lows, highs = Acc(_CHAINS, lanes), Acc(_CHAINS, lanes)
    # 0 is in the interval anyway, and what lanes past the end are.
    lows.fill()
    highs.fill()
    chains = itertools.cycle(range(_CHAINS))

    def include(at: Index, valid: Index | None) -> None:
        value, chain = let(load(x.flat, first + at, lanes, valid)), next(chains)
        lows[chain] = tirx.Min(value, lows[chain])
        highs[chain] = tirx.Max(value, highs[chain])

    each_vector(length, lanes, include, _CHAINS)
    low, high = lows[0], highs[0]
    for chain in range(1, _CHAINS):
        low, high = let(tirx.Min(low, lows[chain])), let(tirx.Max(high, highs[chain]))
    ends.store(task * 2, reduce_min(low))
    ends.store(task * 2 + 1, reduce_max(high))


def _store_parameters(ends: Tensor, parts: int, scale: Tensor, zero: Tensor) -> None:
    """Scale and zero point of the interval that contains all parts and 0."""
    cell = local(2)
    for which in range(2):
        store(cell, which, constant(0.0))
    with serial(parts) as part:
        store(cell, 0, tirx.Min(ends.load(part * 2), load(cell, 0)))
        store(cell, 1, tirx.Max(ends.load(part * 2 + 1), load(cell, 1)))
    low, high = let(load(cell, 0)), let(load(cell, 1))
    step = let((high - low) / constant(255.0))
    step = let(select(step > constant(0.0), step, constant(1.0)))
    code = let(tirx.nearbyint(let((constant(0.0) - low) / step)))
    code = let(tirx.Min(tirx.Max(code, constant(0.0)), constant(255.0)))
    scale.store(0, step)
    zero.store(0, tirx.Cast("uint8", let(tirx.Cast("int32", code))))


def _store_codes(
    lanes: int,
    data: tuple[Tensor, Tensor],
    parameters: tuple[Tensor, Tensor],
    span: tuple[Index, Index],
) -> None:
    (x, y), (scale, zero), (first, length) = data, parameters, span
    # A quotient: the product with a rounded reciprocal falls on the other side of some middles.
    step = let(splat(let(scale.load(0)), lanes))
    shift = let(tirx.Cast("float32", let(tirx.Cast("int32", zero.load(0)))))
    shift = let(splat(shift, lanes))
    low, high = (constant(float(end), lanes) for end in LIMITS["uint8"])

    def put(at: Index, valid: Index | None) -> None:
        value = let(tirx.nearbyint(let(load(x.flat, first + at, lanes, valid) / step)))
        value = let(tirx.Min(tirx.Max(let(value + shift), low), high))
        code = let(tirx.Cast(with_lanes("int32", lanes), value))
        store(y.flat, first + at, tirx.Cast(with_lanes("uint8", lanes), code), valid)

    each_vector(length, lanes, put, unroll=4)
