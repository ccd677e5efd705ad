"""Scaled dot-product attention on flat heads (Vaswani et al., 2017)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from burnish.ir.builder import Builder
from burnish.ir.composites import define
from burnish.ir.definitions.epilogue import scalar_constant
from burnish.ir.graph import Node, Value
from burnish.ir.types import BY_NAME


def _heads(b: Builder, x: Value, heads: int) -> Value:
    """[B, S, H*D] -> [B, H, S, D]."""
    split = b.op("Reshape", x, b.ints([0, 0, heads, -1]))
    return b.op("Transpose", split, perm=(0, 2, 1, 3))


def _repeat(b: Builder, x: Value, times: int) -> Value:
    """[B, Hkv, T, D] -> [B, Hkv*times, T, D]; each head is repeated for its group of queries."""
    if times == 1:
        return x
    heads, width = x.shape[1], x.shape[3]
    assert isinstance(heads, int)
    assert isinstance(width, int)
    wide = b.op("Expand", b.op("Unsqueeze", x, b.ints([2])), b.ints([1, 1, times, 1, 1]))
    return b.op("Reshape", wide, b.ints([0, heads * times, -1, width]))


def _causal(b: Builder, scores: Value) -> Value:
    """[S, T] of booleans: query i sees the keys j <= i, aligned at the upper left."""
    one, zero = b.ints(1), b.ints(0)
    ranges = []
    for axis in (2, 3):
        size = b.op("Squeeze", b.op("Shape", scores, start=axis, end=axis + 1), b.ints([0]))
        ranges.append(b.op("Range", zero, size, one))
    rows = b.op("Unsqueeze", ranges[0], b.ints([1]))
    return b.op("GreaterOrEqual", rows, b.op("Unsqueeze", ranges[1], b.ints([0])))


def _masked(b: Builder, scores: Value, keep: Value) -> Value:
    lowest = scalar_constant(b, float(-np.inf), scores.dtype)
    return b.op("Where", keep, scores, lowest)


def _as_type(b: Builder, x: Value, dtype: str) -> Value:
    return x if x.dtype == dtype else b.op("Cast", x, to=BY_NAME[dtype].onnx)


def attend(
    b: Builder,
    node: Node,
    inputs: Sequence[Value | None],
    rounded: Callable[[Value], Value] = lambda weights: weights,
    rounded_products: Callable[[Value], Value] = lambda products: products,
    rounded_scores: Callable[[Value], Value] = lambda scores: scores,
) -> Value:
    """The result of an attention with the attributes of ``Attention``.

    Args:
        b: Where it is built.
        node: Has the attributes.
        inputs: Queries, keys, values, and a mask or nothing.
        rounded: Applied to the weights before they are multiplied with the values.
        rounded_products: Applied to the products of queries and keys before they are scaled.
        rounded_scores: Applied to them after that, before they are masked.
    """
    q, k, v, mask = (*inputs, None)[:4]
    assert q is not None
    assert k is not None
    assert v is not None
    heads, kv_heads = node.int_attr("num_heads"), node.int_attr("kv_num_heads")
    group = heads // kv_heads
    queries = _heads(b, q, heads)
    keys = _repeat(b, _heads(b, k, kv_heads), group)
    values = _repeat(b, _heads(b, v, kv_heads), group)
    scores = rounded_products(b.op("MatMul", queries, b.op("Transpose", keys, perm=(0, 1, 3, 2))))
    scale = node.float_attr("scale", 1.0)
    if scale != 1.0:
        scores = b.op("Mul", scores, scalar_constant(b, scale, scores.dtype))
    scores = rounded_scores(scores)
    if mask is not None and mask.dtype == "bool":
        scores = _masked(b, scores, mask)
    elif mask is not None:
        scores = b.op("Add", _as_type(b, scores, mask.dtype), mask)
    if node.int_attr("causal"):
        scores = _masked(b, scores, _causal(b, scores))
    weights = b.op("Softmax", scores, axis=-1)
    if node.int_attr("nan_to_zero"):
        zero = scalar_constant(b, 0.0, weights.dtype)
        weights = b.op("Where", b.op("IsNaN", weights), zero, weights)
    weights = rounded(_as_type(b, weights, values.dtype))
    merged = b.op("Transpose", b.op("MatMul", weights, values), perm=(0, 2, 1, 3))
    return b.op("Reshape", merged, b.ints([0, 0, -1]))


@define("Attention")
def attention(b: Builder, node: Node, inputs: Sequence[Value | None]) -> list[Value]:
    """``Attention(q, k, v, mask?)``: softmax(scale * q kT + mask) v for every head.

    q [B, S, H*D], k [B, T, Hkv*D], v [B, T, Hkv*Dv] -> [B, S, H*Dv].

    Attributes: ``num_heads`` H, ``kv_num_heads`` Hkv (query head h reads key head h // (H / Hkv)),
    ``scale``, ``causal`` (1: query i sees the keys j <= i, counted from the upper left corner, as
    ONNX Attention-23 ``is_causal``), ``nan_to_zero`` (1: probabilities that are not a number count
    as zero, so that a row with every key masked by -inf gives zeros).

    ``mask`` has rank 4 and broadcasts to [B, H, S, T]: floats are added to the scaled scores,
    booleans keep a score where they are true. A mask of another float type than the queries makes
    the scores of its own type: a float32 mask for float16 queries, whose lowest number is lower.
    """
    return [attend(b, node, inputs)]
