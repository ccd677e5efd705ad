"""Fourier transforms, window functions and mel filters.

Transforms are plain sums over a table of the roots of unity: no work is shared between the
frequencies.
"""

from __future__ import annotations

import math
from typing import Any

from tvm import te, tirx

from burnish.backends.cpu import tir
from burnish.backends.cpu.tir import Tensor
from burnish.ir.types import FLOATS, INTEGERS
from burnish.lowering.kernel_context import KernelContext
from burnish.lowering.ops.common import cast, const, extern, like, select, wide, wide_dtype
from burnish.lowering.ops.running import along_any
from burnish.lowering.registry import REAL, kernel_rule, te_rule
from burnish.lowering.te_context import Prim, TeContext, int64


class _Roots:
    """cos and sin of 2 pi k / size for every k."""

    def __init__(self, size: Prim, kind: str) -> None:
        self.size = size
        self.cos, self.sin = tir.scratch(size, kind), tir.scratch(size, kind)
        step = const(2 * math.pi, "float64") / cast(tir.i64(size), "float64")
        with tir.serial(size) as k:
            angle = tir.let(cast(tir.i64(k), "float64") * step)
            tir.store(self.cos, k, cast(extern("cos", angle), kind))
            tir.store(self.sin, k, cast(extern("sin", angle), kind))

    def at(self, k: Prim, n: Prim) -> tuple[Prim, Prim]:
        """Cos and sin for the product of a frequency and a time; exact for any size of it."""
        index = tir.let(tir.floormod(tir.i64(k) * n, self.size))
        return tir.load(self.cos, index), tir.load(self.sin, index)


class _Sum:
    """A complex number that is added up."""

    def __init__(self, kind: str) -> None:
        self.parts = tir.local(1, kind), tir.local(1, kind)
        for part in self.parts:
            tir.store(part, 0, const(0, kind))

    def add(self, real: Prim, imaginary: Prim) -> None:
        """Add a number."""
        for part, value in zip(self.parts, (real, imaginary), strict=True):
            tir.store(part, 0, tir.load(part, 0) + value)

    def get(self, index: int) -> Prim:
        """The real (0) or imaginary (1) part."""
        return tir.load(self.parts[index], 0)


def _complex(x: Tensor, at: Prim, parts: int) -> tuple[Prim, Prim]:
    """An element whose parts lie side by side."""
    real = tir.let(wide(x.load(at)))
    return real, tir.let(wide(x.load(at + 1))) if parts == 2 else like(0, real)


def _transform(
    x: Tensor, y: Tensor, axis: int, length: Prim, inverse: bool, onesided: bool
) -> None:
    """One axis of a tensor whose last axis holds real and imaginary part."""
    parts, kind = int(x.shape[-1]), wide_dtype(x.dtype)
    outer, inner = tir.product(x.shape[:axis]), tir.product(x.shape[axis + 1 : -1])
    taken = tir.minimum(
        x.shape[axis], tir.floordiv(length, 2) + 1 if inverse and onesided else length
    )
    scale = const(1, kind) / cast(tir.i64(length), kind) if inverse else const(1, kind)
    roots = _Roots(length, kind)
    with tir.parallel(outer * y.shape[axis] * inner) as task:
        rest, lane = tir.floordiv(task, inner), tir.floormod(task, inner)
        block, k = tir.floordiv(rest, y.shape[axis]), tir.floormod(rest, y.shape[axis])
        total = _Sum(kind)
        with tir.serial(taken) as n:
            real, imaginary = _complex(
                x, ((block * x.shape[axis] + n) * inner + lane) * parts, parts
            )
            cos, sin = roots.at(k, n)
            sign = 1 if inverse else -1
            sin = sin if sign > 0 else like(0, sin) - sin
            if inverse and onesided:
                # The other half of the spectrum is conjugate: it doubles the real part.
                twice = tirx.And(tir.i64(n) > int64(0), tir.i64(n) * 2 < tir.i64(length))
                weight = select(twice, const(2, kind), const(1, kind))
                total.add(weight * (real * cos - imaginary * sin), const(0, kind))
            else:
                total.add(real * cos - imaginary * sin, real * sin + imaginary * cos)
        at = ((block * y.shape[axis] + k) * inner + lane) * y.shape[-1]
        for part in range(y.shape[-1]):
            y.store(at + part, cast(total.get(part) * scale, y.dtype))


@kernel_rule("DFT", attribute_inputs=(1, 2), run_time=(2,), dtypes=FLOATS | INTEGERS)
def dft(
    ctx: KernelContext,
    x: Tensor,
    dft_length: Tensor | None = None,
    axis: Tensor | None = None,
    *,
    inverse: int = 0,
    onesided: int = 0,
) -> None:
    """DFT-20."""
    given = ctx.content(1)

    def run(along: int) -> None:
        length = x.shape[along]
        if given:
            length = given[0]
        elif inverse and onesided:
            length = (length - 1) * 2
        _transform(x, ctx.output(), along, length, bool(inverse), bool(onesided))

    if not ctx.has_input(2):
        run(len(x.shape) - 2)
    else:
        along_any(ctx, 2, axis, run, range(len(x.shape) - 1))


