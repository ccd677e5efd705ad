"""Where the centre of a few noisy numbers lies: the Hodges-Lehmann estimate and its bounds.

Nothing is assumed about the noise but that it is symmetric: no normal distribution, no variance.
One slow outlier moves the estimate hardly and the bounds a little, where it would ruin a mean.

References: F. Wilcoxon, "Individual comparisons by ranking methods", 1945; J. L. Hodges and E. L.
Lehmann, "Estimates of location based on rank tests", Annals of Mathematical Statistics 34, 1963.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]


def walsh_averages(values: Sequence[float] | Float) -> Float:
    """Means of all pairs of values, each value with itself included, in ascending order.

    Args:
        values: n numbers.

    Returns:
        float64 array of n (n + 1) / 2 numbers.
    """
    numbers = np.asarray(values, np.float64)
    first, second = np.triu_indices(numbers.size)
    return np.sort((numbers[first] + numbers[second]) / 2)


def centre(averages: Float) -> float:
    """The Hodges-Lehmann estimate of the centre, from :func:`walsh_averages`."""
    return float(np.median(averages))


def bounds(averages: Float, count: int, alpha: float) -> tuple[float, float]:
    """Confidence bounds of the centre, from :func:`walsh_averages`.

    Args:
        averages: The averages.
        count: Number n of values that they come from.
        alpha: Probability, at most, that the centre lies below the lower bound; and the same that
            it lies above the upper bound.

    Returns:
        The bounds; infinite if ``count`` values cannot give so sure an answer (``alpha < 2**-n``).
    """
    rank = critical_rank(count, alpha)
    if rank < 0:
        return -math.inf, math.inf
    return float(averages[rank]), float(averages[averages.size - 1 - rank])


@functools.lru_cache(maxsize=256)
def critical_rank(count: int, alpha: float) -> int:
    """The largest rank sum that is reached or undercut with a probability of at most ``alpha``.

    Returns:
        The rank sum of Wilcoxon's signed-rank test, exact; -1 if even 0 is more probable.
    """
    return int(np.searchsorted(_distribution(count), alpha, side="right")) - 1


@functools.lru_cache(maxsize=256)
def _distribution(count: int) -> Float:
    """Probability that the sum of a random subset of 1 ... count is at most the index."""
    chances = np.zeros(count * (count + 1) // 2 + 1)
    chances[0] = 1.0
    for rank in range(1, count + 1):
        chances[rank:] += chances[:-rank].copy()
        chances /= 2
    return np.cumsum(chances)
