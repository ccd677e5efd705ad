"""Products of two activations of 8 bits against integers in numpy."""

from __future__ import annotations

import numpy as np
import pytest

from burnish.artifact import cpu_features
from burnish.backends.cpu.attention_int8 import Bytes
from burnish.backends.cpu.isa import AVX2, AVX512, AVX512_VNNI, Isa
from burnish.backends.cpu.quantized_batch import QuantizedBatchSpec, quantized_batch_matmul
from tests.support.cpu_kernels import build, run

ISAS = pytest.mark.parametrize("isa", [AVX512_VNNI, AVX512, AVX2], ids=lambda i: i.name)
#: Batch, M, K, N, and how a and b are stored.
CASES = {
    "words": ((2, 13, 32, 40), ("uint8", 9), ("uint8", 200)),
    "signed": ((1, 5, 8, 16), ("int8", -7), ("int8", 3)),
    "symmetric": ((3, 4, 12, 7), ("int8", 0), ("int8", 0)),
    "odd-depth": ((2, 9, 7, 33), ("uint8", 128), ("int8", 0)),
    "odd-depth-signed": ((2, 3, 13, 20), ("int8", -100), ("uint8", 17)),
    "one": ((1, 1, 1, 1), ("uint8", 1), ("uint8", 3)),
    "deep": ((1, 3, 530, 18), ("uint8", 255), ("uint8", 0)),
}


def codes(rng: np.random.Generator, dtype: str, *shape: int) -> np.ndarray:
    """Codes of the whole range; the first ones are the largest."""
    ends = np.iinfo(dtype)
    made = rng.integers(ends.min, ends.max + 1, shape).astype(dtype)
    made.reshape(-1)[:4] = ends.max
    return made


@ISAS
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("stored", [None, "uint8", "int8"])
def test_against_exact_sums(isa: Isa, name: str, stored: str | None) -> None:
    if not set(isa.features) <= cpu_features():
        pytest.skip(f"this CPU has no {isa.name}")
    (batch, m, k, n), (a_type, a_zero), (b_type, b_zero) = CASES[name]
    rng = np.random.default_rng(m * n)
    a, b = codes(rng, a_type, batch, m, k), codes(rng, b_type, batch, k, n)
    a_real, b_real = a.astype(np.int64) - a_zero, b.astype(np.int64) - b_zero
    want = (a_real @ b_real).astype(np.float64) * 0.03 * 0.2
    scale = float(np.float32(np.abs(want).max() / 100))
    y = None if stored is None else Bytes(stored, scale, 120 if stored == "uint8" else -3)
    spec = QuantizedBatchSpec(
        batch, m, k, n, Bytes(a_type, 0.03, a_zero), Bytes(b_type, 0.2, b_zero), y
    )
    library = build({"k": quantized_batch_matmul(isa, spec)}, isa)
    (found,) = run(library, "k", [a, b], [np.full(want.shape, 77, stored or "float32")])
    if y is None:
        np.testing.assert_allclose(found, want, rtol=1e-6, atol=1e-6)
        return
    ends = np.iinfo(y.dtype)
    wanted = np.clip(np.rint(want / y.scale) + y.zero, ends.min, ends.max)
    difference = np.abs(found.astype(np.int64) - wanted)
    # A number in the middle of two codes may go to either.
    assert difference.max() <= 1
    assert difference.mean() < 0.02
