"""Convolutions, pools, norms, interpolation, quantization and scatter against references."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support.node_kernels import Built, Case, build, check

RNG = np.random.default_rng(17)
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def floats(*shape: int, low: float = -2, high: float = 2, dtype: str = "float32") -> np.ndarray:
    return RNG.uniform(low, high, shape).astype(dtype)


def ints(*shape: int, low: int = -9, high: int = 9, dtype: str = "int64") -> np.ndarray:
    return RNG.integers(low, high, shape).astype(dtype)


def i64(*values: int) -> np.ndarray:
    return np.array(values, "int64")


def conv_cases() -> list[Case]:
    x = floats(2, 4, 7, 9)
    sym = {0: ["n", 4, "h", "w"]}
    rows: list[tuple[list[np.ndarray], dict[str, Any], dict[int, Any]]] = [
        ([x, floats(6, 4, 3, 3)], {}, {}),
        ([x, floats(6, 4, 3, 3), floats(6)], {"pads": [1, 2, 0, 1]}, sym),
        ([x, floats(6, 2, 3, 3)], {"group": 2, "strides": [2, 3], "dilations": [2, 1]}, sym),
        ([x, floats(4, 1, 3, 3)], {"group": 4, "auto_pad": "SAME_UPPER", "strides": [2, 2]}, {}),
        ([x, floats(8, 1, 2, 2)], {"group": 4, "auto_pad": "SAME_LOWER"}, {}),
        ([x, floats(3, 4, 2, 3)], {"auto_pad": "VALID"}, {}),
        ([floats(2, 3, 11), floats(5, 3, 4), floats(5)], {"pads": [2, 1]}, {}),
        ([floats(1, 2, 4, 5, 6), floats(3, 2, 2, 3, 2)], {"pads": [1, 0, 1, 0, 1, 0]}, {}),
    ]
    cases = [Case("Conv", i, a, dims=d, **CLOSE) for i, a, d in rows]
    w = floats(4, 3, 3, 3)
    rows = [
        ([x, w], {}, {}),
        ([x, w, floats(3)], {"strides": [2, 3], "pads": [1, 0, 2, 1]}, sym),
        ([x, w], {"strides": [2, 2], "output_padding": [1, 1], "dilations": [2, 1]}, {}),
        ([x, floats(4, 3, 3, 3)], {"group": 2, "strides": [2, 1]}, {}),
        ([x, w], {"strides": [2, 2], "auto_pad": "SAME_UPPER"}, {}),
        ([x, w], {"strides": [2, 2], "auto_pad": "SAME_LOWER"}, {}),
        ([x, w], {"strides": [2, 2], "output_shape": [14, 18]}, {}),
        ([floats(1, 2, 5), floats(2, 3, 4)], {"strides": [3]}, {}),
    ]
    return [*cases, *(Case("ConvTranspose", i, a, dims=d, **CLOSE) for i, a, d in rows)]


def pool_cases() -> list[Case]:
    x = floats(2, 3, 8, 9)
    sym = {0: ["n", 3, "h", "w"]}
    variants: list[dict[str, Any]] = [
        {"kernel_shape": [3, 2]},
        {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]},
        {"kernel_shape": [3, 3], "strides": [2, 3], "pads": [1, 0, 0, 1], "ceil_mode": 1},
        {"kernel_shape": [2, 3], "auto_pad": "SAME_UPPER", "strides": [2, 2]},
        {"kernel_shape": [2, 3], "auto_pad": "SAME_LOWER"},
        {"kernel_shape": [2, 2], "dilations": [3, 2], "pads": [1, 1, 1, 1]},
    ]
    cases = []
    for attrs in variants:
        cases.append(Case("MaxPool", [x], attrs, id=str(attrs)))
        for include in (0, 1):
            more = {**attrs, "count_include_pad": include}
            cases.append(Case("AveragePool", [x], more, **CLOSE, id=str(more)))
        if "dilations" not in attrs:
            cases.append(Case("LpPool", [x], attrs, **CLOSE, id=str(attrs)))
    cases += [
        Case("MaxPool", [x], variants[1], dims=sym, outputs=2, id="indices"),
        Case("MaxPool", [x], {**variants[1], "storage_order": 1}, outputs=2, id="columns"),
        Case("MaxPool", [ints(1, 2, 6, 6, dtype="int8")], {"kernel_shape": [2, 2]}),
        Case("MaxPool", [floats(1, 2, 9)], {"kernel_shape": [3]}),
        Case("AveragePool", [x], variants[1], dims=sym, **CLOSE, id="symbolic"),
        Case("LpPool", [x], {"kernel_shape": [2, 2], "p": 3}, **CLOSE, id="p3"),
        Case("GlobalAveragePool", [x], dims=sym, **CLOSE),
        Case("GlobalMaxPool", [x], dims=sym),
        Case(
            "GlobalLpPool",
            [x],
            {"p": 2},
            expected=[np.sqrt((x * x).sum((2, 3), keepdims=True))],
            **CLOSE,
        ),
    ]
    return cases


def lrn(x: np.ndarray, size: int, alpha: float) -> np.ndarray:
    """An even size, which onnxruntime refuses and onnx.reference gets wrong."""
    before, after = (size - 1) // 2, size // 2
    padded = np.pad(x**2, ((0, 0), (before, after), (0, 0), (0, 0)))
    squares = sum(padded[:, i : i + x.shape[1]] for i in range(size))
    return (x / (1 + alpha / size * squares) ** 0.75).astype("float32")


def norm_cases() -> list[Case]:
    x = floats(2, 6, 4, 5)
    sym = {0: ["n", 6, "h", "w"]}
    channel = [floats(6), floats(6)]
    var = floats(6, low=0.2)
    return [
        Case("BatchNormalization", [x, *channel, floats(6), var], dims=sym, **CLOSE),
        Case("BatchNormalization", [floats(3, 6), *channel, floats(6), var], **CLOSE),
        Case("InstanceNormalization", [x, *channel], {"epsilon": 1e-3}, dims=sym, **CLOSE),
        Case("GroupNormalization", [x, *channel], {"num_groups": 3}, dims=sym,
             reference="onnx", **CLOSE),
        Case("LayerNormalization", [x, floats(5), floats(5)], dims=sym | {0: ["n", 6, "h", 5]},
             **CLOSE),
        Case("LayerNormalization", [x, floats(4, 5)], {"axis": 2}, outputs=3, **CLOSE),
        Case("LayerNormalization", [x, floats(6, 4, 5), floats(5)], {"axis": -3}, **CLOSE),
        Case("RMSNormalization", [x, floats(5)], reference="onnx", **CLOSE),
        Case("RMSNormalization", [x, floats(4, 5)], {"axis": 2}, reference="onnx", **CLOSE),
        Case("LpNormalization", [x], {"axis": 1, "p": 2}, **CLOSE),
        Case("LpNormalization", [x], {"axis": -1, "p": 1}, **CLOSE),
        Case("LRN", [x], {"size": 3, "alpha": 0.3, "beta": 0.6, "bias": 1.2}, dims=sym, **CLOSE),
        Case("LRN", [x], {"size": 4, "alpha": 0.3}, expected=[lrn(x, 4, 0.3)], **CLOSE),
        Case("MeanVarianceNormalization", [x], dims=sym, **CLOSE),
        Case("MeanVarianceNormalization", [x], {"axes": [1, 3]}, reference="onnx", **CLOSE),
    ]  # fmt: skip


MODES = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric")


def resize_cases() -> list[Case]:
    x = floats(1, 2, 4, 5)
    up, down = np.float32([1, 1, 2.3, 1.7]), np.float32([1, 1, 0.6, 0.7])
    cases = []
    for kind in MODES:
        for scales in (up, down, np.float32([1, 1, 2, 3])):
            attrs = {"coordinate_transformation_mode": kind}
            label = f"{kind}{scales[2:]}"
            # ONNX aligns corners with the length before it is rounded, onnxruntime after.
            fractional = kind == "align_corners" and bool(np.any(scales % 1))
            reference = "onnx" if fractional else "ort"
            for mode in ("linear", "cubic"):
                more = attrs | {"mode": mode}
                cases.append(Case("Resize", [x, None, scales], more, const=[2], id=mode + label,
                                  reference=reference, **CLOSE))  # fmt: skip
            for nearest in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil"):
                more = attrs | {"mode": "nearest", "nearest_mode": nearest}
                cases.append(Case("Resize", [x, None, scales], more, const=[2], id=nearest + label,
                                  reference=reference))  # fmt: skip
    sym = {0: ["n", 2, "h", "w"]}
    roi = np.float32([0, 0, 0.25, 0.125, 1, 1, 0.75, 1.375])
    cases += [
        Case("Resize", [x, None, np.float32([1, 1, 2, 2])], const=[2], dims=sym, id="symbolic"),
        Case("Resize", [x, None, np.float32([1, 1, 2, 2])], {"mode": "linear"}, const=[2],
             dims=sym, id="symbolic", **CLOSE),
        Case("Resize", [x, None, None, i64(1, 2, 7, 3)], {"mode": "linear"}, const=[3], **CLOSE),
        Case("Resize", [x, None, None, i64(7, 3)], {"mode": "linear", "axes": [2, 3]}, const=[3],
             **CLOSE),
        Case("Resize", [x, None, None, i64(9, 8)],
             {"axes": [2, 3], "keep_aspect_ratio_policy": "not_larger"}, const=[3]),
        Case("Resize", [x, roi, None, i64(1, 2, 8, 7)],
             {"coordinate_transformation_mode": "tf_crop_and_resize", "mode": "linear",
              "extrapolation_value": 10.0}, const=[1, 3], **CLOSE),
        Case("Resize", [x, None, up], {"mode": "cubic", "exclude_outside": 1,
             "cubic_coeff_a": -0.5}, const=[2], id="exclude", **CLOSE),
        Case("Resize", [x, None, down], {"mode": "linear", "antialias": 1}, const=[2],
             id="antialias", reference="onnx", **CLOSE),
        Case("Resize", [x, None, down], {"mode": "cubic", "antialias": 1}, const=[2],
             id="antialias", reference="onnx", **CLOSE),
        Case("Resize", [ints(1, 1, 3, 3, low=0, dtype="uint8"), None, np.float32([1, 1, 2, 2])],
             const=[2]),
    ]  # fmt: skip
    return cases


def sample_cases() -> list[Case]:
    x, grid = floats(2, 3, 4, 5), floats(2, 6, 7, 2, low=-1.6, high=1.6)
    cases = []
    for mode in ("nearest", "linear", "cubic"):
        for padding in ("zeros", "border", "reflection"):
            for align in (0, 1):
                attrs = {"mode": mode, "padding_mode": padding, "align_corners": align}
                cases.append(Case("GridSample", [x, grid], attrs, id=f"{mode}{padding}{align}",
                                  rtol=1e-4, atol=1e-4))  # fmt: skip
    volume = [floats(1, 2, 3, 4, 5), floats(1, 2, 3, 4, 3, low=-1.2, high=1.2)]
    cases.append(Case("GridSample", volume, {"mode": "linear"}, id="3d", rtol=1e-4, atol=1e-4))
    return cases


def quantize_cases() -> list[Case]:
    x = floats(3, 4, 6, low=-20, high=20)
    scale, scales = np.float32(0.3).reshape(()), floats(4, low=0.1, high=0.4)
    cases = []
    for dtype in ("uint8", "int8", "uint16", "int16"):
        zero, zeros = np.array(3, dtype), ints(4, low=0, dtype=dtype)
        cases += [
            Case("QuantizeLinear", [x, scale, zero]),
            Case("QuantizeLinear", [x, scales, zeros], {"axis": 1}),
            Case("DequantizeLinear", [ints(3, 4, 6, low=0, high=100, dtype=dtype), scale, zero]),
            Case("DequantizeLinear", [ints(3, 4, 6, low=0, high=100, dtype=dtype), scales, zeros],
                 {"axis": -2}),
        ]  # fmt: skip
    blocks = floats(3, 2, 6, low=0.1, high=0.4)
    a, b = ints(2, 3, 4, low=0, dtype="uint8"), ints(4, 5, dtype="int8")
    image, w = ints(1, 2, 5, 6, low=0, dtype="uint8"), ints(3, 2, 3, 3, dtype="int8")
    u8, s8 = np.array(2, "uint8"), np.array(0, "int8")
    cases += [
        Case("QuantizeLinear", [x, scale], id="no-zero"),
        Case("QuantizeLinear", [x, blocks, ints(3, 2, 6, low=0, dtype="uint8")],
             {"axis": 1, "block_size": 2}, reference="onnx"),
        Case("DequantizeLinear", [ints(3, 4, 6, dtype="int8"), blocks], {"axis": 1,
             "block_size": 2}),
        Case("DequantizeLinear", [ints(9, dtype="int32"), scale]),
        Case("DynamicQuantizeLinear", [x], outputs=3),
        Case("DynamicQuantizeLinear", [np.abs(x)], outputs=3, id="positive"),
        Case("DynamicQuantizeLinear", [-np.abs(x)], outputs=3, id="negative"),
        Case("MatMulInteger", [a, b]),
        Case("MatMulInteger", [a, b, u8, np.array(-3, "int8")]),
        Case("MatMulInteger", [a, b, u8, ints(5, dtype="int8")], id="columns"),
        Case("ConvInteger", [image, w.astype("uint8"), u8], {"pads": [1, 1, 1, 1]}),
        Case("QLinearMatMul", [a, np.float32(0.1), u8, b, np.float32(0.2), s8, np.float32(0.4),
             np.array(7, "uint8")]),
        Case("QLinearConv", [image, np.float32(0.1), u8, w, floats(3, low=0.1),
             np.zeros(3, "int8"), np.float32(0.4), np.array(7, "uint8"), ints(3, dtype="int32")],
             {"pads": [1, 1, 1, 1], "strides": [2, 1]}),
    ]  # fmt: skip
    return cases


def imperative_cases() -> list[Case]:
    data = floats(4, 5)
    index, updates = ints(2, 5, low=-4, high=4), floats(2, 5)
    tuples = ints(3, 1, low=-4, high=4)
    ties = ints(3, 20, low=0, high=6).astype("float32")
    x = floats(3, 4, 5)
    cases = []
    for reduction in ("none", "add", "mul", "max", "min"):
        attrs = {"reduction": reduction}
        unique = i64(3, -3, 0, 2).reshape(4, 1)
        cases += [
            Case("ScatterElements", [data, index, updates], attrs, id=reduction, **CLOSE),
            Case("ScatterND", [data, unique, floats(4, 5)], attrs, id=reduction, **CLOSE),
        ]
    cases += [
        Case("ScatterElements", [data, ints(4, 2, low=-5, high=5), floats(4, 2)], {"axis": -1}),
        Case("ScatterND", [data, ints(2, 3, 2, low=0, high=4), floats(2, 3)], {"reduction": "add"},
             dims={0: ["n", 5], 1: ["k", 3, 2], 2: ["k", 3]}, **CLOSE),
        Case("ScatterND", [ints(4, 5), tuples, ints(3, 5)], {"reduction": "add"}),
        Case("TopK", [ties, i64(4)], const=[1], outputs=2),
        Case("TopK", [ties, i64(3)], {"largest": 0, "axis": 0}, const=[1], outputs=2),
        Case("TopK", [x, i64(2)], {"axis": 1}, const=[1], outputs=2, dims={0: ["n", "m", 5]}),
        Case("TopK", [ints(2, 9), i64(9)], const=[1], outputs=2),
        Case("CumSum", [x, i64(1).reshape(())], const=[1], dims={0: ["n", 4, 5]}, **CLOSE),
        Case("CumSum", [x, i64(-1).reshape(())], {"exclusive": 1}, const=[1], **CLOSE),
        Case("CumSum", [x, i64(0).reshape(())], {"reverse": 1}, const=[1], **CLOSE),
        Case("CumSum", [ints(7), i64(0)], {"reverse": 1, "exclusive": 1}, const=[1]),
    ]  # fmt: skip
    return cases


CASES = [
    *conv_cases(), *pool_cases(), *norm_cases(), *resize_cases(), *sample_cases(),
    *quantize_cases(), *imperative_cases(),
]  # fmt: skip
for _case in CASES:
    _case.inputs = [None if a is None else np.asarray(a) for a in _case.inputs]


@pytest.fixture(scope="module")
def built() -> Built:
    return build(CASES)


@pytest.mark.parametrize("index", range(len(CASES)), ids=[c.label() for c in CASES])
def test_rule_equals_reference(built: Built, index: int) -> None:
    check(built, index, CASES[index])
