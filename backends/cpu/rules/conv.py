"""Convolutions in channels-last layout on the direct template."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from math import prod

from burnish.backends.base import KernelRule, Refused
from burnish.backends.cpu.conv import ConvSpec, conv, pack_conv
from burnish.backends.cpu.conv_dots import (
    conv_dots,
    dots_cost,
    dots_tile,
    pack_dots,
    packed_dots_size,
    takes,
)
from burnish.backends.cpu.costs import nominal
from burnish.backends.cpu.depthwise import depthwise, depthwise_tile, pack_depthwise
from burnish.backends.cpu.dot2 import computes, detail_of
from burnish.backends.cpu.gemm import packed_size
from burnish.backends.cpu.half import product_isa
from burnish.backends.cpu.isa import Isa
from burnish.backends.cpu.microkernel import F32
from burnish.backends.cpu.rules.common import refuse_dtype, refuse_operands
from burnish.backends.cpu.rules.conv_node import ConvNode, Template, conv_node
from burnish.backends.cpu.rules.winograd import winograd_tactics
from burnish.backends.cpu.tiling import (
    MAX_VECTORS,
    Tile,
    best_rows,
    columns_cost,
    holds_rows,
    vector_count,
)
from burnish.backends.images import refuse_filters
from burnish.ir import Node
from burnish.lowering.context import NodeContext
from burnish.lowering.tactics import Tactic, by_tactics

#: Cycles that a vector of channels takes for each tap.
_DEPTHWISE_TAP = 0.6
#: Cycles in which a pixel gets one more channel, and fewest channels for which that may pay off.
_PADDED_PIXEL = 4.0
_LEAST_CHANNELS = 3


def _accepts(node: Node) -> Refused | None:
    return refuse_filters(node) or refuse_dtype(node) or refuse_operands(node, 2)


def direct_tactics(ctx: NodeContext, node: Node) -> Iterator[Tactic]:
    """The direct template with several tiles, or the one for one filter to a channel."""
    found = conv_node(ctx, node)
    spec = found.spec
    if spec.groups == spec.ic == spec.oc:
        template, cost = _depthwise(spec, ctx.isa), depthwise_cost(found, ctx.isa)
        yield Tactic(f"{template.name} {template.detail}", cost, partial(found.call, template))
        return
    isa = product_isa(ctx.isa, spec.dtype)
    for tile in (None, *_other_tiles(spec, isa)):
        tiled = replace(found, spec=replace(spec, tile=tile))
        template, cost = _direct(tiled.spec, isa), direct_cost(tiled, isa)
        yield Tactic(f"{template.name} {template.detail}", cost, partial(tiled.call, template))


def padded_tactics(ctx: NodeContext, node: Node) -> Iterator[Tactic]:
    """Pairs of bfloat16 for an odd number of channels: a copy of the input has one more."""
    found = conv_node(ctx, node)
    spec, dims = found.spec, found.dims
    wide = spec.ic + 1
    if spec.groups > 1 or spec.ic < _LEAST_CHANNELS or spec.inner(ctx.isa).dot is not F32:
        return
    padded = found.widened(wide)
    if padded.spec.inner(ctx.isa).dot is F32:
        return
    template = _direct(padded.spec, ctx.isa)
    copy = _PADDED_PIXEL * prod(map(nominal, dims[:3]))
    cost = direct_cost(padded, ctx.isa) + copy
    name = f"conv {template.detail}, {wide} channels"
    yield Tactic(name, cost, lambda: padded.call(template))


def _other_tiles(spec: ConvSpec, isa: Isa) -> Iterator[Tile]:
    """The best tile of each width but that which the tile rule takes; only for known widths.

    Blocks for images of unknown width are bounded by more than registers.
    """
    if not (isinstance(spec.w, int) or spec.pointwise):
        return
    taken = spec.columns(isa)[0].tile.vectors
    depth = spec.inner(isa).ic // spec.groups * prod(spec.kernel)
    for width in range(1, min(MAX_VECTORS, vector_count(spec.oc // spec.groups, isa)) + 1):
        held = holds_rows(isa, spec.dtype)
        tile = best_rows(width, spec.tile_rows, depth, isa, held=held)
        if width != taken and tile is not None:
            yield tile


def dots_tactics(ctx: NodeContext, node: Node) -> Iterator[Tactic]:
    """Lanes along the reduction, where there are fewer filters than lanes."""
    found = conv_node(ctx, node)
    spec = found.spec
    if not takes(spec, ctx.isa):
        return
    n, oh, ow, _ = (nominal(d) for d in found.output_dims)
    tile = f"{dots_tile(spec, ctx.isa)}x{spec.oc}"
    size = packed_dots_size(spec, ctx.isa)
    template = Template(
        "conv_dots", conv_dots, pack_dots, ctx.isa.lanes, size, f"tile {tile}", over=True
    )
    cost = dots_cost(spec, ctx.isa, n * oh * ow, ow)
    yield Tactic(f"dots {tile}", cost, lambda: found.call(template))


def depthwise_cost(found: ConvNode, isa: Isa) -> float:
    """Estimated cycles of the template for one filter to a channel."""
    pixels = prod(nominal(d) for d in found.output_dims[:3])
    return _DEPTHWISE_TAP * pixels * vector_count(found.spec.oc, isa) * prod(found.spec.kernel)


def direct_cost(found: ConvNode, isa: Isa) -> float:
    """Estimated cycles of the direct template, taps outside of the image included."""
    spec = found.spec
    depth = spec.inner(isa).ic // spec.groups * prod(spec.kernel)
    n, oh, ow, _ = (nominal(d) for d in found.output_dims)
    lines, pixels = (1, n * oh * ow) if spec.pointwise else (n * oh, ow)
    return lines * spec.groups * columns_cost(spec.columns(isa), pixels, depth, isa)


def _direct(spec: ConvSpec, isa: Isa) -> Template:
    columns = spec.columns(isa)
    depth = spec.ic // spec.groups * prod(spec.kernel)
    size = spec.groups * packed_size(depth, spec.oc // spec.groups, isa)
    tile, dot = columns[0].tile, spec.inner(isa).dot
    return Template(
        "conv",
        conv,
        pack_conv,
        (columns, dot.name),
        size,
        detail_of(dot, f"{tile.rows}x{tile.vectors}"),
        over=True,
        placed=True,
        computes=computes(dot),
        isa=isa,
    )


def _depthwise(spec: ConvSpec, isa: Isa) -> Template:
    tile = depthwise_tile(spec, isa)
    size = packed_size(prod(spec.kernel), spec.oc, isa)
    detail = f"tile {tile.rows}x{tile.vectors}"
    return Template(
        "depthwise", depthwise, pack_depthwise, isa.lanes, size, detail, over=True, placed=True
    )


CONV = KernelRule(
    "burnish::Conv",
    _accepts,
    by_tactics(direct_tactics, padded_tactics, dots_tactics, winograd_tactics),
)
