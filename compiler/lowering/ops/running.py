"""Running sums and products."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

from tvm import tirx

from burnish.backends.cpu import tir
from burnish.backends.cpu.tir import Tensor
from burnish.lowering.kernel_context import KernelContext
from burnish.lowering.ops.common import cast, const, wide, wide_dtype
from burnish.lowering.ops.imperative import around, demand
from burnish.lowering.registry import REAL, kernel_rule
from burnish.lowering.te_context import Prim, int64


def _run(
    x: Tensor,
    y: Tensor,
    axis: int,
    combine: Callable[[Prim, Prim], Prim],
    neutral: int,
    exclusive: int,
    reverse: int,
) -> None:
    """Combine the elements along an axis, one after the other."""
    outer, length, inner = around(x, axis)
    kind = wide_dtype(x.dtype)
    with tir.parallel(outer * inner) as task:
        block, lane = tir.floordiv(task, inner), tir.floormod(task, inner)
        base = tir.let(tir.i64(block * length * inner + lane))
        total = tir.local(1, kind)
        tir.store(total, 0, const(neutral, kind))
        with tir.serial(length) as step:
            at = base + (length - 1 - step if reverse else step) * inner
            value = tir.let(wide(x.load(at)))
            if exclusive:
                y.store(at, cast(tir.load(total, 0), y.dtype))
            tir.store(total, 0, combine(tir.load(total, 0), value))
            if not exclusive:
                y.store(at, cast(tir.load(total, 0), y.dtype))


def along_any(
    ctx: KernelContext,
    index: int,
    axis: Tensor | None,
    run: Callable[[int], None],
    axes: Sequence[int],
) -> None:
    """Run along the axis that an operand names; one that is known at run time is tried out.

    Args:
        ctx: Context.
        index: Position of the operand.
        axis: Its tensor, where it is known at run time only.
        run: Emits the code for an axis.
        axes: The axes that are allowed.
    """
    known = ctx.ints(index)
    if known is not None:
        run(ctx.axis(known[0]))
        return
    assert axis is not None
    rank = len(ctx.in_dims(0))
    given = tir.let(cast(axis.load(0), "int64"))
    matches = [tirx.Or(given.equal(int64(a)), given.equal(int64(a - rank))) for a in axes]
    valid = reduce(tirx.Or, matches)
    demand(ctx, valid, "the axis is out of range")
    for candidate, chosen in zip(axes, matches, strict=True):
        with tir.when(chosen):
            run(candidate)


@kernel_rule("CumSum", attribute_inputs=(1,), run_time=(1,), dtypes=REAL)
def cumsum(
    ctx: KernelContext, x: Tensor, axis: Tensor | None, *, exclusive: int = 0, reverse: int = 0
) -> None:
    """CumSum-14."""

    def run(along: int) -> None:
        _run(x, ctx.output(), along, lambda a, b: a + b, 0, exclusive, reverse)

    along_any(ctx, 1, axis, run, range(len(x.shape)))


@kernel_rule("CumProd", attribute_inputs=(1,), run_time=(1,), dtypes=REAL)
def cumprod(
    ctx: KernelContext, x: Tensor, axis: Tensor | None, *, exclusive: int = 0, reverse: int = 0
) -> None:
    """CumProd-26."""

    def run(along: int) -> None:
        _run(x, ctx.output(), along, lambda a, b: a * b, 1, exclusive, reverse)

    along_any(ctx, 1, axis, run, range(len(x.shape)))
