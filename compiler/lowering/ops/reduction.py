"""Building blocks of everything that reduces: combiners and reduced tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from tvm import te, tirx

from burnish.ir.dims import Dim
from burnish.ir.types import FLOATS
from burnish.lowering.ops.common import const, is_nan
from burnish.lowering.te_context import Prim, TeContext, int64

#: Gets one index for each dim.
Element = Callable[..., Prim]


def lowest(dtype: str) -> Prim:
    """The value below all others."""
    return const(-math.inf, dtype) if dtype in FLOATS else tirx.min_value(dtype)


def highest(dtype: str) -> Prim:
    """The value above all others."""
    return const(math.inf, dtype) if dtype in FLOATS else tirx.max_value(dtype)


def _max(a: Prim, b: Prim) -> Prim:
    return tirx.Select(tirx.Or(a > b, is_nan(a)), a, b)


def _min(a: Prim, b: Prim) -> Prim:
    return tirx.Select(tirx.Or(a < b, is_nan(a)), a, b)


def maximum_over(value: Prim, axes: Sequence[Any]) -> Prim:
    """Largest element; NaN if there is one; the smallest number (-inf) of none."""
    return te.comm_reducer(_max, lowest, name="maximum")(value, axis=axes)


def minimum_over(value: Prim, axes: Sequence[Any]) -> Prim:
    """Smallest element; NaN if there is one; the largest number (inf) of none."""
    return te.comm_reducer(_min, highest, name="minimum")(value, axis=axes)


def product_over(value: Prim, axes: Sequence[Any]) -> Prim:
    """Product."""
    reducer = te.comm_reducer(lambda a, b: a * b, lambda dtype: const(1, dtype), name="product")
    return reducer(value, axis=axes)


def sum_over(value: Prim, axes: Sequence[Any]) -> Prim:
    """Sum."""
    return te.sum(value, axis=axes)


def reduced(
    ctx: TeContext,
    shape: Sequence[Dim],
    axes: Sequence[int],
    element: Element,
    combine: Callable[[Prim, Sequence[Any]], Prim],
    *,
    keepdims: bool = False,
    name: str = "reduced",
) -> te.Tensor:
    """Reduce ``element`` over ``axes`` of ``shape``.

    Args:
        ctx: Context.
        shape: Dims of what is reduced.
        axes: Axes that go; non-negative, at least one.
        element: The element at an index.
        combine: One of ``sum_over``, ``maximum_over``, ``minimum_over``, ``product_over``.
        keepdims: Keep the reduced axes with extent 1.
        name: Name of the stage.
    """
    gone = sorted(set(axes))
    iters = [te.reduce_axis((int64(0), ctx.expr(shape[a])), name=f"r{a}") for a in gone]
    kept = [a for a in range(len(shape)) if a not in gone]
    if keepdims:
        extents = [int64(1) if a in gone else ctx.expr(d) for a, d in enumerate(shape)]
    else:
        extents = [ctx.expr(shape[a]) for a in kept]

    def body(*at: Prim) -> Prim:
        index: list[Prim] = [int64(0)] * len(shape)
        for axis, iteration in zip(gone, iters, strict=True):
            index[axis] = iteration.var
        for position, axis in enumerate(kept):
            index[axis] = at[axis] if keepdims else at[position]
        return combine(element(*index), iters)

    return te.compute(extents, body, name=name)


def without(at: Sequence[Prim], axes: Sequence[int]) -> list[Prim]:
    """An index without the positions ``axes``."""
    return [i for a, i in enumerate(at) if a not in axes]


def count_of(ctx: TeContext, shape: Sequence[Dim], axes: Sequence[int], dtype: str) -> Prim:
    """Number of reduced elements as a number of type ``dtype``."""
    total: Prim = int64(1)
    for axis in sorted(set(axes)):
        total = total * ctx.expr(shape[axis])
    return (
        const(int(total.value), dtype)
        if isinstance(total, tirx.IntImm)
        else tirx.Cast(dtype, total)
    )
