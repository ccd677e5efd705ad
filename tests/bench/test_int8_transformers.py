"""Products of 8 bits are near the core's limit of integer dot products."""

from __future__ import annotations

import pytest

from burnish.artifact import cpu_features
from burnish.backends.cpu.isa import AVX512_VNNI
from tests.bench.int8_transformers import DYNAMIC, PRODUCTS, product
from tests.support.limit import best_shares

#: A quiet machine reaches 0.95.
LEAST = 0.8
#: Those without a function in their epilogues.
NAMES = [
    *(name for name, shape in PRODUCTS.items() if not shape[3]),
    *(f"{name} dynamic" for name in DYNAMIC),
]


@pytest.mark.parametrize("name", PRODUCTS)
def test_operations_are_counted_as_multiply_adds(name: str) -> None:
    rows, depth, columns, _ = PRODUCTS[name]
    assert product(AVX512_VNNI, name).operations == 2 * rows * depth * columns


@pytest.mark.timing
@pytest.mark.slow
@pytest.mark.skipif(bool(set(AVX512_VNNI.features) - cpu_features()), reason="needs AVX512-VNNI")
def test_products_are_near_the_limit() -> None:
    found = best_shares("tests.bench.int8_transformers", NAMES, LEAST)
    assert min(found.values()) >= LEAST, found
