"""Operators of the domain ``burnish.run_time``: sizes that are known at run time only.

Just before it is lowered, a graph whose shapes depend on data is rewritten with them: some kernel
computes sizes as an int64 tensor, ``Bind`` reads that tensor on the host and gives its elements
names, and from there on they are symbols like the sizes of the inputs. No pass sees these
operators, and they are never exported.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from burnish.errors import ShapeError
from burnish.ir import dims
from burnish.ir.dims import Dim, parse_dim
from burnish.ir.graph import Node
from burnish.ir.infer.common import (
    axis_of,
    dtype_of,
    elements,
    length,
    required,
    shape_of,
    tensor,
)
from burnish.ir.infer.registry import Result, UnknownRankError, infer

DOMAIN: Final = "burnish.run_time"


def _sizes(count: int) -> Result:
    return tensor("int64", (count,))


def _length(node: Node, index: int) -> int:
    """Number of elements of a list or scalar operand."""
    value = required(node, index)
    count = 1 if value.t.rank == 0 else length(value)
    if count is None:
        raise UnknownRankError
    return count


def known(node: Node, index: int) -> tuple[Dim, ...]:
    """Elements of an operand that ``Bind`` made."""
    found = elements(required(node, index))
    if found is None:
        raise ShapeError(f"the elements of input {index} have no names")
    return found


@infer("Bind", domain=DOMAIN)
def bind(node: Node) -> Sequence[Result]:
    """Bind(sizes; dims): the same sizes, which are ``dims`` from here on."""
    return [(required(node, 0).t, tuple(map(parse_dim, node.strs_attr("dims"))))]


@infer("ReshapeSizes", domain=DOMAIN)
def reshape_sizes(node: Node) -> Sequence[Result]:
    """ReshapeSizes(sizes of x, shape; allowzero): the shape with 0 and -1 resolved."""
    return [_sizes(_length(node, 1))]


@infer("SqueezeSizes", "KeptSizes", domain=DOMAIN)
def squeeze_sizes(node: Node) -> Sequence[Result]:
    """SqueezeSizes(sizes of x, axes), KeptSizes(sizes of x, axes): the sizes of the other axes.

    SqueezeSizes demands that those of the axes be 1.
    """
    return [_sizes(len(known(node, 0)) - _length(node, 1))]


@infer("UnsqueezeSizes", domain=DOMAIN)
def unsqueeze_sizes(node: Node) -> Sequence[Result]:
    """UnsqueezeSizes(sizes of x, axes): the shape with ones put in."""
    return [_sizes(len(known(node, 0)) + _length(node, 1))]


@infer("AxisSizes", domain=DOMAIN)
def axis_sizes(node: Node) -> Sequence[Result]:
    """AxisSizes(sizes of x, axes): for each axis its size and 1, or 1 and its size if it is listed.

    Reshaped so, ``x`` has the listed axes at the odd places and the others at the even ones.
    """
    return [_sizes(2 * len(known(node, 0)))]


@infer("AroundSizes", domain=DOMAIN)
def around_sizes(node: Node) -> Sequence[Result]:
    """AroundSizes(sizes of x, axis): number of elements before, along and behind an axis."""
    return [_sizes(3)]


@infer("SliceBounds", domain=DOMAIN)
def slice_bounds(node: Node) -> Sequence[Result]:
    """SliceBounds(sizes of x, starts, ends, axes?, steps?).

    Outputs: start, step and result size of every axis.
    """
    rank = len(known(node, 0))
    return [_sizes(rank)] * 3


@infer("Slice", domain=DOMAIN)
def slice_(node: Node) -> Sequence[Result]:
    """Slice(x, starts, steps, sizes) along all axes."""
    return [tensor(dtype_of(node), known(node, 3))]


@infer("PadBounds", domain=DOMAIN)
def pad_bounds(node: Node) -> Sequence[Result]:
    """PadBounds(sizes of x, pads, axes?; mode): pads of all axes, and the result's sizes."""
    rank = len(known(node, 0))
    return [_sizes(2 * rank), _sizes(rank)]


