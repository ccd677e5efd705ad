"""Kernel rules: what they take, and that what they emit is right."""

from __future__ import annotations

import numpy as np
import pytest

from burnish.backends.cpu.reduce import OPS as REDUCTIONS
from burnish.backends.cpu.rules import RULES
from burnish.ir.types import to_numpy
from tests.support.bundle import Bundle, Case

RNG = np.random.default_rng(5)


def test_every_rule_has_a_case() -> None:
    cases = (*CASES.values(), *QUANTIZED.values(), *PLAIN.values())
    covered = {op for case in cases for op in case.operators}
    assert covered >= set(RULES), sorted(set(RULES) - covered)


NHWC_CONV = ("Transpose", "burnish::Conv", "Transpose")
SAME = "pads=[1,1,1,1]"
CASES: dict[str, Case] = {
    "conv2d": Case(
        "(float[1,5,9,8] x) => (float[1,20,9,8] y) <float[20,5,3,3] w, float[20] b> "
        f"{{ y = Conv<{SAME}>(x, w, b) }}",
        NHWC_CONV,
    ),
    "conv2d_symbolic": Case(
        "(float[n,5,h,w0] x) => (float[n,7,oh,ow] y) <float[7,5,3,3] w> "
        "{ y = Conv<strides=[2,2], pads=[1,1,1,1]>(x, w) }",
        NHWC_CONV,
        {"n": 2, "h": 9, "w0": 6, "oh": 5, "ow": 3},
    ),
    "conv2d_dilated_relu": Case(
        "(float[2,4,11,9] x) => (float[2,6,7,9] y) <float[6,4,3,3] w> "
        "{ c = Conv<dilations=[2,1], pads=[0,1,0,1]>(x, w) y = Relu(c) }",
        NHWC_CONV,
    ),
    "conv2d_concat": Case(
        "(float[1,6,7,7] x) => (float[1,5,7,7] y) <float[20,6,5,5] w, float[17,6,1,1] v, "
        "float[5,37,1,1] u> { a = Conv<pads=[2,2,2,2]>(x, w) b = Conv(x, v) "
        "c = Concat<axis=1>(a, b) y = Conv(c, u) }",
        ("Transpose", *["burnish::Conv"] * 3, "Concat", "Transpose"),
    ),
    "conv2d_residual": Case(
        "(float[1,6,7,7] x) => (float[1,6,7,7] y) <float[6,6,3,3] w, float[6] b> "
        f"{{ c = Conv<{SAME}>(x, w, b) s = Add(c, x) y = Relu(s) }}",
        NHWC_CONV,
    ),
    "conv1x1_silu": Case(
        "(float[2,6,5,4] x) => (float[2,33,5,4] y) <float[33,6,1,1] w> "
        "{ c = Conv(x, w) s = Sigmoid(c) y = Mul(c, s) }",
        NHWC_CONV,
    ),
    "conv1d": Case(
        "(float[2,3,17] x) => (float[2,8,8] y) <float[8,3,4] w, float[8] b> "
        "{ y = Conv<strides=[2], pads=[1,0]>(x, w, b) }",
        NHWC_CONV,
    ),
    "depthwise": Case(
        "(float[1,20,8,9] x) => (float[1,20,4,5] y) <float[20,1,3,3] w> "
        "{ c = Conv<group=20, strides=[2,2], pads=[1,1,1,1]>(x, w) y = HardSwish(c) }",
        NHWC_CONV,
    ),
    "grouped": Case(
        "(float[1,8,6,6] x) => (float[1,12,6,6] y) <float[12,2,3,3] w> "
        f"{{ y = Conv<group=4, {SAME}>(x, w) }}",
        NHWC_CONV,
    ),
    "conv_transpose": Case(
        "(float[1,4,5,6] x) => (float[1,3,11,13] y) <float[4,3,3,3] w> "
        "{ y = ConvTranspose<strides=[2,2]>(x, w) }",
        ("Transpose", "burnish::ConvTranspose", "Transpose"),
    ),
    "conv_transpose_exact": Case(
        "(float[1,4,5,6] x) => (float[1,3,10,12] y) <float[4,3,2,2] w> "
        "{ y = ConvTranspose<strides=[2,2]>(x, w) }",
    ),
    "maxpool": Case(
        "(float[1,5,9,8] x) => (float[1,5,5,4] y) "
        "{ y = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(x) }",
        ("Transpose", "burnish::MaxPool", "Transpose"),
    ),
    "maxpool_ceil": Case(
        "(float[1,5,8,8] x) => (float[1,5,4,4] y) "
        "{ y = MaxPool<kernel_shape=[3,3], strides=[2,2], ceil_mode=1>(x) }",
        ("Transpose", "burnish::MaxPool", "Transpose"),
    ),
    "averagepool": Case(
        "(float[1,5,9,8] x) => (float[1,5,9,8] y) "
        "{ y = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(x) }",
        ("Transpose", "burnish::AveragePool", "Transpose"),
    ),
    "averagepool_1d": Case(
        "(float[1,5,9] x) => (float[1,5,4] y) "
        "{ y = AveragePool<kernel_shape=[2], strides=[2]>(x) }",
        ("Transpose", "burnish::AveragePool", "Transpose"),
    ),
    "global_average": Case(
        "(float[2,5,h,w] x) => (float[2,5,1,1] y) { y = GlobalAveragePool(x) }",
        ("Transpose", "burnish::GlobalAveragePool"),
        {"h": 4, "w": 7},
    ),
    "global_max": Case(
        "(float[2,5,3,4] x) => (float[2,5,1,1] y) { y = GlobalMaxPool(x) }",
        ("Transpose", "burnish::GlobalMaxPool"),
    ),
    "matmul": Case(
        "(float[3,40] x) => (float[3,50] y) <float[40,50] w> { y = MatMul(x, w) }",
        ("burnish::MatMul",),
    ),
    "matmul_one_row": Case(
        "(float[1,70] x) => (float[1,37] y) <float[70,37] w, float[37] b> "
        "{ m = MatMul(x, w) y = Add(m, b) }",
        ("burnish::MatMul",),
    ),
    "matmul_symbolic": Case(
        "(float[b,s,24] x) => (float[b,s,33] y) <float[24,33] w, float[33] c> "
        "{ m = MatMul(x, w) a = Add(m, c) y = Relu(a) }",
        ("burnish::MatMul",),
        {"b": 2, "s": 5},
    ),
    "gemm_transposed": Case(
        "(float[4,9] x) => (float[4,6] y) <float[6,9] w, float[6] b> "
        "{ y = Gemm<transB=1, alpha=0.5>(x, w, b) }",
        ("burnish::MatMul",),
    ),
    **{
        f"matmul_{op.lower()}": Case(
            "(float[3,8] x) => (float[3,21] y) <float[8,21] w, float[21] b> "
            f"{{ m = MatMul(x, w) a = Add(m, b) {text} }}",
            ("burnish::MatMul",),
        )
        for op, text in {
            "Relu": "y = Relu(a)",
            "Tanh": "y = Tanh(a)",
            "Sigmoid": "y = Sigmoid(a)",
            "LeakyRelu": "y = LeakyRelu<alpha=0.1>(a)",
            "Elu": "y = Elu(a)",
            "HardSigmoid": "y = HardSigmoid(a)",
            "HardSwish": "y = HardSwish(a)",
            "Gelu": "y = Gelu(a)",
            "GeluTanh": 'y = Gelu<approximate="tanh">(a)',
            "Softplus": "y = Softplus(a)",
            "Silu": "s = Sigmoid(a) y = Mul(a, s)",
        }.items()
    },
    "matmul_residual": Case(
        "(float[3,8] x, float[3,21] r) => (float[3,21] y) <float[8,21] w> "
        "{ m = MatMul(x, w) y = Add(m, r) }",
        ("burnish::MatMul",),
    ),
    "batch_matmul": Case(
        "(float[2,3,5,8] x, float[2,3,8,7] z) => (float[2,3,5,7] y) { y = MatMul(x, z) }",
        ("burnish::BatchMatMul",),
    ),
    "batch_matmul_transposed": Case(
        "(float[2,5,8] x, float[2,7,8] z) => (float[2,5,7] y) "
        "{ t = Transpose<perm=[0,2,1]>(z) y = MatMul(x, t) }",
    ),
    "softmax_last": Case("(float[3,37] x) => (float[3,37] y) { y = Softmax(x) }", ("Softmax",)),
    "softmax_middle": Case(
        "(float[2,s,5] x) => (float[2,s,5] y) { y = Softmax<axis=1>(x) }", ("Softmax",), {"s": 6}
    ),
    "softmax_first": Case(
        "(float[6,3,4] x) => (float[6,3,4] y) { y = Softmax<axis=0>(x) }", ("Softmax",)
    ),
    "log_softmax": Case(
        "(float[4,n] x) => (float[4,n] y) { y = LogSoftmax<axis=1>(x) }", ("LogSoftmax",), {"n": 9}
    ),
    "layer_norm": Case(
        "(float[2,s,40] x) => (float[2,s,40] y) <float[40] g0, float[40] b> "
        "{ y = LayerNormalization<epsilon=1e-3>(x, g0, b) }",
        ("LayerNormalization",),
        {"s": 3},
    ),
    "rms_norm": Case(
        "(float[3,24] x) => (float[3,24] y) <float[24] g0> { y = RMSNormalization(x, g0) }",
        ("RMSNormalization",),
    ),
    "group_norm": Case(
        "(float[n,12,5,7] x) => (float[n,12,5,7] y) <float[12] g0, float[12] b> "
        "{ y = GroupNormalization<num_groups=3, epsilon=1e-3>(x, g0, b) }",
        ("GroupNormalization",),
        {"n": 2},
    ),
    "instance_norm": Case(
        "(float[2,5,h,9] x) => (float[2,5,h,9] y) <float[5] g0, float[5] b> "
        "{ y = InstanceNormalization(x, g0, b) }",
        ("InstanceNormalization",),
        {"h": 4},
    ),
    "add_layer_norm": Case(
        "(float[3,24] x, float[3,24] r) => (float[3,24] y) <float[24] g0, float[24] b> "
        "{ s = Add(x, r) y = LayerNormalization(s, g0, b) }",
        ("burnish::AddLayerNorm",),
    ),
    "add_rms_norm": Case(
        "(float[3,24] x, float[3,24] r) => (float[3,24] y) <float[24] g0> "
        "{ s = Add(x, r) y = RMSNormalization(s, g0) }",
        ("burnish::AddRMSNorm",),
    ),
    "attention": Case(
        "(float[2,5,32] q, float[2,7,32] k, float[2,7,32] v) => (float[2,5,32] y) "
        "{ y = Attention<q_num_heads=4, kv_num_heads=4>(q, k, v) }",
        ("burnish::Attention",),
    ),
    "attention_causal": Case(
        "(float[b,s,16] q, float[b,s,16] k, float[b,s,16] v) => (float[b,s,16] y) "
        "{ y = Attention<q_num_heads=2, kv_num_heads=2, is_causal=1>(q, k, v) }",
        ("burnish::Attention",),
        {"b": 2, "s": 6},
    ),
    "attention_grouped": Case(
        "(float[1,4,32] q, float[1,4,16] k, float[1,4,16] v) => (float[1,4,32] y) "
        "{ y = Attention<q_num_heads=4, kv_num_heads=2, scale=0.3>(q, k, v) }",
        ("burnish::Attention",),
    ),
    "attention_float_mask": Case(
        "(float[2,4,16] q, float[2,5,16] k, float[2,5,16] v, float[2,1,4,5] mask) => "
        "(float[2,4,16] y) { y = Attention<q_num_heads=2, kv_num_heads=2>(q, k, v, mask) }",
        ("burnish::Attention",),
    ),
    "attention_bool_mask": Case(
        "(float[2,4,16] q, float[2,5,16] k, float[2,5,16] v, bool[2,1,1,5] mask) => "
        "(float[2,4,16] y) { t = Constant<value_ints=[2,1,4,5]>() e = Expand(mask, t) "
        "y = Attention<q_num_heads=2, kv_num_heads=2>(q, k, v, e) }",
        (),
        feeds={"mask": np.array([[1, 1, 1, 0, 0], [1, 0, 1, 1, 1]], bool).reshape(2, 1, 1, 5)},
    ),
    "lstm": Case(
        "(float[5,2,6] x) => (float[5,1,2,8] y, float[1,2,8] h, float[1,2,8] c) "
        "<float[1,32,6] w, float[1,32,8] r, float[1,64] b> "
        "{ y, h, c = LSTM<hidden_size=8>(x, w, r, b) }",
        ("LSTM",),
    ),
    "lstm_both_ways": Case(
        "(float[s,1,6] x) => (float[s,2,1,5] y) <float[2,20,6] w, float[2,20,5] r> "
        '{ y = LSTM<hidden_size=5, direction="bidirectional">(x, w, r) }',
        ("LSTM",),
        {"s": 4},
    ),
    "lstm_state": Case(
        "(float[3,2,6] x, float[1,2,8] h0, float[1,2,8] c0) => (float[3,1,2,8] y, float[1,2,8] c) "
        "<float[1,32,6] w, float[1,32,8] r, float[1,24] p> "
        "{ y, , c = LSTM<hidden_size=8>(x, w, r, , , h0, c0, p) }",
        ("LSTM",),
    ),
    "gru": Case(
        "(float[5,2,6] x) => (float[5,1,2,8] y, float[1,2,8] h) "
        "<float[1,24,6] w, float[1,24,8] r, float[1,48] b> "
        "{ y, h = GRU<hidden_size=8, linear_before_reset=1>(x, w, r, b) }",
        ("GRU",),
    ),
    "gru_reverse": Case(
        "(float[5,2,6] x) => (float[1,2,8] h) <float[1,24,6] w, float[1,24,8] r> "
        '{ , h = GRU<hidden_size=8, direction="reverse">(x, w, r) }',
        ("GRU",),
    ),
    "rnn": Case(
        "(float[5,2,6] x) => (float[5,1,2,8] y) <float[1,8,6] w, float[1,8,8] r> "
        '{ y = RNN<hidden_size=8, activations=["Tanh"]>(x, w, r) }',
        ("RNN",),
    ),
    # What no rule takes runs as plain operators, and is right as well.
    "conv3d": Case(
        "(float[1,2,4,5,6] x) => (float[1,3,4,5,6] y) <float[3,2,1,1,1] w> "
        "{ c = Conv(x, w) y = Relu(c) }",
        note="no kernel for layout NDHWC",
    ),
    "norm_two_axes": Case(
        "(float[2,3,4] x) => (float[2,3,4] y) <float[3,4] s> "
        "{ y = LayerNormalization<axis=1>(x, s) }",
    ),
    "double": Case("(double[3,9] x) => (double[3,9] y) { y = Softmax(x) }", ("Softmax",)),
}

