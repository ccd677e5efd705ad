"""Convolutions in channels-last layout on the direct template."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from burnish.backends.base import KernelRule, Refused
from burnish.backends.composites import postops_key, postops_of
from burnish.backends.cpu.conv import ConvSpec, conv, pack_conv
from burnish.backends.cpu.depthwise import depthwise, depthwise_tile, pack_depthwise
from burnish.backends.cpu.gemm import packed_size
from burnish.backends.cpu.rules.common import lower_operands, refuse_dtype, refuse_operands
from burnish.backends.cpu.tiling import Tile
from burnish.backends.images import (
    Window,
    any_size,
    channels,
    image,
    image_dims,
    refuse_filters,
    window,
)
from burnish.ir import Dim, Node, TensorType
from burnish.ir.dims import product
from burnish.lowering.context import CallShapes, NodeContext


def lay_flat(dims: tuple[Dim, ...], view: Window) -> tuple[tuple[Dim, ...], Window]:
    """A picture of one column as one of one row: kernels tile along rows.

    Returns:
        The image's shape and the window, exchanged or as they were.
    """
    n, h, w, c = dims
    if w == 1 and view.kernel[1] == 1 and view.pads[1] == view.pads[3] == 0:
        return (n, 1, h, c), view.transposed()
    return dims, view


def _accepts(node: Node) -> Refused | None:
    return refuse_filters(node) or refuse_dtype(node) or refuse_operands(node, 2)


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
