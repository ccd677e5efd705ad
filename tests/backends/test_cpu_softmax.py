"""Softmax kernels against float64 NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from tvm import tirx

from burnish.backends.cpu.isa import AVX2, AVX512, Isa
from burnish.backends.cpu.softmax import SoftmaxSpec, softmax
from tests.support.cpu_kernels import build, dirty, run, run_once

RNG = np.random.default_rng(11)
LENGTHS = [1, 2, 15, 16, 17, 64, 100, 197, 1000]
ISAS = pytest.mark.parametrize("isa", [AVX512, AVX2], ids=lambda i: i.name)


def _reference(x: np.ndarray, axis: int, log: bool) -> np.ndarray:
    x = x.astype("f8")
    with np.errstate(invalid="ignore"):
        shifted = x - x.max(axis, keepdims=True)
    total = np.exp(shifted).sum(axis, keepdims=True)
    return shifted - np.log(total) if log else np.exp(shifted) / total


@ISAS
@pytest.mark.parametrize("log", [False, True])
def test_last_axis_static(isa: Isa, log: bool) -> None:
    kernels = {f"n{n}": softmax(isa, SoftmaxSpec((5, 3), n, log=log)) for n in LENGTHS}
    library = build(kernels, isa)
    for n in LENGTHS:
        x = (RNG.standard_normal((5, 3, n)) * 5).astype("f4")
        (got,) = run(library, f"n{n}", [x], [dirty(x.shape)])
        np.testing.assert_allclose(got, _reference(x, -1, log), rtol=3e-6, atol=1e-6)


@ISAS
@pytest.mark.parametrize("log", [False, True])
def test_last_axis_symbolic(isa: Isa, log: bool) -> None:
    n, m = tirx.Var("n", "int64"), tirx.Var("m", "int64")
    library = build({"k": softmax(isa, SoftmaxSpec((n, 2), m, log=log))}, isa)
    for length in LENGTHS:
        x = (RNG.standard_normal((9, 2, length)) * 5).astype("f4")
        (got,) = run(library, "k", [x], [dirty(x.shape)])
        np.testing.assert_allclose(got, _reference(x, -1, log), rtol=3e-6, atol=1e-6)


@ISAS
@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("symbolic", [False, True])
@pytest.mark.parametrize("trail", [(5,), (4, 4), (100,)])
def test_inner_axis(isa: Isa, log: bool, symbolic: bool, trail: tuple[int, ...]) -> None:
    shape = (3, 21, *trail)
    dims = [tirx.Var(f"d{i}", "int64") for i in range(len(shape))] if symbolic else list(shape)
    kernel = softmax(isa, SoftmaxSpec((dims[0],), dims[1], tuple(dims[2:]), log))
    x = (RNG.standard_normal(shape) * 5).astype("f4")
    (got,) = run_once(kernel, isa, [x], [dirty(shape)])
    np.testing.assert_allclose(got, _reference(x, 1, log), rtol=3e-6, atol=1e-6)


def test_extremes_follow_numpy() -> None:
    x = RNG.standard_normal((6, 37)).astype("f4")
    x[0, 3:] = -np.inf
    x[1] = -np.inf
    x[2] = -3.4e38
    x[3, 5] = np.nan
    x[4, :] = 3.4e38
    x[5, 30:] = -3.4028235e38
    (got,) = run_once(softmax(AVX512, SoftmaxSpec((6,), 37)), AVX512, [x], [dirty(x.shape)])
    np.testing.assert_allclose(got, _reference(x, -1, log=False), rtol=1e-6, atol=1e-7)
    assert np.isnan(got[1]).all()
    assert np.isfinite(got[2]).all()
