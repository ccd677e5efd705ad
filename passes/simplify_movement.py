"""Equations of operators that move data: views, permutations, broadcasts, slices."""

from __future__ import annotations

import numpy as np

from burnish.ir import Builder, Dim, Node, Value
from burnish.ir.dims import equal
from burnish.ir.infer.common import const_ints
from burnish.ir.types import to_numpy
from burnish.passes.index_maps import takes_everything
from burnish.passes.rows import (
    Merged,
    Outcome,
    RowTable,
    again,
    made_by,
    only_user,
    reshape,
    same_shape,
    uniform,
)
from burnish.passes.shape_values import expand_to, shape_value

#: The equations.
MOVEMENT = RowTable()

_REDUCTIONS = ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL2")
#: Longer index lists are not examined.
_MAX_BYTES = 1 << 20
#: Elementwise operators that an Expand is moved behind.
_SINKABLE = ("Cast", "Where", "Add", "Sub", "Mul", "Div", "Not", "Neg", "Equal", "Exp", "Sqrt")


@MOVEMENT.row("Transpose")
def transpose_transpose(node: Node, b: Builder) -> Outcome:
    """Transpose(Transpose(x, p), q) = Transpose(x, p[q])."""
    inner = made_by(node.required(0), "Transpose")
    if inner is None:
        return None
    first, second = permutation(inner), permutation(node)
    combined = tuple(first[axis] for axis in second)
    if combined == tuple(range(len(combined))):
        return inner.required(0)
    return Merged(b.op("Transpose", inner.required(0), perm=combined), (inner,))


def permutation(node: Node) -> tuple[int, ...]:
    """The permutation of a Transpose."""
    rank = len(node.required(0).shape)
    return node.ints_attr("perm", tuple(reversed(range(rank))))


@MOVEMENT.row("Reshape")
def reshape_reshape(node: Node, b: Builder) -> Outcome:
    """Reshape(Reshape(x)) = Reshape(x) when the shape can be written with constants."""
    inner = made_by(node.required(0), "Reshape")
    if inner is None:
        return None
    result = reshape(b, inner.required(0), node.output.shape)
    return Merged(result, (inner,)) if result is not None else None


@MOVEMENT.row("Expand")
def expand_expand(node: Node, b: Builder) -> Outcome:
    """Expand(Expand(x, s), t) = Expand(x, t) when t has every axis of the result."""
    inner = made_by(node.required(0), "Expand")
    shape = node.required(1)
    if inner is None or not shape.shape or not equal(shape.shape[0], len(node.output.shape)):
        return None
    if shape.content is None and not shape.is_const:
        return None
    wanted = const_ints(shape) or shape.content
    if wanted is None or not same_shape(wanted, node.output.shape):
        return None
    return Merged(b.op("Expand", inner.required(0), shape), (inner,))


@MOVEMENT.row("Concat")
def concat_concat(node: Node, b: Builder) -> Outcome:
    """Concat(Concat(x, y), z) = Concat(x, y, z) on one axis."""
    rank = len(node.output.shape)
    axis = node.int_attr("axis") % rank
    operands: list[Value | None] = []
    merged: list[Node] = []
    for value in node.inputs:
        inner = made_by(value, "Concat")
        if (
            inner is None
            or inner.int_attr("axis") % rank != axis
            or inner.output.single_user() is not node
        ):
            operands.append(value)
        else:
            operands += inner.inputs
            merged.append(inner)
    if not merged:
        return None
    return Merged(b.op("Concat", *operands, axis=axis), tuple(merged))


