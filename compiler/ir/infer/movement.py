"""Operators that move data or make it: shapes, slices, joins, padding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from burnish.errors import ShapeError
from burnish.ir import dims
from burnish.ir.dims import UNKNOWN, Dim
from burnish.ir.graph import Constant, Node
from burnish.ir.infer.common import (
    MAX_CONTENT,
    Shape,
    at_least,
    at_least_zero,
    axes_of,
    axis_of,
    broadcast,
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


@infer("Shape")
def shape(node: Node) -> Sequence[Result]:
    """Shape(x; start, end), opset 15."""
    x = shape_of(node, 0)
    rank = len(x)
    start = _clamped(node.int_attr("start", 0), rank)
    end = _clamped(node.int_attr("end", rank), rank)
    part = x[start:end]
    return [(tensor("int64", (len(part),)), part)]


def _clamped(index: int, rank: int) -> int:
    return min(max(index + rank if index < 0 else index, 0), rank)


@infer("Size")
def size(node: Node) -> Sequence[Result]:
    """Number of elements."""
    return [(tensor("int64", ()), (dims.product(shape_of(node, 0)),))]


@infer("Constant")
def constant(node: Node) -> Sequence[Result]:
    """A Constant node that a pass left in the graph."""
    value = node.attrs.get("value")
    if not isinstance(value, Constant):
        raise ShapeError("Constant without a tensor")
    return [value.type]


@infer("Reshape")
def reshape(node: Node) -> Sequence[Result]:
    """Reshape(x, shape; allowzero), opset 14; -1 is solved by exact division."""
    x = required(node, 0)
    target = elements(node.input(1))
    if target is None:
        rank = length(required(node, 1))
        return [TensorType(x.t.dtype, None if rank is None else unknown_shape(rank))]
    source = x.t.shape
    result: list[Dim] = []
    hole: int | None = None
    for i, d in enumerate(target):
        if d == -1:
            if hole is not None:
                raise ShapeError("two dims are -1")
            hole = i
            result.append(-1)
        elif d == 0 and not node.int_attr("allowzero"):
            if source is None:
                result.append(UNKNOWN)
            elif i >= len(source):
                raise ShapeError(f"dim {i} is 0 but the input has rank {len(source)}")
            else:
                result.append(source[i])
        else:
            result.append(d)
    if source is not None:
        _solve(result, hole, source)
    elif hole is not None:
        result[hole] = UNKNOWN
    return [(tensor(x.t.dtype, result), elements(x))]


def _solve(result: list[Dim], hole: int | None, source: Shape) -> None:
    """Fill in -1 and check that the number of elements stays."""
    shown = f"[{','.join(map(str, source))}] to [{','.join(map(str, result))}]"
    if hole is None:
        old, new = dims.product(source), dims.product(result)
        if isinstance(old, int) and isinstance(new, int) and old != new:
            raise ShapeError(f"cannot reshape {shown}: {old} elements are not {new}")
        unknown = [i for i, d in enumerate(result) if d is UNKNOWN]
        if len(unknown) == 1:
            _solve(result, unknown[0], source)
        elif not dims.equal(old, new):
            unify(old, new, "number of elements")
        return
    rest, total = _cancelled([d for i, d in enumerate(result) if i != hole], source)
    if rest == 0:
        # With an unknown or zero remainder ONNX cannot solve either, unless the input is empty.
        result[hole] = 0
    elif isinstance(total, int) and isinstance(rest, int) and total % rest:
        raise ShapeError(f"cannot reshape {shown}: {total} is not a multiple of {rest}")
    else:
        result[hole] = dims.floordiv(total, rest)


def _cancelled(kept: Sequence[Dim], source: Shape) -> tuple[Dim, Dim]:
    """Products of both sides without the factors that they share."""
    left, right = list(kept), list(source)
    for d in list(left):
        for other in right:
            if dims.equal(d, other) and d != 0:
                left.remove(d)
                right.remove(other)
                break
    return dims.product(left), dims.product(right)


@infer("Flatten")
def flatten(node: Node) -> Sequence[Result]:
    """Flatten to two dims around ``axis``."""
    x = shape_of(node, 0)
    axis = node.int_attr("axis", 1)
    if not -len(x) <= axis <= len(x):
        raise ShapeError(f"axis {axis} is out of range for rank {len(x)}")
    axis = axis + len(x) if axis < 0 else axis
    return [tensor(dtype_of(node), (dims.product(x[:axis]), dims.product(x[axis:])))]


@infer("Squeeze")
def squeeze(node: Node) -> Sequence[Result]:
    """Squeeze(x, axes?), opset 13."""
    x = required(node, 0)
    source = shape_of(node, 0)
    if node.input(1) is None:
        if any(not isinstance(d, int) for d in source):
            # Without axes the rank depends on sizes that are known at run time only.
            return [TensorType(x.t.dtype, None)]
        kept = [d for d in source if d != 1]
    else:
        axes = const_ints(node.input(1))
        if axes is None:
            count = length(required(node, 1))
            known = None if count is None else unknown_shape(len(source) - count)
            return [TensorType(x.t.dtype, known)]
        gone = axes_of(axes, len(source))
        for axis in gone:
            unify(source[axis], 1, f"squeezed axis {axis}")
        kept = [d for i, d in enumerate(source) if i not in gone]
    return [(tensor(x.t.dtype, kept), elements(x))]


@infer("Unsqueeze")
def unsqueeze(node: Node) -> Sequence[Result]:
    """Unsqueeze(x, axes), opset 13."""
    x = required(node, 0)
    source = shape_of(node, 0)
    axes = const_ints(required(node, 1))
    if axes is None:
        count = length(required(node, 1))
        known = None if count is None else unknown_shape(len(source) + count)
        return [TensorType(x.t.dtype, known)]
    rank = len(source) + len(axes)
    new = axes_of(axes, rank)
    rest = iter(source)
    result = [1 if i in new else next(rest) for i in range(rank)]
    return [(tensor(x.t.dtype, result), elements(x))]


@infer("Transpose")
def transpose(node: Node) -> Sequence[Result]:
    """Transpose; the default reverses the axes."""
    source = shape_of(node, 0)
    perm = node.ints_attr("perm", tuple(reversed(range(len(source)))))
    if sorted(perm) != list(range(len(source))):
        raise ShapeError(f"perm {perm} is no permutation of rank {len(source)}")
    array = grid(node.input(0))
    content = None if array is None else flat(array.transpose(perm))
    return [(tensor(dtype_of(node), (source[p] for p in perm)), content)]


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
        sizes = (*(step,) * (count - 1), dims.sub(source[axis], dims.mul(step, count - 1)))
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
    """Number of elements that a slice takes of ``dim``, by ONNX's clamping."""
    if not isinstance(step, int):
        return UNKNOWN
    if step == 0:
        raise ShapeError("a step is 0")
    if isinstance(dim, int) and isinstance(start, int) and isinstance(end, int):
        return len(range(*slice(start, _bound(end, dim, step), step).indices(dim)))
    low, high = (0, dim) if step > 0 else (-1, dims.sub(dim, 1))
    first = _index(start, dim, low, high)
    last = _index(end, dim, low, high)
    span = dims.sub(last, first) if step > 0 else dims.sub(first, last)
    return at_least_zero(dims.ceildiv(span, abs(step)))


