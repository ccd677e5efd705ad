"""Affine index tensors: integers that are a linear function of their own position.

Exporters index with tensors made from Range, such as ``arange(s) + s * arange(b)[:, None]``.
Such a tensor is ``offset + sum(stride[k] * i[k])`` at position ``i``; all may be symbolic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from burnish.ir import Dim, Node, Value
from burnish.ir.dims import add, equal, mul, product
from burnish.ir.types import to_numpy
from burnish.passes.rows import has_rank, made_by

#: Larger constants are not examined.
_MAX_BYTES = 1 << 16
#: Longer chains are not followed.
_MAX_DEPTH = 16


@dataclass(frozen=True)
class IndexMap:
    """``value[i] = offset + sum(strides[k] * i[k])``; the stride of an axis of size 1 is 0."""

    offset: Dim
    strides: tuple[Dim, ...]


def index_map(value: Value | None, depth: int = 0) -> IndexMap | None:
    """The map of an integer tensor, or None when it is not known to have one."""
    if value is None or depth > _MAX_DEPTH or not has_rank(value):
        return None
    if to_numpy(value.dtype).kind not in "iu":
        return None
    if value.const is not None:
        return _of_constant(value)
    if value.content is not None and len(value.content) == 1:
        return IndexMap(value.content[0], (0,) * len(value.shape))
    node = value.producer
    if node is None or node.domain or not all(has_rank(v) for v in node.inputs if v is not None):
        return None
    found = _of_node(node, depth + 1)
    if found is None:
        return None
    strides = (0 if d == 1 else s for d, s in zip(value.shape, found.strides, strict=True))
    return IndexMap(found.offset, tuple(strides))


def _of_constant(value: Value) -> IndexMap | None:
    assert value.const is not None
    if value.const.nbytes > _MAX_BYTES or 0 in value.const.type.dims:
        return None
    array = value.array.astype(np.int64)
    origin = int(array.reshape(-1)[0])
    strides: list[int] = []
    expected = np.full(array.shape, origin, np.int64)
    for axis, size in enumerate(array.shape):
        first = tuple(int(k == axis) for k in range(array.ndim))
        strides.append(int(array[first]) - origin if size > 1 else 0)
        along = [size if k == axis else 1 for k in range(array.ndim)]
        expected += strides[-1] * np.arange(size).reshape(along)
    return IndexMap(origin, tuple(strides)) if np.array_equal(array, expected) else None


def _of_node(node: Node, depth: int) -> IndexMap | None:
    if node.op in ("Identity", "Cast"):
        return index_map(node.required(0), depth)
    if node.op == "Range":
        start, step = index_map(node.input(0), depth), index_map(node.input(2), depth)
        return IndexMap(start.offset, (step.offset,)) if start and step else None
    if node.op == "Reshape":
        return _reshaped(node, index_map(node.required(0), depth))
    if node.op == "Expand":
        return _broadcast(index_map(node.required(0), depth), len(node.output.shape))
    if node.op in ("Add", "Sub", "Mul"):
        rank = len(node.output.shape)
        a = _broadcast(index_map(node.required(0), depth), rank)
        b = _broadcast(index_map(node.required(1), depth), rank)
        return _combined(node.op, a, b) if a is not None and b is not None else None
    return None


def _broadcast(found: IndexMap | None, rank: int) -> IndexMap | None:
    if found is None:
        return None
    return IndexMap(found.offset, (0,) * (rank - len(found.strides)) + found.strides)


def _reshaped(node: Node, found: IndexMap | None) -> IndexMap | None:
    """Only axes of size 1 may come and go."""
    source, target = node.required(0).shape, node.output.shape
    kept = [k for k, d in enumerate(source) if d != 1]
    places = [k for k, d in enumerate(target) if d != 1]
    if found is None or len(kept) != len(places):
        return None
    if not all(equal(source[a], target[b]) for a, b in zip(kept, places, strict=True)):
        return None
    strides: list[Dim] = [0] * len(target)
    for a, b in zip(kept, places, strict=True):
        strides[b] = found.strides[a]
    return IndexMap(found.offset, tuple(strides))


def _combined(op: str, a: IndexMap, b: IndexMap) -> IndexMap | None:
    if op == "Mul":
        if any(s != 0 for s in a.strides):
            a, b = b, a
        if any(s != 0 for s in a.strides):
            return None
        return IndexMap(mul(a.offset, b.offset), tuple(mul(a.offset, s) for s in b.strides))
    sign = -1 if op == "Sub" else 1
    strides = (add(s, mul(t, sign)) for s, t in zip(a.strides, b.strides, strict=True))
    return IndexMap(add(a.offset, mul(b.offset, sign)), tuple(strides))


def counts_up(found: IndexMap | None, shape: Sequence[Dim], total: Dim) -> bool:
    """Whether a tensor of ``shape`` holds 0, 1, ..., total - 1 in order."""
    if found is None or not equal(found.offset, 0) or not equal(product(shape), total):
        return False
    expected: Dim = 1
    for dim, stride in reversed(list(zip(shape, found.strides, strict=True))):
        if dim == 1:
            continue
        if not equal(stride, expected):
            return False
        expected = mul(expected, dim)
    return True


def takes_everything(node: Node) -> bool:
    """Whether a Gather or GatherND takes all elements along its leading axes, in order."""
    data, indices = node.required(0), node.required(1)
    if node.op == "Gather":
        if node.int_attr("axis") % len(data.shape) != 0:
            return False
        return counts_up(index_map(indices), indices.shape, data.shape[0])
    depth = indices.shape[-1]
    if node.int_attr("batch_dims") or not isinstance(depth, int):
        return False
    columns = _columns(indices, depth)
    if columns is None:
        return False
    total = IndexMap(0, (0,) * (len(indices.shape) - 1))
    for axis, column in enumerate(columns):
        stride = product(data.shape[axis + 1 : depth])
        scaled = IndexMap(
            mul(column.offset, stride), tuple(mul(s, stride) for s in column.strides[:-1])
        )
        combined = _combined("Add", total, scaled)
        assert combined is not None
        total = combined
    return counts_up(total, indices.shape[:-1], product(data.shape[:depth]))


def _columns(indices: Value, depth: int) -> list[IndexMap] | None:
    """The maps of the columns that are concatenated along the last axis."""
    if depth == 1:
        found = index_map(indices)
        return [found] if found is not None else None
    concat = made_by(indices, "Concat")
    if concat is None or concat.int_attr("axis") not in (-1, len(indices.shape) - 1):
        return None
    maps = [index_map(v) for v in concat.inputs if v is not None and v.shape[-1] == 1]
    known = [m for m in maps if m is not None]
    return known if len(known) == depth else None
