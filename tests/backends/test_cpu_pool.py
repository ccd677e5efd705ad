"""Pooling kernels against float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tvm import tirx

from burnish.backends.cpu.isa import AVX2, AVX512, Isa
from burnish.backends.cpu.pool import PoolSpec, pool
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
