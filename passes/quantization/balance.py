"""How far weights in blocks take over the channels of what they multiply (AWQ).

Where an activation's channel is large, its row of weights counts for more. Multiplied by ``s``
before it is rounded, while the activation is divided by it, a row loses less, and the other rows of
its block more. ``s = rms(x)^alpha``, with the ``alpha`` whose expected error is least (J. Lin et
al., *AWQ: Activation-aware Weight Quantization*, 2023, eq. 4 and 5; there, the mean magnitude takes
the place of the root mean square).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
#: Weights [K, N] to what is left of them in 8 or 4 bits.
Rounding = Callable[[NDArray[np.float32]], NDArray[np.float32]]

_ALPHAS = tuple(step / 10 for step in range(1, 11))
#: Columns of a matrix that errors are estimated from.
_COLUMNS = 256
#: Factors stay within this of their mean.
_SPREAD = 64.0


def best_balance(
    squares: Array, weights: Sequence[NDArray[np.float32]], rounding: Rounding
) -> Array | None:
    """The factors of the least expected error.

    Args:
        squares: [K] mean square of each channel of the activation.
        weights: [K, N] of every product that reads it.
        rounding: What is done to them.

    Returns:
        [K] to divide the activation by and to multiply the weights' rows with; None if none lose
        less than without factors.
    """
    if not np.isfinite(squares).all() or not (squares > 0).any():
        return None
    samples = [w[:, :: max(1, w.shape[1] // _COLUMNS)] for w in weights]
    least, best = _error(squares, samples, rounding, np.ones_like(squares)), None
    for alpha in _ALPHAS:
        factor = _factors(squares, alpha)
        error = _error(squares, samples, rounding, factor)
        if error < least:
            least, best = error, factor
    return best


def _factors(squares: Array, alpha: float) -> Array:
    """``rms^alpha``, around 1."""
    positive = squares > 0
    logs = np.where(positive, 0.5 * alpha * np.log(np.where(positive, squares, 1.0)), 0.0)
    logs -= logs[positive].mean()
    limit = np.log(_SPREAD)
    factor: Array = np.exp(np.clip(np.where(positive, logs, 0.0), -limit, limit))
    return factor


def _error(
    squares: Array, weights: Sequence[NDArray[np.float32]], rounding: Rounding, factor: Array
) -> float:
    """Mean square error of the products, as far as channels of the activation are independent."""
    total = 0.0
    for matrix in weights:
        scaled = (matrix * factor[:, None]).astype(np.float32)
        off = (rounding(scaled).astype(np.float64) - scaled) / factor[:, None]
        total += float(squares @ (off**2).sum(axis=1)) / matrix.shape[1]
    return total
