"""Pooling kernels against float64."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tvm import tirx

from burnish.backends.cpu.isa import AVX2, AVX512, Isa
from burnish.backends.cpu.place import Place
from burnish.backends.cpu.pool import CodeAverage, PoolSpec, pool
from tests.support import reference
from tests.support.cpu_kernels import build, dirty, run

both = pytest.mark.parametrize("isa", [AVX512, AVX2], ids=lambda i: i.name)
SIZES = ((1, 13, 14), (2, 9, 6), (1, 16, 17))

# kernel, strides, pads, dilations, ceil_mode, count_include_pad
CASES: dict[str, Any] = {
    "3x3": ((3, 3), (2, 2), (1, 1, 1, 1), (1, 1), False, False),
    "2x2": ((2, 2), (2, 2), (0, 0, 0, 0), (1, 1), False, False),
    "ceil": ((3, 3), (2, 2), (0, 0, 0, 0), (1, 1), True, False),
    "ceil-pad": ((3, 3), (2, 2), (1, 1, 1, 1), (1, 1), True, True),
    "ceil-short": ((1, 1), (3, 3), (0, 0, 0, 0), (1, 1), True, False),
    "include": ((3, 2), (1, 1), (1, 0, 1, 1), (1, 1), False, True),
    "dilated": ((3, 2), (1, 2), (2, 1, 2, 1), (2, 3), False, False),
    "dilated-include": ((2, 2), (1, 1), (1, 1, 1, 1), (2, 2), False, True),
    "5x5": ((5, 5), (1, 1), (2, 2, 2, 2), (1, 1), False, False),
}


@both
@pytest.mark.parametrize("symbolic", [False, True])
@pytest.mark.parametrize("kind", ["max", "average"])
@pytest.mark.parametrize("name", CASES)
def test_windows(isa: Isa, kind: Any, name: str, symbolic: bool) -> None:
    kernel, strides, pads, dilations, ceil_mode, include = CASES[name]
    c = 70 if name == "3x3" else 21
    library = None
    for size in SIZES:
        dims = tuple(tirx.Var(v, "int64") for v in "nhw") if symbolic else size
        spec = PoolSpec(kind, *dims, c, kernel, strides, pads, dilations, ceil_mode, include)
        if library is None or not symbolic:
            library = build({"k": pool(isa, spec)}, isa)
        # Negative only: padding must not win a maximum.
        x = np.random.default_rng(sum(size)).standard_normal((*size, c)).astype("f4") - 5
        want = reference.pool(kind, x, kernel, strides, pads, dilations, ceil_mode, include)
        (y,) = run(library, "k", [x], [dirty(want.shape)])
        np.testing.assert_allclose(y, want, rtol=1e-6, atol=1e-6)


@both
@pytest.mark.parametrize("symbolic", [False, True])
@pytest.mark.parametrize("kind", ["max", "average"])
def test_global(isa: Isa, kind: Any, symbolic: bool) -> None:
    c = 150
    library = None
    for size in ((1, 7, 7), (3, 1, 5)):
        dims = tuple(tirx.Var(v, "int64") for v in "nhw") if symbolic else size
        if library is None or not symbolic:
            library = build({"k": pool(isa, PoolSpec(kind, *dims, c))}, isa)
        x = np.random.default_rng(sum(size)).standard_normal((*size, c)).astype("f4") - 5
        reduce = np.max if kind == "max" else np.mean
        want = reduce(x.astype("f8"), axis=(1, 2), keepdims=True)
        (y,) = run(library, "k", [x], [dirty(want.shape)])
        np.testing.assert_allclose(y, want, rtol=1e-6, atol=1e-6)


@both
@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("c", [21, 64, 150])
def test_largest_codes(isa: Isa, dtype: str, c: int) -> None:
    limits = np.iinfo(dtype)
    x = np.random.default_rng(c).integers(limits.min, limits.max // 2, (2, 9, 6, c)).astype(dtype)
    kernel, strides, pads, dilations, ceil_mode, include = CASES["3x3"]
    windows = PoolSpec("max", 2, 9, 6, c, kernel, strides, pads, dtype=dtype)
    whole = PoolSpec("max", 2, 9, 6, c, dtype=dtype)
    library = build({"windows": pool(isa, windows), "whole": pool(isa, whole)}, isa)
    want = reference.pool(
        "max", x.astype("f4"), kernel, strides, pads, dilations, ceil_mode, include
    )
    (y,) = run(library, "windows", [x], [np.full(want.shape, 77, dtype)])
    np.testing.assert_array_equal(y, want)
    (y,) = run(library, "whole", [x], [np.full((2, 1, 1, c), 77, dtype)])
    np.testing.assert_array_equal(y, x.max(axis=(1, 2), keepdims=True))


@both
@pytest.mark.parametrize("symbolic", [False, True])
@pytest.mark.parametrize("name", [*CASES, "global"])
def test_averages_of_codes(isa: Isa, name: str, symbolic: bool) -> None:
    kernel, strides, pads, dilations, ceil_mode, include = CASES.get(name, CASES["2x2"])
    size, c = (2, 9, 6), 70 if name in ("3x3", "global") else 21
    dims = tuple(tirx.Var(v, "int64") for v in "nhw") if symbolic else size
    factor, zero, y_zero = 0.37, 201, -20
    stored = {"uint8": CodeAverage(zero, factor), "int8": CodeAverage(-77, factor, "int8", y_zero)}
    whole = PoolSpec("average", *dims, c)
    window = PoolSpec("average", *dims, c, kernel, strides, pads, dilations, ceil_mode, include)
    spec = whole if name == "global" else window
    kernels = {d: pool(isa, replace(spec, dtype=d, codes=codes)) for d, codes in stored.items()}
    library = build(kernels, isa)
    for dtype, codes in stored.items():
        limits = np.iinfo(dtype)
        x = np.random.default_rng(c).integers(limits.min, limits.max, (*size, c)).astype(dtype)
        real = x.astype(np.float64) - codes.x_zero
        if name == "global":
            want = real.mean(axis=(1, 2), keepdims=True) * factor
        else:
            args = (kernel, strides, pads, dilations, ceil_mode, include)
            want = reference.pool("average", real, *args) * factor
        if codes.y_dtype == "float32":
            (y,) = run(library, dtype, [x], [dirty(want.shape)])
            np.testing.assert_allclose(y, want, rtol=1e-6, atol=1e-6)
            continue
        (y,) = run(library, dtype, [x], [np.full(want.shape, 77, codes.y_dtype)])
        expected = np.clip(np.rint(want) + y_zero, -128, 127)
        difference = np.abs(y - expected)
        # A number in the middle of two codes may go to either.
        assert difference.max() <= 1
        assert np.mean(difference) < 0.01
        assert len(np.unique(y)) > 12


@both
def test_averages_round_ties_to_even(isa: Isa) -> None:
    x = np.zeros((1, 1, 2, 16), np.uint8)
    x[0, 0, 0] = np.arange(16)
    spec = PoolSpec("average", 1, 1, 2, 16, dtype="uint8", codes=CodeAverage(0, 1.0, "uint8", 3))
    (y,) = run(build({"k": pool(isa, spec)}, isa), "k", [x], [np.full((1, 1, 1, 16), 77, "u1")])
    assert y.ravel().tolist() == (np.rint(np.arange(16) / 2) + 3).astype(int).tolist()


@both
@pytest.mark.parametrize("dtype", ["float32", "uint8"])
@pytest.mark.parametrize("kernel", [None, (3, 3)])
def test_results_among_other_channels(isa: Isa, dtype: str, kernel: Any) -> None:
    c, first, total = 37, 5, 61
    x = np.random.default_rng(3).integers(0, 200, (2, 5, 6, c)).astype(dtype)
    pads = (0, 0, 0, 0) if kernel is None else (1, 1, 1, 1)
    spec = PoolSpec("max", 2, 5, 6, c, kernel, (1, 1), pads, dtype=dtype)
    kernels = {
        "begin": pool(isa, replace(spec, place=Place(total, first))),
        "on": pool(isa, replace(spec, place=Place(total, first, begun=True))),
    }
    library = build(kernels, isa)
    if kernel is None:
        want = x.max(axis=(1, 2), keepdims=True)
    else:
        want = reference.pool("max", x, kernel, (1, 1), pads)
    for name in kernels:
        y = np.full((*want.shape[:-1], total), 77, dtype)
        (found,) = run(library, name, [x], [y])
        np.testing.assert_array_equal(found[..., first : first + c], want)
        assert (np.delete(found, range(first, first + c), axis=-1) == 77).all()
