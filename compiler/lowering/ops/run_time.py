"""Operators whose result has sizes that were bound at run time."""

from __future__ import annotations

from typing import Any

from tvm import te

from burnish.backends.cpu import tir
from burnish.backends.cpu.tir import Tensor
from burnish.ir.infer.run_time import DOMAIN
from burnish.lowering.kernel_context import KernelContext
from burnish.lowering.ops.common import const, dtype_of
from burnish.lowering.ops.generate import range_rule
from burnish.lowering.ops.slicing import pad as pad_rule
from burnish.lowering.registry import kernel_rule, te_rule
from burnish.lowering.te_context import Prim, TeContext, int64


@te_rule("Slice", domain=DOMAIN, attribute_inputs=(3,))
def slice_all(
    ctx: TeContext, x: te.Tensor, starts: te.Tensor, steps: te.Tensor, sizes: te.Tensor | None
) -> te.Tensor:
    """Every ``steps``-th element from ``starts`` on, along all axes."""

    def body(*at: Prim) -> Prim:
        return x(*(starts(int64(a)) + i * steps(int64(a)) for a, i in enumerate(at)))

    return ctx.compute(body)


@te_rule("Pad", domain=DOMAIN, attribute_inputs=(3, 4))
def pad(
    ctx: TeContext,
    x: te.Tensor,
    pads: te.Tensor,
    constant_value: te.Tensor | None = None,
    axes: te.Tensor | None = None,
    sizes: te.Tensor | None = None,
    *,
    mode: str = "constant",
) -> te.Tensor:
    """Pad-25 of all axes."""
    result: te.Tensor = pad_rule(ctx, x, pads, constant_value, None, mode=mode)
    return result


@te_rule("Range", domain=DOMAIN, attribute_inputs=(3,))
def range_of(
    ctx: TeContext,
    start: te.Tensor,
    limit: te.Tensor,
    delta: te.Tensor,
    size: te.Tensor | None,
) -> te.Tensor:
    """Range-11."""
    result: te.Tensor = range_rule(ctx, start, limit, delta)
    return result


def _is_set(value: Prim) -> Prim:
    return value if dtype_of(value) == "bool" else value != const(0, dtype_of(value))


@kernel_rule("CountNonZero", domain=DOMAIN)
def count_non_zero(ctx: KernelContext, x: Tensor) -> None:
    """How many elements are not 0."""
    total = tir.local(1, "int64")
    tir.store(total, 0, int64(0))
    with tir.serial(x.size) as i, tir.when(_is_set(x.load(i))):
        tir.store(total, 0, tir.load(total, 0) + int64(1))
    ctx.output().store(0, tir.load(total, 0))


@kernel_rule("NonZero", domain=DOMAIN, attribute_inputs=(1,))
def non_zero(ctx: KernelContext, x: Tensor, count: Tensor | None) -> None:
    """NonZero-13: the indices of each element that is not 0, in row-major order."""
    out = ctx.output()
    (found,) = ctx.content(1) or (int64(0),)
    place = tir.local(1, "int64")
    tir.store(place, 0, int64(0))
    with tir.serial(x.size) as i, tir.when(_is_set(x.load(i))):
        at = tir.let(tir.load(place, 0))
        rest: Any = tir.let(tir.i64(i))
        for axis in reversed(range(len(x.shape))):
            extent = tir.i64(x.shape[axis])
            out.store(at + int64(axis) * found, tir.floormod(rest, extent))
            rest = tir.let(tir.floordiv(rest, extent))
        if not x.shape:
            out.store(at, int64(0))
        tir.store(place, 0, at + int64(1))
