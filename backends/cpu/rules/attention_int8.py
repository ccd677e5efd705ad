"""Attention on 8 bits."""

from __future__ import annotations

from typing import Any

from burnish.backends.base import KernelRule, Refused
from burnish.backends.cpu.attention_int8 import Attention8Spec, Bytes, attention_int8
from burnish.backends.cpu.codes import LIMITS
from burnish.backends.cpu.dot8 import PACK
from burnish.backends.cpu.rules.attention import AttentionCall, refuse_shapes
from burnish.ir import Node
from burnish.lowering.context import CallShapes, NodeContext


def _accepts(node: Node) -> Refused | None:
    mask = node.input(3)
    if mask is not None and mask.dtype not in ("float32", "bool"):
        return Refused(f"no kernel for a mask {mask.type}")
    width = node.required(0).shape[-1]
    if isinstance(width, int) and width // node.int_attr("num_heads") % PACK:
        return Refused(f"the heads are no multiple of {PACK} wide")
    return refuse_shapes(node)


def _bytes(node: Node, name: str, dtype: str) -> Bytes:
    return Bytes(dtype, node.float_attr(f"{name}_scale"), node.int_attr(f"{name}_zero_point"))


def _emit(ctx: NodeContext, node: Node) -> None:
    call = AttentionCall.of(ctx, node)
    q, k, v = (_bytes(node, n, node.required(i).dtype) for i, n in enumerate("qkv"))
    weights = _bytes(node, "p", node.str_attr("p_dtype"))
    limit = LIMITS[weights.dtype][1] - weights.zero
    y_dtype = node.str_attr("y_dtype")
    y = None if y_dtype == "float32" else _bytes(node, "y", y_dtype)
    s, t = (_bytes(node, n, d) if (d := node.str_attr(f"{n}_dtype")) else None for n in "st")
    dtypes = tuple(s.dtype for s in call.sources)

    def build(shapes: CallShapes) -> Any:
        base = call.spec(shapes)
        spec = Attention8Spec(base, dtypes, q, k, v, weights.scale, limit, y, s, t)
        return attention_int8(ctx.isa, spec)

    ctx.set(
        *ctx.call(
            "attention_int8",
            (call.key, q, k, v, weights.scale, limit, y, s, t),
            build,
            call.inputs,
            [node.output.t],
            flops=call.flops,
            detail=ctx.isa.dot8,
        )
    )


ATTENTION_INT8 = KernelRule("burnish::QAttention", _accepts, _emit)
