"""Operators that see the same elements in another shape or order, and those that ask for it."""

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
    axes_of,
    broadcast,
    const_ints,
    dtype_of,
    elements,
    flat,
    grid,
    length,
    required,
    shape_of,
    tensor,
    unify,
    unknown_shape,
)
from burnish.ir.infer.registry import Result, infer
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
    """Squeeze(x, axes?), opset 13.

    Without axes the rank depends on which sizes are 1: symbols are taken to be larger, which is a
    condition on them.
    """
    x = required(node, 0)
    source = shape_of(node, 0)
    if node.input(1) is None:
        if any(d is UNKNOWN for d in source):
            return [TensorType(x.t.dtype, None)]
        kept = [d for d in source if d != 1]
        for d in kept:
            if not isinstance(d, int):
                at_least(d, 2, "size of an axis that stays")
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
