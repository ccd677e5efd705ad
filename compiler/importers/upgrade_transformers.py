"""onnxruntime's attention and embeddings of encoders, plain and quantized, as standard ONNX.

onnxruntime's transformer optimizer writes them, and its quantizer their forms in 8 bits. They are
split into the operators that exporters write, of which the fusions make attention again. The forms
follow onnxruntime's ``docs/ContribOperators.md``; where that is silent, its CPU kernels.
"""

from __future__ import annotations

import math

import numpy as np

from burnish.errors import ModelError
from burnish.importers.upgrade import upgrade
from burnish.importers.upgrade_contrib import ALWAYS, MICROSOFT, optional_add, replace_node
from burnish.importers.upgrade_quantized import scaled_product
from burnish.ir.builder import Builder
from burnish.ir.dims import equal
from burnish.ir.graph import Node, Value
from burnish.ir.linear_quantization import dequantize
from burnish.ir.types import BY_NAME, to_numpy

#: From [B, S, H, D] to [B, H, S, D], and back.
_SWAP = (0, 2, 1, 3)


def _size(b: Builder, x: Value, axis: int) -> Value:
    """The size of an axis as an int64 scalar."""
    return b.op("Squeeze", b.op("Shape", x, start=axis, end=axis + 1), b.ints([0]))


def _refuse(node: Node, *flags: str) -> None:
    for flag in flags:
        if node.int_attr(flag):
            raise ModelError(f"{node.op} with {flag} has no standard form")


# --- attention ------------------------------------------------------------------------------------


@upgrade("Attention", until=ALWAYS, domain=MICROSOFT)
def attention(b: Builder, node: Node) -> None:
    """(input, weights, bias?, mask_index?, past?, attention_bias?, past_sequence_length?)."""
    if node.input(6) is not None:
        raise ModelError("Attention with past_sequence_length has no standard form")
    projected = b.op("MatMul", node.required(0), node.required(1), name=node.name)
    projected = optional_add(b, projected, node.input(2))
    _attend(b, node, projected, node.input(3), node.input(4), node.input(5))


@upgrade("QAttention", until=ALWAYS, domain=MICROSOFT)
def qattention(b: Builder, node: Node) -> None:
    """Attention whose projections are products of 8 bits; the rest computes in floating point.

    (input, weight, bias, input_scale, weight_scale, mask_index?, input_zero?, weight_zero?, past?)
    """
    x, weight, scale, weight_scale = (node.required(i) for i in (0, 1, 3, 4))
    if scale.is_const:
        real = dequantize(b, x, scale, node.input(6))
        columns = dequantize(b, weight, weight_scale, node.input(7), 1)
        product = b.op("MatMul", real, columns, name=node.name)
    else:
        operands = [x, weight, node.input(6), node.input(7)]
        product = scaled_product(b, node.name, operands, (scale, weight_scale))
    projected = b.op("Add", product, node.required(2))
    _attend(b, node, projected, node.input(5), node.input(8), None)


