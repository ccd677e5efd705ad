"""Data movement whose source index follows from the shapes alone."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import te, tirx

from burnish.ir.dims import Dim, add, equal, sub
from burnish.ir.dims import floordiv as dim_floordiv
from burnish.ir.graph import Node
from burnish.lowering.registry import te_rule
from burnish.lowering.te_context import Prim, TeContext, int64


def replaced(at: Sequence[Prim], axis: int, value: Prim) -> tuple[Prim, ...]:
    """An index with one position changed."""
    return (*at[:axis], value, *at[axis + 1 :])


@te_rule("Transpose")
def transpose(ctx: TeContext, x: te.Tensor, *, perm: tuple[int, ...] | None = None) -> te.Tensor:
    """Transpose-25; axes are reversed by default."""
    rank = len(ctx.in_dims(0))
    order = tuple(reversed(range(rank))) if perm is None else tuple(p % rank for p in perm)
    inverse = [order.index(axis) for axis in range(rank)]
    return ctx.compute(lambda *at: x(*(at[i] for i in inverse)))


@te_rule("Concat")
def concat(ctx: TeContext, *inputs: te.Tensor, axis: int) -> te.Tensor:
    """Concat-13."""
    along = ctx.axis(axis)
    starts: list[Dim] = [0]
    for index in range(len(inputs)):
        starts.append(add(starts[-1], ctx.in_dims(index)[along]))
    parts = [i for i in range(len(inputs)) if ctx.in_dims(i)[along] != 0]

    def body(*at: Prim) -> Prim:
        if not parts:
            return inputs[0](*at)
        result: Prim = None
        for index in reversed(parts):
            start = starts[index]
            inner = at[along] if start == 0 else at[along] - ctx.expr(start)
            value = inputs[index](*replaced(at, along, inner))
            if result is None:
                result = value
            else:
                inside = at[along] < ctx.expr(starts[index + 1])
                result = tirx.if_then_else(inside, value, result)
        return result

    return ctx.compute(body)


@te_rule("Split", attribute_inputs=(1,), run_time=(1,))
def split(
    ctx: TeContext,
    x: te.Tensor,
    split: te.Tensor | None = None,
    *,
    axis: int = 0,
    num_outputs: int | None = None,
) -> tuple[te.Tensor | None, ...]:
    """Split-18; the sizes are those of the outputs' types."""
    along = ctx.axis(axis)
    results: list[te.Tensor | None] = []
    sizes = _split_sizes(ctx, along)
    start: Dim = 0
    for index, size in enumerate(sizes):
        if ctx.has_output(index):
            results.append(_window(ctx, x, along, start, index))
        else:
            results.append(None)
        start = add(start, size)
    return tuple(results)


def _split_sizes(ctx: TeContext, along: int) -> list[Dim]:
    """Extents of the outputs along the axis, of those too that nobody asked for."""
    given = ctx.dims_of(1)
    if given is not None:
        return list(given)
    count = len(ctx.node.outputs)
    whole = ctx.in_dims(0)[along]
    each = dim_floordiv(add(whole, count - 1), count)
    sizes: list[Dim] = [each] * (count - 1)
    last = whole
    for size in sizes:
        last = sub(last, size)
    return [*sizes, last]


def _window(ctx: TeContext, x: te.Tensor, axis: int, start: Dim, output: int) -> te.Tensor:
    offset = ctx.expr(start)
    return ctx.compute(lambda *at: x(*replaced(at, axis, at[axis] + offset)), output)


@te_rule("Expand", attribute_inputs=(1,), run_time=(1,))
def expand(ctx: TeContext, x: te.Tensor, shape: te.Tensor | None) -> te.Tensor:
    """Expand-13."""
    return ctx.compute(lambda *at: x(*ctx.broadcast(0, at)))


@te_rule("Tile", attribute_inputs=(1,), run_time=(1,))
def tile(ctx: TeContext, x: te.Tensor, repeats: te.Tensor | None) -> te.Tensor:
    """Tile-13."""
    dims, target = ctx.in_dims(0), ctx.out_dims()

    def body(*at: Prim) -> Prim:
        return x(
            *(
                i if equal(dim, out) else tirx.floormod(i, ctx.expr(1 if dim == 0 else dim))
                for i, dim, out in zip(at, dims, target, strict=True)
            )
        )

    return ctx.compute(body)


@te_rule("DepthToSpace")
def depth_to_space(ctx: TeContext, x: te.Tensor, *, blocksize: int, mode: str = "DCR") -> te.Tensor:
    """DepthToSpace-13."""
    block = int64(blocksize)
    depth = ctx.expr(ctx.out_dims()[1])

    def body(n: Prim, c: Prim, h: Prim, w: Prim) -> Prim:
        bh, bw = tirx.floormod(h, block), tirx.floormod(w, block)
        depth_first, column_first = (bh * block + bw) * depth + c, (c * block + bh) * block + bw
        channel = depth_first if mode == "DCR" else column_first
        return x(n, channel, tirx.floordiv(h, block), tirx.floordiv(w, block))

    return ctx.compute(body)


