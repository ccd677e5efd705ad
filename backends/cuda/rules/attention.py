"""Scaled dot-product attention, reading its operands where they lie."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from burnish.backends.base import KernelRule, Refused
from burnish.backends.cpu.rules.attention import operand_of
from burnish.backends.cuda.attention import (
    STEP,
    AttentionSpec,
    Place,
    probabilities,
    scores,
    weighted,
)
from burnish.backends.cuda.rules.common import FLOATS, refuse_mixed
from burnish.backends.cuda.rules.matmul import engine
from burnish.ir import Node, TensorType
from burnish.ir.dims import ceildiv, equal, mul, product
from burnish.lowering.context import CallShapes, NodeContext


def _accepts(node: Node) -> Refused | None:
    for value in node.inputs[:3]:
        assert value is not None
        if len(value.shape) != 3 or not isinstance(value.shape[-1], int):
            return Refused("queries, keys and values are not [batch, length, heads * width]")
    mask = node.input(3)
    if mask is not None:
        if mask.dtype not in (*FLOATS, "bool") or len(mask.shape) != 4:
            return Refused(f"no kernel for a mask {mask.type}")
        full = _score_dims(node)
        if not all(equal(m, 1) or equal(m, d) for m, d in zip(mask.shape, full, strict=True)):
            return Refused("the mask may broadcast at run time")
    return refuse_mixed(node, 3)


def _score_dims(node: Node) -> tuple[Any, ...]:
    q, k = node.required(0), node.required(1)
    return (q.shape[0], node.int_attr("num_heads"), q.shape[1], k.shape[1])


def _emit(ctx: NodeContext, node: Node) -> None:
    values = [node.required(i) for i in range(3)]
    heads, kv_heads = node.int_attr("num_heads"), node.int_attr("kv_num_heads")
    counts = (heads, kv_heads, kv_heads)
    places = [operand_of(value) for value in values]
    widths = [int(v.shape[-1]) // n for v, n in zip(values, counts, strict=True)]  # type: ignore[arg-type]
    mask = node.input(3)
    dims = _score_dims(node)
    padded = mul(ceildiv(dims[3], STEP), STEP)
    kind: Literal["", "float", "bool"] = ""
    if mask is not None:
        kind = "bool" if mask.dtype == "bool" else "float"
    dtype = node.output.dtype

    def spec_of(shapes: CallShapes, mask_shape: tuple[Any, ...] = ()) -> AttentionSpec:
        q, k, v = (
            Place(shapes.expr(value.shape[1]), count, width, place.offset, place.total)
            for value, count, width, place in zip(values, counts, widths, places, strict=True)
        )
        return AttentionSpec(
            batch=shapes.expr(dims[0]),
            q=q,
            k=k,
            v=v,
            dtype=dtype,
            scale=node.float_attr("scale", 1.0),
            padded=shapes.expr(padded),
            mask=kind,
            mask_shape=mask_shape,
            mask_dtype=mask.dtype if mask is not None else "float32",
            causal=bool(node.int_attr("causal")),
            nan_to_zero=bool(node.int_attr("nan_to_zero")),
        )

    layout = tuple((p.offset, p.total) for p in places)
    key = (
        heads,
        kv_heads,
        *widths,
        layout,
        kind,
        node.float_attr("scale", 1.0),
        node.int_attr("causal"),
        node.int_attr("nan_to_zero"),
    )
    same = places[0].value is places[1].value
    sources = [ctx.tensor(p.value) for p in places]
    extra = (*dims, padded)

    def call(
        name: str,
        build: Callable[[CallShapes], Any],
        inputs: Any,
        output: TensorType,
        flops: Any,
        detail: str,
    ) -> Any:
        (result,) = ctx.call(
            name,
            (*key, same),
            build,
            inputs,
            [output],
            flops=flops,
            detail=detail,
            extra_dims=extra,
        )
        return result

    found = call(
        "attention_scores",
        lambda s: scores(ctx.isa, spec_of(s), s.inputs[0], same),
        sources[:1] if same else sources[:2],
        TensorType("float32", dims),
        product([*dims, 2 * widths[0]]),
        f"{engine(dtype)}, float32 scores",
    )
    weights = call(
        "attention_probabilities",
        lambda s: probabilities(spec_of(s, s.inputs[1] if mask is not None else ())),
        [found, ctx.tensor(mask)] if mask is not None else [found],
        TensorType(dtype, (*dims[:3], padded)),
        0,
        "a warp for each row",
    )
    ctx.set(
        call(
            "attention_values",
            lambda s: weighted(ctx.isa, spec_of(s), s.inputs[1]),
            [weights, sources[2]],
            node.output.t,
            product([*dims, 2 * widths[2]]),
            engine(dtype),
        )
    )


ATTENTION = KernelRule("burnish::Attention", _accepts, _emit)
