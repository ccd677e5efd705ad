"""Transpose kernels against NumPy."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from tvm import tirx

from burnish.backends.cpu.isa import AVX2, AVX512, Isa
from burnish.backends.cpu.transpose import TransposeSpec, transpose
from tests.support.cpu_kernels import build, dirty, run, run_once

RNG = np.random.default_rng(29)
ISAS = pytest.mark.parametrize("isa", [AVX512, AVX2], ids=lambda i: i.name)


@ISAS
@pytest.mark.parametrize("symbolic", [False, True])
@pytest.mark.parametrize("shape", [(3, 4, 5), (2, 17, 33), (20, 3, 40), (2, 64, 70)])
def test_every_permutation_of_rank_3(isa: Isa, symbolic: bool, shape: tuple[int, ...]) -> None:
    dims: tuple[Any, ...] = shape
    if symbolic:
        dims = tuple(tirx.Var(c, "int64") for c in "abc")
    perms = list(itertools.permutations(range(3)))
    kernels = {f"k{i}": transpose(isa, TransposeSpec(dims, p)) for i, p in enumerate(perms)}
    library = build(kernels, isa)
    x = RNG.standard_normal(shape).astype("f4")
    for name, perm in zip(kernels, perms, strict=True):
        want = x.transpose(perm)
        (got,) = run(library, name, [x], [dirty(want.shape)])
        np.testing.assert_array_equal(got, want)


CASES = [
    ((1, 3, 50, 64), (0, 2, 3, 1)),
    ((1, 50, 64, 3), (0, 3, 1, 2)),
    ((2, 32, 9, 9), (0, 2, 3, 1)),
    ((2, 33, 4, 24), (0, 2, 1, 3)),
    ((2, 3, 4, 5, 6), (4, 2, 0, 3, 1)),
    ((1, 1, 7), (2, 1, 0)),
    ((1, 1), (1, 0)),
    ((5, 2, 3, 2), (1, 3, 0, 2)),
    ((), ()),
]


@pytest.mark.parametrize(("shape", "perm"), CASES)
@pytest.mark.parametrize(
    ("isa", "dtype"),
    [(AVX2, "float32"), *((AVX512, t) for t in ("float32", "int64", "bool", "float16"))],
)
def test_cases(isa: Isa, shape: tuple[int, ...], perm: tuple[int, ...], dtype: str) -> None:
    x = (np.asarray(RNG.standard_normal(shape)) * 10).astype(dtype)
    want = x.transpose(perm)
    kernel = transpose(isa, TransposeSpec(shape, perm, dtype))
    (got,) = run_once(kernel, isa, [x], [dirty(want.shape, dtype)])
    np.testing.assert_array_equal(got, want)
