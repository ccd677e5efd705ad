"""Normalizations without a template, and the forms that the templates refuse."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm import te, tirx

from burnish.ir.dims import Dim, floordiv
from burnish.ir.graph import Node
from burnish.ir.types import FLOATS
from burnish.lowering.ops.common import cast, extern, like, select, wide
from burnish.lowering.ops.reduction import count_of, reduced, sum_over, without
from burnish.lowering.ops.unary import magnitude
from burnish.lowering.registry import te_rule
from burnish.lowering.te_context import Prim, TeContext, int64

Read = Callable[..., Prim]


def mean_of(ctx: TeContext, shape: Sequence[Dim], axes: Sequence[int], read: Read) -> Read:
    """The mean over axes, read at an index of the whole shape."""
    total = reduced(ctx, shape, axes, read, sum_over, name="total")
    count = count_of(ctx, shape, axes, str(total.dtype))
    return lambda *at: total(*without(at, axes)) / count


def moments(
    ctx: TeContext, shape: Sequence[Dim], axes: Sequence[int], read: Read
) -> tuple[Read, Read]:
    """Mean and variance over axes; the variance in a second pass, which does not cancel."""
    mean = mean_of(ctx, shape, axes, read)

    def squared(*at: Prim) -> Prim:
        difference = read(*at) - mean(*at)
        return difference * difference

    return mean, mean_of(ctx, shape, axes, squared)


def inverse_deviation(variance: Prim, epsilon: float) -> Prim:
    """1 / sqrt(variance + epsilon)."""
    return like(1, variance) / tirx.sqrt(variance + like(epsilon, variance))


def _inference(node: Node) -> str | None:
    return "training mode" if node.int_attr("training_mode") else None


@te_rule("BatchNormalization", dtypes=FLOATS, check=_inference)
def batch_normalization(
    ctx: TeContext,
    x: te.Tensor,
    scale: te.Tensor,
    b: te.Tensor,
    mean: te.Tensor,
    var: te.Tensor,
    *,
    epsilon: float = 9.999999747378752e-06,
    momentum: float = 0.8999999761581421,
    training_mode: int = 0,
) -> te.Tensor:
    """BatchNormalization-15 in inference."""
    dtype = ctx.out_type().dtype

    def body(*at: Prim) -> Prim:
        c = at[1] if len(at) > 1 else int64(0)
        factor = wide(scale(c)) * inverse_deviation(wide(var(c)), epsilon)
        return cast((wide(x(*at)) - wide(mean(c))) * factor + wide(b(c)), dtype)

    return ctx.compute(body)


@te_rule("InstanceNormalization", dtypes=FLOATS)
def instance_normalization(
    ctx: TeContext,
    x: te.Tensor,
    scale: te.Tensor,
    b: te.Tensor,
    *,
    epsilon: float = 9.999999747378752e-06,
) -> te.Tensor:
    """InstanceNormalization-22."""
    dims, dtype = ctx.in_dims(0), ctx.out_type().dtype
    mean, var = moments(ctx, dims, range(2, len(dims)), lambda *at: wide(x(*at)))

    def body(*at: Prim) -> Prim:
        factor = wide(scale(at[1])) * inverse_deviation(var(*at), epsilon)
        return cast((wide(x(*at)) - mean(*at)) * factor + wide(b(at[1])), dtype)

    return ctx.compute(body)


@te_rule("GroupNormalization", dtypes=FLOATS)
def group_normalization(
    ctx: TeContext,
    x: te.Tensor,
    scale: te.Tensor,
    bias: te.Tensor,
    *,
    epsilon: float = 9.999999747378752e-06,
    num_groups: int,
    stash_type: int = 1,
) -> te.Tensor:
    """GroupNormalization-21: scale and bias for each channel."""
    n, channels, *spatial = ctx.in_dims(0)
    size = ctx.expr(floordiv(channels, num_groups))
    grouped: list[Dim] = [n, num_groups, floordiv(channels, num_groups), *spatial]

    def read(batch: Prim, group: Prim, channel: Prim, *at: Prim) -> Prim:
        return wide(x(batch, group * size + channel, *at))

    mean, var = moments(ctx, grouped, range(2, len(grouped)), read)

    def body(batch: Prim, c: Prim, *at: Prim) -> Prim:
        where = (batch, tirx.floordiv(c, size), tirx.floormod(c, size), *at)
        factor = wide(scale(c)) * inverse_deviation(var(*where), epsilon)
        value = (wide(x(batch, c, *at)) - mean(*where)) * factor + wide(bias(c))
        return cast(value, ctx.out_type().dtype)

    return ctx.compute(body)


@te_rule("LayerNormalization", dtypes=FLOATS)
def layer_normalization(
    ctx: TeContext,
    x: te.Tensor,
    scale: te.Tensor,
    b: te.Tensor | None = None,
    *,
    axis: int = -1,
    epsilon: float = 9.999999747378752e-06,
    stash_type: int = 1,
) -> tuple[te.Tensor | None, ...]:
    """LayerNormalization-17 over any number of trailing axes, with Mean and InvStdDev."""
    dims = ctx.in_dims(0)
    axes = range(ctx.axis(axis), len(dims))
    mean, var = moments(ctx, dims, axes, lambda *at: wide(x(*at)))

    def body(*at: Prim) -> Prim:
        factor = inverse_deviation(var(*at), epsilon) * wide(scale(*ctx.broadcast(1, at)))
        value = (wide(x(*at)) - mean(*at)) * factor
        if b is not None:
            value = value + wide(b(*ctx.broadcast(2, at)))
        return cast(value, ctx.out_type().dtype)

    def statistic(index: int, value: Read) -> te.Tensor | None:
        if not ctx.has_output(index):
            return None
        return ctx.compute(lambda *at: cast(value(*at), ctx.out_type(index).dtype), index)

    return (
        ctx.compute(body),
        statistic(1, mean),
        statistic(2, lambda *at: inverse_deviation(var(*at), epsilon)),
    )


@te_rule("RMSNormalization", dtypes=FLOATS)
def rms_normalization(
    ctx: TeContext,
    x: te.Tensor,
    scale: te.Tensor,
    *,
    axis: int = -1,
    epsilon: float = 9.999999747378752e-06,
    stash_type: int = 1,
) -> te.Tensor:
    """RMSNormalization-23."""
    dims = ctx.in_dims(0)
    axes = range(ctx.axis(axis), len(dims))
    square = mean_of(ctx, dims, axes, lambda *at: wide(x(*at)) * wide(x(*at)))

    def body(*at: Prim) -> Prim:
        factor = inverse_deviation(square(*at), epsilon) * wide(scale(*ctx.broadcast(1, at)))
        return cast(wide(x(*at)) * factor, ctx.out_type().dtype)

    return ctx.compute(body)


@te_rule("LpNormalization", dtypes=FLOATS)
def lp_normalization(ctx: TeContext, x: te.Tensor, *, axis: int = -1, p: int = 2) -> te.Tensor:
    """LpNormalization-22; a vector of zeros stays zero."""
    along = ctx.axis(axis)

    def before(*at: Prim) -> Prim:
        value = wide(x(*at))
        return magnitude(value) if p == 1 else value * value

    total = reduced(ctx, ctx.in_dims(0), [along], before, sum_over, name="norm")

    def body(*at: Prim) -> Prim:
        norm = total(*without(at, [along]))
        norm = norm if p == 1 else tirx.sqrt(norm)
        zero = norm.equal(like(0, norm))
        value = wide(x(*at)) / select(zero, like(1, norm), norm)
        return cast(value, ctx.out_type().dtype)

    return ctx.compute(body)


@te_rule("LRN", dtypes=FLOATS)
def lrn(
    ctx: TeContext,
    x: te.Tensor,
    *,
    size: int,
    alpha: float = 9.999999747378752e-05,
    beta: float = 0.75,
    bias: float = 1.0,
) -> te.Tensor:
    """LRN-13: across a window of channels."""
    dims = ctx.in_dims(0)
    channels = ctx.expr(dims[1])

    def square(n: Prim, c: Prim, *rest: Prim) -> Prim:
        *at, step = rest
        channel = c + step - int64((size - 1) // 2)
        value = wide(x(n, channel, *at))
        inside = tirx.And(channel >= int64(0), channel < channels)
        return tirx.if_then_else(inside, value * value, like(0, value))

    total = reduced(ctx, [*dims, size], [len(dims)], square, sum_over, name="squares")

    def body(*at: Prim) -> Prim:
        value = total(*at)
        base = like(bias, value) + like(alpha / size, value) * value
        scale = te.exp(like(-beta, value) * te.log(base))
        if str(value.ty) == "float64":
            scale = extern("pow", base, like(-beta, base))
        return cast(wide(x(*at)) * scale, ctx.out_type().dtype)

    return ctx.compute(body)


@te_rule("MeanVarianceNormalization", dtypes=FLOATS)
def mean_variance_normalization(
    ctx: TeContext, x: te.Tensor, *, axes: tuple[int, ...] = (0, 2, 3)
) -> te.Tensor:
    """MeanVarianceNormalization-13."""
    dims = ctx.in_dims(0)
    along = [a % len(dims) for a in axes]
    mean, var = moments(ctx, dims, along, lambda *at: wide(x(*at)))

    def body(*at: Prim) -> Prim:
        deviation = tirx.sqrt(var(*at))
        value = (wide(x(*at)) - mean(*at)) / (deviation + like(1e-9, deviation))
        return cast(value, ctx.out_type().dtype)

    return ctx.compute(body)
