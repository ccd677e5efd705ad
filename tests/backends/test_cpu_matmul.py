"""Batched products of run-time operands, against float64."""

from __future__ import annotations

import numpy as np
import pytest
from tvm import tirx

from burnish.backends.cpu.epilogue import pack_channel
from burnish.backends.cpu.isa import AVX2, AVX512, Isa
from burnish.backends.cpu.matmul import MatmulSpec, matmul
from burnish.errors import CompileError
from burnish.ir.postops import parse_postops
from tests.support import reference
from tests.support.cpu_kernels import build, dirty, run

both = pytest.mark.parametrize("isa", [AVX512, AVX2], ids=lambda i: i.name)
Dims = tuple[int, ...]


def operands(a_batch: Dims, b_batch: Dims, m: int, k: int, n: int, transpose: bool) -> list:
    rng = np.random.default_rng(m + 3 * k + 5 * n)
    a = rng.standard_normal((*a_batch, m, k)).astype("f4")
    b = rng.standard_normal((*b_batch, *((n, k) if transpose else (k, n)))).astype("f4")
    return [a, b / np.float32(k**0.5)]


def product(a: np.ndarray, b: np.ndarray, transpose: bool, scale: float) -> np.ndarray:
    b = b.astype("f8")
    return scale * (a.astype("f8") @ (np.swapaxes(b, -1, -2) if transpose else b))


@both
@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize(
    ("a_batch", "b_batch"),
    [((), ()), ((2, 3), (2, 3)), ((2, 3), (1, 3)), ((3,), (2, 1)), ((1, 4), (2, 1)), ((2,), ())],
)
def test_broadcast_batches(isa: Isa, a_batch: Dims, b_batch: Dims, transpose: bool) -> None:
    m, k, n = 9, 21, 37
    spec = MatmulSpec(a_batch, b_batch, m, k, n, transpose, 0.125)
    args = operands(a_batch, b_batch, m, k, n, transpose)
    want = product(*args, transpose, 0.125)
    assert spec.batch == want.shape[:-2]
    (y,) = run(build({"k": matmul(isa, spec)}, isa), "k", args, [dirty(want.shape)])
    np.testing.assert_allclose(y, want, rtol=2e-5, atol=2e-5)


@both
@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize(
    ("m", "k", "n"),
    [(1, 64, 50), (1, 3, 1), (2, 33, 16), (3, 16, 70), (4, 7, 5), (130, 64, 64), (17, 1, 33),
     (64, 48, 48), (7, 40, 200)],
)  # fmt: skip
def test_static_sizes(isa: Isa, m: int, k: int, n: int, transpose: bool) -> None:
    args = operands((2,), (2,), m, k, n, transpose)
    spec = MatmulSpec((2,), (2,), m, k, n, transpose)
    want = product(*args, transpose, 1.0)
    (y,) = run(build({"k": matmul(isa, spec)}, isa), "k", args, [dirty(want.shape)])
    np.testing.assert_allclose(y, want, rtol=2e-5, atol=2e-5)


@both
@pytest.mark.parametrize("transpose", [False, True])
def test_symbolic_sizes(isa: Isa, transpose: bool) -> None:
    b, m, k, n = (tirx.Var(v, "int64") for v in "bmkn")
    kernel = matmul(isa, MatmulSpec((b, 2), (1, 2), m, k, n, transpose, 0.5))
    assert kernel.scalars == ()
    library = build({"k": kernel}, isa)
    for size in [
        (1, 1, 1, 1), (2, 1, 64, 100), (3, 3, 17, 31), (1, 4, 5, 16), (2, 12, 16, 33),
        (1, 130, 64, 64), (2, 9, 40, 65), (1, 8, 32, 32),
    ]:  # fmt: skip
        args = operands((size[0], 2), (1, 2), *size[1:], transpose)
        want = product(*args, transpose, 0.5)
        (y,) = run(library, "k", args, [dirty(want.shape)])
        np.testing.assert_allclose(y, want, rtol=2e-5, atol=2e-5, err_msg=str(size))


@both
@pytest.mark.parametrize("m", [2, 20])
def test_postops(isa: Isa, m: int) -> None:
    steps = parse_postops(["Add:channel", "Gelu", "Add:full"])
    args = operands((3,), (1,), m, 12, 45, False)
    rng = np.random.default_rng(1)
    bias = rng.standard_normal(45).astype("f4")
    residual = rng.standard_normal((3, m, 45)).astype("f4")
    want = reference.postops(product(*args, False, 2.0), steps, [bias, residual])
    kernel = matmul(isa, MatmulSpec((3,), (1,), m, 12, 45, False, 2.0, steps))
    args += [pack_channel(bias, isa), residual]
    (y,) = run(build({"k": kernel}, isa), "k", args, [dirty(want.shape)])
    np.testing.assert_allclose(y, want, rtol=2e-5, atol=2e-5)


def test_postops_need_static_columns() -> None:
    n = tirx.Var("n", "int64")
    with pytest.raises(CompileError, match="symbolic"):
        matmul(AVX512, MatmulSpec((), (), 4, 4, n, postops=parse_postops(["Relu"])))
