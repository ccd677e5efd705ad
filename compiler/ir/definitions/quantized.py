"""Products of tensors in 8 bits: sums are int32, post-ops float32, the result is 8 bits or either.

``y = quantize(post(sum((x - x_zero_point) * w) * x_scale * w_scale))``, with the formulas of ONNX
DequantizeLinear-25 and QuantizeLinear-25. A ``y_dtype`` of ``int32`` stands for the sums
themselves, ``sum((x - x_zero_point) * w)``, as ONNX MatMulInteger-10 and ConvInteger-10 make them:
both scales are 1 then, and there are no post-ops.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from burnish.ir.builder import Builder
from burnish.ir.composites import define
from burnish.ir.definitions.attention import attend
from burnish.ir.definitions.convolution import CONV_ATTRS, is_channels_last, run_channels_first
from burnish.ir.definitions.epilogue import apply_postops, scalar_constant
from burnish.ir.definitions.normalization import layer_norm_of_sum
from burnish.ir.definitions.pooling import POOL_ATTRS
from burnish.ir.graph import Node, Value
from burnish.ir.types import to_numpy

#: Inputs before the operands of post-ops: x, w, x_scale, x_zero_point, w_scale.
CORE = 5


def is_sum(node: Node) -> bool:
    """Whether a quantized product stores its sums in int32."""
    return node.str_attr("y_dtype") == "int32"


def _operands(
    b: Builder, inputs: Sequence[Value | None], axis: int
) -> tuple[Value, Value, Sequence[Value | None]]:
    """Activation and weights in float32, and the operands of the post-ops."""
    x, w, x_scale, x_zero_point, w_scale, *operands = inputs
    assert w_scale is not None
    data = b.op("DequantizeLinear", x, x_scale, x_zero_point)
    per_channel = len(w_scale.shape) == 1
    weights = (
        b.op("DequantizeLinear", w, w_scale, axis=axis)
        if per_channel
        else b.op("DequantizeLinear", w, w_scale)
    )
    return data, weights, operands


def _stored(b: Builder, node: Node, y: Value) -> Value:
    """The result in the type that the node stores."""
    dtype = node.str_attr("y_dtype", "float32")
    if dtype == "float32":
        return y
    zero_point = b.constant(np.asarray(node.int_attr("y_zero_point"), to_numpy(dtype)))
    return b.op(
        "QuantizeLinear", y, scalar_constant(b, node.float_attr("y_scale"), "float32"), zero_point
    )


@define("QMatMul")
def qmatmul(b: Builder, node: Node, inputs: Sequence[Value | None]) -> list[Value]:
    """``QMatMul(x, w, x_scale, x_zero_point, w_scale, *operands)``.

    ``x`` [..., K] in uint8 or int8 times a constant ``w`` [K, N] in int8; ``x_scale`` and
    ``x_zero_point`` are scalars, constant or made by DynamicQuantizeLinear, ``w_scale`` is a scalar
    or [N]. ``y_dtype`` is ``float32``, ``int32``, or ``uint8`` or ``int8`` with ``y_scale`` and
    ``y_zero_point``.
    """
    if is_sum(node):
        return [b.op("MatMulInteger", inputs[0], inputs[1], inputs[3])]
    x, w, operands = _operands(b, inputs, 1)
    return [_stored(b, node, apply_postops(b, node, b.op("MatMul", x, w), operands))]


@define("QConv")
def qconv(b: Builder, node: Node, inputs: Sequence[Value | None]) -> list[Value]:
    """``QConv(x, w, x_scale, x_zero_point, w_scale, *operands)``; attributes of ``Conv`` besides.

    ``w`` is [O, I/group, *kernel] in int8, ``w_scale`` a scalar or [O]; all else as ``QMatMul``.
    Padding stands for the real number 0, which is ``x_zero_point``.
    """
    if is_sum(node):
        x, w, _, zero = inputs[:4]
        assert x is not None
        assert w is not None
        assert zero is not None
        return [run_channels_first(b, node, x, "ConvInteger", [w, zero], CONV_ATTRS)]
    x, w, operands = _operands(b, inputs, 0)
    y = run_channels_first(b, node, x, "Conv", [w], CONV_ATTRS)
    channel_axis = -1 if is_channels_last(node) else 1
    return [_stored(b, node, apply_postops(b, node, y, operands, channel_axis))]


@define("QAttention")
def qattention(b: Builder, node: Node, inputs: Sequence[Value | None]) -> list[Value]:
    """``QAttention(q, k, v, mask?)``: ``Attention`` on 8 bits, and with its attributes.

    ``q``, ``k`` and ``v`` are uint8 or int8, with ``q_scale`` and ``q_zero_point`` and so on for
    each. The weights, results of the softmax, are rounded to ``p_dtype`` with ``p_scale`` and
    ``p_zero_point``; so are the products of queries and keys, before they are scaled, if there is
    an ``s_dtype``, and after that, before they are masked, if there is a ``t_dtype``. The result is
    stored as that of ``QMatMul``. Both products are exact in int32.
    """
    data: list[Value | None] = []
    for name, value in zip("qkv", inputs[:3], strict=True):
        assert value is not None
        data.append(b.op("DequantizeLinear", value, *_parameters(b, node, name, value.dtype)))

    def rounded(name: str, value: Value) -> Value:
        if not (dtype := node.str_attr(f"{name}_dtype")):
            return value
        scale, zero = _parameters(b, node, name, dtype)
        return b.op("DequantizeLinear", b.op("QuantizeLinear", value, scale, zero), scale, zero)

    y = attend(b, node, [*data, *inputs[3:]], *(partial(rounded, name) for name in "pst"))
    return [_stored(b, node, y)]


def _parameters(b: Builder, node: Node, name: str, dtype: str) -> tuple[Value, Value]:
    """Scale and zero point that the attributes say."""
    zero = np.asarray(node.int_attr(f"{name}_zero_point"), to_numpy(dtype))
    scale = scalar_constant(b, node.float_attr(f"{name}_scale"), "float32")
    return scale, b.constant(zero)


@define("QAddLayerNorm")
def q_add_layer_norm(b: Builder, node: Node, inputs: Sequence[Value | None]) -> list[Value]:
    """``QAddLayerNorm(x, skip, scale, bias?, *operands) -> (codes, y?, sum?)``.

    ``AddLayerNorm``, whose result is stored as that of ``QMatMul`` too.
    """
    y, total = layer_norm_of_sum(b, node, inputs)
    return [_stored(b, node, y), y, total][: len(node.outputs)]


@define("QBatchMatMul")
def qbatch_matmul(b: Builder, node: Node, inputs: Sequence[Value | None]) -> list[Value]:
    """``QBatchMatMul(x, u)``: the product of two activations [..., M, K] and [..., K, N] in 8 bits.

    Both have as many matrices. ``a_scale``, ``a_zero_point``, ``b_scale``, ``b_zero_point`` say how
    they are stored; ``y_dtype`` is ``float32``, or ``uint8`` or ``int8`` with ``y_scale`` and
    ``y_zero_point``.
    """
    operands = []
    for name, value in zip("ab", inputs, strict=True):
        assert value is not None
        scale = scalar_constant(b, node.float_attr(f"{name}_scale"), "float32")
        zero = np.asarray(node.int_attr(f"{name}_zero_point"), to_numpy(value.dtype))
        operands.append(b.op("DequantizeLinear", value, scale, b.constant(zero)))
    return [_stored(b, node, b.op("MatMul", *operands))]


#: Averages of quantized tensors, by the operator that they are.
AVERAGES = {
    "burnish::QAveragePool": "AveragePool",
    "burnish::QGlobalAveragePool": "GlobalAveragePool",
}


def _average(op: str) -> Callable[[Builder, Node, Sequence[Value | None]], list[Value]]:
    def average(b: Builder, node: Node, inputs: Sequence[Value | None]) -> list[Value]:
        (x,) = inputs
        assert x is not None
        data = b.op("DequantizeLinear", x, *_parameters(b, node, "x", x.dtype))
        return [_stored(b, node, run_channels_first(b, node, data, op, [], POOL_ATTRS[op]))]

    average.__doc__ = f"""``{op}(x)`` of uint8 or int8 with ``data_format``.

    ``x_scale`` and ``x_zero_point`` say how ``x`` is stored; padding that counts is the real number
    0. The result is stored as that of ``QMatMul``; sums are exact in int32.
    """
    return average


for _key, _op in AVERAGES.items():
    define(_key.removeprefix("burnish::"))(_average(_op))