@infer("Pad", domain=DOMAIN)
def pad(node: Node) -> Sequence[Result]:
    """Pad(x, pads, value?, absent, sizes; mode) along all axes."""
    return [tensor(dtype_of(node), known(node, 4))]


@infer("RangeSize", domain=DOMAIN)
def range_size(node: Node) -> Sequence[Result]:
    """RangeSize(start, limit, delta): number of elements of a Range."""
    return [_sizes(1)]


@infer("Range", domain=DOMAIN)
def range_(node: Node) -> Sequence[Result]:
    """Range(start, limit, delta, size)."""
    return [tensor(dtype_of(node), known(node, 3))]


@infer("ResizeSizes", domain=DOMAIN)
def resize_sizes(node: Node) -> Sequence[Result]:
    """ResizeSizes(sizes of x, roi?, scales?, sizes?; attributes of Resize): the result's sizes."""
    return [_sizes(len(known(node, 0)))]


@infer("ResizeTaps", domain=DOMAIN)
def resize_taps(node: Node) -> Sequence[Result]:
    """ResizeTaps(sizes of x, scales?, sizes?; axes, keep_aspect_ratio_policy, mode).

    How many elements the filter of each axis reads that does not let high frequencies alias.
    """
    return [_sizes(len(node.ints_attr("axes", tuple(range(len(known(node, 0)))))))]


@infer("Resize", domain=DOMAIN)
def resize(node: Node) -> Sequence[Result]:
    """Resize(x, roi?, scales?, sizes?, sizes of the result, taps?; attributes of Resize)."""
    return [tensor(dtype_of(node), known(node, 4))]


@infer("CountNonZero", domain=DOMAIN)
def count_non_zero(node: Node) -> Sequence[Result]:
    """CountNonZero(x): how many elements are not 0."""
    return [_sizes(1)]


@infer("NonZero", domain=DOMAIN)
def non_zero(node: Node) -> Sequence[Result]:
    """NonZero(x, count)."""
    rank = max(len(shape_of(node, 0)), 1)
    return [tensor("int64", (rank, *known(node, 1)))]


@infer("UniqueRanks", domain=DOMAIN)
def unique_ranks(node: Node) -> Sequence[Result]:
    """UniqueRanks(x; axis?, sorted): for each slice where it goes in the result, and how many.

    Outputs: for each slice of x along the axis (for each element without one) the position of its
    value in the result [n]; the number of different values [1]; two work areas [n].
    """
    source = shape_of(node, 0)
    count: Dim = dims.product(source)
    if "axis" in node.attrs:
        count = source[axis_of(node.int_attr("axis"), len(source))]
    ranks = tensor("int64", (count,))
    return [ranks, _sizes(1), ranks, ranks]


@infer("Unique", domain=DOMAIN)
def unique(node: Node) -> Sequence[Result]:
    """Unique(x, ranks, count; axis?): values, first positions, ranks, counts."""
    source = shape_of(node, 0)
    count = known(node, 2)
    values: tuple[Dim, ...] = count
    if "axis" in node.attrs:
        axis = axis_of(node.int_attr("axis"), len(source))
        values = (*source[:axis], *count, *source[axis + 1 :])
    indices = tensor("int64", count)
    return [tensor(dtype_of(node), values), indices, required(node, 1).t, indices]


@infer("SelectBoxes", domain=DOMAIN)
def select_boxes(node: Node) -> Sequence[Result]:
    """SelectBoxes(boxes, scores, ...): NonMaxSuppression in a buffer that holds every box.

    Outputs: rows [batches * classes * boxes, 3], of which the first are the result; their number
    [1]; a work area [boxes].
    """
    batches, classes, boxes = shape_of(node, 1)
    rows = dims.product((batches, classes, boxes))
    return [tensor("int64", (rows, 3)), _sizes(1), tensor("int64", (boxes,))]
