"""onnxruntime's quantized operators (domain ``com.microsoft``) as standard ONNX.

``quantize_static`` in its QOperator format, ``quantize_dynamic`` and onnxruntime's own optimizer
write them. All get one form: an operator on real numbers between DequantizeLinear and
QuantizeLinear, or MatMulInteger and the steps after it. The forms follow onnxruntime's
``docs/ContribOperators.md``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from burnish.errors import ModelError
from burnish.importers.upgrade import upgrade
from burnish.importers.upgrade_contrib import ALWAYS, MICROSOFT, optional_add, replace_node
from burnish.ir.builder import Builder
from burnish.ir.definitions.convolution import to_channels_first, to_channels_last
from burnish.ir.graph import Attr, Node, Value
from burnish.ir.linear_quantization import dequantize, quantize, scalar_parameter
from burnish.ir.types import BY_NAME

_FLOAT = BY_NAME["float32"].onnx


def _product_of(b: Builder, *factors: Value) -> Value:
    """The product of float32 values, computed now where they are constants."""
    if all(f.is_const for f in factors):
        total = np.asarray(1.0, np.float32)
        for factor in factors:
            total = total * factor.array
        return b.constant(np.asarray(total, np.float32), "scale")
    result = factors[0]
    for factor in factors[1:]:
        result = b.op("Mul", result, factor)
    return result


# --- one input and one result ---------------------------------------------------------------------


def _between(b: Builder, node: Node, op: str, attrs: dict[str, Attr]) -> None:
    """``op`` on (X, x_scale, x_zero_point, y_scale, y_zero_point)."""
    x = node.required(0)
    real = dequantize(b, x, node.required(1), node.input(2))
    y = b.node(op, [real], attrs, name=node.name).output
    replace_node(b, node, [quantize(b, y, node.required(3), node.input(4), x.dtype)])


@upgrade("QLinearSigmoid", until=ALWAYS, domain=MICROSOFT)
def qlinear_sigmoid(b: Builder, node: Node) -> None:
    """Sigmoid of 8 bits."""
    _between(b, node, "Sigmoid", {})


@upgrade("QLinearLeakyRelu", until=ALWAYS, domain=MICROSOFT)
def qlinear_leaky_relu(b: Builder, node: Node) -> None:
    """LeakyRelu of 8 bits."""
    _between(b, node, "LeakyRelu", {"alpha": node.float_attr("alpha", 0.01)})


@upgrade("QLinearReduceMean", until=ALWAYS, domain=MICROSOFT)
def qlinear_reduce_mean(b: Builder, node: Node) -> None:
    """ReduceMean of 8 bits."""
    x = node.required(0)
    real = dequantize(b, x, node.required(1), node.input(2))
    inputs = [real, b.ints(node.ints_attr("axes"))] if node.attrs.get("axes") else [real]
    keep = node.int_attr("keepdims", 1)
    y = b.node("ReduceMean", inputs, {"keepdims": keep}, name=node.name).output
    replace_node(b, node, [quantize(b, y, node.required(3), node.input(4), x.dtype)])


@upgrade("QLinearSoftmax", until=ALWAYS, domain=MICROSOFT)
def qlinear_softmax(b: Builder, node: Node) -> None:
    """Softmax of 8 bits; before opset 13 it is over all axes from ``axis`` on."""
    x = node.required(0)
    rank = x.t.rank
    if rank is None:
        raise ModelError("QLinearSoftmax of an unknown rank has no standard form")
    axis = node.int_attr("axis", -1) % rank
    y = dequantize(b, x, node.required(1), node.input(2))
    if node.int_attr("opset", 13) >= 13 or axis == rank - 1:
        y = b.op("Softmax", y, name=node.name, axis=axis)
    else:
        flat = b.op("Flatten", y, axis=axis)
        y = b.op("Reshape", b.op("Softmax", flat, name=node.name, axis=-1), b.op("Shape", y))
    replace_node(b, node, [quantize(b, y, node.required(3), node.input(4), x.dtype)])


# --- images ---------------------------------------------------------------------------------------

_POOL_ATTRS = ("auto_pad", "ceil_mode", "count_include_pad", "kernel_shape", "pads", "strides")


def _channels_first(b: Builder, node: Node, x: Value) -> tuple[Value, tuple[int, ...] | None]:
    """An image with its channels first, and the permutation of the result, if there is one."""
    if not node.int_attr("channels_last"):
        return x, None
    rank = x.t.rank
    if rank is None:
        raise ModelError("an image of an unknown rank with its channels last has no standard form")
    return b.op("Transpose", x, perm=to_channels_first(rank)), to_channels_last(rank)


def _as_before(b: Builder, y: Value, perm: tuple[int, ...] | None) -> Value:
    return y if perm is None else b.op("Transpose", y, perm=perm)


def _pooled(b: Builder, node: Node, op: str, names: Sequence[str]) -> None:
    """A pool of (X, x_scale, x_zero_point, y_scale, y_zero_point)."""
    x, perm = _channels_first(b, node, node.required(0))
    real = dequantize(b, x, node.required(1), node.input(2))
    attrs = {name: node.attrs[name] for name in names if name in node.attrs}
    y = b.node(op, [real], attrs, name=node.name).output
    codes = quantize(b, y, node.required(3), node.input(4), x.dtype)
    replace_node(b, node, [_as_before(b, codes, perm)])


@upgrade("QLinearGlobalAveragePool", until=ALWAYS, domain=MICROSOFT)
def qlinear_global_average_pool(b: Builder, node: Node) -> None:
    """GlobalAveragePool of 8 bits."""
    _pooled(b, node, "GlobalAveragePool", ())


@upgrade("QLinearAveragePool", until=ALWAYS, domain=MICROSOFT)
def qlinear_average_pool(b: Builder, node: Node) -> None:
    """AveragePool of 8 bits."""
    _pooled(b, node, "AveragePool", _POOL_ATTRS)


@upgrade("NhwcMaxPool", until=ALWAYS, domain=MICROSOFT)
def nhwc_max_pool(b: Builder, node: Node) -> None:
    """MaxPool of 8 bits with the channels last."""
    node.attrs["channels_last"] = 1
    x, perm = _channels_first(b, node, node.required(0))
    attrs = {name: value for name, value in node.attrs.items() if name != "channels_last"}
    y = b.node("MaxPool", [x], attrs, name=node.name).output
    replace_node(b, node, [_as_before(b, y, perm)])


@upgrade("QLinearConv", until=ALWAYS, domain=MICROSOFT)
def qlinear_conv(b: Builder, node: Node) -> None:
    """ONNX QLinearConv, or the same with the channels last."""
    x, perm = _channels_first(b, node, node.required(0))
    attrs = {name: value for name, value in node.attrs.items() if name != "channels_last"}
    y = b.node("QLinearConv", [x, *node.inputs[1:]], attrs, name=node.name).output
    replace_node(b, node, [_as_before(b, y, perm)])


# --- several inputs -------------------------------------------------------------------------------


def _binary(b: Builder, node: Node, op: str) -> None:
    """``op`` on (A, A_scale, A_zero, B, B_scale, B_zero, C_scale, C_zero)."""
    left = dequantize(b, node.required(0), node.required(1), node.input(2))
    right = dequantize(b, node.required(3), node.required(4), node.input(5))
    y = b.op(op, left, right, name=node.name)
    dtype = node.required(0).dtype
    replace_node(b, node, [quantize(b, y, node.required(6), node.input(7), dtype)])


@upgrade("QLinearAdd", until=ALWAYS, domain=MICROSOFT)
def qlinear_add(b: Builder, node: Node) -> None:
    """Add of 8 bits."""
    _binary(b, node, "Add")


@upgrade("QLinearMul", until=ALWAYS, domain=MICROSOFT)
def qlinear_mul(b: Builder, node: Node) -> None:
    """Mul of 8 bits."""
    _binary(b, node, "Mul")


@upgrade("QLinearWhere", until=ALWAYS, domain=MICROSOFT)
def qlinear_where(b: Builder, node: Node) -> None:
    """Where of 8 bits: (condition, X, scale, zero, Y, scale, zero, Z_scale, Z_zero)."""
    left = dequantize(b, node.required(1), node.required(2), node.input(3))
    right = dequantize(b, node.required(4), node.required(5), node.input(6))
    z = b.op("Where", node.required(0), left, right, name=node.name)
    dtype = node.required(1).dtype
    replace_node(b, node, [quantize(b, z, node.required(7), node.input(8), dtype)])


@upgrade("QLinearConcat", until=ALWAYS, domain=MICROSOFT)
def qlinear_concat(b: Builder, node: Node) -> None:
    """Concat of 8 bits: (Y_scale, Y_zero, X, scale, zero, X, scale, zero, ...)."""
    starts = range(2, len(node.inputs), 3)
    parts = [
        dequantize(b, node.required(i), node.required(i + 1), node.input(i + 2)) for i in starts
    ]
    y = b.node("Concat", parts, {"axis": node.int_attr("axis")}, name=node.name).output
    dtype = node.required(2).dtype
    replace_node(b, node, [quantize(b, y, node.required(0), node.input(1), dtype)])


@upgrade("QGemm", until=ALWAYS, domain=MICROSOFT)
def qgemm(b: Builder, node: Node) -> None:
    """Gemm of 8 bits: (A, scale, zero, B, scale, zero, C?, y_scale?, y_zero?).

    C is int32 in units of ``alpha * a_scale * b_scale``; without ``y_scale`` the result is float32.
    """
    transposed = node.int_attr("transB")
    factor = b.constant(np.asarray(node.float_attr("alpha", 1.0), np.float32), "alpha")
    a_scale, b_scale = scalar_parameter(b, node.required(1)), scalar_parameter(b, node.required(4))
    assert a_scale is not None
    assert b_scale is not None
    if node.float_attr("alpha", 1.0) != 1.0:
        b_scale = _product_of(b, b_scale, factor)
    inputs: list[Value | None] = [
        dequantize(b, node.required(0), a_scale, node.input(2)),
        dequantize(b, node.required(3), b_scale, node.input(5), 0 if transposed else 1),
    ]
    bias = node.input(6)
    if bias is not None:
        unit = _product_of(b, a_scale, b_scale)
        inputs.append(_product_of(b, _as_float(b, bias), unit))
    attrs: dict[str, Attr] = {"transA": node.int_attr("transA"), "transB": transposed}
    y = b.node("Gemm", inputs, attrs, name=node.name).output
    if node.input(7) is not None:
        y = quantize(b, y, node.required(7), node.input(8), node.required(0).dtype)
    replace_node(b, node, [y])


def _as_float(b: Builder, value: Value) -> Value:
    if value.is_const:
        return b.constant(value.array.astype(np.float32), value.name)
    return b.op("Cast", value, to=_FLOAT)


# --- products with scales that are known at run time ----------------------------------------------


def scaled_product(
    b: Builder, name: str, operands: Sequence[Value | None], scales: tuple[Value, Value]
) -> Value:
    """MatMulInteger of (A, B, a_zero?, b_zero?), its result times both scales, in float32."""
    operands = [*operands[:2], *(scalar_parameter(b, zero) for zero in operands[2:])]
    while operands[-1] is None:
        operands = operands[:-1]
    product = b.node("MatMulInteger", operands, name=name).output
    units = [scalar_parameter(b, s) for s in scales]
    factor = _product_of(b, *(u for u in units if u is not None))
    return b.op("Mul", b.op("Cast", product, to=_FLOAT), factor)


@upgrade("MatMulIntegerToFloat", until=ALWAYS, domain=MICROSOFT)
def matmul_integer_to_float(b: Builder, node: Node) -> None:
    """(A, B, a_scale, b_scale, a_zero?, b_zero?, bias?): MatMulInteger, scaled to float32."""
    operands = [node.required(0), node.required(1), node.input(4), node.input(5)]
    scales = (node.required(2), node.required(3))
    y = scaled_product(b, node.name, operands, scales)
    replace_node(b, node, [optional_add(b, y, node.input(6))])


@upgrade("DynamicQuantizeMatMul", until=ALWAYS, domain=MICROSOFT)
def dynamic_quantize_matmul(b: Builder, node: Node) -> None:
    """(A, B, b_scale, b_zero?, bias?): A is quantized by the range of each call."""
    made = b.node("DynamicQuantizeLinear", [node.required(0)], outputs=3)
    codes, scale, zero = made.outputs
    assert scale is not None
    operands = [codes, node.required(1), zero, node.input(3)]
    y = scaled_product(b, node.name, operands, (scale, node.required(2)))
    replace_node(b, node, [optional_add(b, y, node.input(4))])


_LSTM_ATTRS = (
    "activation_alpha", "activation_beta", "activations", "clip", "direction", "hidden_size",
    "input_forget",
)  # fmt: skip


@upgrade("DynamicQuantizeLSTM", until=ALWAYS, domain=MICROSOFT)
def dynamic_quantize_lstm(b: Builder, node: Node) -> None:
    """LSTM on dequantized weights: states are not quantized at every step, which is more exact.

    Inputs are those of LSTM, then W_scale, W_zero, R_scale, R_zero; weights are [D, in, 4H].
    """
    weights = [
        _recurrent_weights(b, node.required(1), node.required(8), node.required(9)),
        _recurrent_weights(b, node.required(2), node.required(10), node.required(11)),
    ]
    attrs = {name: node.attrs[name] for name in _LSTM_ATTRS if name in node.attrs}
    inputs = [node.required(0), *weights, *node.inputs[3:8]]
    made = b.node("LSTM", inputs, attrs, outputs=3, name=node.name)
    replace_node(b, node, made.outputs)


def _recurrent_weights(b: Builder, codes: Value, scale: Value, zero: Value) -> Value:
    """Constant weights [D, in, 4H] of 8 bits, dequantized as LSTM takes them, [D, 4H, in]."""
    if not (codes.is_const and scale.is_const and zero.is_const):
        raise ModelError("DynamicQuantizeLSTM with weights that are not constant")
    directions, _, gates = codes.array.shape
    turned = np.ascontiguousarray(codes.array.transpose(0, 2, 1))
    # Each direction has scales of its own, of one number or one for each row.
    scales, zeros = (
        np.broadcast_to(v.array.reshape(directions, -1), (directions, gates)) for v in (scale, zero)
    )
    parts = [
        dequantize(
            b,
            b.constant(turned[d : d + 1], codes.name),
            b.constant(scales[d].copy(), scale.name),
            b.constant(zeros[d].copy(), zero.name),
        )
        for d in range(directions)
    ]
    return parts[0] if directions == 1 else b.op("Concat", *parts, axis=0)
