"""Kernels scheduled from tensor expressions: dtypes, ranks, tails, symbols, data movement."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from tvm import te, tirx, topi

from burnish.backends.cpu.isa import AVX2, AVX512, Isa
from burnish.backends.cpu.te_schedule import schedule_te
from burnish.errors import LoweringError
from tests.support.cpu_kernels import build, dirty, run, run_once

RNG = np.random.default_rng(7)
ISAS = pytest.mark.parametrize("isa", [AVX512, AVX2], ids=lambda i: i.name)


def _f32(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype("f4")


def _check(
    isa: Isa,
    outputs: Sequence[te.Tensor],
    inputs: Sequence[te.Tensor],
    arrays: Sequence[np.ndarray],
    wanted: Sequence[np.ndarray],
    *scalars: int,
    rtol: float = 2e-6,
) -> str:
    kernel = schedule_te(outputs, inputs, "k", isa)
    library = build({"k": kernel}, isa)
    blank = [dirty(w.shape, str(t.dtype)) for t, w in zip(outputs, wanted, strict=True)]
    got = run(library, "k", arrays, blank, *scalars)
    for g, w in zip(got, wanted, strict=True):
        if g.dtype.kind == "f":
            np.testing.assert_allclose(g, w, rtol=rtol, atol=2e-6)
        else:
            np.testing.assert_array_equal(g, w)
    return str(library.inspect_source("asm"))


def _twice(y: te.Tensor) -> te.Tensor:
    return te.compute(y.shape, lambda *i: y(*i) + y(*i) * 0.25)


@ISAS
@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 5), (2, 3, 4, 17), (300, 128)])
def test_elementwise_chain(isa: Isa, shape: tuple[int, ...]) -> None:
    x = te.placeholder(shape, "float32", "x")
    y = te.compute(shape, lambda *i: x(*i) * 0.5)
    for _ in range(12):  # every stage reads its source twice: 4096 copies if inlined blindly
        y = _twice(y)
    a = _f32(*shape)
    _check(isa, [y], [x], [a], [a * 0.5 * 1.25**12])


MATH: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "exp": np.exp,
    "log": lambda x: np.log(np.abs(x)),
    "erf": np.vectorize(math.erf),
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "sqrt": lambda x: np.sqrt(np.abs(x)),
    "rsqrt": lambda x: 1 / np.sqrt(np.abs(x)),
    "sin": np.sin,
    "cos": np.cos,
    "exp2": np.exp2,
    "log2": lambda x: np.log2(np.abs(x)),
    "log10": lambda x: np.log10(np.abs(x)),
    "floor": np.floor,
    "ceil": np.ceil,
    "nearbyint": np.rint,
}


@ISAS
@pytest.mark.parametrize("op", sorted(MATH))
def test_math_is_vectorized(isa: Isa, op: str) -> None:
    n = tirx.Var("n", "int64")
    x = te.placeholder((n, 65), "float32", "x")
    positive = op in ("log", "sqrt", "rsqrt", "log2", "log10")
    function = getattr(tirx, op)
    y = te.compute(
        (n, 65), lambda i, j: function(tirx.abs(x[i, j]) if positive else x[i, j]) + 0.25
    )
    a = _f32(33, 65)
    want = MATH[op](a.astype("f8")) + 0.25
    asm = _check(isa, [y], [x], [a], [want], rtol=5e-6)
    assert ("zmm" if isa is AVX512 else "ymm") in asm
    assert not any(f"\t{op}f@PLT" in line for line in asm.splitlines())


@pytest.mark.parametrize("op", ["exp", "log", "erf", "tanh", "sigmoid", "sqrt", "sin", "asinh"])
@pytest.mark.parametrize("dtype", ["float64", "float16"])
def test_math_of_other_floats(op: str, dtype: str) -> None:
    reference = {**MATH, "asinh": np.arcsinh}[op]
    x = te.placeholder((37,), dtype, "x")
    a = (np.abs(RNG.standard_normal(37)) + 0.1).astype(dtype)
    y = te.compute((37,), lambda i: getattr(tirx, op)(x[i]))
    want = reference(a.astype("f8")).astype(dtype)
    _check(AVX512, [y], [x], [a], [want], rtol=2e-3 if dtype == "float16" else 1e-12)


@pytest.mark.parametrize("exponent", [2.0, 3.0, -1.0, 0.5, 2.5, -0.3])
def test_power(exponent: float) -> None:
    x = te.placeholder((67,), "float32", "x")
    y = te.compute((67,), lambda i: tirx.power(x[i], tirx.const(exponent, "float32")))
    a = np.abs(_f32(67)) + 0.1
    if exponent == 0.5:
        a[:3] = [np.inf, 0.0, np.nan]
    with np.errstate(all="ignore"):
        _check(AVX512, [y], [x], [a], [np.power(a.astype("f8"), exponent)])


INTS = ["int8", "uint8", "int16", "int32", "int64", "uint32"]


@ISAS
@pytest.mark.parametrize("dtype", [*INTS, "float16", "float64", "bool"])
def test_every_dtype_casts_and_selects(isa: Isa, dtype: str) -> None:
    n = tirx.Var("n", "int64")
    x = te.placeholder((n, 19), dtype, "x")
    y = te.placeholder((n, 19), dtype, "y")
    c = te.placeholder((n, 1), "bool", "c")
    z = te.compute((n, 19), lambda i, j: tirx.Select(c[i, 0], x[i, j], y[i, j]))
    f = te.compute((n, 19), lambda i, j: tirx.Cast("float32", z[i, j]))
    e = te.compute((n, 19), lambda i, j: x[i, j].equal(y[i, j]))
    if dtype == "bool":
        a, b = (RNG.integers(0, 2, (9, 19)).astype(dtype) for _ in range(2))
    else:
        a, b = (RNG.integers(0, 100, (9, 19)).astype(dtype) for _ in range(2))
    b[2] = a[2]
    m = RNG.integers(0, 2, (9, 1)).astype(bool)
    want = np.where(m, a, b)
    _check(isa, [z, f, e], [x, y, c], [a, b, m], [want, want.astype("f4"), a == b])


@ISAS
def test_broadcast_and_transpose(isa: Isa) -> None:
    b = tirx.Var("b", "int64")
    x = te.placeholder((b, 6, 5, 3), "float32", "x")
    s = te.placeholder((6, 1, 1), "float32", "s")
    scaled = topi.multiply(x, s)
    y = topi.transpose(scaled, (0, 2, 3, 1))
    a, w = _f32(4, 6, 5, 3), _f32(6, 1, 1)
    _check(isa, [scaled, y], [x, s], [a, w], [a * w, (a * w).transpose(0, 2, 3, 1)])


@ISAS
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_concat_pad_slice(isa: Isa, axis: int) -> None:
    n = tirx.Var("n", "int64")
    x = te.placeholder((n, 6, 21), "float32", "x")
    y = te.placeholder((n, 6, 21), "float32", "y")
    joined = topi.concatenate([x, topi.exp(y), x], axis=axis)
    padded = topi.nn.pad(x, [1, 0, 2], [0, 2, 3], tirx.const(-1.5, "float32"))
    a, b = _f32(5, 6, 21), _f32(5, 6, 21)
    want = [
        np.concatenate([a, np.exp(b), a], axis),
        np.pad(a, ((1, 0), (0, 2), (2, 3)), constant_values=-1.5),
        a[:, 4::-2, 3:20:3],
    ]
    cut = te.compute((n, 3, 6), lambda i, j, k: x[i, 4 - 2 * j, 3 + 3 * k])
    for out, w in zip([joined, padded, cut], want, strict=True):
        _check(isa, [out], [x, y], [a, b], [w], rtol=4e-6)


def test_division_in_a_branch_not_taken() -> None:
    x = te.placeholder((9,), "int32", "x")
    y = te.compute((9,), lambda i: tirx.if_then_else(x[i] != 0, tirx.truncdiv(100, x[i]), -1))
    a = np.array([0, 1, 2, 3, 0, 5, -7, 100, 101], "i4")
    want = np.array([-1, 100, 50, 33, -1, 20, -14, 1, 0], "i4")
    _check(AVX512, [y], [x], [a], [want])


@pytest.mark.parametrize("index_type", ["int32", "int64"])
def test_gather_with_negative_indices(index_type: str) -> None:
    n, d = tirx.Var("n", "int64"), tirx.Var("d", "int64")
    table = te.placeholder((50, d), "float32", "t")
    at = te.placeholder((n,), index_type, "i")
    y = te.compute((n, d), lambda i, j: table[tirx.if_then_else(at[i] < 0, at[i] + 50, at[i]), j])
    t, i = _f32(50, 13), RNG.integers(-50, 50, 21).astype(index_type)
    _check(AVX512, [y], [table, at], [t, i], [t[i]])


def test_reshape_is_not_collapsed_wrongly() -> None:
    x = te.placeholder((4, 6), "float32", "x")
    # Row i + j // 6 is i within the domain, and not beyond it.
    y = te.compute((4, 6), lambda i, j: x[i + j // 6, 5 - j % 6])
    z = te.compute((6, 4), lambda i, j: x[(i * 4 + j) // 6, (i * 4 + j) % 6])
    a = _f32(4, 6)
    _check(AVX512, [y], [x], [a], [a[:, ::-1]])
    _check(AVX512, [z], [x], [a], [a.reshape(6, 4)])


def test_symbols_that_no_argument_has_come_last() -> None:
    n, m = tirx.Var("n", "int64"), tirx.Var("m", "int64")
    x = te.placeholder((n,), "float32", "x")
    y = te.compute((n * 2,), lambda i: x[i // 2] * m.astype("float32"))
    kernel = schedule_te([y], [x], "k", AVX512)
    assert [s.name for s in kernel.scalars] == ["m"]
    a = _f32(9)
    got = run_once(kernel, AVX512, [a], [dirty((18,))], 3)
    np.testing.assert_array_equal(got[0], np.repeat(a, 2) * 3)


def _sum(x: te.Tensor, keep: Sequence[int]) -> te.Tensor:
    axes = {i: te.reduce_axis((0, x.shape[i]), f"k{i}") for i in range(4) if i not in keep}

    def body(*i: Any) -> Any:
        at = dict(zip(keep, i, strict=True))
        index = [axes[d].var if d in axes else at[d] for d in range(4)]
        return te.sum(x(*index) * 2.0, axis=list(axes.values()))

    return te.compute([x.shape[d] for d in keep], body)


@ISAS
@pytest.mark.parametrize("symbolic", [False, True])
@pytest.mark.parametrize("keep", [(), (0,), (3,), (0, 1, 2), (0, 3), (1, 2), (1, 3), (0, 1, 3)])
def test_reductions(isa: Isa, keep: tuple[int, ...], symbolic: bool) -> None:
    a = _f32(3, 4, 7, 37)
    shape = [tirx.Var(c, "int64") for c in "abcd"] if symbolic else list(a.shape)
    x = te.placeholder(shape, "float32", "x")
    want = (a * 2.0).sum(axis=tuple(i for i in range(4) if i not in keep), dtype="f8")
    _check(isa, [_sum(x, keep)], [x], [a], [np.asarray(want)], rtol=1e-4)


def test_reduction_then_elementwise_and_argmax() -> None:
    n = tirx.Var("n", "int64")
    x = te.placeholder((n, 197), "float32", "x")
    a = _f32(11, 197)
    e = np.exp(a - a.max(1, keepdims=True))
    outputs = [topi.nn.softmax(x, axis=1), topi.argmax(x, axis=1), topi.max(x, axis=1)]
    want = [e / e.sum(1, keepdims=True), a.argmax(1), a.max(1)]
    _check(AVX512, outputs, [x], [a], want, rtol=1e-5)


def test_refuses_what_it_cannot_schedule() -> None:
    x = te.placeholder((4,), "float32", "x")
    y = te.placeholder((4,), "float32", "y")
    z = te.compute((4,), lambda i: x[i] + y[i])
    with pytest.raises(LoweringError, match="no kernel input"):
        schedule_te([z], [x], "k", AVX512)


@ISAS
def test_innermost_concatenation_and_padding_have_no_conditions_inside(isa: Isa) -> None:
    x = te.placeholder((7, 40), "float32", "x")
    y = te.placeholder((7, 33), "float32", "y")
    joined = topi.concatenate([x, y, x], axis=1)
    padded = topi.nn.pad(joined, [1, 3], [0, 5], tirx.const(2.5, "float32"))
    a, b = _f32(7, 40), _f32(7, 33)
    want = np.pad(np.concatenate([a, b, a], 1), ((1, 0), (3, 5)), constant_values=2.5)
    _check(isa, [padded], [x, y], [a, b], [want])
    script = schedule_te([joined], [x, y], "k", isa).func.script()
    assert "if_then_else" not in script
    assert "Select" not in script


def test_conditions_on_equality() -> None:
    x = te.placeholder((3, 32), "float32", "x")
    y = te.compute((3, 32), lambda i, j: tirx.if_then_else(j == 5, 9.0, x[i, j]))
    z = te.compute((3, 32), lambda i, j: tirx.if_then_else(tirx.Not(j != 31), 9.0, x[i, 31 - j]))
    a = _f32(3, 32)
    first, second = a.copy(), a[:, ::-1].copy()
    first[:, 5], second[:, 31] = 9.0, 9.0
    _check(AVX512, [y, z], [x], [a], [first, second])
