"""Recurrent cells, transforms, sampling and what puts elements back, against references."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from burnish.backends.cpu.isa import ISAS
from tests.support.node_kernels import Built, Case, build, check

RNG = np.random.default_rng(23)
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def floats(*shape: int, low: float = -1, high: float = 1, dtype: str = "float32") -> np.ndarray:
    return RNG.uniform(low, high, shape).astype(dtype)


def i64(*values: int) -> np.ndarray:
    return np.array(values, "int64")


def scalar(value: float, dtype: str = "int64") -> np.ndarray:
    return np.array(value, dtype)


def recurrent_cases() -> list[Case]:
    """Weights are inputs: the kernel templates take constant ones only."""
    steps, batch, width, hidden = 5, 3, 4, 6
    lengths = np.array([5, 2, 4], "int32")
    symbols: dict[int, Any] = {0: ["t", "b", width]}
    cases = []
    for op, gates in (("LSTM", 4), ("GRU", 3), ("RNN", 1)):
        for directions, attrs in (
            (1, {"clip": 0.4}),
            (1, {"direction": "reverse"}),
            (2, {"direction": "bidirectional"}),
        ):
            inputs: list[np.ndarray | None] = [
                floats(steps, batch, width),
                floats(directions, gates * hidden, width),
                floats(directions, gates * hidden, hidden),
                floats(directions, 2 * gates * hidden),
                lengths,
                floats(directions, batch, hidden),
            ]
            if op == "LSTM":
                inputs += [floats(directions, batch, hidden), floats(directions, 3 * hidden)]
            attributes: dict[str, Any] = {"hidden_size": hidden, **attrs}
            if op == "GRU":
                attributes["linear_before_reset"] = directions - 1
            dims = symbols | {4: ["b"], 5: [directions, "b", hidden], 6: [directions, "b", hidden]}
            count = 3 if op == "LSTM" else 2
            known = {k: v for k, v in dims.items() if k < len(inputs)}
            cases.append(
                Case(op, inputs, attributes, dims=known, outputs=count, id=str(attrs), **CLOSE)
            )
    x, w, r = floats(2, 2, 3), floats(1, 5, 3), floats(1, 5, 5)
    for name in ("Relu", "Sigmoid", "Softsign", "HardSigmoid"):
        attributes = {"hidden_size": 5, "activations": [name]}
        cases.append(Case("RNN", [x, w, r], attributes, outputs=2, id=name, **CLOSE))
    return cases


def transform_cases() -> list[Case]:
    real, both = floats(2, 7, 3, 1), floats(2, 7, 3, 2)
    lengths = (4, 9)
    cases = [
        Case("DFT", [x, i64(n).reshape(()), scalar(1)], const=[1, 2], reference="onnx", **CLOSE)
        for x in (real, both)
        for n in lengths
    ]
    cases += [
        Case("DFT", [real, None, scalar(a)], {"onesided": 1}, const=[2], reference="onnx", **CLOSE)
        for a in (0, 1, -2)
    ]
    spectrum = np.fft.rfft(real[..., 0].astype("float64"), axis=1)
    halves = np.stack([spectrum.real, spectrum.imag], -1).astype("float32")
    inverse = {"inverse": 1, "onesided": 1}
    cases += [
        # An odd length cannot be told from the spectrum.
        Case("DFT", [halves, scalar(7), scalar(1)], inverse, const=[1, 2], expected=[real],
             **CLOSE),
        Case("DFT", [both, None, scalar(-3)], {"inverse": 1}, reference="onnx", **CLOSE),
        Case("STFT", [floats(2, 40, 1), scalar(6), floats(16), scalar(16)], const=[1, 3],
             reference="ort", dims={0: ["n", "t", 1]}, **CLOSE),
        Case("STFT", [floats(1, 24, 1), scalar(5), None, scalar(8)], {"onesided": 0},
             const=[1, 3], reference="ort", **CLOSE),
        Case("MelWeightMatrix", [scalar(8), scalar(32), scalar(8192), scalar(0, "float32"),
             scalar(4096, "float32")], const=[0, 1], **CLOSE),
    ]  # fmt: skip
    for op in ("HannWindow", "HammingWindow", "BlackmanWindow"):
        for periodic in (0, 1):
            cases.append(Case(op, [scalar(9)], {"periodic": periodic}, const=[0], **CLOSE))
    return cases


def running_cases() -> list[Case]:
    x = floats(3, 4, 5)
    cases = [
        Case("CumSum", [x, scalar(axis)], {"reverse": axis % 2}, id="run-time", **CLOSE)
        for axis in (-3, 1, 2)
    ]
    product = np.cumprod(x[:, ::-1], 1)[:, ::-1]
    shifted = np.concatenate([np.ones((3, 1, 5), "float32"), np.cumprod(x, 1)[:, :-1]], 1)
    return [
        *cases,
        Case("CumProd", [x, scalar(1)], {"reverse": 1}, expected=[product], **CLOSE),
        Case("CumProd", [x, scalar(1)], {"exclusive": 1}, const=[1], expected=[shifted], **CLOSE),
    ]


def shift_cases() -> list[Case]:
    values = np.array([-128, -7, 1, 127, 64, -1], "int8")
    far = np.array([1, 9, 7, 2, -1, 8], "int8")
    right = np.array([-64, -1, 0, 31, 0, -1], "int8")
    left = np.array([0, 0, -128, -4, 0, 0], "int8")
    return [
        Case("BitShift", [values, far], {"direction": "RIGHT"}, expected=[right]),
        Case("BitShift", [values, far], {"direction": "LEFT"}, expected=[left]),
    ]


def sampling_cases() -> list[Case]:
    x = floats(2, 3, 9, 8)
    rois = np.array([[0, 0, 6, 5], [-2, 1, 9, 9], [3, 2, 4, 6.5]], "float32")
    picked = i64(0, 1, 1)
    sizes = {"output_height": 3, "output_width": 2}
    cases = [
        Case("RoiAlign", [x, rois, picked], {**sizes, "spatial_scale": 0.9, **more},
             dims={0: ["n", 3, "h", "w"], 1: ["r", 4], 2: ["r"]}, reference="onnx", id=str(more),
             **CLOSE)
        for more in (
            {},
            {"sampling_ratio": 2},
            {"coordinate_transformation_mode": "output_half_pixel"},
        )
    ]  # fmt: skip
    w = floats(4, 1, 3, 2)
    inputs = [floats(2, 2, 7, 6), w, floats(2, 2 * 12, 4, 5, low=-2, high=2)]
    attributes = {"group": 2, "offset_group": 2, "strides": [2, 1], "pads": [1, 0, 1, 0]}
    cases += [
        Case("DeformConv", inputs, attributes, **CLOSE),
        Case("DeformConv", [*inputs, floats(4), floats(2, 12, 4, 5)], attributes, **CLOSE),
        Case("AffineGrid", [floats(2, 2, 3), i64(2, 1, 4, 5)], const=[1], **CLOSE),
        Case("AffineGrid", [floats(1, 3, 4), i64(1, 1, 2, 4, 3)], {"align_corners": 1}, const=[1],
             **CLOSE),
    ]  # fmt: skip
    return cases


def restoring_cases() -> list[Case]:
    pooled = floats(2, 3, 2, 3)
    places = np.stack([RNG.permutation(24)[:6] for _ in range(6)]).reshape(2, 3, 2, 3)
    flat = (places + 24 * np.arange(6).reshape(2, 3, 1, 1)).astype("int64")
    window = {"kernel_shape": [2, 2], "strides": [2, 2]}
    cache, update = floats(2, 3, 6, 4), floats(2, 3, 2, 4)
    circular = cache.copy()
    for batch, start in enumerate((5, 2)):
        for i in range(2):
            circular[batch, :, (start + i) % 6] = update[batch, :, i]
    return [
        Case("MaxUnpool", [pooled, flat], window),
        Case("Col2Im", [floats(2, 3 * 6, 12), i64(5, 5), i64(3, 2)], const=[1, 2], **CLOSE),
        Case("Col2Im", [floats(1, 4, 12), i64(6, 5), i64(2, 2)],
             {"strides": [2, 1], "pads": [2, 0, 0, 0], "dilations": [1, 2]}, const=[1, 2],
             **CLOSE),
        Case("TensorScatter", [cache, update, i64(5, 2)], {"mode": "circular"},
             expected=[circular]),
        Case("Det", [floats(2, 3, 4, 4)], dims={0: ["a", "b", 4, 4]}, **CLOSE),
        Case("Det", [np.array([[0, 2], [3, 0]], "float32")]),
        Case("Det", [np.ones((3, 3), "float32")]),
    ]  # fmt: skip


CASES = [
    *recurrent_cases(), *transform_cases(), *running_cases(), *shift_cases(), *sampling_cases(),
    *restoring_cases(),
]  # fmt: skip


@pytest.fixture(scope="module")
def built() -> Built:
    return build(CASES)


@pytest.mark.parametrize("index", range(len(CASES)), ids=[c.label() for c in CASES])
def test_rule_equals_reference(built: Built, index: int) -> None:
    check(built, index, CASES[index])


REFUSED_AT_RUN_TIME = {
    "axis": Case("CumSum", [floats(2, 3), scalar(2)]),
    "cache": Case("TensorScatter", [floats(1, 4, 2), floats(1, 2, 2), i64(3)]),
    "blocks": Case("Col2Im", [floats(1, 4, 7), i64(5, 5), i64(2, 2)], const=[1, 2]),
}


@pytest.mark.parametrize("name", REFUSED_AT_RUN_TIME)
def test_what_only_the_values_tell_is_checked_when_it_runs(name: str) -> None:
    case = REFUSED_AT_RUN_TIME[name]
    with pytest.raises((AssertionError, RuntimeError, ValueError)) as caught:
        build([case], next(iter(ISAS.values()))).run(0)
    assert case.op in str(caught.value)
