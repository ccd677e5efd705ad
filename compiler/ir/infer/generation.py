"""Operators that make tensors, or whose sizes depend on data."""

from __future__ import annotations

from collections.abc import Sequence

from burnish.errors import ShapeError
from burnish.ir import dims
from burnish.ir.dims import UNKNOWN, Dim
from burnish.ir.graph import Constant, Node
from burnish.ir.infer.common import (
    MAX_CONTENT,
    Shape,
    at_least_zero,
    axis_of,
    dtype_of,
    elements,
    length,
    not_less,
    required,
    same_dtype,
    shape_of,
    tensor,
    unknown_shape,
)
from burnish.ir.infer.registry import Result, UnknownRankError, infer
from burnish.ir.types import BY_ONNX, TensorType


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


@infer("EyeLike")
def eye_like(node: Node) -> Sequence[Result]:
    """EyeLike: the shape of the input."""
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
    if k:
        not_less(source[axis], k[0], "size of the axis and k")
    result = (*source[:axis], k[0] if k else UNKNOWN, *source[axis + 1 :])
    return [tensor(dtype_of(node), result), tensor("int64", result)]


@infer("HannWindow", "HammingWindow", "BlackmanWindow")
def window(node: Node) -> Sequence[Result]:
    """Window functions of ``size`` elements; float32 unless ``output_datatype`` says otherwise."""
    size = elements(node.input(0))
    dtype = BY_ONNX[node.int_attr("output_datatype", 1)].name
    return [tensor(dtype, (size[0] if size else UNKNOWN,))]


@infer("AffineGrid")
def affine_grid(node: Node) -> Sequence[Result]:
    """AffineGrid(theta [N,k,k+1], size): [N, spatial..., k]."""
    theta = shape_of(node, 0)
    size = elements(node.input(1))
    if size is None:
        count = length(required(node, 1))
        if count is None:
            raise UnknownRankError
        size = unknown_shape(count)
    return [tensor(dtype_of(node), (theta[0], *size[2:], len(size) - 2))]
