"""The limits of the machine: arithmetic and memory."""

from __future__ import annotations

import pytest

from burnish.artifact import cpu_features
from burnish.bench.roofline import PRECISIONS, Roofline, measure_roofline
from burnish.errors import UsageError

LIMIT = Roofline(1, {"fp32": 100e9, "int8": 400e9}, 10e9, 50e9, 1_000_000)


def test_measured_rates_are_those_that_the_cpu_has() -> None:
    limit = measure_roofline(1)
    flags = cpu_features()
    assert list(limit.rates) == [name for name in PRECISIONS if name in limit.rates]
    assert ("bf16" in limit.rates) == ("avx512_bf16" in flags)
    assert ("int8" in limit.rates) == ("avx512_vnni" in flags)
    # No CPU of the last ten years makes less than one multiply-add a cycle, and none reads more
    # than a terabyte a second into one core.
    assert 1e9 < limit.rates["fp32"] < 1e13
    assert 1e8 < limit.bandwidth <= limit.cache_bandwidth < 1e13
    assert limit.cache >= 1 << 20
    # Bytes are four to a lane: shared cores make this noisy, not by a factor of four.
    if "int8" in limit.rates:
        assert limit.rates["int8"] > limit.rates["fp32"]


@pytest.mark.parametrize(
    ("flops", "nbytes", "precision", "seconds"),
    [
        (1e9, 0, "fp32", 0.01),
        (1e9, 0, "int8", 0.0025),
        # A precision without an instruction is computed in fp32.
        (1e9, 0, "bf16", 0.01),
        (1e9, 1e9, "fp32", 0.1),
        # What fits into the last cache comes from there.
        (0, 1e6, "fp32", 2e-5),
        (0, 0, "fp32", 0.0),
    ],
)
def test_least_time_is_the_longer_of_the_two(
    flops: float, nbytes: float, precision: str, seconds: float
) -> None:
    assert LIMIT.seconds(flops, nbytes, precision) == pytest.approx(seconds)


def test_plain_data_is_in_billions() -> None:
    assert LIMIT.to_dict() == {
        "threads": 1,
        "gflops": {"fp32": 100.0, "int8": 400.0},
        "bandwidth_gb": 10.0,
        "cache_bandwidth_gb": 50.0,
        "cache_bytes": 1_000_000,
    }


def test_no_threads() -> None:
    with pytest.raises(UsageError, match="at least 1"):
        measure_roofline(0)