def _bound(end: int, dim: int, step: int) -> int | None:
    # Python reads a stop below -dim with a negative step as "from the end" only if it is None.
    return None if step < 0 and end < -dim else end


def _index(index: Dim, dim: Dim, low: Dim, high: Dim) -> Dim:
    """An index made absolute and clamped to ``[low, high]``."""
    if isinstance(index, int):
        if index >= _FAR:
            return high
        if index <= -_FAR:
            return low
        if index < 0:
            index = dims.add(dim, index)
    clipped = dims.minimum(index, high)
    return at_least_zero(clipped) if low == 0 else dims.maximum(clipped, low)


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


@infer("Expand")
def expand(node: Node) -> Sequence[Result]:
    """Expand(x, shape): broadcasting in both directions."""
    x = required(node, 0)
    source = shape_of(node, 0)
    target = elements(node.input(1))
    if target is None:
        rank = length(required(node, 1))
        if rank is None:
            return [TensorType(x.t.dtype, None)]
        return [TensorType(x.t.dtype, unknown_shape(max(rank, len(source))))]
    result = broadcast(source, target)
    array, count = grid(x), dims.static_product(result)
    content: Shape | None = None
    if array is not None and count is not None and count <= MAX_CONTENT:
        content = flat(np.broadcast_to(array, result))  # type: ignore[arg-type]
    return [(TensorType(x.t.dtype, result), content)]


@infer("Tile")
def tile(node: Node) -> Sequence[Result]:
    """Tile(x, repeats)."""
    x = required(node, 0)
    source = shape_of(node, 0)
    repeats = elements(node.input(1)) or unknown_shape(len(source))
    if len(repeats) != len(source):
        raise ShapeError(f"{len(repeats)} repeats for rank {len(source)}")
    array, content = grid(x), None
    result = tuple(map(dims.mul, source, repeats))
    count = dims.static_product(result)
    if array is not None and count is not None and count <= MAX_CONTENT:
        content = flat(np.tile(array, repeats))  # type: ignore[arg-type]
    return [(tensor(x.t.dtype, result), content)]


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


@infer("ConstantOfShape")
def constant_of_shape(node: Node) -> Sequence[Result]:
    """ConstantOfShape(shape; value)."""
    value = node.attrs.get("value")
    dtype = value.type.dtype if isinstance(value, Constant) else "float32"
    target = elements(node.input(0))
    if target is None:
        rank = length(required(node, 0))
        return [TensorType(dtype, None if rank is None else unknown_shape(rank))]
    content: Shape | None = None
    count = dims.static_product(target)
    if dtype in ("int64", "int32", "bool") and count is not None and count <= MAX_CONTENT:
        fill = int(value.array.reshape(-1)[0]) if isinstance(value, Constant) else 0
        content = (fill,) * count
    return [(TensorType(dtype, target), content)]


