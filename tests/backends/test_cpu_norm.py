"""Normalization kernels against float64 NumPy."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
from tvm import tirx

from burnish.backends.cpu.epilogue import pack_channel
from burnish.backends.cpu.isa import AVX2, AVX512, Isa
from burnish.backends.cpu.norm import GroupNormSpec, NormSpec, group_norm, norm
from burnish.backends.cpu.requantize import Rounding
from burnish.ir.postops import parse_postops
from tests.support.cpu_kernels import dirty, run_once

RNG = np.random.default_rng(5)
ISAS = pytest.mark.parametrize("isa", [AVX512, AVX2], ids=lambda i: i.name)


def _f32(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype("f4")


def _reference(x: np.ndarray, kind: str, epsilon: float) -> np.ndarray:
    x = x.astype("f8")
    if kind == "layer":
        x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + epsilon)


@ISAS
@pytest.mark.parametrize("kind", ["layer", "rms"])
@pytest.mark.parametrize("width", [1, 5, 16, 33, 128, 200, 768])
def test_plain(isa: Isa, kind: Literal["layer", "rms"], width: int) -> None:
    n = tirx.Var("n", "int64")
    # A mean that is large against the spread: E[x^2] - E[x]^2 would lose all digits.
    x, scale, bias = _f32(7, width) + 300, _f32(width), _f32(width)
    spec = NormSpec((n,), width, kind, 1e-5, bias=True)
    (got,) = run_once(norm(isa, spec), isa, [x, scale, bias], [dirty(x.shape)])
    want = _reference(x, kind, 1e-5) * scale + bias
    np.testing.assert_allclose(got, want, rtol=2e-4, atol=2e-4)


@ISAS
@pytest.mark.parametrize("sum_output", [False, True])
def test_skip_and_postops(isa: Isa, sum_output: bool) -> None:
    rows, width = (40, 3), 197
    x, skip = _f32(*rows, width), _f32(*rows, width)
    scale, channel, full = _f32(width), _f32(width), _f32(*rows, width)
    postops = parse_postops(["Mul:channel", "Gelu", "Add:full"])
    spec = NormSpec(rows, width, skip=True, sum_output=sum_output, postops=postops)
    inputs = [x, skip, scale, pack_channel(channel, isa), full]
    outputs = [dirty(x.shape)] * (1 + sum_output)
    got = run_once(norm(isa, spec), isa, inputs, outputs)
    h = _reference(x.astype("f8") + skip, "layer", 1e-5) * scale * channel
    erf = np.vectorize(__import__("math").erf)
    want = 0.5 * h * (1 + erf(h / np.sqrt(2))) + full
    np.testing.assert_allclose(got[0], want, rtol=1e-5, atol=1e-5)
    if sum_output:
        np.testing.assert_array_equal(got[1], x + skip)


@ISAS
@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize(("result", "sum_output"), [(True, False), (False, True), (False, False)])
@pytest.mark.parametrize("width", [9, 64, 197])
def test_codes(isa: Isa, dtype: str, result: bool, sum_output: bool, width: int) -> None:
    rows, step, zero = 40, 0.02, 3
    x, skip, scale, bias = _f32(rows, width), _f32(rows, width), _f32(width), _f32(width)
    spec = NormSpec(
        (rows,), width, bias=True, skip=True, sum_output=sum_output, result=result,
        codes=Rounding.whole(dtype, zero), scale_of_codes=step,
    )  # fmt: skip
    outputs = [dirty(x.shape, dtype)] + [dirty(x.shape)] * (result + sum_output)
    codes, *others = run_once(norm(isa, spec), isa, [x, skip, scale, bias], outputs)
    want = _reference(x.astype("f8") + skip, "layer", 1e-5) * scale + bias
    ends = np.iinfo(dtype)
    exact = np.clip(want / step + zero, ends.min, ends.max)
    # Half a step, and what float32 is not exact by.
    assert np.abs(codes - exact).max() < 0.501
    assert (codes == ends.min).any()
    if result:
        np.testing.assert_allclose(others[0], want, rtol=1e-5, atol=1e-5)
    if sum_output:
        np.testing.assert_array_equal(others[-1], x + skip)


def test_without_scale() -> None:
    x = _f32(3, 65)
    spec = NormSpec((3,), 65, "rms", 1e-3, scale=False)
    (got,) = run_once(norm(AVX512, spec), AVX512, [x], [dirty(x.shape)])
    np.testing.assert_allclose(got, _reference(x, "rms", 1e-3), rtol=1e-5)


@ISAS
@pytest.mark.parametrize("symbolic", [False, True])
@pytest.mark.parametrize("groups", [1, 3, 6])
def test_group_norm(isa: Isa, groups: int, symbolic: bool) -> None:
    shape = (2, 6, 5, 7)
    dims = [tirx.Var(c, "int64") for c in "bhw"] if symbolic else [2, 5, 7]
    spec = GroupNormSpec(dims[0], 6, tuple(dims[1:]), groups, 1e-4)
    x, scale, bias = _f32(*shape) * 2 + 3, _f32(6), _f32(6)
    (got,) = run_once(group_norm(isa, spec), isa, [x, scale, bias], [dirty(shape)])
    want = _reference(x.reshape(2, groups, -1), "layer", 1e-4).reshape(shape)
    want = want * scale[:, None, None] + bias[:, None, None]
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)