@MOVEMENT.row("Slice")
def slice_slice(node: Node, b: Builder) -> Outcome:
    """Slice(Slice(x)) = Slice(x) when all bounds are numbers."""
    inner = only_user(node, "Slice")
    if inner is None:
        return None
    first, second = _bounds(inner), _bounds(node)
    if first is None or second is None:
        return None
    for axis, (start, end, step) in second.items():
        if axis in first:
            start0, end0, step0 = first[axis]
            if min(start, end, start0, end0) < 0 or (step, step0) != (1, 1):
                return None
            first[axis] = (start0 + start, min(end0, start0 + end), 1)
        else:
            first[axis] = (start, end, step)
    axes = sorted(first)
    columns = [[first[a][k] for a in axes] for k in range(3)]
    starts, ends, steps = (b.ints(column) for column in columns)
    return Merged(b.op("Slice", inner.required(0), starts, ends, b.ints(axes), steps), (inner,))


def _bounds(node: Node) -> dict[int, tuple[int, int, int]] | None:
    """(start, end, step) of a Slice by axis if all are numbers."""
    rank = len(node.required(0).shape)
    starts, ends = const_ints(node.input(1)), const_ints(node.input(2))
    if starts is None or ends is None:
        return None
    axes = const_ints(node.input(3)) if node.input(3) is not None else tuple(range(len(starts)))
    steps = const_ints(node.input(4)) if node.input(4) is not None else (1,) * len(starts)
    if axes is None or steps is None:
        return None
    rows = zip(starts, ends, steps, strict=True)
    return {axis % rank: row for axis, row in zip(axes, rows, strict=True)}


@MOVEMENT.row("Gather")
def gather_range(node: Node, b: Builder) -> Outcome:
    """Gather(x, [i, i+1, ...]) = Slice(x, i), and x when it takes all."""
    indices = node.required(1)
    x = node.required(0)
    if indices.const is None or len(indices.shape) != 1 or indices.const.nbytes > _MAX_BYTES:
        return None
    array = indices.array.astype(np.int64)
    axis = node.int_attr("axis") % len(x.shape)
    if (
        array.size == 0
        or array[0] < 0
        or not np.array_equal(array, array[0] + np.arange(array.size))
    ):
        return None
    if array[0] == 0 and equal(x.shape[axis], array.size):
        return x
    start, end = int(array[0]), int(array[0]) + array.size
    return b.op("Slice", x, b.ints([start]), b.ints([end]), b.ints([axis]))


@MOVEMENT.row("Gather", "GatherND")
def gather_everything(node: Node, b: Builder) -> Outcome:
    """Gather(x, i) = Reshape(x) when i counts up over all of x.

    Exporters look a padding mask up by batch and position, at every batch and every position.
    """
    data = node.required(0)
    if not takes_everything(node):
        return None
    target = node.output.shape
    flat = made_by(data, "Reshape")
    sources = [flat.required(0), data] if flat is not None else [data]
    for source in sources:
        result = reshape(b, source, target)
        if result is not None:
            return result
    shape = shape_value(b, target)
    return b.op("Reshape", data, shape) if shape is not None else None


@MOVEMENT.row("Gather", "GatherElements", "GatherND")
def gather_from_uniform(node: Node, b: Builder) -> Outcome:
    """Gather(c, i) = c, broadcast, when all elements of c are equal."""
    data = node.required(0)
    number = uniform(data)
    if number is None or node.required(1).is_const:
        return None
    ones = np.full((1,) * len(node.output.shape), number, to_numpy(data.dtype))
    return expand_to(b, b.constant(ones, data.name), node.output.shape)


@MOVEMENT.row("Gather")
def gather_of_expand(node: Node, b: Builder) -> Outcome:
    """Gather(x, Expand(i)) = Expand(Gather(x, i)) along the first axis."""
    data, expand = node.required(0), made_by(node.required(1), "Expand")
    if expand is None or node.int_attr("axis") % len(data.shape) != 0:
        return None
    indices = expand.required(0)
    if len(indices.shape) != len(expand.output.shape):
        return None
    return expand_to(b, again(b, node, data, indices), node.output.shape)


