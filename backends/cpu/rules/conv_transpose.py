"""Transposed convolutions in channels-last layout."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

from burnish.backends.base import KernelRule, Refused
from burnish.backends.composites import postops_key, postops_of
from burnish.backends.cpu.conv_transpose import (
    ConvTransposeSpec,
    conv_transpose,
    pack_conv_transpose,
)
from burnish.backends.cpu.rules.common import lower_operands, refuse_dtype, refuse_operands
from burnish.backends.images import any_size, channels, image, image_dims, refuse_filters, window
from burnish.ir import Node, TensorType
from burnish.ir.dims import product
from burnish.lowering.context import CallShapes, NodeContext


def _accepts(node: Node) -> Refused | None:
    return refuse_filters(node) or refuse_dtype(node) or refuse_operands(node, 2)


def _emit(ctx: NodeContext, node: Node) -> None:
    ctx.computes = "float32"
    w = node.required(1)
    ic, oc, *kernel = (channels(d) for d in w.shape)
    view = window(node, tuple(kernel))
    groups = node.int_attr("group", 1)
    extra = node.ints_attr("output_padding", (0,) * len(kernel))
    postops = postops_of(node)
    x = image(ctx, ctx.tensor(node.required(0)))
    n, h, width, _ = any_size(x.dims)
    spec = ConvTransposeSpec(
        n,
        h,
        width,
        ic,
        oc * groups,
        view.kernel,
        view.strides,
        view.pads,
        view.dilations,
        groups,
        (0, extra[0]) if len(kernel) == 1 else (extra[0], extra[1]),
        postops,
        dtype=x.dtype,
    )
    output = TensorType(x.dtype, image_dims(node.output.shape))

    def pack(array: np.ndarray) -> np.ndarray:
        return pack_conv_transpose(array.reshape(ic, oc, *view.kernel), spec, ctx.isa)

    def build(shapes: CallShapes) -> Any:
        n, h, width, _ = shapes.inputs[0]
        return conv_transpose(ctx.isa, replace(spec, n=n, h=h, w=width))

    columns = spec.columns(ctx.isa)
    operands = [
        ctx.reshape(t, output.dims) if len(t.dims) > 1 else t for t in lower_operands(ctx, node, 2)
    ]
    (result,) = ctx.call(
        "conv_transpose",
        (view, groups, oc, columns, spec.output_padding, postops_key(postops)),
        build,
        [x, ctx.weight(w, ("conv_transpose", columns, groups), pack), *operands],
        [output],
        flops=product([*x.dims, 2 * oc * prod(view.kernel)]),
    )
    ctx.set(ctx.reshape(result, node.output.shape))


CONV_TRANSPOSE = KernelRule("burnish::ConvTranspose", _accepts, _emit)
