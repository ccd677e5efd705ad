"""Statistics of the channels of a value, whose memory does not grow with the samples."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


class Channels:
    """Range, mean and mean square of each channel.

    Args:
        axis: The channels' axis; negative numbers count from the last one.

    Attributes:
        low: [channels] float64 smallest numbers; empty before the first array.
        high: [channels] float64 largest numbers; empty before the first array.
    """

    def __init__(self, axis: int) -> None:
        self._axis = axis
        self._sums: NDArray[np.float64] = np.zeros(0)
        self._squares: NDArray[np.float64] = np.zeros(0)
        self._count = 0
        self.low: NDArray[np.float64] = np.zeros(0)
        self.high: NDArray[np.float64] = np.zeros(0)

    def add(self, array: NDArray[np.floating[Any]]) -> None:
        """Take an array with the same channels as those before."""
        rows = np.moveaxis(array, self._axis, -1)
        rows = rows.reshape(-1, rows.shape[-1])
        if not self._count:
            channels = rows.shape[1]
            self._sums, self._squares = np.zeros(channels), np.zeros(channels)
            self.low, self.high = np.full(channels, np.inf), np.full(channels, -np.inf)
        self._sums += rows.sum(axis=0, dtype=np.float64)
        self._squares += np.einsum("rc,rc->c", rows, rows, dtype=np.float64)
        np.minimum(self.low, rows.min(axis=0, initial=np.inf), out=self.low)
        np.maximum(self.high, rows.max(axis=0, initial=-np.inf), out=self.high)
        self._count += rows.shape[0]

    @property
    def largest(self) -> NDArray[np.float64]:
        """[channels] largest magnitudes."""
        return np.maximum(-self.low, self.high)

    @property
    def mean(self) -> NDArray[np.float64]:
        """[channels] means."""
        return self._sums / max(self._count, 1)

    @property
    def square(self) -> NDArray[np.float64]:
        """[channels] mean squares."""
        return self._squares / max(self._count, 1)


class Moments:
    """Mean products of every two channels of the last axis."""

    def __init__(self) -> None:
        self._sums: NDArray[np.float32] = np.zeros((0, 0), np.float32)
        self._count = 0

    def add(self, array: NDArray[np.floating[Any]]) -> None:
        """Take an array with the same channels as those before."""
        rows = array.reshape(-1, array.shape[-1])
        products = rows.T @ rows
        if self._count:
            self._sums += products
        else:
            self._sums = products
        self._count += rows.shape[0]

    @property
    def mean(self) -> NDArray[np.float32]:
        """[channels, channels] mean products."""
        means: NDArray[np.float32] = self._sums / np.float32(max(self._count, 1))
        return means
