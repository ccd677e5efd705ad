"""Histograms that grow, and the ranges that are chosen from them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from burnish.calibration import METHODS, Histogram, Range, threshold
from burnish.errors import UsageError


def histogram(*arrays: Any) -> Histogram:
    """A histogram of some arrays."""
    made = Histogram()
    for array in arrays:
        made.add(np.asarray(array, np.float32))
    return made


def normal(count: int = 20_000, seed: int = 1) -> Any:
    """Standard normal numbers."""
    return np.random.default_rng(seed).standard_normal(count, dtype=np.float32)


def quantized(x: Any, r: Range) -> Any:
    """Numbers through 8 bits and back."""
    step = (r.high - r.low) / 255
    zero = np.rint(-r.low / step)
    return (np.clip(np.rint(x / step) + zero, 0, 255) - zero) * step


def test_counts_are_those_of_numpy_whatever_the_order() -> None:
    x = np.concatenate([normal() * 0.01, normal(seed=2), normal(100, seed=3) * 50])
    pieces = histogram(*np.array_split(x, 7))
    whole, backwards = histogram(x), histogram(x[::-1])
    expected, _ = np.histogram(x.astype(np.float64), whole.edges)
    assert whole.total == x.size
    assert (whole.low, whole.high) == (x.min(), x.max())
    np.testing.assert_array_equal(whole.counts, backwards.counts)
    # Rounding puts a number near an edge into the next bin at most.
    assert np.abs(np.cumsum(whole.counts) - np.cumsum(expected)).max() <= 3
    assert pieces.reach == whole.reach
    assert np.abs(np.cumsum(pieces.counts) - np.cumsum(expected)).max() <= 8


def test_infinite_numbers_are_counted_apart() -> None:
    found = histogram([1.0, np.inf, -np.inf, np.nan, -2.0], [np.nan])
    assert (found.total, found.infinite, found.low, found.high) == (2, 4, -2.0, 1.0)
    assert histogram([]).total == 0


@pytest.mark.parametrize("method", METHODS)
def test_a_range_contains_zero_and_lies_within_what_was_seen(method: str) -> None:
    for x in (normal(), np.abs(normal()) + 1, -np.abs(normal()) - 1):
        r = threshold(histogram(x), method)
        assert r.low <= 0 <= r.high
        assert r.low >= min(float(x.min()), 0)
        assert r.high <= max(float(x.max()), 0)
        assert r.high - r.low > 1
    assert threshold(histogram(np.zeros(5)), method) == Range(0.0, 0.0)
    assert threshold(Histogram(), method) == Range(0.0, 0.0)


def test_minmax_takes_outliers_and_the_others_do_not() -> None:
    x = np.concatenate([normal(), [400.0]])
    assert threshold(histogram(x), "minmax").high == 400.0
    # A single number of 400 costs more squared error than all others gain by leaving it out.
    assert threshold(histogram(x), "mse").high > 200.0
    for method in ("percentile", "entropy"):
        assert threshold(histogram(x), method).high < 100.0


def test_percentile_leaves_out_its_share() -> None:
    x = normal(100_000)
    r = threshold(histogram(x), "percentile", percentile=99.0)
    outside = np.mean((x < r.low) | (x > r.high))
    assert outside == pytest.approx(0.01, abs=2e-3)
    one_sided = np.abs(x)
    r = threshold(histogram(one_sided), "percentile", percentile=99.0)
    assert r.low == 0.0
    assert np.mean(one_sided > r.high) == pytest.approx(0.01, abs=2e-3)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_mse_loses_least(scale: float) -> None:
    rng = np.random.default_rng(7)
    x = (rng.standard_t(3, 50_000) * scale).astype(np.float32)
    seen = histogram(x)

    def error(r: Range) -> float:
        return float(np.mean((quantized(x, r) - x) ** 2))

    best = error(threshold(seen, "mse"))
    others = [error(threshold(seen, m)) for m in ("minmax", "percentile", "entropy")]
    assert best <= 1.02 * min(others)
    assert best < 0.97 * others[0]


def test_entropy_keeps_a_uniform_distribution_whole() -> None:
    x = np.random.default_rng(2).uniform(-3, 5, 100_000)
    r = threshold(histogram(x), "entropy")
    assert r.low == pytest.approx(-3, abs=0.1)
    assert r.high == pytest.approx(5, abs=0.2)


def test_bad_options() -> None:
    with pytest.raises(UsageError, match="unknown calibration method 'max'"):
        threshold(histogram([1.0]), "max")
    with pytest.raises(UsageError, match=r"must lie in \(50, 100\]"):
        threshold(histogram([1.0]), "percentile", percentile=50.0)
