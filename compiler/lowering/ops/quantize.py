"""Quantization, dequantization and integer products."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm import te, tirx

from burnish.ir.dims import Dim
from burnish.ir.types import FLOATS
from burnish.lowering.ops.common import bind, cast, const, dtype_of, like, select, wide
from burnish.lowering.ops.conv import conv_windows, convolve
from burnish.lowering.ops.linear import finish, matmul
from burnish.lowering.ops.reduction import maximum_over, minimum_over, reduced
from burnish.lowering.registry import te_rule
from burnish.lowering.te_context import Prim, TeContext, int64

_RANGES = {
    "int8": (-128, 127),
    "uint8": (0, 255),
    "int16": (-32768, 32767),
    "uint16": (0, 65535),
}
_QUANTIZED = frozenset({*_RANGES, "int32"})


def saturate(value: Prim, dtype: str) -> Prim:
    """An int32 or float value as a quantized type; NaN becomes the lower bound."""
    low, high = _RANGES[dtype]

    def clamp(v: Prim) -> Prim:
        v = select(v > like(low, v), v, like(low, v))
        return bind(v, lambda u: cast(select(u < like(high, u), u, like(high, u)), dtype))

    return bind(value, clamp)


def quantized(value: Prim, scale: Prim, zero: Prim | None, dtype: str) -> Prim:
    """saturate(round(value / scale) + zero), rounded half to even."""
    result = te.nearbyint(value / scale)
    if zero is not None:
        result = result + cast(zero, dtype_of(result))
    return saturate(result, dtype)


def parameter_index(
    ctx: TeContext, index: int, at: Sequence[Prim], axis: int, block_size: int
) -> tuple[Prim, ...]:
    """Where scale or zero point ``index`` is read: for the tensor, an axis, or a block."""
    dims = ctx.in_dims(index)
    if len(dims) <= 1 and all(d == 1 for d in dims):
        return tuple(int64(0) for _ in dims)
    along = axis % len(at)
    if block_size:
        return tuple(
            tirx.floordiv(i, int64(block_size)) if a == along else i for a, i in enumerate(at)
        )
    return (at[along],)


@te_rule("QuantizeLinear", dtypes=FLOATS | _QUANTIZED)
def quantize_linear(
    ctx: TeContext,
    x: te.Tensor,
    y_scale: te.Tensor,
    y_zero_point: te.Tensor | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
    precision: int = 0,
    saturate: int = 1,
) -> te.Tensor:
    """QuantizeLinear-25 to 8 and 16 bits; ``saturate`` only concerns float8."""
    dtype = ctx.out_type().dtype

    def body(*at: Prim) -> Prim:
        where = parameter_index(ctx, 1, at, axis, block_size)
        scale = wide(y_scale(*where))
        value = cast(wide(x(*at)), dtype_of(scale))
        zero = None
        if y_zero_point is not None:
            zero = y_zero_point(*parameter_index(ctx, 2, at, axis, block_size))
        return quantized(value, scale, zero, dtype)

    return ctx.compute(body)


@te_rule("DequantizeLinear", dtypes=FLOATS | _QUANTIZED)
def dequantize_linear(
    ctx: TeContext,
    x: te.Tensor,
    x_scale: te.Tensor,
    x_zero_point: te.Tensor | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
) -> te.Tensor:
    """DequantizeLinear-25 of 8, 16 and 32 bits."""

    def body(*at: Prim) -> Prim:
        scale = wide(x_scale(*parameter_index(ctx, 1, at, axis, block_size)))
        value = cast(x(*at), "int32")
        if x_zero_point is not None:
            zero = x_zero_point(*parameter_index(ctx, 2, at, axis, block_size))
            value = value - cast(zero, "int32")
        return cast(cast(value, dtype_of(scale)) * scale, ctx.out_type().dtype)

    return ctx.compute(body)


@te_rule("DynamicQuantizeLinear", dtypes={"float32", "uint8"})
def dynamic_quantize_linear(ctx: TeContext, x: te.Tensor) -> tuple[te.Tensor, ...]:
    """DynamicQuantizeLinear-11."""
    dims = ctx.in_dims(0)
    axes = range(len(dims))
    if axes:
        low = reduced(ctx, dims, axes, lambda *at: x(*at), minimum_over, name="low")
        high = reduced(ctx, dims, axes, lambda *at: x(*at), maximum_over, name="high")
    else:
        low = high = x

    def smallest() -> Prim:
        return bind(low(), lambda v: select(v < like(0, v), v, like(0, v)))

    def largest() -> Prim:
        return bind(high(), lambda v: select(v > like(0, v), v, like(0, v)))

    def scale_of() -> Prim:
        span = (largest() - smallest()) / const(255, "float32")
        return bind(span, lambda s: select(s.equal(like(0, s)), like(1, s), s))

    scale = te.compute((), lambda: scale_of(), name="scale")
    zero = te.compute(
        (),
        lambda: saturate(te.nearbyint(const(0, "float32") - smallest() / scale()), "uint8"),
        name="zero",
    )
    return ctx.compute(lambda *at: quantized(x(*at), scale(), zero(), "uint8")), scale, zero


def _shifted(tensor: te.Tensor, zero: Callable[..., Prim] | None) -> Callable[..., Prim]:
    """Reads an element as int32 with its zero point taken off."""

    def read(*at: Prim) -> Prim:
        value = cast(tensor(*at), "int32")
        return value if zero is None else value - cast(zero(*at), "int32")

    return read


def _operand_zero(
    ctx: TeContext, zero: te.Tensor | None, index: int, axis: int
) -> Callable[..., Prim] | None:
    """Zero point of a matrix operand: one, one for a row or column, or one of each batch."""
    if zero is None:
        return None
    dims: Sequence[Dim] = ctx.in_dims(index)

    def read(*at: Prim) -> Prim:
        if all(d == 1 for d in dims):
            return zero(*[int64(0)] * len(dims))
        if len(dims) == 1:
            return zero(at[axis])
        return zero(*(int64(0) if d == 1 else i for d, i in zip(dims, at, strict=True)))

    return read


_INTEGER_IO = frozenset({"int8", "uint8", "int32"})


@te_rule("MatMulInteger", dtypes=_INTEGER_IO)
def matmul_integer(
    ctx: TeContext,
    a: te.Tensor,
    b: te.Tensor,
    a_zero_point: te.Tensor | None = None,
    b_zero_point: te.Tensor | None = None,
) -> te.Tensor:
    """MatMulInteger-10."""
    left = _shifted(a, _operand_zero(ctx, a_zero_point, 2, -2))
    right = _shifted(b, _operand_zero(ctx, b_zero_point, 3, -1))
    return finish(ctx, matmul(ctx, left, right))


@te_rule("ConvInteger", dtypes=_INTEGER_IO)
def conv_integer(
    ctx: TeContext,
    x: te.Tensor,
    w: te.Tensor,
    x_zero_point: te.Tensor | None = None,
    w_zero_point: te.Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: tuple[int, ...] | None = None,
    group: int = 1,
    kernel_shape: tuple[int, ...] | None = None,
    pads: tuple[int, ...] | None = None,
    strides: tuple[int, ...] | None = None,
) -> te.Tensor:
    """ConvInteger-10; padding stands for the zero point."""
    geometry = conv_windows(ctx, strides, dilations, pads, auto_pad)
    data = _shifted(x, _operand_zero(ctx, x_zero_point, 2, 1))
    weight = _shifted(w, _operand_zero(ctx, w_zero_point, 3, 0))
    return finish(ctx, convolve(ctx, data, weight, geometry, group))


def _requantize(
    ctx: TeContext, total: te.Tensor, factor: Callable[..., Prim], zero: te.Tensor, zero_index: int
) -> te.Tensor:
    dtype = ctx.out_type().dtype
    zeros = [int64(0)] * len(ctx.in_dims(zero_index))

    def body(*at: Prim) -> Prim:
        scaled = te.nearbyint(cast(total(*at), "float32") * factor(*at))
        return saturate(scaled + cast(zero(*zeros), "float32"), dtype)

    return ctx.compute(body)


def _scale(ctx: TeContext, tensor: te.Tensor, index: int, axis: int) -> Callable[..., Prim]:
    reader = _operand_zero(ctx, tensor, index, axis)
    assert reader is not None
    return lambda *at: wide(reader(*at))


@te_rule("QLinearMatMul", dtypes={"int8", "uint8", "float32", "float16"})
def qlinear_matmul(
    ctx: TeContext,
    a: te.Tensor,
    a_scale: te.Tensor,
    a_zero_point: te.Tensor,
    b: te.Tensor,
    b_scale: te.Tensor,
    b_zero_point: te.Tensor,
    y_scale: te.Tensor,
    y_zero_point: te.Tensor,
) -> te.Tensor:
    """QLinearMatMul-21."""
    left = _shifted(a, _operand_zero(ctx, a_zero_point, 2, -2))
    right = _shifted(b, _operand_zero(ctx, b_zero_point, 5, -1))
    total = matmul(ctx, left, right, 0, 3)
    rows, columns = _scale(ctx, a_scale, 1, -2), _scale(ctx, b_scale, 4, -1)
    y_zeros = [int64(0)] * len(ctx.in_dims(6))

    def factor(*at: Prim) -> Prim:
        return rows(*at) * columns(*at) / wide(y_scale(*y_zeros))

    return _requantize(ctx, total, factor, y_zero_point, 7)


@te_rule("QLinearConv", dtypes={"int8", "uint8", "int32", "float32"})
def qlinear_conv(
    ctx: TeContext,
    x: te.Tensor,
    x_scale: te.Tensor,
    x_zero_point: te.Tensor,
    w: te.Tensor,
    w_scale: te.Tensor,
    w_zero_point: te.Tensor,
    y_scale: te.Tensor,
    y_zero_point: te.Tensor,
    b: te.Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: tuple[int, ...] | None = None,
    group: int = 1,
    kernel_shape: tuple[int, ...] | None = None,
    pads: tuple[int, ...] | None = None,
    strides: tuple[int, ...] | None = None,
) -> te.Tensor:
    """QLinearConv-10."""
    geometry = conv_windows(ctx, strides, dilations, pads, auto_pad, 3)
    data = _shifted(x, _operand_zero(ctx, x_zero_point, 2, 1))
    weight = _shifted(w, _operand_zero(ctx, w_zero_point, 5, 0))
    total = convolve(ctx, data, weight, geometry, group, 3)
    if b is not None:
        summed = total
        total = te.compute(
            ctx.out_shape(), lambda *at: summed(*at) + cast(b(at[1]), "int32"), name="biased"
        )
    inputs, channels = _scale(ctx, x_scale, 1, 1), _scale(ctx, w_scale, 4, 1)
    y_zeros = [int64(0)] * len(ctx.in_dims(6))

    def factor(*at: Prim) -> Prim:
        return inputs(*at) * channels(*at) / wide(y_scale(*y_zeros))

    return _requantize(ctx, total, factor, y_zero_point, 7)
