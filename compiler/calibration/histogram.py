"""A histogram of numbers that come in pieces, whose range need not be known beforehand.

The bins lie symmetrically around zero. When a number lies beyond them, the range is doubled as
often as needed and neighbouring bins are merged, so counts stay exact and memory stays the same
however many numbers come.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

#: An even number: zero is an edge.
BINS = 4096
#: Where a histogram begins if all that it has seen is tiny.
_SMALLEST = 2.0**-40


class Histogram:
    """Counts of finite numbers, with their exact minimum and maximum.

    Attributes:
        counts: [BINS] numbers in [-reach, reach), bin by bin; the last bin takes ``reach`` too.
        reach: Half of the range, a power of two.
        low: Smallest finite number, +inf if there is none.
        high: Largest finite number, -inf if there is none.
        total: Finite numbers seen.
        infinite: Infinite numbers and NaN seen.
    """

    def __init__(self) -> None:
        self.counts: NDArray[np.int64] = np.zeros(BINS, np.int64)
        self.reach = _SMALLEST
        self.low, self.high = math.inf, -math.inf
        self.total = self.infinite = 0

    def add(self, values: NDArray[np.floating]) -> None:
        """Count an array of any shape."""
        flat = np.asarray(values).reshape(-1)
        low, high = float(flat.min(initial=math.inf)), float(flat.max(initial=-math.inf))
        # NaN spoils both, an infinity one of them: the common case is one pass.
        if flat.size and not (math.isfinite(low) and math.isfinite(high)):
            finite = flat[np.isfinite(flat)]
            self.infinite += flat.size - finite.size
            flat = finite
            low, high = float(flat.min(initial=math.inf)), float(flat.max(initial=-math.inf))
        if not flat.size:
            return
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._reach_to(max(-low, high))
        # A float32 product rounds numbers near an edge into the neighbouring bin, no further.
        place = (flat * np.float32(BINS / 2 / self.reach)).astype(np.float32, copy=False)
        index = np.clip(np.floor(place).astype(np.int32) + BINS // 2, 0, BINS - 1)
        self.counts += np.bincount(index, minlength=BINS)
        self.total += flat.size

    def _reach_to(self, largest: float) -> None:
        while self.reach < largest:
            self.reach *= 2
            merged = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts = np.zeros(BINS, np.int64)
            self.counts[BINS // 4 : BINS // 4 * 3] = merged

    @property
    def width(self) -> float:
        """Width of a bin."""
        return 2 * self.reach / BINS

    @property
    def edges(self) -> NDArray[np.float64]:
        """[BINS + 1] edges of the bins."""
        return np.linspace(-self.reach, self.reach, BINS + 1)

    @property
    def centers(self) -> NDArray[np.float64]:
        """[BINS] centers of the bins."""
        return self.edges[:-1] + self.width / 2
