"""Activations that are as exact as 8 bits need, and short enough for every register of a tile.

With ``h`` odd and ``h(x) = 1/2`` from some ``c`` on, ``x * (1/2 + h(x))`` is approximated by
``x' * (1/2 + v * p(v**2))``, ``x'`` being ``x`` but at least ``-c``, and ``v`` being ``x'`` but at
most ``c``. The polynomials are minimax with ``c * p(c**2) = 1/2``, by linear programming on
Chebyshev nodes. Where registers hold tables it is ``max(x, 0) - r(|x|)``, with ``r`` as quadratic
pieces, which takes half the operations. The error is a hundredth of the distance of neighbouring
codes, or 1e-5 of the result where that is large.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from tvm import tirx

from burnish.backends.cpu.look_up import entries, look_up
from burnish.backends.cpu.tir import Expr, constant, lanes_of, let, with_lanes
from burnish.backends.cpu.vmath import LONG, ROUND
from burnish.ir.postops import PostOp

#: Errors in a distance of neighbouring codes.
_EXACTNESS = 100


@dataclass(frozen=True)
class Gated:
    """An approximation of ``x * (1/2 + h(x))``.

    Attributes:
        error: Bound of its absolute error.
        end: Where ``h`` is taken for 1/2.
        coefficients: Of the polynomial, highest power first.
    """

    error: float
    end: float
    coefficients: tuple[float, ...]

    def __call__(self, x: Expr, step: float) -> Expr:
        """The result in units of ``step``."""
        lanes = lanes_of(x)
        # With the constants first, NaN stays.
        x = let(tirx.Max(constant(-self.end, lanes), let(x)))
        v = let(tirx.Min(constant(self.end, lanes), x))
        t = let(v * v)
        p = constant(self.coefficients[0] / step, lanes)
        for c in self.coefficients[1:]:
            p = p * t + constant(c / step, lanes)
        return let(x * (v * p + constant(0.5 / step, lanes)))


@dataclass(frozen=True)
class Pieces:
    """An approximation of ``x * (1/2 + h(x))`` for vectors of 16 lanes.

    Attributes:
        error: Bound of its absolute error.
        end: Where the last piece ends, beyond which ``r`` is taken for what it is there.
        half: ``h``.
    """

    error: float
    end: float
    half: Callable[[float], float]

    def __call__(self, x: Expr, step: float) -> Expr:
        """The result in units of ``step``."""
        lanes = lanes_of(x)
        x = let(x)
        distance = let(tirx.Min(constant(self.end, lanes), tirx.abs(x)))
        wide = self.end / (lanes - 1)
        place = let(distance * constant(1.0 / wide, lanes) + constant(ROUND, lanes))
        index = let(tirx.reinterpret(with_lanes("int32", lanes), place))
        square, slope, offset = (look_up(row / step, index) for row in self.table(lanes))
        r = let((square * distance + slope) * distance + offset)
        # With the constant first, NaN stays.
        return let(tirx.Max(constant(0.0, lanes), x) * constant(1.0 / step, lanes) - r)

    @cache  # noqa: B019
    def table(self, count: int) -> npt.NDArray[np.float64]:
        """Coefficients of ``r(a) = a * (1/2 - h(a))``, highest power first: [3, pieces].

        Each piece meets ``r`` at the Chebyshev nodes around a multiple of its width.
        """
        wide = self.end / (count - 1)
        nodes = wide / 2 * np.cos(np.pi * np.array([1, 3, 5]) / 6)
        rows = []
        for middle in wide * np.arange(count):
            at = middle + nodes
            rows.append(np.polyfit(at, [a * (0.5 - self.half(a)) for a in at], 2))
        table: npt.NDArray[np.float64] = np.array(rows).T
        return table


#: By post-op, the coarsest first: ``h`` is ``erf(x / sqrt(2)) / 2`` for Gelu, and
#: ``tanh(sqrt(2 / pi) * (x + 0.044715 * x**3)) / 2`` for GeluTanh.
NEAR: dict[str, tuple[Gated, ...]] = {
    "Gelu": (
        Gated(
            1.7e-4,
            3.95,
            (
                *(2.44360675e-08, -1.68116824e-06, 4.95522725e-05, -8.29042766e-04),
                *(8.84293523e-03, -6.47227875e-02, 3.97986720e-01),
            ),
        ),
        Gated(
            4.2e-5,
            4.4,
            (
                *(3.56947457e-11, -3.75408969e-09, 1.74086243e-07, -4.72489828e-06),
                *(8.42933607e-05, -1.05499478e-03, 9.64303626e-03, -6.60764444e-02),
                3.98761618e-01,
            ),
        ),
    ),
    "GeluTanh": (
        Gated(
            1.5e-4,
            3.85,
            (
                *(2.99436300e-08, -1.95594316e-06, 5.48836736e-05, -8.79124120e-04),
                *(9.06915488e-03, -6.51153745e-02, 3.98063131e-01),
            ),
        ),
        Gated(
            4.0e-5,
            4.3,
            (
                *(4.89903692e-11, -4.89154687e-09, 2.15051074e-07, -5.52984837e-06),
                *(9.36058702e-05, -1.11818164e-03, 9.87266553e-03, -6.64057675e-02),
                3.98764392e-01,
            ),
        ),
    ),
}


#: By post-op.
PIECES = {
    "Gelu": Pieces(9e-5, 4.1, lambda a: math.erf(a / math.sqrt(2)) / 2),
    "GeluTanh": Pieces(
        9e-5, 4.1, lambda a: math.tanh(math.sqrt(2 / math.pi) * (a + 0.044715 * a**3)) / 2
    ),
}


@dataclass(frozen=True)
class Near:
    """What stands for a post-op.

    Attributes:
        polynomial: For any vectors.
        pieces: For those that have it; None if it is not exact enough.
    """

    polynomial: Gated
    pieces: Pieces | None

    def __call__(self, x: Expr, step: float) -> Expr:
        """The result in units of ``step``."""
        if self.pieces is not None and entries(lanes_of(x)):
            return self.pieces(x, step)
        return self.polynomial(x, step)


def near_last(postops: Sequence[PostOp], step: float) -> Near | None:
    """What may stand for the last post-op; None if it has to be exact, or another one is long.

    Args:
        postops: What is applied.
        step: Distance of neighbouring codes of the result.
    """
    if not postops or any(p.op in LONG for p in postops[:-1]):
        return None
    op = postops[-1].op
    rows = (row for row in NEAR.get(op, ()) if step >= _EXACTNESS * row.error)
    polynomial = next(rows, None)
    if polynomial is None:
        return None
    pieces = PIECES[op]
    return Near(polynomial, pieces if step >= _EXACTNESS * pieces.error else None)
