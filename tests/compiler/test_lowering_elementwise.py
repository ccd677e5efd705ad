"""Unary, activation and binary rules against onnxruntime."""

from __future__ import annotations

import math

import numpy as np
import pytest
from onnx import TensorProto

from tests.support.node_kernels import Built, Case, build, check

RNG = np.random.default_rng(7)
SPECIAL = np.array(
    [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-30, -1e-30, 0.5, -0.5, 1.5, 2.5, -2.5, 1.0, -1.0, 3e4]
)


def floats(*shape: int, low: float = -4, high: float = 4, dtype: str = "float32") -> np.ndarray:
    return RNG.uniform(low, high, shape).astype(dtype)


def ints(*shape: int, low: int = -9, high: int = 9, dtype: str = "int64") -> np.ndarray:
    return RNG.integers(low, high, shape).astype(dtype)


#: Domain of every float function, and tolerance.
UNARY = {
    "Abs": (-4, 4), "Acos": (-1, 1), "Acosh": (1, 60), "Asin": (-1, 1), "Asinh": (-60, 60),
    "Atan": (-20, 20), "Atanh": (-1, 1), "Ceil": (-4, 4), "Cos": (-50, 50), "Cosh": (-20, 20),
    "Erf": (-4, 4), "Exp": (-60, 60), "Floor": (-4, 4), "Log": (0, 100), "Neg": (-4, 4),
    "Reciprocal": (-4, 4), "Round": (-4, 4), "Sigmoid": (-20, 20), "Sign": (-4, 4),
    "Sin": (-50, 50), "Sinh": (-20, 20), "Sqrt": (0, 90), "Tan": (-1.5, 1.5), "Tanh": (-9, 9),
    "Elu": (-9, 4), "Selu": (-9, 4), "Celu": (-9, 4), "Gelu": (-6, 6), "HardSigmoid": (-5, 5),
    "HardSwish": (-5, 5), "LeakyRelu": (-4, 4), "Mish": (-30, 30), "Relu": (-4, 4),
    "Softplus": (-30, 30), "Softsign": (-9, 9), "ThresholdedRelu": (-3, 3), "Swish": (-9, 9),
    "Shrink": (-2, 2),
}  # fmt: skip
ONNX_REFERENCE = {"Swish"}  # no kernel in onnxruntime
UNARY_NO_SPECIAL = {"Gelu", "HardSwish", "Mish", "Swish", "Elu", "Selu", "Celu", "Softsign"}
ATTRS = {
    "Elu": {"alpha": 1.7}, "Celu": {"alpha": 1.7}, "Gelu": {"approximate": "tanh"},
    "HardSigmoid": {"alpha": 0.3, "beta": 0.4}, "LeakyRelu": {"alpha": 0.2},
    "ThresholdedRelu": {"alpha": 0.7}, "Swish": {"alpha": 1.4},
    "Shrink": {"bias": 0.3, "lambd": 0.9}, "Selu": {"alpha": 1.2, "gamma": 2.0},
}  # fmt: skip
#: onnx.reference computes these in float32.
EXACT = {"Erf": math.erf, "Gelu": lambda x: x / 2 * (1 + math.erf(x / math.sqrt(2)))}


def unary_cases() -> list[Case]:
    cases = []
    for op, (low, high) in UNARY.items():
        reference = "onnx" if op in ONNX_REFERENCE else "ort"
        x = floats(5, 37, low=low, high=high)
        if op not in UNARY_NO_SPECIAL:
            x.flat[: SPECIAL.size] = SPECIAL
        cases.append(Case(op, [x], reference=reference, dims={0: ["n", 37]}))
        if op in ATTRS:
            cases.append(Case(op, [x], ATTRS[op], reference=reference, id="attrs"))
        scalar = np.array(0.75 * high, "float32")
        cases.append(Case(op, [scalar], reference=reference, id="rank0"))
        half = floats(3, 5, low=max(low, -4), high=min(high, 4), dtype="float16")
        cases.append(Case(op, [half], reference="onnx", rtol=2e-3, atol=1e-3))
        double = floats(3, 5, low=low, high=high, dtype="float64")
        exact = EXACT.get(op)
        expected = None if exact is None else [np.vectorize(exact)(double)]
        cases.append(
            Case(op, [double], reference="onnx", rtol=1e-12, atol=1e-12, expected=expected)
        )
    for dtype in ("int8", "int32", "int64"):
        cases += [Case(op, [ints(4, 9, dtype=dtype)]) for op in ("Abs", "Neg", "Sign")]
    cases += [
        Case("Relu", [ints(4, 9, dtype="int32")]),
        Case("Sign", [ints(4, 9, low=0, dtype="uint8")]),
        Case("Abs", [ints(4, 9, low=0, dtype="uint8")]),
        Case("Shrink", [ints(4, 9, dtype="int32")], {"bias": 1.5, "lambd": 2.0}, reference="onnx"),
        Case("Not", [ints(3, 5, low=0, high=2).astype(bool)]),
        Case("BitwiseNot", [ints(3, 5, dtype="uint8", low=0)]),
        Case("BitwiseNot", [ints(3, 5, dtype="int32")]),
        Case("IsNaN", [SPECIAL.astype("float32")]),
        Case("IsNaN", [SPECIAL.astype("float64")]),
        Case("IsInf", [SPECIAL.astype("float32")]),
        Case("IsInf", [SPECIAL.astype("float32")], {"detect_negative": 0}, id="positive"),
        Case("IsInf", [SPECIAL.astype("float32")], {"detect_positive": 0}, id="negative"),
        Case("Identity", [floats(3, 4)]),
        Case("Exp", [floats(0, 4)], id="empty"),
    ]
    return cases


