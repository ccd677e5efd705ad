"""Rows copied into wider rows."""

from __future__ import annotations

import numpy as np
import pytest
from tvm import tirx

from burnish.backends.cpu.isa import AVX2, AVX512, Isa
from burnish.backends.cpu.scatter import scatter
from tests.support.cpu_kernels import build, run


@pytest.mark.parametrize("isa", [AVX512, AVX2], ids=lambda i: i.name)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("width", [1, 16, 37])
def test_columns(isa: Isa, dtype: str, width: int) -> None:
    rows = tirx.Var("rows", "int64")
    kernels = {
        name: scatter(isa, (2, rows, width), 50, 9, begun=begun, dtype=dtype)
        for name, begun in (("first", False), ("further", True))
    }
    library = build(kernels, isa)
    x = np.random.default_rng(width).standard_normal((2, 700, width)).astype(dtype)
    for name in kernels:
        y = (np.arange(2 * 700 * 50) % 999).reshape(2, 700, 50).astype(dtype)
        want = y.copy()
        want[:, :, 9 : 9 + width] = x
        (found,) = run(library, name, [x], [y])
        np.testing.assert_array_equal(found, want)
