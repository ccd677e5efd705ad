"""Builds for AVX2 alone: their tiles, and that their products are near the core's limit."""

from __future__ import annotations

import pytest

from burnish.artifact import cpu_features
from burnish.backends.cpu.isa import AVX2
from tests.bench.avx2 import SPECS
from tests.support.limit import best_shares

#: A quiet machine reaches the limit.
LEAST = 0.7


@pytest.mark.parametrize("name", SPECS)
def test_tiles_fill_sixteen_registers(name: str) -> None:
    for columns in SPECS[name].columns(AVX2):
        tile = columns.tile
        assert tile.rows * tile.vectors + tile.vectors + 1 <= AVX2.registers
        # A multiply-add takes four cycles and two start in each: eight have to be in flight.
        assert tile.rows * tile.vectors >= 8


@pytest.mark.timing
@pytest.mark.slow
@pytest.mark.skipif(bool(set(AVX2.features) - cpu_features()), reason="this CPU lacks AVX2")
def test_products_are_near_the_limit() -> None:
    found = best_shares("tests.bench.avx2", list(SPECS), LEAST)
    assert min(found.values()) >= LEAST, found
