"""Reduction kernels against float64 NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tvm import tirx

from burnish.backends.cpu.isa import AVX2, AVX512, Isa
from burnish.backends.cpu.reduce import OPS, ReduceSpec, reduce
from tests.support.cpu_kernels import build, dirty, run, run_once

RNG = np.random.default_rng(23)
ISAS = pytest.mark.parametrize("isa", [AVX512, AVX2], ids=lambda i: i.name)
Axes = tuple[int, ...]


def _log_sum_exp(x: Any, axis: Axes) -> Any:
    top = x.max(axis, keepdims=True, initial=-np.inf)
    top = np.where(np.isfinite(top), top, 0)
    return np.log(np.exp(x - top).sum(axis)) + np.squeeze(top, axis)


REFERENCE: dict[str, Callable[[Any, Axes], Any]] = {
    "ReduceSum": lambda x, a: x.sum(a),
    "ReduceMean": lambda x, a: x.mean(a),
    "ReduceMax": lambda x, a: x.max(a, initial=-np.inf),
    "ReduceMin": lambda x, a: x.min(a, initial=np.inf),
    "ReduceProd": lambda x, a: x.prod(a),
    "ReduceL1": lambda x, a: np.abs(x).sum(a),
    "ReduceL2": lambda x, a: np.sqrt((x * x).sum(a)),
    "ReduceSumSquare": lambda x, a: (x * x).sum(a),
    "ReduceLogSum": lambda x, a: np.log(x.sum(a)),
    "ReduceLogSumExp": _log_sum_exp,
}


def _want(op: str, x: np.ndarray, axes: Axes) -> np.ndarray:
    with np.errstate(all="ignore"):
        return np.asarray(REFERENCE[op](x.astype("f8"), axes))


def _input(op: str, shape: tuple[int, ...]) -> np.ndarray:
    x = RNG.standard_normal(shape).astype("f4")
    if op == "ReduceLogSum":
        return np.abs(x)
    return np.sign(x) * np.exp(x * 0.05) if op == "ReduceProd" else x


def _output(shape: tuple[Any, ...], axes: Axes) -> tuple[Any, ...]:
    return tuple(n for i, n in enumerate(shape) if i not in axes)


def test_every_op_is_tested() -> None:
    assert set(OPS) == set(REFERENCE)


@ISAS
@pytest.mark.parametrize("op", sorted(OPS))
@pytest.mark.parametrize("symbolic", [False, True])
def test_ops(isa: Isa, op: str, symbolic: bool) -> None:
    shape = (5, 7, 37)
    dims: tuple[Any, ...] = shape
    if symbolic:
        dims = tuple(tirx.Var(c, "int64") for c in "abc")
    cases: list[Axes] = [(2,), (1,), (0,), (0, 2), (1, 2), (0, 1, 2)]
    kernels = {}
    for axes in cases:
        spec = ReduceSpec(op, dims, axes, _output(dims, axes))
        kernels["k" + "".join(map(str, axes))] = reduce(isa, spec)
    library = build(kernels, isa)
    for name, axes in zip(kernels, cases, strict=True):
        x = _input(op, shape)
        want = _want(op, x, axes)
        (got,) = run(library, name, [x], [dirty(want.shape)])
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=5e-6)


@ISAS
@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((2, 49, 300), (1,)),
        ((3, 4, 5, 6), (0, 2)),
        ((3, 4, 5, 6), (1, 3)),
        ((1, 200, 1, 130), (1,)),
        ((1, 1, 9), (0, 1)),
        ((64, 1000), (1,)),
        ((1, 1, 1), (1,)),
        ((40, 33, 1), (2,)),
    ],
)
def test_shapes(isa: Isa, shape: tuple[int, ...], axes: Axes) -> None:
    x = RNG.standard_normal(shape).astype("f4")
    spec = ReduceSpec("ReduceMean", shape, axes, _output(shape, axes))
    (got,) = run_once(reduce(isa, spec), isa, [x], [dirty(spec.output)])
    np.testing.assert_allclose(got, x.mean(axes, dtype="f8"), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("op", sorted(OPS))
@pytest.mark.parametrize("axis", [0, 1])
def test_empty_sets(op: str, axis: int) -> None:
    n = tirx.Var("n", "int64")
    dims = (n, 5) if axis == 0 else (5, n)
    spec = ReduceSpec(op, dims, (axis,), (5,))
    x = np.zeros((0, 5) if axis == 0 else (5, 0), "f4")
    (got,) = run_once(reduce(AVX512, spec), AVX512, [x], [dirty((5,))])
    np.testing.assert_array_equal(got, _want(op, x, (axis,)).astype("f4"))


@pytest.mark.parametrize("axis", [0, 1])
def test_not_finite(axis: int) -> None:
    x = RNG.standard_normal((40, 40)).astype("f4")
    x[3, :], x[:, 3], x[7, 9], x[11, 13] = -np.inf, -np.inf, np.nan, np.inf
    for op in ("ReduceMax", "ReduceMin", "ReduceSum", "ReduceLogSumExp"):
        spec = ReduceSpec(op, x.shape, (axis,), (40,))
        (got,) = run_once(reduce(AVX512, spec), AVX512, [x], [dirty((40,))])
        np.testing.assert_allclose(got, _want(op, x, (axis,)), rtol=1e-5, atol=1e-5)