@te_rule("SpaceToDepth")
def space_to_depth(ctx: TeContext, x: te.Tensor, *, blocksize: int, mode: str = "DCR") -> te.Tensor:
    """SpaceToDepth-28: places of a block come before (DCR) or after (CRD) the channels."""
    block = int64(blocksize)
    depth = ctx.expr(ctx.in_dims(0)[1])

    def body(n: Prim, c: Prim, h: Prim, w: Prim) -> Prim:
        if mode == "DCR":
            inner, channel = tirx.floordiv(c, depth), tirx.floormod(c, depth)
        else:
            area = block * block
            inner, channel = tirx.floormod(c, area), tirx.floordiv(c, area)
        bh, bw = tirx.floordiv(inner, block), tirx.floormod(inner, block)
        return x(n, channel, h * block + bh, w * block + bw)

    return ctx.compute(body)


@te_rule("ReverseSequence")
def reverse_sequence(
    ctx: TeContext,
    x: te.Tensor,
    sequence_lens: te.Tensor,
    *,
    batch_axis: int = 1,
    time_axis: int = 0,
) -> te.Tensor:
    """ReverseSequence-10."""

    def body(*at: Prim) -> Prim:
        length = tirx.Cast("int64", sequence_lens(at[batch_axis]))
        time = at[time_axis]
        source = tirx.Select(time < length, length - int64(1) - time, time)
        return x(*replaced(at, time_axis, source))

    return ctx.compute(body)


def _reshaped(ctx: TeContext, x: te.Tensor) -> te.Tensor:
    """The same elements in row-major order under the output's shape."""
    # The loops of an empty tensor are still built: nothing is divided by 0.
    shape = [ctx.expr(1 if d == 0 else d) for d in ctx.in_dims(0)]
    target = ctx.out_shape()

    def body(*at: Prim) -> Prim:
        linear: Prim = int64(0)
        for i, extent in zip(at, target, strict=True):
            linear = linear * extent + i
        index: list[Prim] = []
        for extent in reversed(shape):
            index.insert(0, tirx.floormod(linear, extent))
            linear = tirx.floordiv(linear, extent)
        return x(*index)

    return ctx.compute(body)


@te_rule("Reshape", attribute_inputs=(1,), run_time=(1,))
def reshape(
    ctx: TeContext, x: te.Tensor, shape: te.Tensor | None, *, allowzero: int = 0
) -> te.Tensor:
    """Reshape-25 as a copy; normally it is a view."""
    return _reshaped(ctx, x)


@te_rule("Flatten")
def flatten(ctx: TeContext, x: te.Tensor, *, axis: int = 1) -> te.Tensor:
    """Flatten-25 as a copy; normally it is a view."""
    return _reshaped(ctx, x)


def _without_ones(ctx: TeContext, x: te.Tensor) -> te.Tensor:
    """The same elements where only dims of 1 come and go."""
    kept = [i for i, d in enumerate(ctx.in_dims(0)) if d != 1]
    target = [i for i, d in enumerate(ctx.out_dims()) if d != 1]
    if len(kept) != len(target):
        return _reshaped(ctx, x)

    def body(*at: Prim) -> Prim:
        index: list[Prim] = [int64(0)] * len(ctx.in_dims(0))
        for source, i in zip(kept, target, strict=True):
            index[source] = at[i]
        return x(*index)

    return ctx.compute(body)


@te_rule("Squeeze", attribute_inputs=(1,), run_time=(1,))
def squeeze(ctx: TeContext, x: te.Tensor, axes: te.Tensor | None = None) -> te.Tensor:
    """Squeeze-25 as a copy; normally it is a view."""
    return _without_ones(ctx, x)


@te_rule("Unsqueeze", attribute_inputs=(1,), run_time=(1,))
def unsqueeze(ctx: TeContext, x: te.Tensor, axes: te.Tensor | None) -> te.Tensor:
    """Unsqueeze-25 as a copy; normally it is a view."""
    return _without_ones(ctx, x)


def _inference(node: Node) -> str | None:
    mode = node.input(2)
    return "training mode" if mode is not None and mode.array.any() else None


@te_rule("Dropout", attribute_inputs=(1, 2), check=_inference)
def dropout(
    ctx: TeContext,
    x: te.Tensor,
    ratio: te.Tensor | None = None,
    training_mode: te.Tensor | None = None,
    *,
    seed: int | None = None,
) -> tuple[te.Tensor | None, ...]:
    """Dropout-22 in inference: a copy, and a mask of ones."""
    result = ctx.compute(lambda *at: x(*at))
    if not ctx.has_output(1):
        return (result,)
    return result, ctx.compute(lambda *at: tirx.const(True, "bool"), 1)
