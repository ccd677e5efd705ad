"""Reductions and arg-reductions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from burnish.ir import dims
from burnish.ir.dims import Dim
from burnish.ir.graph import Node
from burnish.ir.infer.common import (
    Shape,
    axes_of,
    axis_of,
    const_ints,
    dtype_of,
    elements,
    length,
    required,
    shape_of,
    tensor,
    unknown_shape,
)
from burnish.ir.infer.registry import Result, infer
from burnish.ir.types import TensorType


def _sum(values: Shape) -> Dim:
    total: Dim = 0
    for d in values:
        total = dims.add(total, d)
    return total


def _fold(fn: Callable[[Dim, Dim], Dim]) -> Callable[[Shape], Dim]:
    def fold(values: Shape) -> Dim:
        result = values[0]
        for d in values[1:]:
            result = fn(result, d)
        return result

    return fold


_CONTENT: dict[str, Callable[[Shape], Dim]] = {
    "ReduceProd": dims.product,
    "ReduceSum": _sum,
    "ReduceMax": _fold(dims.maximum),
    "ReduceMin": _fold(dims.minimum),
}


@infer("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean")
@infer("ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare")
def reduce(node: Node) -> Sequence[Result]:
    """ReduceX(x, axes?; keepdims, noop_with_empty_axes), opset 18."""
    x = required(node, 0)
    source = shape_of(node, 0)
    keep = bool(node.int_attr("keepdims", 1))
    axes: tuple[int, ...] | None = ()
    if node.input(1) is not None:
        axes = const_ints(node.input(1))
    if axes is None:
        count = length(required(node, 1))
        rank = len(source) if keep else None if not count else len(source) - count
        return [TensorType(x.t.dtype, None if rank is None else unknown_shape(rank))]
    if not axes:
        if node.int_attr("noop_with_empty_axes"):
            return [(x.t, elements(x))]
        axes = tuple(range(len(source)))
    gone = axes_of(axes, len(source))
    result = _reduced(source, gone, keep)
    fn, values = _CONTENT.get(node.op), elements(x)
    content = (fn(values),) if fn and values and len(gone) == len(source) else None
    return [(tensor(x.t.dtype, result), content)]


def _reduced(source: Shape, axes: Sequence[int], keep: bool) -> list[Dim]:
    if keep:
        return [1 if i in axes else d for i, d in enumerate(source)]
    return [d for i, d in enumerate(source) if i not in axes]


@infer("ArgMax", "ArgMin")
def arg_reduce(node: Node) -> Sequence[Result]:
    """ArgMax and ArgMin: int64 indices."""
    source = shape_of(node, 0)
    axis = axis_of(node.int_attr("axis", 0), len(source))
    return [tensor("int64", _reduced(source, (axis,), bool(node.int_attr("keepdims", 1))))]


@infer("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def global_pool(node: Node) -> Sequence[Result]:
    """[N, C, ...] to [N, C, 1, ...]."""
    source = shape_of(node, 0)
    return [tensor(dtype_of(node), (*source[:2], *(1 for _ in source[2:])))]
