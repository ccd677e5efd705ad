"""Operators that tensor expressions cannot say: scatter, top-k. Plain loops."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm import tirx
from tvm.tirx.script import builder as T  # noqa: N812

from burnish.backends.cpu import tir
from burnish.backends.cpu.tir import Tensor
from burnish.ir.graph import Node
from burnish.ir.types import FLOATS
from burnish.lowering.kernel_context import KernelContext
from burnish.lowering.ops.common import (
    cast,
    const,
    dtype_of,
    is_nan,
    maximum,
    minimum,
    wide,
    wide_dtype,
)
from burnish.lowering.ops.gather import clamped, static_last_dim
from burnish.lowering.registry import REAL, kernel_rule
from burnish.lowering.te_context import Prim, int64

_REDUCTIONS: dict[str, Callable[[Prim, Prim], Prim]] = {
    "add": lambda old, new: old + new,
    "mul": lambda old, new: old * new,
    "max": maximum,
    "min": minimum,
}


def copy(source: Tensor, target: Tensor) -> None:
    """All elements of a tensor."""
    with tir.serial(source.size) as i:
        target.store(i, source.load(i))


def _update(target: Tensor, at: Prim, value: Prim, reduction: str) -> None:
    if reduction == "none":
        target.store(at, value)
        return
    combined = _REDUCTIONS[reduction](wide(target.load(at)), wide(value))
    target.store(at, cast(combined, target.dtype))


def loops(extents: Sequence[Prim], body: Callable[[list[Prim]], None]) -> None:
    """Nested serial loops."""

    def nest(done: list[Prim]) -> None:
        if len(done) == len(extents):
            body(done)
            return
        with tir.serial(extents[len(done)]) as i:
            nest([*done, i])

    nest([])


def _moves(node: Node) -> str | None:
    """Bits of bfloat16 are only moved."""
    moves = node.str_attr("reduction", "none") == "none"
    return None if moves or node.output.dtype != "bfloat16" else "it reduces bfloat16"


@kernel_rule("ScatterElements", check=_moves, bits=True)
def scatter_elements(
    ctx: KernelContext,
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    *,
    axis: int = 0,
    reduction: str = "none",
) -> None:
    """ScatterElements-18; of updates to one element, the last in row-major order wins."""
    out = ctx.output()
    along = ctx.axis(axis)
    copy(data, out)

    def body(at: list[Prim]) -> None:
        where = list(at)
        index = indices.load(indices.offset(*at))
        where[along] = clamped(index, tir.i64(data.shape[along]))
        _update(out, out.offset(*where), updates.load(updates.offset(*at)), reduction)

    loops(indices.shape, body)


@kernel_rule("ScatterND", check=lambda node: static_last_dim(node) or _moves(node), bits=True)
def scatter_nd(
    ctx: KernelContext,
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    *,
    reduction: str = "none",
) -> None:
    """ScatterND-18; of updates to one slice, the last wins."""
    out = ctx.output()
    copy(data, out)
    length = indices.shape[-1]
    size = tir.product(data.shape[length:])
    with tir.serial(tir.product(indices.shape[:-1])) as row:
        picked = [
            clamped(indices.load(row * length + k), tir.i64(data.shape[k])) for k in range(length)
        ]
        base = tir.let(tir.i64(out.offset(*picked)))
        with tir.serial(size) as i:
            _update(out, base + i, updates.load(row * size + i), reduction)


def demand(ctx: KernelContext, condition: Prim, what: str) -> None:
    """Have the kernel fail at run time where a condition on values does not hold.

    Not inside of a parallel loop, whose tasks cannot report errors.
    """
    with T.Assert(condition, f"{ctx.node.op}: {what} (at {ctx.node.location})"):
        pass


def around(tensor: Tensor, axis: int) -> tuple[Prim, Prim, Prim]:
    """Elements before, along and behind an axis."""
    shape = tensor.shape
    return tir.product(shape[:axis]), shape[axis], tir.product(shape[axis + 1 :])


def _beats(value: Prim, index: Prim, other: Prim, other_index: Prim, largest: int) -> Prim:
    """Order of TopK: by value, NaN largest, then the smaller index."""
    number = dtype_of(value) in FLOATS
    wins = value > other if largest else value < other
    tie = value.equal(other)
    if number:
        nan, other_nan = is_nan(value), is_nan(other)
        first, second = (nan, other_nan) if largest else (other_nan, nan)
        wins = tirx.Or(wins, tirx.And(first, tirx.Not(second)))
        tie = tirx.Or(tie, tirx.And(nan, other_nan))
    return tirx.Or(wins, tirx.And(tie, index < other_index))


@kernel_rule("TopK", attribute_inputs=(1,), run_time=(1,), dtypes=REAL)
def top_k(
    ctx: KernelContext,
    x: Tensor,
    k: Tensor | None,
    *,
    axis: int = -1,
    largest: int = 1,
    sorted: int = 1,
) -> None:
    """TopK-24 by repeated selection: k passes over the axis, no scratch memory."""
    along = ctx.axis(axis)
    outer, length, inner = around(x, along)
    values, indices = ctx.outputs
    count = next(t for t in ctx.outputs if t is not None).shape[along]
    kind = wide_dtype(x.dtype)
    with tir.parallel(outer * inner) as task:
        block, lane = tir.floordiv(task, inner), tir.floormod(task, inner)
        base = tir.let(tir.i64(block * length * inner + lane))
        best, where = tir.local(1, kind), tir.local(1, "int64")
        last, last_where = tir.local(1, kind), tir.local(1, "int64")
        tir.store(last, 0, const(0, kind))
        tir.store(last_where, 0, int64(-1))
        with tir.serial(count) as rank:
            tir.store(best, 0, const(0, kind))
            tir.store(where, 0, int64(-1))
            with tir.serial(length) as i:
                value = tir.let(wide(x.load(base + i * inner)))
                position = tir.i64(i)
                found, found_at = tir.load(where, 0), tir.load(best, 0)
                behind = tirx.Or(
                    tir.load(last_where, 0) < int64(0),
                    _beats(tir.load(last, 0), tir.load(last_where, 0), value, position, largest),
                )
                better = tirx.Or(
                    found < int64(0), _beats(value, position, found_at, found, largest)
                )
                with tir.when(tirx.And(behind, better)):
                    tir.store(best, 0, value)
                    tir.store(where, 0, position)
            tir.store(last, 0, tir.load(best, 0))
            tir.store(last_where, 0, tir.load(where, 0))
            at = block * count * inner + rank * inner + lane
            if values is not None:
                values.store(at, cast(tir.load(best, 0), values.dtype))
            if indices is not None:
                indices.store(at, cast(tir.load(where, 0), indices.dtype))
