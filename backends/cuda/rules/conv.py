"""Convolutions and pooling in channels-last layout."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any, Literal

import numpy as np

from burnish.backends.base import KernelRule, Refused
from burnish.backends.composites import postops_key, postops_of
from burnish.backends.cuda.conv import (
    ConvSpec,
    conv,
    depthwise,
    pack_conv,
    pack_depthwise,
    packed_conv_shape,
)
from burnish.backends.cuda.pool import PoolSpec, pool
from burnish.backends.cuda.rules.common import (
    lower_operands,
    refuse_floats,
    refuse_mixed,
    refuse_operands,
)
from burnish.backends.cuda.rules.matmul import cut, engine
from burnish.backends.images import (
    any_size,
    channels,
    image,
    image_dims,
    refuse_filters,
    refuse_layout,
    window,
)
from burnish.ir import Node, TensorType
from burnish.ir.dims import product
from burnish.lowering.context import CallShapes, NodeContext


def _accepts(node: Node) -> Refused | None:
    return refuse_filters(node) or refuse_mixed(node, 2) or refuse_operands(node, 2)


def _emit(ctx: NodeContext, node: Node) -> None:
    w = node.required(1)
    oc, ic, *kernel = (channels(d) for d in w.shape)
    view = window(node, tuple(kernel))
    x = image(ctx, ctx.tensor(node.required(0)))
    output_dims = image_dims(node.output.shape)
    operands = [
        ctx.reshape(t, output_dims) if len(t.dims) > 1 else t for t in lower_operands(ctx, node, 2)
    ]
    spec = ConvSpec(
        image=any_size(x.dims),
        output=any_size(output_dims),
        kernel=view.kernel,
        strides=view.strides,
        pads=view.pads,
        dilations=view.dilations,
        groups=node.int_attr("group", 1),
        dtype=x.dtype,
        postops=postops_of(node),
        operands=tuple(t.dtype for t in operands),
    )
    key: tuple[Any, ...] = (view, spec.groups, postops_key(spec.postops))
    if spec.is_depthwise:
        family, template, detail = "depthwise", depthwise, "a thread for each output"
        weights = ctx.weight(w, "depthwise", pack_depthwise, (prod(view.kernel), oc))
    else:
        # Weights are packed once, for any size that is not known.
        tile = spec.tile(ctx.isa)
        family, template, detail = (
            "conv",
            conv,
            f"{engine(x.dtype)}, {cut(tile, spec.problem, ctx)}",
        )

        def pack(array: np.ndarray) -> np.ndarray:
            return pack_conv(array.reshape(oc, ic, *view.kernel), spec, tile)

        form = ("conv", view.kernel, spec.groups, tile)
        weights = ctx.weight(w, form, pack, packed_conv_shape(spec, tile))

    def build(shapes: CallShapes) -> Any:
        sizes = replace(spec, image=shapes.inputs[0], output=shapes.outputs[0])
        return template(ctx.isa, sizes)

    (result,) = ctx.call(
        family,
        key,
        build,
        [x, weights, *operands],
        [TensorType(node.output.dtype, output_dims)],
        flops=product([*output_dims, 2 * ic * prod(view.kernel)]),
        detail=detail,
    )
    ctx.set(ctx.reshape(result, node.output.shape))


CONV = KernelRule("burnish::Conv", _accepts, _emit)

_KINDS: dict[str, Literal["max", "average"]] = {
    "MaxPool": "max",
    "AveragePool": "average",
    "GlobalMaxPool": "max",
    "GlobalAveragePool": "average",
}


def _accepts_pool(node: Node) -> Refused | None:
    if not isinstance(node.required(0).shape[-1], int):
        return Refused("the number of channels is not known")
    if node.strs_attr("postops"):
        return Refused("pooling kernels have no post-ops")
    return refuse_layout(node) or refuse_floats([node.required(0), node.output])


def _emit_pool(ctx: NodeContext, node: Node) -> None:
    x = image(ctx, ctx.tensor(node.required(0)))
    output = TensorType(node.output.dtype, image_dims(node.output.shape))
    sizes = node.ints_attr("kernel_shape")
    view = window(node, sizes) if sizes else None
    include_pad = bool(node.int_attr("count_include_pad"))

    def build(shapes: CallShapes) -> Any:
        spec = PoolSpec(_KINDS[node.op], shapes.inputs[0], shapes.outputs[0], x.dtype)
        if view is not None:
            spec = replace(
                spec,
                kernel=view.kernel,
                strides=view.strides,
                pads=view.pads,
                dilations=view.dilations,
                count_include_pad=include_pad,
            )
        return pool(spec)

    (result,) = ctx.call(node.op.lower(), (view, include_pad), build, [x], [output])
    ctx.set(ctx.reshape(result, node.output.shape))


POOL_RULES = tuple(KernelRule(f"burnish::{op}", _accepts_pool, _emit_pool) for op in _KINDS)