def _attend(
    b: Builder,
    node: Node,
    projected: Value,
    mask_index: Value | None,
    past: Value | None,
    bias: Value | None,
) -> None:
    """Attention on queries, keys and values [B, S, 3*H*D] side by side; replaces the node."""
    _refuse(node, "do_rotary", "past_present_share_buffer")
    heads = node.int_attr("num_heads")
    width = projected.shape[-1]
    if not isinstance(width, int) or width % 3:
        raise ModelError(f"{node.op} of an unknown width has no standard form")
    widths = node.ints_attr("qkv_hidden_sizes", (width // 3,) * 3)
    parts = b.node("Split", [projected, b.ints(list(widths))], {"axis": 2}, outputs=3).outputs
    q, k, v = (_split_heads(b, part, heads) for part in parts if part is not None)
    if past is not None:
        k, v = (
            b.op("Concat", b.op("Gather", past, b.ints(i), axis=0), new, axis=2)
            for i, new in enumerate((k, v))
        )
    scores = b.op("MatMul", q, b.op("Transpose", k, perm=(0, 1, 3, 2)))
    scale = node.float_attr("scale") or 1.0 / math.sqrt(widths[0] // heads)
    scores = b.op("Mul", scores, _number(b, scale, scores.dtype))
    if mask_index is not None:
        scores = b.op("Add", scores, _mask(b, node, mask_index, q, k))
    scores = optional_add(b, scores, bias)
    if node.int_attr("unidirectional"):
        lowest = _number(b, float(np.finfo(to_numpy(scores.dtype)).min), scores.dtype)
        scores = b.op("Where", _causal(b, q, k), scores, lowest)
    weights = b.op("Softmax", scores, axis=-1)
    merged = b.op("Transpose", b.op("MatMul", weights, v), perm=_SWAP)
    y = b.op("Reshape", merged, b.ints([0, 0, widths[2]]))
    present = None
    if len(node.outputs) > 1 and node.outputs[1] is not None:
        present = b.op("Concat", *(b.op("Unsqueeze", x, b.ints([0])) for x in (k, v)), axis=0)
    replace_node(b, node, [y, present])


def _split_heads(b: Builder, x: Value, heads: int) -> Value:
    """[B, S, H*D] -> [B, H, S, D]."""
    return b.op("Transpose", b.op("Reshape", x, b.ints([0, 0, heads, -1])), perm=_SWAP)


def _number(b: Builder, number: float, dtype: str) -> Value:
    return b.constant(np.asarray(number, to_numpy(dtype)), "number")


def _mask(b: Builder, node: Node, index: Value, q: Value, k: Value) -> Value:
    """What is added to scores [B, H, S, T], for any of the forms that ``mask_index`` has."""
    rank = index.t.rank
    if rank == 1:
        seen = _seen(b, index, q, k)
    elif rank in (2, 3):
        seen = b.op("Greater", index, b.constant(np.asarray(0, to_numpy(index.dtype)), "zero"))
    else:
        raise ModelError(f"{node.op} with a mask of rank {rank} has no standard form")
    seen = b.op("Unsqueeze", seen, b.ints([1] if rank == 3 else [1, 2]))
    hidden = node.float_attr("mask_filter_value", -10000.0)
    return b.op("Where", seen, _number(b, 0.0, q.dtype), _number(b, hidden, q.dtype))


def _seen(b: Builder, index: Value, q: Value, k: Value) -> Value:
    """[B, T] of booleans from the ends [B] of the keys, or from ends and starts [2*B]."""
    places = b.op("Range", b.ints(0), _size(b, k, 2), b.ints(1))
    bounds = b.op("Cast", index, to=BY_NAME["int64"].onnx)
    batch, count = q.shape[0], index.shape[0]
    if equal(count, batch):
        return b.op("Less", places, b.op("Unsqueeze", bounds, b.ints([1])))
    if not (isinstance(batch, int) and count == 2 * batch):
        raise ModelError(f"a mask_index of {count} numbers for a batch of {batch} has no form")
    halves = b.node("Split", [bounds], {"axis": 0, "num_outputs": 2}, outputs=2).outputs
    ends, starts = (b.op("Unsqueeze", half, b.ints([1])) for half in halves if half is not None)
    return b.op("And", b.op("Less", places, ends), b.op("GreaterOrEqual", places, starts))


def _causal(b: Builder, q: Value, k: Value) -> Value:
    """[S, T] of booleans: the last query sees all keys, each before it one key less."""
    queries, keys, one = _size(b, q, 2), _size(b, k, 2), b.ints(1)
    rows = b.op("Range", b.op("Sub", keys, queries), keys, one)
    columns = b.op("Range", b.ints(0), keys, one)
    return b.op("GreaterOrEqual", b.op("Unsqueeze", rows, b.ints([1])), columns)


# --- embeddings -----------------------------------------------------------------------------------


@upgrade("EmbedLayerNormalization", until=ALWAYS, domain=MICROSOFT)
def embed_layer_normalization(b: Builder, node: Node) -> None:
    """(ids, segments?, words, positions, segment table?, gamma, beta, mask?, position ids?)."""
    ids, segments = node.required(0), node.input(1)
    total = b.op("Gather", node.required(2), ids)
    total = b.op("Add", total, _position_rows(b, node.required(3), ids, node.input(8)))
    if segments is not None:
        total = b.op("Add", total, b.op("Gather", node.required(4), segments))
    y = _normalized(b, node, total, node.required(5), node.required(6))
    replace_node(b, node, [y, _mask_index(b, ids, node.input(7)), total])


@upgrade("QEmbedLayerNormalization", until=ALWAYS, domain=MICROSOFT)
def qembed_layer_normalization(b: Builder, node: Node) -> None:
    """The same on tables in 8 bits.

    (ids, segments?, words, positions, segment table?, gamma, beta, mask?), then the scales of the
    five tensors and their zero points.
    """
    ids, segments = node.required(0), node.input(1)

    def real(codes: Value, table: int) -> Value:
        return dequantize(b, codes, node.required(8 + table), node.input(13 + table))

    total = real(b.op("Gather", node.required(2), ids), 0)
    total = b.op("Add", total, real(_position_rows(b, node.required(3), ids, None), 1))
    if segments is not None:
        total = b.op("Add", total, real(b.op("Gather", node.required(4), segments), 2))
    y = _normalized(b, node, total, real(node.required(5), 3), real(node.required(6), 4))
    replace_node(b, node, [y, _mask_index(b, ids, node.input(7))])


def _position_rows(b: Builder, table: Value, ids: Value, positions: Value | None) -> Value:
    """Rows of a table at given positions, or at those of the sequence of ``ids`` [B, S]."""
    if positions is not None:
        return b.op("Gather", table, positions)
    return b.op("Slice", table, b.ints([0]), b.op("Shape", ids, start=1, end=2), b.ints([0]))


def _normalized(b: Builder, node: Node, x: Value, gamma: Value, beta: Value) -> Value:
    epsilon = node.float_attr("epsilon", 1e-12)
    return b.op("LayerNormalization", x, gamma, beta, name=node.name, axis=-1, epsilon=epsilon)


def _mask_index(b: Builder, ids: Value, mask: Value | None) -> Value:
    """[B] int32: how many tokens of each sequence the mask [B, S] keeps; 0 without a mask."""
    if mask is None:
        return b.op("Expand", b.constant(np.zeros(1, np.int32)), b.op("Shape", ids, start=0, end=1))
    kept = b.op("Equal", mask, b.constant(np.asarray(1, to_numpy(mask.dtype)), "one"))
    counted = b.op("Cast", kept, to=BY_NAME["int32"].onnx)
    return b.op("ReduceSum", counted, b.ints([1]), keepdims=0)
