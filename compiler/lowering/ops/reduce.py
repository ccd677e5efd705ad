"""The Reduce operators, ArgMax and ArgMin."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import te, tirx

from burnish.ir.types import FLOATS
from burnish.lowering.ops.binary import divide
from burnish.lowering.ops.common import (
    Scalar,
    bind,
    cast,
    const,
    is_nan,
    like,
    select,
    wide,
    wide_dtype,
)
from burnish.lowering.ops.reduction import (
    count_of,
    highest,
    lowest,
    maximum_over,
    minimum_over,
    product_over,
    reduced,
    sum_over,
    without,
)
from burnish.lowering.ops.unary import magnitude
from burnish.lowering.registry import NATIVE, REAL, te_rule
from burnish.lowering.te_context import Prim, TeContext, int64


def _same(x: Prim) -> Prim:
    return x


def _sqrt(x: Prim) -> Prim:
    return tirx.sqrt(x)


@dataclass(frozen=True)
class _Reduction:
    """Before each element, how to combine, after the result."""

    before: Scalar
    combine: Callable[[Prim, Sequence[Any]], Prim]
    after: Scalar | None = None
    #: Integers are reduced in float64, since ``after`` is a float function.
    through_float: bool = False


_TABLE = {
    "ReduceSum": _Reduction(_same, sum_over),
    "ReduceProd": _Reduction(_same, product_over),
    "ReduceMax": _Reduction(_same, maximum_over),
    "ReduceMin": _Reduction(_same, minimum_over),
    "ReduceL1": _Reduction(magnitude, sum_over),
    "ReduceSumSquare": _Reduction(lambda x: bind(x, lambda v: v * v), sum_over),
    "ReduceL2": _Reduction(lambda x: bind(x, lambda v: v * v), sum_over, _sqrt, True),
    "ReduceLogSum": _Reduction(_same, sum_over, te.log, True),
}


def _compute_dtype(dtype: str, through_float: bool = False) -> str:
    if dtype == "bool":
        return "uint8"
    if dtype not in FLOATS and through_float:
        return "float64"
    return wide_dtype(dtype)


def _axes(ctx: TeContext, noop: int) -> list[int]:
    """Reduced axes; none for a reduction that leaves the shape."""
    rank = len(ctx.in_dims(0))
    given = ctx.ints(1)
    if not given:
        return [] if noop else list(range(rank))
    return sorted({a % rank for a in given})


def _finish(ctx: TeContext, stage: te.Tensor, after: Scalar | None) -> te.Tensor:
    """Apply ``after`` and the cast to the output's type, if there is anything to do."""
    dtype = ctx.out_type().dtype
    if after is None and str(stage.dtype) == dtype:
        return stage
    function = after or _same
    return ctx.compute(lambda *at: cast(function(stage(*at)), dtype))


def _add_row(op: str, row: _Reduction) -> None:
    @te_rule(op, attribute_inputs=(1,), dtypes=NATIVE)
    def rule(
        ctx: TeContext,
        x: te.Tensor,
        axes: te.Tensor | None = None,
        *,
        keepdims: int = 1,
        noop_with_empty_axes: int = 0,
    ) -> te.Tensor:
        kind = _compute_dtype(ctx.in_type(0).dtype, row.through_float)
        gone = _axes(ctx, noop_with_empty_axes)

        def element(*at: Prim) -> Prim:
            return row.before(cast(x(*at), kind))

        if not gone:
            after = row.after or _same
            return ctx.compute(lambda *at: cast(after(element(*at)), ctx.out_type().dtype))
        stage = reduced(
            ctx, ctx.in_dims(0), gone, element, row.combine, keepdims=bool(keepdims), name=op
        )
        return _finish(ctx, stage, row.after)


for _op, _row in _TABLE.items():
    _add_row(_op, _row)


