"""Resize in all its modes: one interpolation pass for each axis."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from tvm import te, tirx

from burnish.ir.dims import Dim, equal
from burnish.ir.graph import Node
from burnish.ir.infer.run_time import DOMAIN
from burnish.lowering.ops.common import as_float, bind, cast, const, dtype_of, select
from burnish.lowering.ops.movement import replaced
from burnish.lowering.ops.reduction import reduced, sum_over
from burnish.lowering.registry import NATIVE, te_rule
from burnish.lowering.te_context import Prim, TeContext, int64

Read = Callable[..., Prim]
#: Coordinates are float32, as in onnxruntime, which decides where a tie is rounded to.
_COORDINATE = "float32"
#: A pass of more taps is a loop.
_UNROLLED = 4


@dataclass(frozen=True)
class _Axis:
    """One resized axis.

    Attributes:
        axis: Its position.
        dim: Input extent.
        out: Output extent.
        factor: Scale as a number, or None when it is the quotient of two symbols.
        scale: Scale as an expression.
        roi: Start and end in [0, 1] as expressions, for tf_crop_and_resize.
        fraction: Whether the scale is given: then ONNX takes scale times extent, which need not be
            whole, for the resized length that corners are aligned with.
        taps: Size of the filter where it depends on a scale that is known at run time only.
    """

    axis: int
    dim: Dim
    out: Dim
    factor: float | None
    scale: Prim
    roi: tuple[Prim, Prim]
    fraction: bool
    taps: Dim | None = None


@dataclass(frozen=True)
class _How:
    """The attributes of the node."""

    mode: str
    coordinates: str
    nearest: str
    cubic: float
    exclude_outside: bool
    antialias: bool


def _float(value: Prim) -> Prim:
    return tirx.Cast(_COORDINATE, value)


def _number(value: float) -> Prim:
    return const(value, _COORDINATE)


def _source(ctx: TeContext, item: _Axis, how: _How, at: Prim) -> Prim:
    """The coordinate in the input of output position ``at``."""
    x, extent, out = _float(at), _float(ctx.expr(item.dim)), _float(ctx.expr(item.out))
    half = _number(0.5)
    kind = how.coordinates
    if kind == "asymmetric":
        return x / item.scale
    if kind == "align_corners":
        one = _number(1)
        length = item.scale * extent if item.fraction else out
        single = length.equal(one)
        return select(single, _number(0), x * (extent - one) / select(single, one, length - one))
    if kind == "tf_crop_and_resize":
        start, end = item.roi
        one, last = _number(1), extent - _number(1)
        step = select(out.equal(one), one, out - one)
        inner = start * last + x * (end - start) * last / step
        return select(out.equal(one), half * (start + end) * last, inner)
    centered = (x + half) / item.scale - half
    if kind == "pytorch_half_pixel":
        return select(out > _number(1), centered, _number(0))
    if kind == "half_pixel_symmetric":
        adjustment = out / (item.scale * extent)
        offset = extent * half * (_number(1) - adjustment)
        return offset + (x + half) / item.scale - half
    return centered  # half_pixel


def _clamp(index: Prim, extent: Prim) -> Prim:
    return tirx.max(tirx.min(index, extent - int64(1)), int64(0))


def _whole(value: Prim) -> Prim:
    """An integral float as an index."""
    return tirx.Cast("int64", tirx.Cast("int32", value))


def _nearest_index(ctx: TeContext, item: _Axis, how: _How, at: Prim) -> Prim:
    """The nearest input position."""
    centered = how.coordinates in ("half_pixel", "pytorch_half_pixel")
    rounds = how.nearest.startswith("round")
    if item.factor is not None and item.factor >= 1 and item.factor == int(item.factor):
        # An element is repeated: its copies' coordinates lie around it, or behind it.
        if centered and rounds and item.out != 1:
            return tirx.floordiv(at, int64(int(item.factor)))
        if how.coordinates == "asymmetric" and how.nearest == "floor":
            return tirx.floordiv(at, int64(int(item.factor)))
    rounding = {
        "round_prefer_floor": lambda v: te.ceil(v - _number(0.5)),
        "round_prefer_ceil": lambda v: te.floor(v + _number(0.5)),
        "floor": te.floor,
        "ceil": te.ceil,
    }[how.nearest]
    index = _whole(rounding(_source(ctx, item, how, at)))
    return _clamp(index, ctx.expr(item.dim))


def _triangle(distance: Prim) -> Prim:
    weight = _number(1) - te.abs(distance)
    return select(weight > _number(0), weight, _number(0))


def _keys(distance: Prim, a: float) -> Prim:
    """The cubic convolution kernel (Keys, 1981)."""

    def of(d: Prim) -> Prim:
        near = ((_number(a + 2) * d - _number(a + 3)) * d) * d + _number(1)
        far = ((_number(a) * d - _number(5 * a)) * d + _number(8 * a)) * d - _number(4 * a)
        return select(d <= _number(1), near, select(d < _number(2), far, _number(0)))

    return bind(te.abs(distance), of)


def _weight(how: _How, distance: Prim) -> Prim:
    return _triangle(distance) if how.mode == "linear" else _keys(distance, how.cubic)


def _taps(ctx: TeContext, item: _Axis, how: _How) -> tuple[Prim, Dim, Prim | None]:
    """First tap relative to floor(coordinate), number of taps, and the filter's scale if not 1."""
    if item.taps is not None:
        first = int64(1) - tirx.floordiv(ctx.expr(item.taps), int64(2))
        return first, item.taps, tirx.min(item.scale, _number(1))
    radius = 1 if how.mode == "linear" else 2
    scale = 1.0
    if how.antialias and item.factor is not None and item.factor < 1:
        scale = item.factor
    begin = math.floor(-radius / scale) + 1
    return int64(begin), 2 - 2 * begin, None if scale == 1 else _number(scale)


