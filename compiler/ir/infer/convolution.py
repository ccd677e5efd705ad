"""Convolutions, pooling and resizing: windows over spatial axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

from burnish.errors import ShapeError
from burnish.ir import dims
from burnish.ir.dims import UNKNOWN, Dim
from burnish.ir.graph import Node
from burnish.ir.infer.common import (
    Shape,
    at_least,
    axes_of,
    const_floats,
    dtype_of,
    elements,
    same_dtype,
    shape_of,
    tensor,
    unify,
    unknown_shape,
)
from burnish.ir.infer.registry import Result, infer


def _per_axis(node: Node, name: str, count: int, default: int) -> tuple[int, ...]:
    values = node.ints_attr(name, (default,) * count)
    if len(values) != count:
        raise ShapeError(f"{name} has {len(values)} elements, not {count}")
    return values


def _windows(node: Node, spatial: Shape, kernel: Sequence[Dim]) -> list[Dim]:
    """Output sizes of a sliding window, by ``auto_pad``, ``pads`` and ``ceil_mode``."""
    count = len(spatial)
    strides = _per_axis(node, "strides", count, 1)
    dilations = _per_axis(node, "dilations", count, 1)
    pads = _per_axis(node, "pads", 2 * count, 0)
    if any(s < 1 for s in strides) or any(d < 1 for d in dilations):
        raise ShapeError("strides and dilations must be positive")
    auto_pad = node.str_attr("auto_pad", "NOTSET")
    result: list[Dim] = []
    for i, (d, k, s) in enumerate(zip(spatial, kernel, strides, strict=True)):
        extent = dims.add(dims.mul(dims.sub(k, 1), dilations[i]), 1)
        if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            result.append(dims.ceildiv(d, s))
            continue
        padded = d if auto_pad == "VALID" else dims.add(d, pads[i] + pads[i + count])
        room = dims.sub(padded, extent)
        if isinstance(room, int) and room < 0:
            raise ShapeError(f"a window of {extent} does not fit into {padded}")
        if isinstance(extent, int):
            at_least(padded, extent, "size under the window")
        if node.int_attr("ceil_mode") and auto_pad != "VALID":
            result.append(_ceil_windows(d, pads[i], room, s))
        else:
            result.append(dims.add(dims.floordiv(room, s), 1))
    return result


def _ceil_windows(dim: Dim, begin: int, room: Dim, stride: int) -> Dim:
    """Windows with ``ceil_mode``; one that starts in the end padding does not count."""
    number = dims.add(dims.ceildiv(room, stride), 1)
    last = dims.mul(dims.sub(number, 1), stride)
    if isinstance(last, int) and isinstance(dim, int):
        return dims.sub(number, 1) if last >= dim + begin else number
    if stride == 1:
        return number
    # number = ceil(room / s) + 1, but at most ceil((dim + begin) / s) windows start in time.
    return dims.minimum(number, dims.ceildiv(dims.add(dim, begin), stride))


def _conv_shape(node: Node, x: Shape, w: Shape) -> Shape:
    if len(x) < 3 or len(w) != len(x):
        raise ShapeError(f"x has rank {len(x)} and w rank {len(w)}")
    group = node.int_attr("group", 1)
    unify(x[1], dims.mul(w[1], group), "channels")
    if isinstance(w[0], int) and w[0] % group:
        raise ShapeError(f"{w[0]} output channels are not a multiple of group {group}")
    if "kernel_shape" in node.attrs:
        for a, b in zip(node.ints_attr("kernel_shape"), w[2:], strict=True):
            unify(b, a, "kernel_shape")
    return (x[0], w[0], *_windows(node, x[2:], w[2:]))


@infer("Conv")
def conv(node: Node) -> Sequence[Result]:
    """Conv(x [N,C,...], w [M,C/group,...], b?)."""
    x, w = shape_of(node, 0), shape_of(node, 1)
    if node.input(2) is not None:
        unify(shape_of(node, 2)[0], w[0], "bias")
    return [tensor(same_dtype(node), _conv_shape(node, x, w))]


@infer("ConvInteger")
def conv_integer(node: Node) -> Sequence[Result]:
    """ConvInteger(x, w, zero points): int32."""
    return [tensor("int32", _conv_shape(node, shape_of(node, 0), shape_of(node, 1)))]


@infer("QLinearConv")
def qlinear_conv(node: Node) -> Sequence[Result]:
    """QLinearConv: x, w are inputs 0 and 3; y_zero_point (7) gives the dtype."""
    shape = _conv_shape(node, shape_of(node, 0), shape_of(node, 3))
    return [tensor(dtype_of(node, 7), shape)]


@infer("ConvTranspose")
def conv_transpose(node: Node) -> Sequence[Result]:
    """ConvTranspose(x [N,C,...], w [C,M/group,...], b?)."""
    x, w = shape_of(node, 0), shape_of(node, 1)
    if len(x) < 3 or len(w) != len(x):
        raise ShapeError(f"x has rank {len(x)} and w rank {len(w)}")
    unify(x[1], w[0], "channels")
    count = len(x) - 2
    strides = _per_axis(node, "strides", count, 1)
    dilations = _per_axis(node, "dilations", count, 1)
    extra = _per_axis(node, "output_padding", count, 0)
    pads = _per_axis(node, "pads", 2 * count, 0)
    auto_pad = node.str_attr("auto_pad", "NOTSET")
    wanted = node.ints_attr("output_shape")
    result: list[Dim] = []
    for i in range(count):
        if wanted:
            result.append(wanted[i - count])
        elif auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            result.append(dims.mul(x[2 + i], strides[i]))
        else:
            extent = dims.add(dims.mul(dims.sub(w[2 + i], 1), dilations[i]), 1 + extra[i])
            full = dims.add(dims.mul(dims.sub(x[2 + i], 1), strides[i]), extent)
            result.append(dims.sub(full, pads[i] + pads[i + count] if auto_pad == "NOTSET" else 0))
    channels = dims.mul(w[1], node.int_attr("group", 1))
    return [tensor(same_dtype(node), (x[0], channels, *result))]


@infer("MaxPool", "AveragePool", "LpPool")
def pool(node: Node) -> Sequence[Result]:
    """Pooling over windows; MaxPool may also return int64 indices."""
    x = shape_of(node, 0)
    if len(x) < 3:
        raise ShapeError(f"x has rank {len(x)}")
    kernel = node.ints_attr("kernel_shape")
    if len(kernel) != len(x) - 2:
        raise ShapeError(f"kernel_shape has {len(kernel)} elements, not {len(x) - 2}")
    result = (*x[:2], *_windows(node, x[2:], kernel))
    return [tensor(dtype_of(node), result), tensor("int64", result)]


@infer("MaxUnpool")
def max_unpool(node: Node) -> Sequence[Result]:
    """MaxUnpool(x, indices, output_shape?)."""
    x = shape_of(node, 0)
    count = len(x) - 2
    if node.input(2) is not None:
        return [tensor(dtype_of(node), elements(node.input(2)) or unknown_shape(len(x)))]
    kernel = node.ints_attr("kernel_shape")
    strides = _per_axis(node, "strides", count, 1)
    pads = _per_axis(node, "pads", 2 * count, 0)
    result = [
        dims.sub(
            dims.add(dims.mul(dims.sub(x[2 + i], 1), strides[i]), kernel[i]),
            pads[i] + pads[i + count],
        )
        for i in range(count)
    ]
    return [tensor(dtype_of(node), (*x[:2], *result))]


@infer("Resize")
def resize(node: Node) -> Sequence[Result]:
    """Resize(x, roi?, scales?, sizes?; axes, keep_aspect_ratio_policy), opset 19."""
    x = shape_of(node, 0)
    axes = axes_of(node.ints_attr("axes", tuple(range(len(x)))), len(x))
    result = list(x)
    if node.input(3) is not None:
        sizes = elements(node.input(3)) or unknown_shape(len(axes))
        if len(sizes) != len(axes):
            raise ShapeError(f"{len(sizes)} sizes for {len(axes)} axes")
        policy = node.str_attr("keep_aspect_ratio_policy", "stretch")
        for axis, d in zip(axes, _by_policy(policy, [x[a] for a in axes], sizes), strict=True):
            result[axis] = d
        return [tensor(dtype_of(node), result)]
    scales = const_floats(node.input(2))
    if scales is None:
        return [tensor(dtype_of(node), unknown_shape(len(x)))]
    if len(scales) != len(axes):
        raise ShapeError(f"{len(scales)} scales for {len(axes)} axes")
    roi = const_floats(node.input(1))
    crop = node.str_attr("coordinate_transformation_mode") == "tf_crop_and_resize"
    if crop and roi is None:
        return [tensor(dtype_of(node), unknown_shape(len(x)))]
    for i, (axis, scale) in enumerate(zip(axes, scales, strict=True)):
        if crop and roi is not None:
            scale *= roi[i + len(axes)] - roi[i]
        result[axis] = _scaled(x[axis], scale)
    return [tensor(dtype_of(node), result)]


def _scaled(dim: Dim, scale: float) -> Dim:
    """``floor(dim * scale)``, exact for integers and for scales that are simple fractions."""
    if scale <= 0:
        raise ShapeError(f"scale {scale} is not positive")
    if isinstance(dim, int):
        return math.floor(dim * scale)
    ratio = Fraction(scale).limit_denominator(1 << 10)
    if float(ratio) != scale:
        return dim if scale == 1 else UNKNOWN
    return dims.floordiv(dims.mul(dim, ratio.numerator), ratio.denominator)


def _by_policy(policy: str, source: Sequence[Dim], sizes: Shape) -> Shape:
    if policy == "stretch":
        return sizes
    if not all(isinstance(d, int) for d in (*source, *sizes)):
        return unknown_shape(len(sizes))
    ratios = [s / d for s, d in zip(sizes, source, strict=True)]  # type: ignore[operator]
    scale = min(ratios) if policy == "not_larger" else max(ratios)
    return tuple(math.floor(scale * d + 0.5) for d in source)  # type: ignore[operator]


@infer("GridSample")
def grid_sample(node: Node) -> Sequence[Result]:
    """GridSample(x [N,C,...], grid [N,...out,k])."""
    x, grid = shape_of(node, 0), shape_of(node, 1)
    return [tensor(dtype_of(node), (unify(x[0], grid[0], "batch"), x[1], *grid[1:-1]))]


@infer("RoiAlign")
def roi_align(node: Node) -> Sequence[Result]:
    """RoiAlign(x, rois, batch_indices): [rois, C, height, width]."""
    x, rois = shape_of(node, 0), shape_of(node, 1)
    size = (node.int_attr("output_height", 1), node.int_attr("output_width", 1))
    return [tensor(dtype_of(node), (rois[0], x[1], *size))]
