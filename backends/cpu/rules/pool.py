"""Pooling in channels-last layout."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from burnish.backends.base import KernelRule, Refused
from burnish.backends.cpu.codes import LIMITS
from burnish.backends.cpu.narrow import NARROW
from burnish.backends.cpu.pool import CodeAverage, PoolSpec, pool
from burnish.backends.cpu.rules.common import refuse_dtype
from burnish.backends.cpu.rules.joining import call_into, join_for, place_in
from burnish.backends.images import channels, image, image_dims, refuse_layout, window
from burnish.ir import Node, TensorType
from burnish.ir.definitions.quantized import AVERAGES
from burnish.lowering.context import CallShapes, NodeContext

_KINDS: dict[str, Literal["max", "average"]] = {
    "MaxPool": "max",
    "AveragePool": "average",
    "GlobalMaxPool": "max",
    "GlobalAveragePool": "average",
}
_FLOATS = ("float32", *NARROW)


def _accepts(node: Node) -> Refused | None:
    if not isinstance(node.required(0).shape[-1], int):
        return Refused("the number of channels is not known")
    if node.key in AVERAGES:
        return refuse_layout(node)
    if node.strs_attr("postops"):
        return Refused("pooling kernels have no post-ops")
    dtypes = (*_FLOATS, *LIMITS) if _KINDS[node.op] == "max" else _FLOATS
    return refuse_layout(node) or refuse_dtype(node, dtypes=dtypes)


def _emit(ctx: NodeContext, node: Node) -> None:
    x = image(ctx, ctx.tensor(node.required(0)))
    kind = _KINDS[AVERAGES.get(node.key, node.op)]
    sizes = node.ints_attr("kernel_shape")
    view = window(node, sizes) if sizes else None
    ceil_mode = bool(node.int_attr("ceil_mode"))
    include_pad = bool(node.int_attr("count_include_pad"))
    c = channels(x.dims[-1])
    codes = _code_average(node) if node.key in AVERAGES else None
    join = join_for(ctx, node)
    place = place_in(join, node)

    def build(shapes: CallShapes) -> Any:
        n, h, w, _ = shapes.inputs[0]
        spec = PoolSpec(kind, n, h, w, c, dtype=x.dtype, codes=codes, place=place)
        if view is not None:
            spec = replace(
                spec,
                kernel=view.kernel,
                strides=view.strides,
                pads=view.pads,
                dilations=view.dilations,
                ceil_mode=ceil_mode,
                count_include_pad=include_pad,
            )
        return pool(ctx.isa, spec)

    output = TensorType(node.output.dtype, image_dims(node.output.shape))
    key = (kind, view, ceil_mode, include_pad, codes, place)
    call_into(ctx, node, join, node.op.lower(), key, build, [x], [output])


def _code_average(node: Node) -> CodeAverage:
    """How a composite of :data:`AVERAGES` reads and writes."""
    y_dtype, factor = node.str_attr("y_dtype"), node.float_attr("x_scale")
    if y_dtype not in LIMITS:
        return CodeAverage(node.int_attr("x_zero_point"), factor)
    factor /= node.float_attr("y_scale")
    zero = node.int_attr("y_zero_point")
    return CodeAverage(node.int_attr("x_zero_point"), factor, y_dtype, zero)


POOL_RULES = tuple(
    KernelRule(key, _accepts, _emit) for key in (*(f"burnish::{op}" for op in _KINDS), *AVERAGES)
)