def _pass(ctx: TeContext, read: Read, dims: list[Dim], item: _Axis, how: _How) -> Read:
    """Interpolate along one axis; ``dims`` are those of what ``read`` reads."""
    extent = ctx.expr(item.dim)
    if how.mode == "nearest":
        return lambda *at: read(
            *replaced(at, item.axis, _nearest_index(ctx, item, how, at[item.axis]))
        )
    first, count, scale = _taps(ctx, item, how)
    normalized = how.exclude_outside or scale is not None

    def tap(at: tuple[Prim, ...], base: Prim, ratio: Prim, step: Prim) -> tuple[Prim, Prim]:
        """Weight and value of a tap; ``step`` counts from the first."""
        offset = step + first
        index = _whole(base) + offset
        distance = _float(offset) - ratio
        if scale is not None:
            distance = distance * scale
        weight = _weight(how, distance)
        if how.exclude_outside:
            inside = tirx.And(index >= int64(0), index < extent)
            weight = select(inside, weight, _number(0))
        return weight, read(*replaced(at, item.axis, _clamp(index, extent)))

    def at_base(at: tuple[Prim, ...], body: Callable[[Prim, Prim], Prim]) -> Prim:
        source = _source(ctx, item, how, at[item.axis])
        return bind(source, lambda s: bind(te.floor(s), lambda base: body(base, s - base)))

    if isinstance(count, int) and count <= _UNROLLED:

        def unrolled(*at: Prim) -> Prim:
            def total(base: Prim, ratio: Prim) -> Prim:
                taps = [tap(at, base, ratio, int64(k)) for k in range(count)]
                value = sum((_scaled(w, v) for w, v in taps[1:]), _scaled(*taps[0]))
                if not normalized:
                    return value
                weights = sum((w for w, _ in taps[1:]), taps[0][0])
                return value / cast(weights, dtype_of(value))

            return at_base(at, total)

        return unrolled
    shape: list[Dim] = [*dims, count]
    shape[item.axis] = item.out

    def part(which: Callable[[Prim, Prim], Prim]) -> te.Tensor:
        def element(*index: Prim) -> Prim:
            *at, step = index
            return at_base(tuple(at), lambda base, ratio: which(*tap(tuple(at), base, ratio, step)))

        return reduced(ctx, shape, [len(dims)], element, sum_over, name="filter")

    value, weights = part(_scaled), part(lambda w, v: cast(w, dtype_of(v)))
    return lambda *at: value(*at) / weights(*at)


def _scaled(weight: Prim, value: Prim) -> Prim:
    return cast(weight, dtype_of(value)) * value


def _check(node: Node) -> str | None:
    for index in (1, 2):
        value = node.input(index)
        if value is not None and not value.is_const:
            return f"input {index} is known at run time only"
    antialias, dims = node.int_attr("antialias"), node.required(0).shape
    if antialias and not all(isinstance(d, int) for d in (*dims, *node.output.shape)):
        return "antialias with symbolic dims"
    return None


def _axes_of(ctx: TeContext, axes: tuple[int, ...] | None, policy: str) -> list[_Axis]:
    """The axes that change."""
    dims, outs = ctx.in_dims(0), ctx.out_dims()
    rank = len(dims)
    along = tuple(range(rank)) if axes is None else tuple(a % rank for a in axes)
    roi, scales = ctx.constant(1), ctx.constant(2)
    roi = np.zeros(0) if roi is None else roi
    given = None if scales is None or scales.size == 0 else [float(s) for s in scales]
    if given is None and policy != "stretch":
        given = _uniform_scale(ctx, along, policy)
    result = []
    for position, axis in enumerate(along):
        dim, out = dims[axis], outs[axis]
        factor = given[position] if given is not None else None
        if factor is None and isinstance(dim, int) and isinstance(out, int):
            factor = float(np.float32(out) / np.float32(max(dim, 1)))
        region = (0.0, 1.0)
        if roi.size:
            region = (float(roi[position]), float(roi[position + len(along)]))
        if factor == 1 and equal(dim, out) and region == (0.0, 1.0):
            continue
        scale = (
            _number(factor) if factor is not None else _float(ctx.expr(out)) / _float(ctx.expr(dim))
        )
        bounds = (_number(region[0]), _number(region[1]))
        result.append(_Axis(axis, dim, out, factor, scale, bounds, given is not None))
    return result