CASES |= {
    f"matmul_{dtype}": Case(
        f"(float[n,80] x, float[n,24] r) => (float[n,24] y) <{dtype}[80,24] w, float[3,24] c, "
        f"{dtype}[3,24] z> {{ d = DequantizeLinear<axis=0, block_size=32>(w, c, z) "
        "m = MatMul(x, d) s = Add(m, r) y = Relu(s) }",
        ("burnish::MatMulNBits",),
        {"n": size},
        weights={
            "w": RNG.integers(low, low + count, (80, 24)).astype(to_numpy(dtype)),
            "c": RNG.uniform(0.5, 2, (3, 24)).astype(np.float32) / count,
            "z": RNG.integers(low, low + count, (3, 24)).astype(to_numpy(dtype)),
        },
    )
    for dtype, low, count, size in (("int4", -8, 16, 1), ("uint8", 0, 256, 7))
}


def _codes(*shape: int, dtype: str = "int8") -> np.ndarray:
    """Codes of quantized numbers."""
    limits = np.iinfo(dtype)
    return RNG.integers(limits.min // 2, limits.max // 2, shape, dtype)


#: Of activations, and of eight output channels: powers of two, so that nothing is rounded.
SCALE = {"s": np.array(2.0**-6, np.float32), "z": np.array(130, np.uint8)}
SCALES = {**SCALE, "t": (2.0 ** RNG.integers(-8, -5, 8)).astype(np.float32)}
DEQUANTIZED = "d = DequantizeLinear(x, s, z)"
#: What is computed in integers where the CPU has dot products of bytes.
QUANTIZED = {
    "quantized_matmul": Case(
        "(uint8[n,16] x) => (float[n,8] y) <float s, uint8 z, int8[16,8] w, float[8] t> "
        f"{{ {DEQUANTIZED} e = DequantizeLinear<axis=1>(w, t) y = MatMul(d, e) }}",
        ("burnish::QMatMul",),
        {"n": 3},
        {"x": _codes(3, 16, dtype="uint8")},
        SCALES | {"w": _codes(16, 8)},
    ),
    # One kernel pads, the other multiplies.
    "quantized_conv": Case(
        "(uint8[1,8,6,7] x) => (float[1,8,6,7] y) "
        "<float s, uint8 z, int8[8,8,3,3] w, float[8] t> "
        f"{{ {DEQUANTIZED} e = DequantizeLinear<axis=0>(w, t) y = Conv<{SAME}>(d, e) }}",
        ("Transpose", "burnish::QConv", "burnish::QConv", "Transpose"),
        feeds={"x": _codes(1, 8, 6, 7, dtype="uint8")},
        weights=SCALES | {"w": _codes(8, 8, 3, 3)},
    ),
    # Groups of two channels are too narrow for words of four.
    "quantized_groups": Case(
        "(uint8[1,8,6,7] x) => (float[1,8,6,7] y) "
        "<float s, uint8 z, int8[8,2,1,1] w, float[8] t> "
        f"{{ {DEQUANTIZED} e = DequantizeLinear<axis=0>(w, t) y = Conv<group=4>(d, e) }}",
        ("Transpose", "burnish::QConv", "Transpose"),
        feeds={"x": _codes(1, 8, 6, 7, dtype="uint8")},
        weights=SCALES | {"w": _codes(8, 2, 1, 1)},
    ),
    "quantized_average": Case(
        "(uint8[1,8,6,8] x) => (float[1,8,3,4] y) <float s, uint8 z> "
        f"{{ {DEQUANTIZED} y = AveragePool<kernel_shape=[2,2], strides=[2,2]>(d) }}",
        ("Transpose", "burnish::QAveragePool", "Transpose"),
        feeds={"x": _codes(1, 8, 6, 8, dtype="uint8")},
        weights=SCALE,
    ),
    "quantized_mean": Case(
        "(uint8[n,8,6,7] x) => (float[n,7] y) <float s, uint8 z, int64[2] a> "
        f"{{ {DEQUANTIZED} y = ReduceMean<keepdims=0>(d, a) }}",
        ("burnish::QGlobalAveragePool",),
        {"n": 3},
        {"x": _codes(3, 8, 6, 7, dtype="uint8")},
        SCALE | {"a": np.array([1, 2])},
    ),
    # The second convolution writes behind the first one's result.
    "quantized_concat": Case(
        "(uint8[1,8,6,7] x) => (float[1,8,6,7] y) "
        "<float s, uint8 z, int8[8,8,1,1] w, int8[8,8,1,1] v, int8[8,16,1,1] u, float[8] t> "
        f"{{ {DEQUANTIZED} e = DequantizeLinear<axis=0>(w, t) b = Conv(d, e) "
        "f = DequantizeLinear<axis=0>(v, t) r = Conv(d, f) "
        "l = QuantizeLinear(b, s, z) m = DequantizeLinear(l, s, z) "
        "p = QuantizeLinear(r, s, z) q = DequantizeLinear(p, s, z) "
        "c = Concat<axis=1>(m, q) g = DequantizeLinear<axis=0>(u, t) y = Conv(c, g) }",
        ("Transpose", *["burnish::QConv"] * 3, "Concat", "Transpose"),
        feeds={"x": _codes(1, 8, 6, 7, dtype="uint8")},
        weights=SCALES
        | {"w": _codes(8, 8, 1, 1), "v": _codes(8, 8, 1, 1), "u": _codes(8, 16, 1, 1)},
    ),
    "quantized_norm": Case(
        "(float[3,24] x, float[3,24] r) => (uint8[3,24] y) "
        "<float s, uint8 z, float[24] g0, float[24] b> "
        "{ a = Add(x, r) n = LayerNormalization(a, g0, b) y = QuantizeLinear(n, s, z) }",
        ("burnish::QAddLayerNorm",),
        weights=SCALE,
    ),
    "quantized_batches": Case(
        "(uint8[2,5,16] x, int8[2,16,6] w) => (float[2,5,6] y) <float s, uint8 z, int8 v> "
        f"{{ {DEQUANTIZED} e = DequantizeLinear(w, s, v) y = MatMul(d, e) }}",
        ("burnish::QBatchMatMul",),
        feeds={"x": _codes(2, 5, 16, dtype="uint8"), "w": _codes(2, 16, 6)},
        weights=SCALE | {"v": np.array(3, np.int8)},
    ),
    "quantized_attention": Case(
        "(uint8[1,2,5,16] x, uint8[1,2,16,5] k, uint8[1,2,5,16] v) => (float[1,2,5,16] y) "
        "<float s, uint8 z, float o, uint8 u> "
        f"{{ {DEQUANTIZED} b = DequantizeLinear(k, s, z) c = DequantizeLinear(v, s, z) "
        "m = MatMul(d, b) p = Softmax<axis=-1>(m) q = QuantizeLinear(p, o, u) "
        "r = DequantizeLinear(q, o, u) y = MatMul(r, c) }",
        (*["Transpose"] * 4, "burnish::QAttention"),
        feeds={n: _codes(1, 2, 5, 16, dtype="uint8") for n in "xv"}
        | {"k": _codes(1, 2, 16, 5, dtype="uint8")},
        weights=SCALE | {"o": np.array(1 / 255, np.float32), "u": np.array(0, np.uint8)},
    ),
    "quantize_each_call": Case(
        "(float[4,6] x) => (uint8[4,6] y, float s, uint8 z) { y, s, z = DynamicQuantizeLinear(x) }",
        ("DynamicQuantizeLinear",),
    ),
}

POSITIVE = RNG.uniform(0.5, 2, (3, 4, 5)).astype(np.float32)
CASES |= {
    op.lower(): Case(
        f"(float[3,4,5] x) => (float[3,1,5] y) <int64[1] a> {{ y = {op}(x, a) }}",
        (op,),
        feeds={"x": POSITIVE},
        weights={"a": np.array([1])},
    )
    for op in REDUCTIONS
}

#: What stays as it is below -O2.
PLAIN = {
    "matmul": Case(
        "(float[2,3,5] x, float[2,5,4] z) => (float[2,3,4] y) { y = MatMul(x, z) }", ("MatMul",)
    ),
    "conv": Case(
        "(float[1,4,6,5] x) => (float[1,7,6,5] y) <float[7,4,3,3] w, float[7] b> "
        f"{{ c = Conv<{SAME}>(x, w, b) y = Relu(c) }}",
        ("Conv", "Relu"),
    ),
    "pool": Case(
        "(float[1,4,6,5] x) => (float[1,4,3,2] y) "
        "{ y = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x) }",
        ("MaxPool",),
    ),
    "attention": Case(
        "(float[2,5,16] q, float[2,7,16] k, float[2,7,16] v) => (float[2,5,16] y) "
        "{ y = Attention<q_num_heads=2, kv_num_heads=2>(q, k, v) }",
    ),
}


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle(CASES | QUANTIZED)


@pytest.fixture(scope="module", params=[0, 1])
def plain(request: pytest.FixtureRequest) -> Bundle:
    return Bundle(PLAIN, opt_level=request.param)


@pytest.mark.parametrize("name", CASES | QUANTIZED)
def test_compiled(name: str, bundle: Bundle) -> None:
    bundle.check(name)


@pytest.mark.parametrize("name", PLAIN)
def test_without_fusion(name: str, plain: Bundle) -> None:
    plain.check(name)
