"""Statistics of each channel of a value, whose memory does not grow with the samples."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


class Channels:
    """Mean and largest magnitude of each channel.

    Args:
        axis: The channels' axis; negative numbers count from the last one.

    Attributes:
        largest: [channels] float64 magnitudes; empty before the first array.
    """

    def __init__(self, axis: int) -> None:
        self._axis = axis
        self._sums: NDArray[np.float64] = np.zeros(0)
        self._count = 0
        self.largest: NDArray[np.float64] = np.zeros(0)

    def add(self, array: NDArray[np.floating[Any]]) -> None:
        """Take an array with the same channels as those before."""
        rows = np.moveaxis(array, self._axis, -1)
        rows = rows.reshape(-1, rows.shape[-1])
        if not self._count:
            self._sums, self.largest = np.zeros(rows.shape[1]), np.zeros(rows.shape[1])
        self._sums += rows.sum(axis=0, dtype=np.float64)
        np.maximum(self.largest, np.abs(rows).max(axis=0, initial=0.0), out=self.largest)
        self._count += rows.shape[0]

    @property
    def mean(self) -> NDArray[np.float64]:
        """[channels] means."""
        return self._sums / max(self._count, 1)