CASTS = ["float32", "float64", "float16", "int8", "uint8", "int16", "uint16", "int32", "uint32",
         "int64", "uint64", "bool"]  # fmt: skip


def cast_cases() -> list[Case]:
    cases = []
    kinds = {name: getattr(TensorProto, name.upper().replace("FLOAT32", "FLOAT").replace(
        "FLOAT64", "DOUBLE")) for name in CASTS}  # fmt: skip
    for source in CASTS:
        values = np.array([0, 1, 2, 3, 100, 7, 0, 1], source if source != "bool" else "int64")
        if source.startswith(("float", "int")):
            values[:2] = [-3, -1]
        if source.startswith("float"):
            values = (values * 1.25 + np.float32(0.5)).astype(source)
        values = values.astype(source)
        for target in CASTS:
            if values.dtype.kind == "f" and target.startswith("u"):
                cases.append(Case("Cast", [abs(values)], {"to": kinds[target]}, id=target))
            else:
                cases.append(Case("Cast", [values], {"to": kinds[target]}, id=target))
    special = SPECIAL.astype("float32")
    cases.append(Case("Cast", [special], {"to": TensorProto.BOOL}, id="special-bool"))
    cases.append(Case("Cast", [special], {"to": TensorProto.FLOAT16}, id="special-half"))
    return cases


def binary_cases() -> list[Case]:
    a, b = floats(3, 1, 5), floats(4, 1)
    b[np.abs(b) < 0.3] = 0.5
    cases = [Case(op, [a, b]) for op in ("Add", "Sub", "Mul", "Div")]
    sym = {0: ["batch", 1, 5], 1: ["seq", 1]}
    cases += [Case(op, [a, b], dims=sym) for op in ("Add", "Div")]
    cases.append(Case("Add", [floats(3, 5), floats(1, 5)], dims={0: ["n", "m"], 1: ["k", "m"]}))
    cases.append(Case("Mul", [floats(3, 5), np.float32(2.5).reshape(())], const=[1]))
    cases.append(Case("Add", [floats(), floats()], id="rank0"))
    cases.append(Case("Add", [floats(0, 3), floats(3)], id="empty"))
    for dtype in ("int32", "int64", "uint8", "int8"):
        low = 0 if dtype[0] == "u" else -9
        p, q = ints(4, 5, low=low, dtype=dtype), ints(5, low=1, dtype=dtype)
        if low:
            q[::2] *= -1
        cases += [Case(op, [p, q], reference="onnx") for op in ("Add", "Sub", "Mul")]
        with np.errstate(all="ignore"):
            quotient = np.trunc(p.astype("float64") / q).astype(dtype)
        cases.append(Case("Div", [p, q], expected=[quotient]))
        cases.append(Case("Div", [p, q[:1]], const=[1], expected=[
            np.trunc(p.astype("float64") / q[0]).astype(dtype)], id="const"))  # fmt: skip
        cases.append(Case("Mod", [p, q], expected=[np.mod(p, q)]))
        cases.append(Case("Mod", [p, q], {"fmod": 1}, expected=[np.fmod(p, q)], id="fmod"))
    low = np.array([-(2**31), 5, -7, 6], "int32")
    by = np.array([-1, 0, 0, -1], "int32")
    cases.append(
        Case("Div", [low, by], expected=[np.array([-(2**31), 0, 0, -6], "int32")], id="trap")
    )
    cases.append(Case("Mod", [low, by], expected=[np.array([0, 0, 0, 0], "int32")], id="trap"))
    x, y = floats(40), floats(40)
    cases.append(Case("Mod", [x, y], {"fmod": 1}, id="fmod"))
    cases.append(Case("Mod", [x, y], reference="onnx"))
    cases += compare_cases() + bit_cases() + pow_cases() + select_cases()
    for case in cases:
        case.inputs = [None if a is None else np.asarray(a) for a in case.inputs]
    return cases


