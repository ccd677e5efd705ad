"""Which part of an activation's outliers weights had better take over, from expected errors.

With a step ``d`` the error of rounding is spread evenly over ``[-d/2, d/2]``, with variance
``d^2 / 12``. For ``y = (x / s) (s w)``, with one step for the activation and one for each output
channel of the weights, both errors of ``y`` follow from the range and the mean square of each
channel of ``x`` alone, so that factors ``s`` can be compared without running anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

#: Factors below it come from channels that are nearly zero on all samples.
_LEAST = 1e-5
#: Shares of the outliers (SmoothQuant's alpha) that are tried.
_ALPHAS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
#: Channels are cut to the largest one divided by these.
_CUTS = tuple(2.0 ** (k / 2) for k in range(1, 11))


@dataclass(frozen=True)
class Spread:
    """The numbers of each channel of an activation on calibration data.

    Attributes:
        low: [channels] smallest numbers.
        high: [channels] largest numbers.
        square: [channels] mean squares.
    """

    low: Array
    high: Array
    square: Array

    @property
    def largest(self) -> Array:
        """[channels] largest magnitudes."""
        return np.maximum(-self.low, self.high)


def smoothing_factors(largest: Array, rows: Array, alpha: float) -> Array:
    """``max|x_j|^alpha / max|w_j|^(1 - alpha)`` (G. Xiao et al., *SmoothQuant*, 2022, eq. 4).

    Args:
        largest: [channels] magnitudes of the activation.
        rows: [channels] largest magnitudes of the weights that multiply each channel.
        alpha: Share of the outliers that the weights take, in [0, 1].

    Returns:
        [channels] to divide the activation by; 1 for channels of zeros.
    """
    usable = (largest > 0) & (rows > 0)
    x, w = np.where(usable, largest, 1.0), np.where(usable, rows, 1.0)
    return np.where(usable, np.maximum(x**alpha / w ** (1 - alpha), _LEAST), 1.0)


def best_factors(spread: Spread, weights: Sequence[Array]) -> tuple[Array, float]:
    """The factors of the least expected error, among SmoothQuant's and cuts of single channels.

    Args:
        spread: The activation.
        weights: [channels, outputs] of every product that reads it.

    Returns:
        [channels] to divide the activation by, and their expected error as a share of that
        without them.
    """
    plain = expected_error(spread, weights, np.ones_like(spread.low))
    candidates = list(_candidates(spread.largest, weights))
    errors = [expected_error(spread, weights, factor) for factor in candidates]
    best = int(np.argmin(errors))
    return candidates[best], errors[best] / plain if plain else 1.0


def expected_error(spread: Spread, weights: Sequence[Array], factor: Array) -> float:
    """Error of 8-bit products relative to their results, root mean square.

    Half of it is the error of all output channels together, half that of each by its own scale:
    where one channel is a hundred times as large as the others, what normalizes their sum needs
    both, the large one and the others.

    Args:
        spread: The activation.
        weights: [channels, outputs] of every product that reads it.
        factor: [channels] that the activation is divided by.

    Returns:
        The root of the mean over the products.
    """
    low, high = float((spread.low / factor).min()), float((spread.high / factor).max())
    step = (max(high, 0.0) - min(low, 0.0)) / 255
    found = []
    for matrix in weights:
        squares = matrix**2
        steps = np.abs(matrix * factor[:, None]).max(axis=0) / 127
        error = step**2 / 12 * (factor**2 @ squares)
        error += steps**2 / 12 * float((spread.square / factor**2).sum())
        result = spread.square @ squares
        there = result > 0
        if there.any():
            each = float((error[there] / result[there]).mean())
            found.append((each + error.sum() / result.sum()) / 2)
    return float(np.sqrt(np.mean(found))) if found else 0.0


def _candidates(largest: Array, weights: Sequence[Array]) -> Iterator[Array]:
    rows = np.max([np.abs(matrix).max(axis=1) for matrix in weights], axis=0)
    yield np.ones_like(largest)
    for alpha in _ALPHAS:
        yield smoothing_factors(largest, rows, alpha)
    for cut in _CUTS:
        bound = largest.max(initial=0.0) / cut
        yield np.maximum(largest / bound, 1.0) if bound else np.ones_like(largest)
