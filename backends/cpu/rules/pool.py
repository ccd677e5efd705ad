"""Pooling in channels-last layout."""

from __future__ import annotations

from typing import Any, Literal

from burnish.backends.base import KernelRule, Refused
from burnish.backends.cpu.codes import LIMITS
from burnish.backends.cpu.narrow import NARROW
from burnish.backends.cpu.pool import PoolSpec, pool
from burnish.backends.cpu.rules.common import refuse_dtype
from burnish.backends.images import channels, image, image_dims, refuse_layout, window
from burnish.ir import Node, TensorType
from burnish.lowering.context import CallShapes, NodeContext

_KINDS: dict[str, Literal["max", "average"]] = {
    "MaxPool": "max",
    "AveragePool": "average",
    "GlobalMaxPool": "max",
    "GlobalAveragePool": "average",
}


def _accepts(node: Node) -> Refused | None:
    if not isinstance(node.required(0).shape[-1], int):
        return Refused("the number of channels is not known")
    if node.strs_attr("postops"):
        return Refused("pooling kernels have no post-ops")
    floats = ("float32", *NARROW)
    dtypes = (*floats, *LIMITS) if _KINDS[node.op] == "max" else floats
    return refuse_layout(node) or refuse_dtype(node, dtypes=dtypes)


def _emit(ctx: NodeContext, node: Node) -> None:
    x = image(ctx, ctx.tensor(node.required(0)))
    kind = _KINDS[node.op]
    sizes = node.ints_attr("kernel_shape")
    view = window(node, sizes) if sizes else None
    ceil_mode = bool(node.int_attr("ceil_mode"))
    include_pad = bool(node.int_attr("count_include_pad"))
    c = channels(x.dims[-1])

    def build(shapes: CallShapes) -> Any:
        n, h, w, _ = shapes.inputs[0]
        spec = PoolSpec(kind, n, h, w, c, dtype=x.dtype)
        if view is not None:
            spec = PoolSpec(
                kind,
                n,
                h,
                w,
                c,
                view.kernel,
                view.strides,
                view.pads,
                view.dilations,
                ceil_mode,
                include_pad,
                x.dtype,
            )
        return pool(ctx.isa, spec)

    output = TensorType(x.dtype, image_dims(node.output.shape))
    key = (kind, view, ceil_mode, include_pad)
    (result,) = ctx.call(node.op.lower(), key, build, [x], [output])
    ctx.set(ctx.reshape(result, node.output.shape))


POOL_RULES = tuple(KernelRule(f"burnish::{op}", _accepts, _emit) for op in _KINDS)
