"""Activations that are as exact as 8 bits need, and short enough for every register of a tile.

With ``h`` odd and ``h(x) = 1/2`` from some ``c`` on, ``x * (1/2 + h(x))`` is approximated by
``x' * (1/2 + v * p(v**2))``, ``x'`` being ``x`` but at least ``-c``, and ``v`` being ``x'`` but at
most ``c``. The polynomials are minimax with ``c * p(c**2) = 1/2``, by linear programming on
Chebyshev nodes. The error is a hundredth of the distance of neighbouring codes, or 1e-5 of the
result where that is large.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import tirx

from burnish.backends.cpu.tir import Expr, constant, lanes_of, let
from burnish.backends.cpu.vmath import LONG
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


def near_last(postops: Sequence[PostOp], step: float) -> Callable[[Expr, float], Expr] | None:
    """What may stand for the last post-op; None if it has to be exact, or another one is long.

    Args:
        postops: What is applied.
        step: Distance of neighbouring codes of the result.
    """
    if not postops or any(p.op in LONG for p in postops[:-1]):
        return None
    rows = NEAR.get(postops[-1].op, ())
    return next((row for row in rows if step >= _EXACTNESS * row.error), None)
