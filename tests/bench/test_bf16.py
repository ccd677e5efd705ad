"""The bf16 benchmark's own arithmetic; kernels near the core's limit of bf16 dot products."""

from __future__ import annotations

import pytest

from burnish.artifact import cpu_features
from burnish.backends.cpu.isa import AVX512_BF16
from tests.bench.bf16 import SPECS, Row, kernel_case, table
from tests.support.limit import best_shares

#: A quiet machine reaches 0.95.
LEAST = 0.8


def test_table_names_what_is_beyond_a_limit() -> None:
    good = Row("bert", (1.0, 2.0, 2.0), 2.0, 2.0, 0.9999)
    slow = Row("vit", (1.0, 1.5, 0.9), 0.9, 1.5, 0.9999)
    text = table([good, slow], 1)
    assert "| bert | 1.000 | 2.000 | 2.000 | 2.00 | 2.00 | 0.99990 |" in text
    assert "**1.34**" in text
    assert text.endswith("vit 0.90x (limit 1.0x), vit 1.50x of fp32 (limit 1.85x).")
    assert table([good], 1).endswith("nothing.")
    assert "geometric mean 1.10x" in table([Row("lstm", (1.0, 1.0, 1.1), 1.1, 1.0, 1.0)], 1)


def test_operations_are_counted_as_multiply_adds() -> None:
    assert kernel_case("gemm 128x768x768").operations == 2 * 128 * 768 * 768
    assert kernel_case("attention 12x128x64").operations == 2 * 2 * 128 * 128 * 768


@pytest.mark.timing
@pytest.mark.slow
@pytest.mark.skipif(bool(set(AVX512_BF16.features) - cpu_features()), reason="needs AVX512-BF16")
def test_products_are_near_the_limit() -> None:
    found = best_shares("tests.bench.bf16", list(SPECS), LEAST)
    assert min(found.values()) >= LEAST, found
