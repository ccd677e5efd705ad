"""Reductions, arg reductions, softmax and sums of products against onnxruntime."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.node_kernels import Built, Case, build, check

RNG = np.random.default_rng(13)
REDUCE = ("Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "SumSquare", "LogSum", "LogSumExp")


def floats(*shape: int, low: float = -2, high: float = 2, dtype: str = "float32") -> np.ndarray:
    return RNG.uniform(low, high, shape).astype(dtype)


def ints(*shape: int, low: int = -9, high: int = 9, dtype: str = "int64") -> np.ndarray:
    return RNG.integers(low, high, shape).astype(dtype)


def i64(*values: int) -> np.ndarray:
    return np.array(values, "int64")


def reduce_cases() -> list[Case]:
    cases = []
    for kind in REDUCE:
        op = f"Reduce{kind}"
        low = 0.5 if kind in ("LogSum", "Prod") else -2
        x = floats(3, 4, 17, low=low)
        sym = {0: ["n", "m", 17]}
        how = {"rtol": 1e-5, "atol": 1e-5}
        cases += [
            Case(op, [x, i64(2)], const=[1], dims=sym, **how),
            Case(op, [x, i64(0, -2)], const=[1], dims={0: ["n", "m", "k"]}, **how),
            Case(op, [x, i64(1)], {"keepdims": 0}, const=[1], **how),
            Case(op, [x], {"keepdims": 0}, **how, id="all"),
            Case(op, [x, i64(0, 1, 2)], const=[1], **how),
            Case(op, [x], {"noop_with_empty_axes": 1}, reference="onnx", **how, id="noop"),
            Case(op, [floats(low=low)], **how, id="rank0"),
            Case(op, [floats(5, 1, low=low), i64(1)], const=[1], **how),
            Case(op, [floats(3, 8, low=low, dtype="float16"), i64(1)], const=[1],
                 reference="onnx", rtol=4e-3, atol=4e-3),
            Case(op, [floats(3, 8, low=low, dtype="float64"), i64(1)], const=[1],
                 reference="onnx", rtol=1e-12, atol=1e-12),
        ]  # fmt: skip
        if kind not in ("Mean", "LogSumExp", "LogSum", "Max", "Min"):
            cases.append(Case(op, [floats(3, 0), i64(1)], const=[1], id="empty"))
    special = np.array([[1, np.nan, 2], [np.inf, 1, -np.inf], [-np.inf, -np.inf, -np.inf]])
    for op in ("ReduceMax", "ReduceMin", "ReduceSum"):
        cases.append(
            Case(op, [special.astype("float32"), i64(1)], const=[1], reference="onnx", id="special")
        )
    huge = np.array([[1000, 999.5], [-1000, -1001], [np.inf, 3], [-np.inf, -np.inf]], "float32")
    cases.append(
        Case("ReduceLogSumExp", [huge, i64(1)], {"keepdims": 0}, const=[1], id="huge",
             expected=[np.float32([1000.474077, -999.68673, np.inf, -np.inf])])
    )  # fmt: skip
    for dtype in ("int32", "int64"):
        cases += [
            Case(f"Reduce{kind}", [ints(3, 7, dtype=dtype), i64(1)], const=[1], reference="onnx")
            for kind in ("Sum", "Max", "Min", "Prod", "L1")
        ]
    cases.append(Case("ReduceSumSquare", [ints(3, 7, dtype="int32"), i64(1)], const=[1]))
    cases.append(Case("ReduceMean", [ints(3, 7, dtype="int32"), i64(1)], const=[1]))
    cases.append(Case("ReduceMax", [ints(3, 7, low=0, dtype="uint8"), i64(1)], const=[1]))
    cases.append(Case("ReduceMax", [ints(3, 2, low=0) > 6, i64(1)], const=[1], reference="onnx"))
    return cases


def arg_cases() -> list[Case]:
    ties = ints(4, 5, 23, low=0, high=4).astype("float32")
    nan = floats(3, 40)
    nan[1, 7] = nan[1, 11] = np.nan
    cases = []
    for op in ("ArgMax", "ArgMin"):
        for last in (0, 1):
            for axis in (0, -1):
                attrs = {"axis": axis, "select_last_index": last, "keepdims": axis % 2}
                cases.append(Case(op, [ties], attrs, id=f"{axis}{last}", dims={0: ["n", 5, "m"]}))
        cases += [
            Case(op, [ints(5, 9, dtype="int32")], {"axis": 1}),
            Case(op, [ints(5, 9, low=0, dtype="uint8")], {"axis": 1}, reference="onnx"),
            Case(op, [nan], {"axis": 1}, reference="onnx", id="nan"),
            Case(op, [np.full((2, 3), -np.inf if op == "ArgMax" else np.inf, "float32")],
                 {"axis": 1}, id="inf"),
        ]  # fmt: skip
    return cases


def softmax_cases() -> list[Case]:
    x = floats(3, 5, 7, low=-9, high=9)
    cases = []
    for op in ("Softmax", "LogSoftmax", "Hardmax"):
        cases += [
            Case(op, [x], {"axis": axis}, dims={0: ["n", 5, "m"]}, id=str(axis))
            for axis in (0, 1, -1)
        ]
        cases.append(Case(op, [floats(4)], id="vector"))
        cases.append(Case(op, [floats(2, 4, dtype="float16")], reference="onnx", rtol=2e-3))
    cases.append(Case("Softmax", [np.float32([[1e4, 1e4, -1e4]])], id="large"))
    return cases


def product_cases() -> list[Case]:
    how = {"rtol": 1e-5, "atol": 1e-5}
    a, b = floats(2, 3, 4, 5), floats(3, 5, 6)
    return [
        Case("MatMul", [a, b], **how),
        Case("MatMul", [a, b], dims={0: ["n", 3, "m", 5]}, **how),
        Case("MatMul", [a, floats(1, 1, 5, 2)], dims={1: ["b", 1, 5, "k"]}, **how),
        Case("MatMul", [floats(5), b], **how),
        Case("MatMul", [a, floats(5)], **how),
        Case("MatMul", [floats(5), floats(5)], **how),
        Case("MatMul", [floats(3, 0), floats(0, 4)], **how),
        Case("MatMul", [ints(3, 4, dtype="int32"), ints(4, 2, dtype="int32")]),
        Case("MatMul", [floats(3, 4, dtype="float64"), floats(4, 2, dtype="float64")], rtol=1e-12),
        Case("Gemm", [floats(3, 4), floats(4, 5)], **how),
        Case("Gemm", [floats(4, 3), floats(5, 4), floats(5)],
             {"transA": 1, "transB": 1, "alpha": 0.5, "beta": 2.0}, **how),
        Case("Gemm", [floats(3, 4), floats(4, 5), floats(3, 1)], **how),
        Case("Gemm", [floats(3, 4), floats(4, 5), floats()], dims={0: ["n", 4]}, **how),
        Case("Einsum", [floats(3, 4), floats(4, 5)], {"equation": "ij,jk->ik"}, **how),
        Case("Einsum", [floats(3, 4), floats(4, 5)], {"equation": "ij, jk"}, **how),
        Case("Einsum", [floats(3, 4)], {"equation": "ij->ji"}),
        Case("Einsum", [floats(3, 4)], {"equation": "ij->"}, **how),
        Case("Einsum", [floats(4, 4)], {"equation": "ii->i"}),
        Case("Einsum", [floats(2, 4, 4)], {"equation": "...ii->...i"}),
        Case("Einsum", [floats(4), floats(4)], {"equation": "i,i"}, **how),
        Case("Einsum", [floats(2, 5, 3, 4), floats(5, 4, 3)],
             {"equation": "...ij,...jk->...ik"},
            reference="onnx", **how),
        Case("Einsum", [floats(2, 3, 4), floats(2, 5, 4), floats(4)],
             {"equation": "bij,bkj,j->bik"}, dims={0: ["b", 3, 4], 1: ["b", "k", 4]}, **how),
    ]  # fmt: skip


CASES = [*reduce_cases(), *arg_cases(), *softmax_cases(), *product_cases()]
for _case in CASES:
    _case.inputs = [None if a is None else np.asarray(a) for a in _case.inputs]


@pytest.fixture(scope="module")
def built() -> Built:
    return build(CASES)


@pytest.mark.parametrize("index", range(len(CASES)), ids=[c.label() for c in CASES])
def test_rule_equals_reference(built: Built, index: int) -> None:
    check(built, index, CASES[index])