def compare_cases() -> list[Case]:
    cases = []
    pair = [np.repeat(SPECIAL, SPECIAL.size).astype("float32"),
            np.tile(SPECIAL, SPECIAL.size).astype("float32")]  # fmt: skip
    for op in ("Max", "Min", "Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"):
        cases.append(Case(op, pair, reference="onnx", id="special"))
        cases.append(Case(op, [ints(4, 5), ints(5)]))
        cases.append(Case(op, [ints(4, 5, low=0, dtype="uint8"), ints(5, low=0, dtype="uint8")],
                          reference="onnx"))  # fmt: skip
    cases.append(Case("Equal", [ints(9, low=0, high=2) > 0, ints(9, low=0, high=2) > 0], id="bool"))
    for op in ("Max", "Min", "Sum", "Mean"):
        cases.append(Case(op, [floats(3, 5), floats(5), floats(3, 1)], id="three"))
        cases.append(Case(op, [floats(3, 5)], id="one"))
    cases.append(Case("Max", [floats(3, 5, dtype="float16"), floats(5, dtype="float16")]))
    return cases


def bit_cases() -> list[Case]:
    cases = [
        Case(op, [ints(4, 5, low=0, high=2) > 0, ints(5, low=0, high=2) > 0])
        for op in ("And", "Or", "Xor")
    ]
    for op in ("BitwiseAnd", "BitwiseOr", "BitwiseXor"):
        cases.append(Case(op, [ints(4, 5, dtype="int32"), ints(5, dtype="int32")]))
        cases.append(
            Case(op, [ints(4, 5, low=0, high=99, dtype="uint8"), ints(5, low=0, dtype="uint8")])
        )
    for direction in ("LEFT", "RIGHT"):
        for dtype in ("uint8", "uint32", "uint64"):
            value, by = (
                ints(4, 5, low=0, high=200, dtype=dtype),
                ints(5, low=0, high=8, dtype=dtype),
            )
            cases.append(Case("BitShift", [value, by], {"direction": direction}, reference="onnx"))
    return cases


def select_cases() -> list[Case]:
    return [
        Case("PRelu", [floats(2, 3, 4), floats(3, 1)]),
        Case("PRelu", [ints(2, 3, dtype="int32"), ints(3, dtype="int32")], reference="onnx"),
        Case("Where", [ints(3, 1, low=0, high=2) > 0, floats(3, 4), floats(4)]),
        Case("Where", [ints(3, 1, low=0, high=2) > 0, ints(3, 4), ints(1)]),
        Case("Where", [ints(5, low=0, high=2) > 0, ints(5) > 0, ints(5) > 1], reference="onnx"),
        Case("Clip", [SPECIAL.astype("float32"), np.float32(-1), np.float32(1)]),
        Case("Clip", [SPECIAL.astype("float32"), np.float32(-1), np.float32(1)], const=[1, 2]),
        Case("Clip", [floats(9), None, np.float32(1)], const=[2]),
        Case("Clip", [floats(9), np.float32(1)], const=[1]),
        Case("Clip", [floats(9)]),
        Case("Clip", [floats(9), np.float32(2), np.float32(1)], id="crossed"),
        Case("Clip", [ints(9, dtype="int32"), np.int32(-2), np.int32(3)]),
        Case("Clip", [ints(9, low=0, dtype="uint8"), np.uint8(2), np.uint8(3)]),
        Case("CastLike", [floats(9), ints(2)], reference="onnx"),
    ]


def pow_cases() -> list[Case]:
    cases = [Case("Pow", [floats(4, 5, low=0.1), floats(5)])]
    negative = np.array([-2, -1.5, -0.5, 0, 1.5, -3], "float32")
    for exponent in (-3, -2, -1, -0.5, 0, 0.5, 1, 1.5, 2, 3, 4, 7, 20):
        y = np.float32(exponent).reshape(())
        cases.append(Case("Pow", [negative, y], const=[1], id=str(exponent)))
        cases.append(Case("Pow", [negative, y], id=f"run-time{exponent}"))
    for base in ("int32", "int64"):
        cases += [
            Case("Pow", [ints(9, dtype=base), ints(9, low=0, high=6, dtype=exponent)])
            for exponent in ("int32", "int64", "float32")
        ]
        cases.append(Case("Pow", [ints(9, dtype=base), np.array(3, base)], const=[1], id="cube"))
    cases.append(Case("Pow", [floats(9), ints(9, low=-2, high=4)], id="float-int"))
    cases.append(Case("Pow", [floats(9), np.array(2, "int64")], const=[1], id="float-int"))
    big = np.array([2**40 + 1, -(2**31) - 3], "int64")
    cases.append(Case("Pow", [big, np.array(2, "int64")], const=[1], expected=[big**2], id="big"))
    return cases


CASES = [*unary_cases(), *cast_cases(), *binary_cases()]


@pytest.fixture(scope="module")
def built() -> Built:
    return build(CASES)


@pytest.mark.parametrize("index", range(len(CASES)), ids=[c.label() for c in CASES])
def test_rule_equals_reference(built: Built, index: int) -> None:
    check(built, index, CASES[index])