@kernel_rule("STFT", attribute_inputs=(1, 3), dtypes=FLOATS | INTEGERS)
def stft(
    ctx: KernelContext,
    signal: Tensor,
    frame_step: Tensor | None,
    window: Tensor | None = None,
    frame_length: Tensor | None = None,
    *,
    onesided: int = 1,
) -> None:
    """STFT-17."""
    y, kind = ctx.output(), wide_dtype(signal.dtype)
    parts = int(signal.shape[2]) if len(signal.shape) == 3 else 1
    (step,) = ctx.content(1) or (1,)
    lengths = ctx.content(3)
    length = lengths[0] if lengths else signal.shape[1] if window is None else window.shape[0]
    roots = _Roots(length, kind)
    frames, bins = y.shape[1], y.shape[2]
    with tir.parallel(y.shape[0] * frames * bins) as task:
        rest, k = tir.floordiv(task, bins), tir.floormod(task, bins)
        batch, frame = tir.floordiv(rest, frames), tir.floormod(rest, frames)
        start = tir.let(tir.i64(batch * signal.shape[1] + frame * step))
        total = _Sum(kind)
        with tir.serial(length) as n:
            real, imaginary = _complex(signal, (start + n) * parts, parts)
            if window is not None:
                weight = tir.let(wide(window.load(n)))
                real, imaginary = real * weight, imaginary * weight
            cos, sin = roots.at(k, n)
            total.add(real * cos + imaginary * sin, imaginary * cos - real * sin)
        for part in range(2):
            y.store(tir.i64(task) * 2 + part, cast(total.get(part), y.dtype))


#: Factors of 1, cos(a) and cos(2 a), for a = 2 pi n / size.
_WINDOWS = {
    "HannWindow": (0.5, -0.5, 0.0),
    "HammingWindow": (25 / 46, -21 / 46, 0.0),
    "BlackmanWindow": (0.42, -0.5, 0.08),
}


@te_rule(*_WINDOWS, attribute_inputs=(0,), dtypes=REAL)
def window_function(
    ctx: TeContext, size: te.Tensor | None, *, output_datatype: int = 1, periodic: int = 1
) -> te.Tensor:
    """HannWindow-17, HammingWindow-17, BlackmanWindow-17."""
    base, once, twice = _WINDOWS[ctx.node.op]
    (count,) = ctx.out_shape()
    period = cast(count if periodic else count - int64(1), "float64")

    def body(n: Prim) -> Prim:
        angle = cast(n, "float64") * const(2 * math.pi, "float64") / period
        value = const(base, "float64") + const(once, "float64") * extern("cos", angle)
        if twice:
            value = value + const(twice, "float64") * extern("cos", angle + angle)
        return cast(value, ctx.out_type().dtype)

    return ctx.compute(body)


def _mel_edges(count: Prim, size: Prim, rate: Prim, low: Prim, high: Prim) -> Any:
    """First bin of the spectrum of every mel band, and two more."""
    edges = tir.scratch(count + 2, "int64")

    def mel(hertz: Prim) -> Prim:
        return extern("log10", const(1, "float64") + hertz / const(700, "float64"))

    start = tir.let(mel(low))
    step = tir.let((mel(high) - start) / cast(tir.i64(count + 2), "float64"))
    with tir.serial(count + 2) as i:
        exponent = start + cast(tir.i64(i), "float64") * step
        power = extern("pow", const(10, "float64"), exponent)
        hertz = (power - const(1, "float64")) * const(700, "float64")
        bins = cast(size + int64(1), "float64") * hertz / cast(rate, "float64")
        tir.store(edges, i, cast(te.floor(bins), "int64"))
    return edges


@kernel_rule("MelWeightMatrix", attribute_inputs=(0, 1), dtypes=REAL)
def mel_weight_matrix(
    ctx: KernelContext,
    num_mel_bins: Tensor | None,
    dft_length: Tensor | None,
    sample_rate: Tensor,
    lower_edge_hertz: Tensor,
    upper_edge_hertz: Tensor,
    *,
    output_datatype: int = 1,
) -> None:
    """MelWeightMatrix-17; bands of no width have their peak all the same."""
    y = ctx.output()
    (size,) = ctx.content(1) or (int64(0),)
    rate = tir.let(cast(sample_rate.load(0), "int64"))
    low, high = (cast(wide(t.load(0)), "float64") for t in (lower_edge_hertz, upper_edge_hertz))
    bins, count = y.shape
    edges = _mel_edges(count, size, rate, low, high)
    with tir.serial(bins) as j, tir.serial(count) as i:
        left, middle, right = (tir.let(tir.load(edges, i + k)) for k in range(3))
        place = tir.i64(j)

        def slope(numerator: Prim, width: Prim) -> Prim:
            safe = tirx.Select(width > int64(0), width, int64(1))
            return cast(numerator, "float64") / cast(safe, "float64")

        rising = select(middle.equal(left), const(1, "float64"), slope(place - left, middle - left))
        value = const(0, "float64")
        up = tirx.And(place >= left, place <= middle)
        down = tirx.And(place >= middle, place < right)
        value = select(up, rising, value)
        value = select(down, slope(right - place, right - middle), value)
        y.store(y.offset(j, i), cast(value, y.dtype))
