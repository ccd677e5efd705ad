"""Operators that take parts of tensors or join them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from burnish.errors import ShapeError
from burnish.ir import dims
from burnish.ir.dims import UNKNOWN, Dim, nonnegative
from burnish.ir.graph import Node
from burnish.ir.infer.common import (
    Shape,
    at_least,
    at_least_zero,
    axes_of,
    axis_of,
    const_ints,
    dtype_of,
    elements,
    flat,
    grid,
    length,
    required,
    same_dtype,
    shape_of,
    tensor,
    unify,
    unknown_shape,
)
from burnish.ir.infer.registry import Result, UnknownRankError, infer
from burnish.ir.types import TensorType


@infer("Concat")
def concat(node: Node) -> Sequence[Result]:
    """Concat along ``axis``."""
    dtype = same_dtype(node)
    shapes = [shape_of(node, i) for i in range(len(node.inputs))]
    rank = len(shapes[0])
    axis = axis_of(node.int_attr("axis"), rank)
    result = list(shapes[0])
    for other in shapes[1:]:
        if len(other) != rank:
            raise ShapeError(f"ranks {rank} and {len(other)} differ")
        for i in range(rank):
            if i != axis:
                result[i] = unify(result[i], other[i], f"axis {i}")
    total: Dim = 0
    for s in shapes:
        total = dims.add(total, s[axis])
    result[axis] = total
    content: Shape | None = None
    parts = [grid(v) for v in node.inputs]
    known = [p for p in parts if p is not None]
    if len(known) == len(parts):
        content = flat(np.concatenate(known, axis))
    return [(tensor(dtype, result), content)]


@infer("Split")
def split(node: Node) -> Sequence[Result]:
    """Split(x, split?; axis, num_outputs), opset 18: the last part may be smaller."""
    x = required(node, 0)
    source = shape_of(node, 0)
    axis = axis_of(node.int_attr("axis", 0), len(source))
    count = len(node.outputs)
    sizes = elements(node.input(1))
    if node.input(1) is not None and sizes is None:
        sizes = unknown_shape(count)
    if sizes is None:
        step = dims.ceildiv(source[axis], count)
        last = dims.sub(source[axis], dims.mul(step, count - 1))
        # Too few elements for all parts: such a node may be in a branch that never runs.
        sizes = (*(step,) * (count - 1), UNKNOWN if isinstance(last, int) and last < 0 else last)
    if len(sizes) != count:
        raise ShapeError(f"{len(sizes)} sizes for {count} outputs")
    total: Dim = 0
    for d in sizes:
        total = dims.add(total, d)
    if node.input(1) is not None:
        unify(total, source[axis], "sum of the parts")
    array = grid(x)
    results: list[Result] = []
    position = 0
    for d in sizes:
        type = tensor(x.t.dtype, (*source[:axis], d, *source[axis + 1 :]))
        if array is None or not isinstance(d, int):
            array = None
            results.append(type)
            continue
        part = np.take(array, range(position, position + d), axis)
        position += d
        results.append((type, flat(part)))
    return results


@infer("Slice")
def slice_(node: Node) -> Sequence[Result]:
    """Slice(x, starts, ends, axes?, steps?), opset 13."""
    x = required(node, 0)
    source = shape_of(node, 0)
    count = length(required(node, 1))
    starts, ends = elements(node.input(1)), elements(node.input(2))
    axes = const_ints(node.input(3))
    if node.input(3) is None and count is not None:
        axes = tuple(range(count))
    if axes is None:
        return [TensorType(x.t.dtype, unknown_shape(len(source)))]
    axes = axes_of(axes, len(source))
    unknown = unknown_shape(len(axes))
    steps = elements(node.input(4)) if node.input(4) is not None else (1,) * len(axes)
    result = list(source)
    columns = (axes, starts or unknown, ends or unknown, steps or unknown)
    if len({len(c) for c in columns}) != 1:
        raise ShapeError("starts, ends, axes and steps have different lengths")
    for axis, start, end, step in zip(*columns, strict=True):
        result[axis] = sliced(source[axis], start, end, step)
    array = grid(x)
    if array is not None:
        array = _sliced_content(array, axes, (starts or unknown, ends or unknown, steps or unknown))
    return [(tensor(x.t.dtype, result), flat(array))]


def _sliced_content(
    array: np.ndarray, axes: Sequence[int], columns: Sequence[Shape]
) -> np.ndarray | None:
    index = [slice(None)] * array.ndim
    for axis, start, end, step in zip(axes, *columns, strict=True):
        if not (isinstance(start, int) and isinstance(end, int) and isinstance(step, int)):
            return None
        index[axis] = slice(start, _bound(end, array.shape[axis], step), step)
    picked: np.ndarray = array[tuple(index)]
    return picked


#: Exporters write "to the end" as a number that no size reaches.
_FAR = 10**9


def sliced(dim: Dim, start: Dim, end: Dim, step: Dim) -> Dim:
    """Number of elements that a slice takes of ``dim``, by ONNX's clamping.

    With ``max(last - first, 0)`` only one side of each bound needs to be clamped.
    """
    if not isinstance(step, int):
        return UNKNOWN
    if step == 0:
        raise ShapeError("a step is 0")
    if isinstance(dim, int) and isinstance(start, int) and isinstance(end, int):
        return len(range(*slice(start, _bound(end, dim, step), step).indices(dim)))
    if step > 0:
        first = _index(start, lambda i: i, lambda i: at_least_zero(dims.add(dim, i)))
        last = _index(end, lambda i: dims.minimum(i, dim), lambda i: dims.add(dim, i))
        span = dims.sub(dim if _far(end) > 0 else last, 0 if _far(start) < 0 else first)
        empty = _far(start) > 0 or _far(end) < 0
    else:
        top = dims.sub(dim, 1)
        first = _index(start, lambda i: dims.minimum(i, top), lambda i: dims.add(dim, i))
        last = _index(end, lambda i: i, lambda i: dims.maximum(dims.add(dim, i), -1))
        span = dims.sub(top if _far(start) > 0 else first, -1 if _far(end) < 0 else last)
        empty = _far(start) < 0 or _far(end) > 0
    return 0 if empty else at_least_zero(dims.ceildiv(span, abs(step)))


def _far(index: Dim) -> int:
    """1 or -1 for an index that stands for an end of the axis, else 0."""
    if not isinstance(index, int) or abs(index) < _FAR:
        return 0
    return 1 if index > 0 else -1


def _index(index: Dim, from_start: Callable[[Dim], Dim], from_end: Callable[[Dim], Dim]) -> Dim:
    """An index made absolute, by the side that it counts from."""
    if nonnegative(index, least=1):
        return from_start(index)
    if nonnegative(dims.sub(-1, index), least=1):
        return from_end(index)
    return UNKNOWN


def _bound(end: int, dim: int, step: int) -> int | None:
    # Python reads a stop below -dim with a negative step as "from the end" only if it is None.
    return None if step < 0 and end < -dim else end


@infer("Gather")
def gather(node: Node) -> Sequence[Result]:
    """Gather(data, indices; axis)."""
    data, indices = required(node, 0), required(node, 1)
    source, picked = shape_of(node, 0), shape_of(node, 1)
    axis = axis_of(node.int_attr("axis", 0), len(source))
    result = (*source[:axis], *picked, *source[axis + 1 :])
    size, where = source[axis], const_ints(indices)
    if where is not None and isinstance(size, int):
        wrong = [i for i in where if not -size <= i < size]
        if wrong:
            raise ShapeError(f"index {wrong[0]} is out of range for size {size}")
    elif where and indices.is_const:
        at_least(size, max(max(where) + 1, -min(where)), "size of the gathered axis")
    array = grid(data)
    if array is None or where is None or not indices.t.static:
        return [tensor(data.t.dtype, result)]
    picked_array = np.take(array, np.asarray(where).reshape(indices.t.dims), axis)
    return [(tensor(data.t.dtype, result), flat(np.asarray(picked_array, dtype=object)))]


@infer("GatherElements")
def gather_elements(node: Node) -> Sequence[Result]:
    """GatherElements: the shape of the indices."""
    if len(shape_of(node, 0)) != len(shape_of(node, 1)):
        raise ShapeError("data and indices have different ranks")
    return [tensor(dtype_of(node), shape_of(node, 1))]


@infer("GatherND")
def gather_nd(node: Node) -> Sequence[Result]:
    """GatherND(data, indices; batch_dims)."""
    source, picked = shape_of(node, 0), shape_of(node, 1)
    batch = node.int_attr("batch_dims", 0)
    if not picked or not isinstance(picked[-1], int):
        raise UnknownRankError
    if batch + picked[-1] > len(source):
        raise ShapeError("an index is longer than the data's rank")
    return [tensor(dtype_of(node), (*picked[:-1], *source[batch + picked[-1] :]))]


@infer("Scatter", "ScatterElements", "ScatterND", "TensorScatter")
def scatter(node: Node) -> Sequence[Result]:
    """A copy of the data."""
    return [required(node, 0).t]


@infer("Pad")
def pad(node: Node) -> Sequence[Result]:
    """Pad(x, pads, value?, axes?; mode), opset 18; pads may be negative."""
    source = shape_of(node, 0)
    pads = elements(node.input(1))
    axes = const_ints(node.input(3)) if node.input(3) is not None else tuple(range(len(source)))
    if pads is None or axes is None:
        return [tensor(dtype_of(node), unknown_shape(len(source)))]
    if len(pads) != 2 * len(axes):
        raise ShapeError(f"{len(pads)} pads for {len(axes)} axes")
    result = list(source)
    for i, axis in enumerate(axes_of(axes, len(source))):
        both = dims.add(pads[i], pads[i + len(axes)])
        result[axis] = dims.add(result[axis], both)
        at_least(result[axis], 0, "padded size")
    return [tensor(dtype_of(node), result)]


@infer("CenterCropPad")
def center_crop_pad(node: Node) -> Sequence[Result]:
    """CenterCropPad(x, shape; axes)."""
    source = shape_of(node, 0)
    axes = axes_of(node.ints_attr("axes", tuple(range(len(source)))), len(source))
    target = elements(node.input(1)) or unknown_shape(len(axes))
    result = list(source)
    for axis, d in zip(axes, target, strict=True):
        result[axis] = d
    return [tensor(dtype_of(node), result)]