@MOVEMENT.row("Reshape")
def pad_behind_view(node: Node, b: Builder) -> Outcome:
    """Reshape(Pad(x)) = Pad(Reshape(x)) when only axes of size 1 come and go."""
    pad = only_user(node, "Pad")
    if pad is None or pad.input(3) is not None or pad.str_attr("mode", "constant") != "constant":
        return None
    pads, padded = const_ints(pad.input(1)), pad.output.shape
    x, target = pad.required(0), node.output.shape
    places = [k for k, d in enumerate(target) if d != 1]
    kept = [k for k, d in enumerate(padded) if d != 1]
    if pads is None or not same_shape([padded[k] for k in kept], [target[k] for k in places]):
        return None
    rank = len(padded)
    if any(pads[k] or pads[k + rank] for k in range(rank) if k not in kept):
        return None
    moved = [0] * (2 * len(target))
    before: list[Dim] = [1] * len(target)
    for old, new in zip(kept, places, strict=True):
        moved[new], moved[new + len(target)] = pads[old], pads[old + rank]
        before[new] = x.shape[old]
    view = reshape(b, x, before)
    if view is None:
        return None
    return Merged(b.op("Pad", view, b.ints(moved), pad.input(2), **_mode(pad)), (pad,))


def _mode(pad: Node) -> dict[str, str]:
    return {"mode": pad.str_attr("mode", "constant")} if "mode" in pad.attrs else {}


@MOVEMENT.row("Reshape")
def transpose_of_merged_axes(node: Node, b: Builder) -> Outcome:
    """Reshape(Transpose(Reshape(x))) = Transpose(x) when axes are merged and split again.

    An exporter that knows matrix transposition for rank 3 only merges the axes before the last two
    into one, transposes, and splits them again.
    """
    transpose = only_user(node, "Transpose")
    merge = made_by(transpose.required(0), "Reshape") if transpose is not None else None
    if transpose is None or merge is None:
        return None
    x, perm = merge.required(0), permutation(transpose)
    kept = len(perm) - 1
    lead = len(x.shape) - kept
    if perm[0] != 0 or lead < 1 or not same_shape(merge.output.shape[1:], x.shape[lead:]):
        return None
    full = (*range(lead), *(axis - 1 + lead for axis in perm[1:]))
    if not same_shape(node.output.shape, [x.shape[axis] for axis in full]):
        return None
    return Merged(b.op("Transpose", x, perm=full), (merge, transpose))


@MOVEMENT.row(*_SINKABLE)
def expand_last(node: Node, b: Builder) -> Outcome:
    """f(Expand(x), c) = Expand(f(x, c)) when c is one number."""
    for index, value in enumerate(node.inputs):
        expand = made_by(value, "Expand")
        if value is None or expand is None or value.single_user() is not node:
            continue
        others = [v for i, v in enumerate(node.inputs) if i != index and v is not None]
        if any(any(d != 1 for d in v.shape) or not v.is_const for v in others):
            return None
        if not same_shape(value.shape, node.output.shape):
            return None
        inputs = [expand.required(0) if i == index else v for i, v in enumerate(node.inputs)]
        inner = again(b, node, *inputs)
        return Merged(b.op("Expand", inner, expand.required(1)), (expand,))
    return None


@MOVEMENT.row("Reshape")
def reshape_of_reduction(node: Node, b: Builder) -> Outcome:
    """Reshape(Reduce(x)) = Reduce(x) with the other keepdims, when that gives the shape."""
    inner = only_user(node, *_REDUCTIONS)
    if inner is None:
        return None
    x = inner.required(0)
    rank = len(x.shape)
    found = const_ints(inner.input(1)) if inner.input(1) is not None else tuple(range(rank))
    if not found:
        return None
    axes = {axis % rank for axis in found}
    keep = 1 - inner.int_attr("keepdims", 1)
    shape = [1 if i in axes else d for i, d in enumerate(x.shape) if keep or i not in axes]
    if not same_shape(shape, node.output.shape):
        return None
    attrs = {**inner.attrs, "keepdims": keep}
    return Merged(b.node(inner.op, inner.inputs, attrs).output, (inner,))
