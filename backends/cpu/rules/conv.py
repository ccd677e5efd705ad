"""Convolutions in channels-last layout on the direct template."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
from tvm import tirx

from burnish.backends.base import KernelRule, Refused
from burnish.backends.cpu.conv import ConvSpec, conv, pack_conv
from burnish.backends.cpu.depthwise import depthwise, depthwise_tile, pack_depthwise
from burnish.backends.cpu.gemm import packed_size
from burnish.backends.cpu.rules.common import (
    lower_operands,
    postops_key,
    postops_of,
    refuse_dtype,
    refuse_operands,
)
from burnish.backends.cpu.tiling import Tile
from burnish.ir import Dim, Node, TensorType
from burnish.ir.dims import product
from burnish.lowering.context import CallShapes, Lowered, NodeContext
from burnish.lowering.scope import Index


@dataclass(frozen=True)
class Window:
    """Spatial attributes in two dims; a 1-D operator has one row.

    Attributes:
        kernel: Height and width.
        strides: Along rows and columns.
        pads: Top, left, bottom, right.
        dilations: Along rows and columns.
    """

    kernel: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]
    dilations: tuple[int, int]

    def transposed(self) -> Window:
        """Rows and columns exchanged."""
        top, left, bottom, right = self.pads
        return Window(
            self.kernel[::-1], self.strides[::-1], (left, top, right, bottom), self.dilations[::-1]
        )


def window(node: Node, kernel: tuple[int, ...]) -> Window:
    """The window of a composite with one or two spatial axes."""
    rank = len(kernel)
    ones = (1,) * rank
    strides = node.ints_attr("strides", ones)
    pads = node.ints_attr("pads", (0,) * (2 * rank))
    dilations = node.ints_attr("dilations", ones)
    if rank == 1:
        return Window((1, kernel[0]), (1, strides[0]), (0, pads[0], 0, pads[1]), (1, dilations[0]))
    h, w = kernel
    top, left, bottom, right = pads
    return Window(
        (h, w), (strides[0], strides[1]), (top, left, bottom, right), (dilations[0], dilations[1])
    )


def refuse_layout(node: Node) -> Refused | None:
    """Refuse what is not channels-last with one or two spatial axes."""
    layout = node.str_attr("data_format")
    return None if layout in ("NWC", "NHWC") else Refused(f"no kernel for layout {layout}")


def image(ctx: NodeContext, tensor: Lowered) -> Lowered:
    """A channels-last tensor with two spatial axes: [N, W, C] gets one row."""
    if len(tensor.dims) == 4:
        return tensor
    n, w, c = tensor.dims
    return ctx.reshape(tensor, (n, 1, w, c))


def image_dims(dims: tuple[Dim, ...]) -> tuple[Dim, ...]:
    """The shape that :func:`image` gives."""
    return dims if len(dims) == 4 else (dims[0], 1, *dims[1:])


def lay_flat(dims: tuple[Dim, ...], view: Window) -> tuple[tuple[Dim, ...], Window]:
    """A picture of one column as one of one row: kernels tile along rows.

    Returns:
        The image's shape and the window, exchanged or as they were.
    """
    n, h, w, c = dims
    if w == 1 and view.kernel[1] == 1 and view.pads[1] == view.pads[3] == 0:
        return (n, 1, h, c), view.transposed()
    return dims, view


def channels(dim: Dim) -> int:
    """A channel count, which is always static."""
    assert isinstance(dim, int)
    return dim


def _accepts(node: Node) -> Refused | None:
    w = node.required(1)
    if not w.is_const:
        return Refused("the weights are not constant")
    if not isinstance(node.required(0).shape[-1], int):
        return Refused("the number of channels is not known")
    return refuse_layout(node) or refuse_dtype(node) or refuse_operands(node, 2)


def any_size(dims: tuple[Dim, ...]) -> tuple[Index, ...]:
    """Sizes for packing: what is not static is some variable."""
    return tuple(d if isinstance(d, int) else tirx.Var("size", "int64") for d in dims)


def _emit(ctx: NodeContext, node: Node) -> None:
    w = node.required(1)
    oc, ic, *kernel = (channels(d) for d in w.shape)
    view = window(node, tuple(kernel))
    groups = node.int_attr("group", 1)
    postops = postops_of(node)
    x = image(ctx, ctx.tensor(node.required(0)))
    output_dims = image_dims(node.output.shape)
    shape, flat = lay_flat(x.dims, view)
    if flat is not view:
        x, view = ctx.reshape(x, shape), flat
        output_dims = (output_dims[0], 1, output_dims[1], output_dims[3])
    n, h, width, _ = any_size(x.dims)
    spec = ConvSpec(
        n,
        h,
        width,
        ic * groups,
        oc,
        view.kernel,
        view.strides,
        view.pads,
        view.dilations,
        groups,
        postops,
        dtype=x.dtype,
    )
    output = TensorType(x.dtype, output_dims)
    flops = product([*output.dims, 2 * ic * prod(view.kernel)])
    operands = [
        ctx.reshape(t, output_dims) if len(t.dims) > 1 else t for t in lower_operands(ctx, node, 2)
    ]
    choice = _depthwise(ctx, spec) if spec.groups == spec.ic == spec.oc else _direct(ctx, spec)

    def build(shapes: CallShapes) -> Any:
        n, h, width, _ = shapes.inputs[0]
        return choice.build(ctx.isa, replace(spec, n=n, h=h, w=width))

    def pack(array: np.ndarray) -> np.ndarray:
        return choice.pack(array.reshape(oc, ic, *view.kernel), spec, ctx.isa)

    (result,) = ctx.call(
        choice.name,
        (view, groups, oc, choice.layout, postops_key(postops)),
        build,
        [x, ctx.weight(w, (choice.name, choice.layout), pack, (choice.size,)), *operands],
        [output],
        flops=flops,
        detail=f"tile {choice.tile.rows}x{choice.tile.vectors}",
    )
    ctx.set(ctx.reshape(result, node.output.shape))


@dataclass(frozen=True)
class _Choice:
    """The template for a convolution, with layout and size of its packed weights."""

    name: str
    build: Callable[..., Any]
    pack: Callable[..., np.ndarray]
    layout: Hashable
    size: int
    tile: Tile


def _direct(ctx: NodeContext, spec: ConvSpec) -> _Choice:
    columns = spec.columns(ctx.isa)
    depth = spec.ic // spec.groups * prod(spec.kernel)
    size = spec.groups * packed_size(depth, spec.oc // spec.groups, ctx.isa)
    return _Choice("conv", conv, pack_conv, columns, size, columns[0].tile)


def _depthwise(ctx: NodeContext, spec: ConvSpec) -> _Choice:
    tile = depthwise_tile(spec, ctx.isa)
    size = packed_size(prod(spec.kernel), spec.oc, ctx.isa)
    return _Choice("depthwise", depthwise, pack_depthwise, ctx.isa.lanes, size, tile)


CONV = KernelRule("burnish::Conv", _accepts, _emit)