@te_rule("ReduceMean", attribute_inputs=(1,), dtypes=REAL)
def reduce_mean(
    ctx: TeContext,
    x: te.Tensor,
    axes: te.Tensor | None = None,
    *,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,
) -> te.Tensor:
    """ReduceMean-18."""
    gone = _axes(ctx, noop_with_empty_axes)
    if not gone:
        return ctx.compute(lambda *at: x(*at))
    dims, kind = ctx.in_dims(0), wide_dtype(ctx.in_type(0).dtype)
    stage = reduced(
        ctx, dims, gone, lambda *at: wide(x(*at)), sum_over, keepdims=bool(keepdims), name="mean"
    )
    count = count_of(ctx, dims, gone, kind)
    return _finish(ctx, stage, lambda total: divide(total, count))


@te_rule("ReduceLogSumExp", attribute_inputs=(1,), dtypes=FLOATS)
def reduce_log_sum_exp(
    ctx: TeContext,
    x: te.Tensor,
    axes: te.Tensor | None = None,
    *,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,
) -> te.Tensor:
    """ReduceLogSumExp-18, with the maximum taken out so that nothing overflows."""
    gone = _axes(ctx, noop_with_empty_axes)
    if not gone:
        return ctx.compute(lambda *at: x(*at))
    dims = ctx.in_dims(0)
    largest = reduced(ctx, dims, gone, lambda *at: wide(x(*at)), maximum_over, name="largest")

    def shift(*at: Prim) -> Prim:
        # inf - inf is NaN: infinite maxima are not taken out.
        return bind(
            largest(*at),
            lambda m: select(te.abs(m) < like(math.inf, m), m, like(0, m)),
        )

    total = reduced(
        ctx,
        dims,
        gone,
        lambda *at: te.exp(wide(x(*at)) - shift(*without(at, gone))),
        sum_over,
        name="total",
    )

    def body(*at: Prim) -> Prim:
        kept = without(at, gone) if keepdims else at
        return cast(te.log(total(*kept)) + shift(*kept), ctx.out_type().dtype)

    return ctx.compute(body)


def _better(candidate: Prim, best: Prim, largest: bool) -> Prim:
    """Whether a value beats another; NaN beats every number, as in NumPy."""
    wins = candidate > best if largest else candidate < best
    return tirx.Or(wins, tirx.And(is_nan(candidate), tirx.Not(is_nan(best))))


#: Type of reduced indices, and the one of the identity, which loses every tie.
INDEX = "int64"
NO_INDEX = tirx.max_value(INDEX)


def arg_reducer(largest: bool, last: bool) -> Any:
    """A reducer of (index, value) pairs to the first or last best one; the index is INDEX."""

    def combine(a: Sequence[Prim], b: Sequence[Prim]) -> tuple[Prim, Prim]:
        tie = tirx.Or(a[1].equal(b[1]), tirx.And(is_nan(a[1]), is_nan(b[1])))
        on_tie = b[0] > a[0] if last else b[0] < a[0]
        take = tirx.Or(_better(b[1], a[1], largest), tirx.And(tie, on_tie))
        return tirx.Select(take, b[0], a[0]), tirx.Select(take, b[1], a[1])

    def identity(index_dtype: str, value_dtype: str) -> tuple[Prim, Prim]:
        worst = lowest(value_dtype) if largest else highest(value_dtype)
        return const(0, INDEX) if last else NO_INDEX, worst  # loses every tie

    return te.comm_reducer(combine, identity, name="arg")


def _add_arg_row(op: str, largest: bool) -> None:
    @te_rule(op, dtypes=REAL)
    def rule(
        ctx: TeContext,
        x: te.Tensor,
        *,
        axis: int = 0,
        keepdims: int = 1,
        select_last_index: int = 0,
    ) -> te.Tensor:
        along = ctx.axis(axis)
        dims = ctx.in_dims(0)
        reducer = arg_reducer(largest, bool(select_last_index))
        step = te.reduce_axis((int64(0), ctx.expr(dims[along])), name="r")
        kept = [ctx.expr(d) for a, d in enumerate(dims) if a != along]

        def body(*at: Prim) -> Any:
            value = wide(x(*at[:along], step.var, *at[along:]))
            return reducer((tirx.Cast(INDEX, step.var), value), axis=step)

        index, _ = te.compute(kept, body, name=op)
        return ctx.compute(
            lambda *at: tirx.Cast("int64", index(*(without(at, [along]) if keepdims else at)))
        )


_add_arg_row("ArgMax", True)
_add_arg_row("ArgMin", False)