def _uniform_scale(ctx: TeContext, along: tuple[int, ...], policy: str) -> list[float] | None:
    sizes = ctx.ints(3)
    dims = [ctx.in_dims(0)[a] for a in along]
    if sizes is None or not all(isinstance(d, int) for d in dims):
        return None
    factors = [s / d for s, d in zip(sizes, dims, strict=True) if isinstance(d, int)]
    factor = min(factors) if policy == "not_larger" else max(factors)
    return [factor] * len(along)


@te_rule("Resize", attribute_inputs=(1, 2, 3), dtypes=NATIVE, check=_check)
def resize(
    ctx: TeContext,
    x: te.Tensor,
    roi: te.Tensor | None = None,
    scales: te.Tensor | None = None,
    sizes: te.Tensor | None = None,
    *,
    antialias: int = 0,
    axes: tuple[int, ...] | None = None,
    coordinate_transformation_mode: str = "half_pixel",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,
    keep_aspect_ratio_policy: str = "stretch",
    mode: str = "nearest",
    nearest_mode: str = "round_prefer_floor",
) -> te.Tensor:
    """Resize-19."""
    items = _axes_of(ctx, axes, keep_aspect_ratio_policy)
    how = _How(
        mode,
        coordinate_transformation_mode,
        nearest_mode,
        cubic_coeff_a,
        bool(exclude_outside) and mode != "nearest",
        bool(antialias),
    )
    return _interpolate(ctx, x, items, how, extrapolation_value)


def _interpolate(
    ctx: TeContext, x: te.Tensor, items: list[_Axis], how: _How, extrapolation: float
) -> te.Tensor:
    """All passes, one after the other."""
    read: Read = x if how.mode == "nearest" else lambda *at: as_float(x(*at))
    dims = list(ctx.in_dims(0))
    for item in items:
        read = _pass(ctx, read, list(dims), item, how)
        dims[item.axis] = item.out
    dtype = ctx.out_type().dtype
    crops = [item for item in items if how.coordinates == "tf_crop_and_resize"]

    def body(*at: Prim) -> Prim:
        value = cast(read(*at), dtype)
        for item in crops:
            source = _source(ctx, item, how, at[item.axis])
            last = _float(ctx.expr(item.dim)) - _number(1)
            outside = tirx.Or(source < _number(0), source > last)
            value = select(outside, const(extrapolation, dtype), value)
        return value

    return ctx.compute(body)


@te_rule("Resize", domain=DOMAIN, attribute_inputs=(4, 5), dtypes=NATIVE)
def resize_at_run_time(
    ctx: TeContext,
    x: te.Tensor,
    roi: te.Tensor | None = None,
    scales: te.Tensor | None = None,
    sizes: te.Tensor | None = None,
    bound: te.Tensor | None = None,
    taps: te.Tensor | None = None,
    *,
    antialias: int = 0,
    axes: tuple[int, ...] | None = None,
    coordinate_transformation_mode: str = "half_pixel",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,
    keep_aspect_ratio_policy: str = "stretch",
    mode: str = "nearest",
    nearest_mode: str = "round_prefer_floor",
) -> te.Tensor:
    """Resize-19 with scales, sizes or a region that are known at run time only."""
    how = _How(
        mode,
        coordinate_transformation_mode,
        nearest_mode,
        cubic_coeff_a,
        bool(exclude_outside) and mode != "nearest",
        bool(antialias),
    )
    filters = ctx.dims_of(5)
    dims, outs = ctx.in_dims(0), ctx.out_dims()
    along = tuple(range(len(dims))) if axes is None else tuple(a % len(dims) for a in axes)
    count = len(along)
    factors: list[Prim]
    given = sizes is None or keep_aspect_ratio_policy != "stretch"
    if scales is not None and ctx.in_dims(2) != (0,):
        factors = [_float(scales(int64(k))) for k in range(count)]
    elif sizes is None or keep_aspect_ratio_policy == "stretch":
        factors = [_float(ctx.expr(outs[a])) / _float(ctx.expr(dims[a])) for a in along]
    else:
        ratios = [_float(sizes(int64(k))) / _float(ctx.expr(dims[a])) for k, a in enumerate(along)]
        pick = tirx.min if keep_aspect_ratio_policy == "not_larger" else tirx.max
        factors = [functools.reduce(pick, ratios)] * count
    whole = roi is None or coordinate_transformation_mode != "tf_crop_and_resize"
    items = []
    for k, axis in enumerate(along):
        region = (_number(0), _number(1))
        if roi is not None and not whole:
            region = (_float(roi(int64(k))), _float(roi(int64(k + count))))
        size = filters[k] if filters is not None else None
        items.append(_Axis(axis, dims[axis], outs[axis], None, factors[k], region, given, size))
    return _interpolate(ctx, x, items, how, extrapolation_value)
