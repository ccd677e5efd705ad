"""The vector polynomials against float64 references, over the whole float32 range."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tvm
from tvm import tirx

from burnish.backends.cpu import vmath
from burnish.backends.cpu.isa import AVX2, AVX512, Isa
from burnish.backends.cpu.tir import kernel, serial
from tests.support.cpu_kernels import build_module, dirty, run_once

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

_erf = np.vectorize(math.erf, otypes=[np.float64])


def _sig(x: F64) -> F64:
    return 1 / (1 + np.exp(-x))


REFERENCE: dict[str, tuple[tuple[float, ...], Callable[[F64], F64]]] = {
    "Abs": ((), np.abs),
    "Clip": ((-0.5, 6.0), lambda x: np.clip(x, -0.5, 6.0)),
    "Cos": ((), np.cos),
    "Elu": ((0.7,), lambda x: np.where(x < 0, 0.7 * np.expm1(x), x)),
    "Erf": ((), _erf),
    "Exp": ((), np.exp),
    "Gelu": ((), lambda x: 0.5 * x * (1 + _erf(x * math.sqrt(0.5)))),
    "GeluTanh": (
        (),
        lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    ),
    "HardSigmoid": ((0.2, 0.4), lambda x: np.clip(0.2 * x + 0.4, 0, 1)),
    "HardSwish": ((), lambda x: x * np.clip(x / 6 + 0.5, 0, 1)),
    "LeakyRelu": ((0.1,), lambda x: np.where(x < 0, 0.1 * x, x)),
    "Log": ((), np.log),
    "Mish": ((), lambda x: x * np.tanh(np.logaddexp(0, x))),
    "Neg": ((), np.negative),
    "Reciprocal": ((), lambda x: 1 / x),
    "Relu": ((), lambda x: np.where(np.isnan(x), x, np.maximum(x, 0))),
    "Sigmoid": ((), _sig),
    "Silu": ((), lambda x: x * _sig(x)),
    "Sin": ((), np.sin),
    "Softplus": ((), lambda x: np.logaddexp(0, x)),
    "Sqrt": ((), np.sqrt),
    "Tanh": ((), np.tanh),
}
SPECIAL = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-30, -1e-30, 3e38, -3e38, 1.0], "f4")


def _inputs(op: str) -> F32:
    rng = np.random.default_rng(1)
    small = rng.standard_normal(2048) * 10.0 ** rng.uniform(-6, 1, 2048)
    wide = np.linspace(-104.0, 92.0, 4001)
    if op in ("Sin", "Cos"):
        return np.concatenate([small, wide, rng.uniform(-5e4, 5e4, 2048)]).astype("f4")
    x = np.concatenate([small, wide, SPECIAL])
    if op in ("Log", "Sqrt"):
        x = np.concatenate([np.abs(x), np.geomspace(1e-44, 3e38, 2000), [-1.0, -np.inf]])
    return x.astype("f4")


CHUNK = 64


@functools.cache
def _library(isa: Isa, lanes: int) -> Any:
    """All functions, compiled at once: op -> kernel over (n, CHUNK) elements."""
    funcs = {}
    for op, (params, _) in REFERENCE.items():
        n = tirx.Var("n", "int64")
        with kernel(op, isa) as k:
            a = k.input("x", (n, CHUNK))
            y = k.output("y", (n, CHUNK))
            with serial(n * (CHUNK // lanes)) as i:
                y.store(i * lanes, vmath.UNARY[op](a.load(i * lanes, lanes), *params))
        funcs[op] = k.result.func.with_attr("global_symbol", op)
    return build_module(funcs, isa)


def _run(op: str, x: F32, isa: Isa, lanes: int) -> F32:
    padded = np.ones((-(-x.size // CHUNK), CHUNK), "f4")
    padded.reshape(-1)[: x.size] = x
    out = tvm.runtime.tensor(np.full_like(padded, 7))
    _library(isa, lanes)[op](tvm.runtime.tensor(padded), out)
    return out.numpy().reshape(-1)[: x.size]


@pytest.mark.parametrize(("isa", "lanes"), [(AVX512, 16), (AVX2, 8), (AVX2, 1)])
@pytest.mark.parametrize("op", sorted(vmath.UNARY))
def test_matches_float64(op: str, isa: Isa, lanes: int) -> None:
    _, reference = REFERENCE[op]
    x = _inputs(op)
    got = _run(op, x, isa, lanes).astype("f8")
    with np.errstate(all="ignore"):
        want = reference(x.astype("f8")).astype("f4").astype("f8")
    # -inf * 0 is NaN in the reference, and here or not, by the order of the operations.
    checked = ~(np.isneginf(x) & (op in ("Gelu", "GeluTanh", "Silu", "Mish")))
    np.testing.assert_array_equal(np.isnan(got[checked]), np.isnan(want[checked]))
    infinite = checked & np.isinf(want)
    np.testing.assert_array_equal(got[infinite], want[infinite])
    finite = checked & np.isfinite(want)
    # Gelu multiplies an absolute error of erf by x.
    scale = np.maximum(np.abs(want), 1.0 if op not in ("Gelu", "GeluTanh") else 1.0 + np.abs(x))
    error = np.abs(got[finite] - want[finite]) / scale[finite]
    assert error.max() < 1.5e-6, (x[finite][error.argmax()], got[finite][error.argmax()])


@pytest.mark.parametrize("op", ["Exp", "Erf", "Tanh", "Sigmoid", "Sin"])
def test_relative_error_near_zero(op: str) -> None:
    x = np.geomspace(1e-7, 1.0, 512).astype("f4")
    x = np.concatenate([x, -x])
    got = _run(op, x, AVX512, 16).astype("f8")
    want = REFERENCE[op][1](x.astype("f8"))
    assert np.max(np.abs(got - want) / np.abs(want)) < 1e-6


@pytest.mark.parametrize(("isa", "lanes"), [(AVX512, 16), (AVX2, 8), (AVX2, 1)])
def test_power_of_two_of_a_negative(isa: Isa, lanes: int) -> None:
    x = -np.concatenate([np.geomspace(1e-7, 126, 3000), np.arange(0, 127), np.arange(0.5, 126)])
    beyond = [-126.6, -127, -150, -1e4, -3.4e38, -np.inf, np.nan]
    padded = np.resize(np.concatenate([beyond, x]), -(-(x.size + 7) // 16) * 16).astype("f4")
    with kernel("exp2", isa) as k:
        a, y = k.input("x", (padded.size,)), k.output("y", (padded.size,))
        with serial(padded.size // lanes) as i:
            y.store(i * lanes, vmath.exp2_of_negative(a.load(i * lanes, lanes)))
    (got,) = run_once(k.result, isa, [padded], [dirty((padded.size,))])
    np.testing.assert_array_equal(np.isnan(got), np.isnan(padded))
    want = np.exp2(padded.astype("f8"))
    tiny = want < 1.2e-38
    assert np.all((got[tiny] >= 0) & (got[tiny] < 1.2e-38))
    assert np.nanmax(np.abs(got - want)[~tiny] / want[~tiny]) < 2e-7


def test_every_long_function_is_known() -> None:
    assert set(vmath.UNARY) >= vmath.LONG
    assert set(REFERENCE) == set(vmath.UNARY)
