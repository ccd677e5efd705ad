"""Builds for AVX2 alone: their tiles, and that their products are near the core's limit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from burnish.artifact import cpu_features
from burnish.backends.cpu.isa import AVX2
from tests.bench.avx2 import SPECS

#: A quiet machine reaches the limit. This one may be busy: the best of a few runs counts.
LEAST = 0.7
_RUNS = 5


@pytest.mark.parametrize("name", SPECS)
def test_tiles_fill_sixteen_registers(name: str) -> None:
    for columns in SPECS[name].columns(AVX2):
        tile = columns.tile
        assert tile.rows * tile.vectors + tile.vectors + 1 <= AVX2.registers
        # A multiply-add takes four cycles and two start in each: eight have to be in flight.
        assert tile.rows * tile.vectors >= 8


@pytest.mark.slow
@pytest.mark.skipif(bool(set(AVX2.features) - cpu_features()), reason="this CPU lacks AVX2")
@pytest.mark.parametrize("name", SPECS)
def test_share_of_the_limit(name: str) -> None:
    root = Path(__file__).parents[2]
    script = (
        "import json, sys\nfrom tests.bench.avx2 import shares\n"
        "print(json.dumps(shares([sys.argv[1]], 0.2)[0].value))"
    )
    seen = []
    for _ in range(_RUNS):
        done = subprocess.run(
            [sys.executable, "-c", script, name],
            env={**os.environ, "TVM_NUM_THREADS": "1"},
            cwd=root, capture_output=True, text=True, check=True,
        )  # fmt: skip
        seen.append(json.loads(done.stdout))
        if seen[-1] >= LEAST:
            return
    pytest.fail(f"at most {max(seen):.0%} of the limit")
