"""Softmax, LogSoftmax and Hardmax along any axis."""

from __future__ import annotations

from typing import Any

from tvm import te, tirx

from burnish.ir.types import FLOATS
from burnish.lowering.ops.common import cast, const, select, wide
from burnish.lowering.ops.reduce import INDEX, arg_reducer
from burnish.lowering.ops.reduction import maximum_over, reduced, sum_over, without
from burnish.lowering.registry import te_rule
from burnish.lowering.te_context import Prim, TeContext, int64


def _shifted(ctx: TeContext, x: te.Tensor, axis: int) -> Any:
    """``x - max(x)`` along the axis, as a function of the index."""
    largest = reduced(
        ctx, ctx.in_dims(0), [axis], lambda *at: wide(x(*at)), maximum_over, name="largest"
    )
    return lambda *at: wide(x(*at)) - largest(*without(at, [axis]))


@te_rule("Softmax", dtypes=FLOATS)
def softmax(ctx: TeContext, x: te.Tensor, *, axis: int = -1) -> te.Tensor:
    """Softmax-13."""
    along = ctx.axis(axis)
    shifted = _shifted(ctx, x, along)
    total = reduced(
        ctx, ctx.in_dims(0), [along], lambda *at: te.exp(shifted(*at)), sum_over, name="total"
    )
    dtype = ctx.out_type().dtype
    return ctx.compute(lambda *at: cast(te.exp(shifted(*at)) / total(*without(at, [along])), dtype))


@te_rule("LogSoftmax", dtypes=FLOATS)
def log_softmax(ctx: TeContext, x: te.Tensor, *, axis: int = -1) -> te.Tensor:
    """LogSoftmax-13."""
    along = ctx.axis(axis)
    shifted = _shifted(ctx, x, along)
    total = reduced(
        ctx, ctx.in_dims(0), [along], lambda *at: te.exp(shifted(*at)), sum_over, name="total"
    )
    dtype = ctx.out_type().dtype
    return ctx.compute(lambda *at: cast(shifted(*at) - te.log(total(*without(at, [along]))), dtype))


@te_rule("Hardmax", dtypes=FLOATS)
def hardmax(ctx: TeContext, x: te.Tensor, *, axis: int = -1) -> te.Tensor:
    """Hardmax-13: 1 at the first largest element."""
    along = ctx.axis(axis)
    dims = ctx.in_dims(0)
    step = te.reduce_axis((int64(0), ctx.expr(dims[along])), name="r")
    reducer = arg_reducer(True, False)

    def best(*at: Prim) -> Any:
        return reducer(
            (tirx.Cast(INDEX, step.var), wide(x(*at[:along], step.var, *at[along:]))), axis=step
        )

    kept = [ctx.expr(d) for a, d in enumerate(dims) if a != along]
    index, _ = te.compute(kept, best, name="best")
    dtype = ctx.out_type().dtype
    return ctx.compute(
        lambda *at: select(
            index(*without(at, [along])).equal(tirx.Cast(INDEX, at[along])),
            const(1, dtype),
            const(0, dtype),
        )
    )
