"""Operators that make tensors from shapes and numbers."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import te, tirx

from burnish.ir import dims
from burnish.ir.dims import Dim
from burnish.ir.graph import Constant, Node
from burnish.lowering.ops.common import cast, const, select, wide, wide_dtype
from burnish.lowering.ops.gather import wrapped
from burnish.lowering.registry import te_rule
from burnish.lowering.te_context import Prim, TeContext, int64


def materialize(ctx: TeContext, content: Sequence[Dim], output: int = 0) -> te.Tensor:
    """An integer tensor of rank 0 or 1 whose elements are known as dims."""
    dtype = ctx.out_type(output).dtype
    values = [cast(ctx.expr(d), dtype) for d in content]

    def body(*at: Prim) -> Prim:
        result = values[-1] if values else const(0, dtype)
        for position in range(len(values) - 2, -1, -1):
            result = tirx.Select(at[0].equal(int64(position)), values[position], result)
        return result

    return ctx.compute(body, output)


@te_rule("Shape")
def shape(ctx: TeContext, data: te.Tensor, *, start: int = 0, end: int | None = None) -> te.Tensor:
    """Shape-25."""
    return materialize(ctx, ctx.in_dims(0)[slice(start, end)])


@te_rule("Size")
def size(ctx: TeContext, data: te.Tensor) -> te.Tensor:
    """Size-25."""
    return materialize(ctx, (dims.product(ctx.in_dims(0)),))


@te_rule("ConstantOfShape", attribute_inputs=(0,), run_time=(0,))
def constant_of_shape(
    ctx: TeContext, shape: te.Tensor | None, *, value: Constant | None = None
) -> te.Tensor:
    """ConstantOfShape-25."""
    fill = 0.0 if value is None else value.array.reshape(-1)[0].item()
    return ctx.compute(lambda *at: const(fill, ctx.out_type().dtype))


def _wide_sums(node: Node) -> str | None:
    stash = node.int_attr("stash_type", 1)
    return None if stash == 1 else f"stash_type {stash}"


@te_rule("Range", attribute_inputs=(0, 1, 2), run_time=(0, 1, 2), check=_wide_sums)
def range_rule(
    ctx: TeContext,
    start: te.Tensor | None,
    limit: te.Tensor | None,
    delta: te.Tensor | None,
    *,
    stash_type: int = 1,
) -> te.Tensor:
    """Range-27: narrow floats are computed in float32."""
    dtype = ctx.out_type().dtype
    kind = wide_dtype(dtype)

    def operand(index: int, tensor: te.Tensor | None) -> Prim:
        if tensor is not None:
            return wide(tensor(*[int64(0)] * len(ctx.in_dims(index))))
        array = ctx.constant(index)
        if array is not None:
            return const(array.reshape(-1)[0].item(), kind)
        content = ctx.content(index)
        assert content is not None
        return cast(content[0], kind)

    def body(i: Prim) -> Prim:
        return cast(operand(0, start) + cast(i, kind) * operand(2, delta), dtype)

    return ctx.compute(body)


@te_rule("EyeLike")
def eye_like(ctx: TeContext, x: te.Tensor, *, k: int = 0, dtype: int | None = None) -> te.Tensor:
    """EyeLike-22."""
    kind = ctx.out_type().dtype
    return ctx.compute(lambda i, j: select((i + int64(k)).equal(j), const(1, kind), const(0, kind)))


@te_rule("Trilu", attribute_inputs=(1,), run_time=(1,))
def trilu(ctx: TeContext, x: te.Tensor, k: te.Tensor | None = None, *, upper: int = 1) -> te.Tensor:
    """Trilu-14."""

    def body(*at: Prim) -> Prim:
        if k is not None:
            diagonal = cast(k(*[int64(0)] * len(ctx.in_dims(1))), "int64")
        else:
            diagonal = (ctx.content(1) or (int64(0),))[0]
        row, column = at[-2] + diagonal, at[-1]
        keep = column >= row if upper else column <= row
        value = x(*at)
        return select(keep, value, const(0, ctx.out_type().dtype))

    return ctx.compute(body)


@te_rule("OneHot", attribute_inputs=(1,), run_time=(1,))
def one_hot(
    ctx: TeContext,
    indices: te.Tensor,
    depth: te.Tensor | None,
    values: te.Tensor,
    *,
    axis: int = -1,
) -> te.Tensor:
    """OneHot-11; an index out of range gives a row of ``off`` values."""
    rank = len(ctx.out_dims())
    along = axis % rank
    extent = ctx.expr(ctx.out_dims()[along])

    def body(*at: Prim) -> Prim:
        index = indices(*at[:along], *at[along + 1 :])
        hot = wrapped(wide(index), extent).equal(at[along])
        return select(hot, values(int64(1)), values(int64(0)))

    return ctx.compute(body)
