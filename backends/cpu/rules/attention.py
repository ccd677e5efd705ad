"""Scaled dot-product attention, reading its operands where they lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from burnish.backends.base import KernelRule, Refused
from burnish.backends.cpu.attention import attention
from burnish.backends.cpu.attention_spec import AttentionSpec, merged_heads
from burnish.backends.cpu.rules.common import refuse_dtype
from burnish.ir import Dim, Node, Value
from burnish.ir.dims import product
from burnish.lowering.context import CallShapes, Lowered, NodeContext


@dataclass(frozen=True)
class Operand:
    """Where queries, keys or values lie: columns of a [batch, length, total] tensor."""

    value: Value
    offset: int
    total: int


def operand_of(value: Value) -> Operand:
    """The tensor that a Split on the last axis took the value from, or the value itself."""
    width = value.shape[-1]
    assert isinstance(width, int)
    split = value.producer
    if split is None or split.key != "Split":
        return Operand(value, 0, width)
    source = split.required(0)
    total = source.shape[-1]
    rank = len(source.shape)
    if split.int_attr("axis") % rank != rank - 1 or not isinstance(total, int):
        return Operand(value, 0, width)
    offset = 0
    for output in split.outputs:
        if output is value:
            return Operand(source, offset, total)
        size = output.shape[-1] if output is not None else None
        if not isinstance(size, int):
            break
        offset += size
    return Operand(value, 0, width)


def _accepts(node: Node) -> Refused | None:
    for value in node.inputs[:3]:
        assert value is not None
        if len(value.shape) != 3 or not isinstance(value.shape[-1], int):
            return Refused("queries, keys and values are not [batch, length, heads * width]")
    mask = node.input(3)
    if mask is not None and (
        mask.dtype not in (node.output.dtype, "float32", "bool") or len(mask.shape) != 4
    ):
        return Refused(f"no kernel for a mask {mask.type}")
    return refuse_dtype(node, 3)


def _emit(ctx: NodeContext, node: Node) -> None:
    q, k, v = (node.required(i) for i in range(3))
    heads, kv_heads = node.int_attr("num_heads"), node.int_attr("kv_num_heads")
    operands = [operand_of(value) for value in (q, k, v)]
    sources = list(dict.fromkeys(o.value for o in operands))
    mask = node.input(3)
    inputs: list[Lowered] = [ctx.tensor(s) for s in sources]
    kind: Literal["", "float", "bool"] = ""
    if mask is not None:
        inputs.append(ctx.tensor(mask))
        kind = "bool" if mask.dtype == "bool" else "float"
    widths = [int(x.shape[-1]) // n for x, n in ((q, heads), (k, kv_heads), (v, kv_heads))]  # type: ignore[arg-type]
    causal = bool(node.int_attr("causal"))
    scale = node.float_attr("scale", 1.0)
    nan_to_zero = bool(node.int_attr("nan_to_zero"))

    mask_dtype = "float32" if mask is not None and mask.dtype == "float32" else None

    def build(shapes: CallShapes) -> Any:
        queries, keys = shapes.expr(q.shape[1]), shapes.expr(k.shape[1])
        places = [
            merged_heads(sources.index(o.value), length, n, width, o.total, o.offset)
            for o, length, n, width in zip(
                operands, (queries, keys, keys), (heads, kv_heads, kv_heads), widths, strict=True
            )
        ]
        spec = AttentionSpec(
            batch=shapes.expr(q.shape[0]),
            queries=queries,
            keys=keys,
            heads=heads,
            kv_heads=kv_heads,
            width=widths[0],
            value_width=widths[2],
            arguments=tuple(shapes.inputs[: len(sources)]),
            q=places[0],
            k=places[1],
            v=places[2],
            scale=scale,
            mask=kind,
            mask_shape=shapes.inputs[-1] if mask is not None else (),
            causal=causal,
            nan_to_zero=nan_to_zero,
            dtype=q.dtype,
            mask_dtype=mask_dtype,
        )
        return attention(ctx.isa, spec)

    layout = tuple((sources.index(o.value), o.offset, o.total) for o in operands)
    key = (heads, kv_heads, *widths, layout, kind, causal, scale, nan_to_zero)
    ctx.set(
        *ctx.call(
            "attention", key, build, inputs, [node.output.t], flops=_flops(q, k, heads, widths)
        )
    )


def _flops(q: Value, k: Value, heads: int, widths: list[int]) -> Dim:
    return product([q.shape[0], q.shape[1], k.shape[1], 2 * heads * (widths[0] + widths[2])])


ATTENTION = KernelRule("burnish::Attention", _accepts, _emit)
