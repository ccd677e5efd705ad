"""Whether the error of F(4x4, 3x3) is covered by the tolerance of a model, for given weights.

The error is measured in the units of :mod:`burnish.check.tolerances`, the root mean square of the
output, by a simulation of the kernel's arithmetic in NumPy against float64:

*normal*
    Standard normal inputs.

*outliers*
    One input of every sampled tile is 1e4 times as large, and the output's scale is that of inputs
    of which 1 in 1e4 is. Then rounding of the outlier reaches all outputs of its tile, also those
    whose window does not have it: unlike a direct convolution or F(2x2, 3x3).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from burnish.backends.cpu.winograd_matrices import (
    TAPS,
    Program,
    apply,
    input_program,
    output_program,
    transform_filters,
)
from burnish.check.tolerances import tolerance

F64Array = npt.NDArray[np.float64]

#: Roundings of different layers are independent: over 100 layers they add up to 10 times one, and
#: 3 more for sampling few outputs and for layers that amplify what they get.
_MARGIN = 32.0
#: An outlier's rounding stays in its tile, where the one of another layer hardly meets it.
_OUTLIER_MARGIN = 4.0
_OUTLIER = 1e4
_DENSITY = 1e-4
_TILES = 12
_CHANNELS = 12


@dataclass(frozen=True)
class WinogradError:
    """Errors of one layer in units of the output's scale.

    Attributes:
        largest: Largest error on normal inputs.
        rms: Root mean square of the error on normal inputs.
        outlier: Largest error on inputs with outliers.
    """

    largest: float
    rms: float
    outlier: float

    @property
    def covered(self) -> bool:
        """Whether the tolerance of a float32 model covers them with a margin for many layers."""
        bound = tolerance("float32", "model")
        return (
            self.largest * _MARGIN <= bound.atol
            and self.rms * _MARGIN <= bound.rms
            and self.outlier * _OUTLIER_MARGIN <= bound.atol
        )

    def __str__(self) -> str:
        return f"error {self.largest:.1e}, rms {self.rms:.1e}, with outliers {self.outlier:.1e}"


def measure_error(w: npt.ArrayLike, m: int) -> WinogradError:
    """The error of F(m x m, 3x3) for constant filters [OC, IC, 3, 3]: some channels, some tiles."""
    filters = np.asarray(w, np.float32)
    oc, ic = filters.shape[:2]
    flat = filters.reshape(oc, -1)
    norms = np.einsum("oi,oi->o", flat, flat).astype(np.float64)
    scale = float(np.sqrt(norms.mean()))
    if not np.isfinite(scale) or scale == 0.0:
        return WinogradError(np.inf, np.inf, np.inf)
    chosen = {*np.argsort(norms)[-_CHANNELS // 2 :], *range(0, oc, max(1, oc * 2 // _CHANNELS))}
    sample = filters[sorted(int(c) for c in chosen)].astype(np.float64)
    rng = np.random.default_rng(7)
    side = m + TAPS - 1
    tiles = rng.standard_normal((side, side, _TILES, ic), dtype=np.float32)
    error = _error(sample, tiles, m) / scale
    places = rng.integers(0, side, (2, _TILES))
    tiles[places[0], places[1], np.arange(_TILES), rng.integers(0, ic, _TILES)] *= _OUTLIER
    spread = scale * float(np.sqrt(1 + _DENSITY * _OUTLIER**2))
    outlier = _error(sample, tiles, m) / spread
    rms = float(np.sqrt(np.square(error).mean()))
    return WinogradError(float(np.abs(error).max()), rms, float(np.abs(outlier).max()))


def _error(filters: F64Array, tiles: npt.NDArray[np.float32], m: int) -> F64Array:
    """Simulation minus float64 on input tiles [m+2, m+2, T, IC]: [m, m, T, OC]."""
    want = np.zeros((m, m, tiles.shape[2], filters.shape[0]))
    exact = tiles.astype(np.float64)
    for y in range(TAPS):
        for x in range(TAPS):
            want += exact[y : y + m, x : x + m] @ filters[:, :, y, x].T
    return _simulate(filters, tiles, m) - want


def _simulate(filters: F64Array, tiles: npt.NDArray[np.float32], m: int) -> F64Array:
    """What the kernel computes, in float32 and in its order of addition."""
    side = m + TAPS - 1
    v = _both_axes(input_program(m), tiles)
    u = transform_filters(filters, m).astype(np.float32)
    v = v.reshape(side * side, *tiles.shape[2:])
    products = np.zeros((side * side, tiles.shape[2], filters.shape[0]), np.float32)
    for k in range(tiles.shape[3]):
        products += v[:, :, k, None] * u[:, None, k]
    shaped = products.reshape(side, side, *products.shape[1:])
    return _both_axes(output_program(m), shaped).astype(np.float64)


def _both_axes(program: Program, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Multiply along the first axis, then along the second, as the kernel does."""
    return np.asarray(apply(program, apply(program, x).swapaxes(0, 1)).swapaxes(0, 1))
