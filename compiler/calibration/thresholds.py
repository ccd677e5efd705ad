"""From a histogram to the range that 8 bits represent.

``minmax`` takes all that was seen. ``percentile`` leaves out a share of the numbers at each end.
``entropy`` takes the range whose quantized distribution is nearest to the real one by
Kullback-Leibler divergence (S. Migacz, *8-bit inference with TensorRT*, GTC 2017). ``mse`` takes
the range of the least expected squared error, of rounding and of clipping together (as in R. Banner
et al., *Post training 4-bit quantization of convolutional networks*, 2019, on the measured
distribution instead of an assumed one).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from burnish.calibration.histogram import Histogram
from burnish.errors import UsageError

#: Share of the numbers within the range, in percent.
PERCENTILE = 99.99
_LEVELS = 256
#: Ranges that entropy and mse try.
_STEPS = 128
#: Less than this share of the whole range is not tried.
_LEAST = 0.05

Counts = NDArray[np.float64]


@dataclass(frozen=True)
class Range:
    """What 8 bits represent: ``low <= 0 <= high``.

    Attributes:
        low: Smallest number.
        high: Largest number.
    """

    low: float
    high: float


def threshold(
    histogram: Histogram, method: str = "minmax", *, percentile: float = PERCENTILE
) -> Range:
    """The range of a tensor.

    Args:
        histogram: What was measured.
        method: A key of :data:`METHODS`.
        percentile: Share of the numbers within the range in percent, for ``percentile``.

    Returns:
        A range that contains zero; (0, 0) if nothing but zeros was seen.

    Raises:
        UsageError: There is no such method, or the percentile lies outside of (50, 100].
    """
    if method not in METHODS:
        raise UsageError(
            f"unknown calibration method {method!r}", hint=f"one of: {', '.join(METHODS)}"
        )
    if not 50 < percentile <= 100:
        raise UsageError(f"the percentile must lie in (50, 100], not {percentile}")
    if histogram.total == 0:
        return Range(0.0, 0.0)
    found = METHODS[method](histogram, percentile)
    return Range(min(found.low, 0.0), max(found.high, 0.0))


def _minmax(histogram: Histogram, percentile: float) -> Range:
    return Range(histogram.low, histogram.high)


def _percentile(histogram: Histogram, percentile: float) -> Range:
    """Half of what is left out lies at each end, all of it where all numbers have one sign."""
    signs = (histogram.low < 0) + (histogram.high > 0)
    left_out = histogram.total * (1 - percentile / 100) / max(signs, 1)
    below = np.cumsum(histogram.counts)
    edges = histogram.edges
    low, high = histogram.low, histogram.high
    if low < 0:
        low = max(low, float(edges[int(np.searchsorted(below, left_out, side="right"))]))
    if high > 0:
        first = int(np.searchsorted(below, histogram.total - left_out, side="left"))
        high = min(high, float(edges[first + 1]))
    return Range(low, high)


def _entropy(histogram: Histogram, percentile: float) -> Range:
    return _best(histogram, _divergence)


def _mse(histogram: Histogram, percentile: float) -> Range:
    return _best(histogram, _squared_error)


#: Ways to choose a range, by name.
METHODS: dict[str, Callable[[Histogram, float], Range]] = {
    "minmax": _minmax,
    "percentile": _percentile,
    "entropy": _entropy,
    "mse": _mse,
}


def _best(histogram: Histogram, loss: Callable[[Histogram, Range], float]) -> Range:
    """The range with the least loss among those that cut both ends at the same magnitude."""
    low, high = min(histogram.low, 0.0), max(histogram.high, 0.0)
    largest = max(-low, high)
    if largest == 0.0:
        return Range(0.0, 0.0)
    # From the whole range down: of equal losses the widest range is taken.
    cuts = largest * np.linspace(1.0, _LEAST, _STEPS)
    ranges = [Range(max(low, -float(c)), min(high, float(c))) for c in cuts]
    losses = [loss(histogram, r) for r in ranges]
    return ranges[int(np.argmin(losses))]


def _levels(histogram: Histogram, r: Range) -> tuple[NDArray[np.int64], float]:
    """The level that each bin's center is rounded to, and the distance of levels."""
    step = (r.high - r.low) / (_LEVELS - 1)
    level = np.rint((histogram.centers - r.low) / step)
    return np.clip(level, 0, _LEVELS - 1).astype(np.int64), step


def _squared_error(histogram: Histogram, r: Range) -> float:
    """Expected squared error of quantizing with a range."""
    level, step = _levels(histogram, r)
    error = histogram.centers - (r.low + level * step)
    # Within a bin the numbers are spread: a constant that is the same for all ranges.
    return float(np.sum(histogram.counts * error**2))


def _divergence(histogram: Histogram, r: Range) -> float:
    """KL divergence of the quantized from the clipped distribution, in nats."""
    inside = (histogram.edges[1:] > r.low) & (histogram.edges[:-1] < r.high)
    places = np.flatnonzero(inside)
    first, last = int(places[0]), int(places[-1]) + 1
    counts = histogram.counts.astype(np.float64)
    clipped = counts[first:last].copy()
    clipped[0] += counts[:first].sum()
    clipped[-1] += counts[last:].sum()
    level = _levels(histogram, r)[0][first:last]
    filled = counts[first:last] > 0
    # Each level spreads what it holds over those of its bins that are not empty.
    held = np.bincount(level, counts[first:last], _LEVELS)
    bins = np.bincount(level, filled, _LEVELS)
    spread = np.where(filled, held[level] / np.maximum(bins[level], 1), 0.0)
    return _kl(_smooth(clipped), _smooth(spread))


def _smooth(counts: Counts) -> Counts:
    """A distribution without zeros: each empty bin takes a little from the others."""
    empty = counts == 0
    small = 1e-4
    if empty.all() or not empty.any():
        filled = np.where(empty, small, counts)
    else:
        taken = small * empty.sum() / (~empty).sum()
        filled = np.where(empty, small, np.maximum(counts - taken, small))
    total: Counts = filled / filled.sum()
    return total


def _kl(p: Counts, q: Counts) -> float:
    return float(np.sum(p * np.log(p / q)))