@infer("Range")
def range_(node: Node) -> Sequence[Result]:
    """Range(start, limit, delta): ``max(ceil((limit - start) / delta), 0)`` elements."""
    dtype = same_dtype(node)
    bounds = [elements(v) for v in node.inputs]
    if any(b is None or len(b) != 1 for b in bounds):
        return [tensor(dtype, (_float_range(node),))]
    start, limit, delta = (b[0] for b in bounds if b is not None)
    if not isinstance(delta, int):
        return [tensor(dtype, (UNKNOWN,))]
    if delta == 0:
        raise ShapeError("delta is 0")
    span = dims.sub(limit, start) if delta > 0 else dims.sub(start, limit)
    count = at_least_zero(dims.ceildiv(span, abs(delta)))
    content: Shape | None = None
    if isinstance(count, int) and count <= MAX_CONTENT:
        content = tuple(dims.add(start, i * delta) for i in range(count))
    return [(tensor(dtype, (count,)), content)]


def _float_range(node: Node) -> Dim:
    if not all(v is not None and v.is_const for v in node.inputs):
        return UNKNOWN
    start, limit, delta = (float(v.array.reshape(-1)[0]) for v in node.inputs if v is not None)
    if delta == 0:
        raise ShapeError("delta is 0")
    return max(int(-(-(limit - start) // delta)), 0)


@infer("DepthToSpace", "SpaceToDepth")
def depth_space(node: Node) -> Sequence[Result]:
    """NCHW blocks between the channel axis and the two spatial axes."""
    n, c, h, w = _rank4(node)
    block = node.int_attr("blocksize")
    if block <= 0:
        raise ShapeError("blocksize must be positive")
    square = block * block
    if node.op == "DepthToSpace":
        if isinstance(c, int) and c % square:
            raise ShapeError(f"{c} channels are not a multiple of {square}")
        result = (n, dims.floordiv(c, square), dims.mul(h, block), dims.mul(w, block))
    else:
        result = (n, dims.mul(c, square), dims.floordiv(h, block), dims.floordiv(w, block))
    return [tensor(dtype_of(node), result)]


def _rank4(node: Node) -> tuple[Dim, Dim, Dim, Dim]:
    source = shape_of(node, 0)
    if len(source) != 4:
        raise ShapeError(f"rank {len(source)} instead of 4")
    return source[0], source[1], source[2], source[3]


@infer("EyeLike")
def eye_like(node: Node) -> Sequence[Result]:
    """EyeLike: the shape of the input."""
    from burnish.ir.types import BY_ONNX

    code = node.int_attr("dtype")
    return [tensor(BY_ONNX[code].name if code else dtype_of(node), shape_of(node, 0))]


@infer("OneHot")
def one_hot(node: Node) -> Sequence[Result]:
    """OneHot(indices, depth, values; axis)."""
    indices = shape_of(node, 0)
    depth = elements(node.input(1))
    if depth is None and node.input(1) is not None:
        value = required(node, 1)
        depth = (int(value.array.reshape(-1)[0]),) if value.is_const else None
    rank = len(indices) + 1
    axis = axis_of(node.int_attr("axis", -1), rank)
    result = (*indices[:axis], depth[0] if depth else UNKNOWN, *indices[axis:])
    return [tensor(dtype_of(node, 2), result)]


@infer("NonZero")
def non_zero(node: Node) -> Sequence[Result]:
    """NonZero: [rank, as many as there are]; a scalar counts as rank 1."""
    return [tensor("int64", (max(len(shape_of(node, 0)), 1), UNKNOWN))]


@infer("Compress")
def compress(node: Node) -> Sequence[Result]:
    """Compress: as many slices as the condition holds for."""
    source = shape_of(node, 0)
    if "axis" not in node.attrs:
        return [tensor(dtype_of(node), (UNKNOWN,))]
    axis = axis_of(node.int_attr("axis"), len(source))
    return [tensor(dtype_of(node), (*source[:axis], UNKNOWN, *source[axis + 1 :]))]


@infer("Unique")
def unique(node: Node) -> Sequence[Result]:
    """Unique: the number of distinct elements or slices depends on the data."""
    source = shape_of(node, 0)
    indices = tensor("int64", (UNKNOWN,))
    if "axis" not in node.attrs:
        return [tensor(dtype_of(node), (UNKNOWN,)), indices, indices, indices]
    axis = axis_of(node.int_attr("axis"), len(source))
    values = tensor(dtype_of(node), (*source[:axis], UNKNOWN, *source[axis + 1 :]))
    return [values, indices, tensor("int64", (source[axis],)), indices]


@infer("TopK")
def top_k(node: Node) -> Sequence[Result]:
    """TopK(x, k; axis): values and indices."""
    source = shape_of(node, 0)
    axis = axis_of(node.int_attr("axis", -1), len(source))
    k = elements(node.input(1))
    result = (*source[:axis], k[0] if k else UNKNOWN, *source[axis + 1 :])
    return [tensor(dtype_of(node), result), tensor("int64", result)]


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
