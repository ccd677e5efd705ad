"""Activations that are as exact as 8 bits need, and short enough for every register of a tile.

With ``h`` odd and ``h(x) = 1/2`` from some ``c`` on, ``x * (1/2 + h(x))`` is approximated by
``x * (1/2 + v * p(v**2))``, ``v`` being ``x`` within ``[-c, c]``. The polynomials are minimax with
``c * p(c**2) = 1/2``, by linear programming on Chebyshev nodes; their error is below
:data:`ERROR`, and below 3e-6 of the result where that is large.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from tvm import tirx

from burnish.backends.cpu.tir import Expr, constant, lanes_of, let
from burnish.backends.cpu.vmath import LONG
from burnish.ir.postops import PostOp

#: Bound of the absolute error.
ERROR = 4.2e-5
#: Least distance of neighbouring codes: the error is a hundredth of it.
LEAST_STEP = 100 * ERROR


def _gated(x: Expr, end: float, coefficients: Sequence[float]) -> Expr:
    lanes = lanes_of(x)
    # The result is 0 below, however small x is. With the constants first, NaN stays.
    x = let(tirx.Max(constant(-end, lanes), let(x)))
    v = let(tirx.Min(constant(end, lanes), x))
    t = let(v * v)
    p = constant(coefficients[0], lanes)
    for c in coefficients[1:]:
        p = p * t + constant(c, lanes)
    return let(x * (v * p + constant(0.5, lanes)))


#: By the post-op that each stands for: ``h`` is ``erf(x / sqrt(2)) / 2`` for Gelu, and
#: ``tanh(sqrt(2 / pi) * (x + 0.044715 * x**3)) / 2`` for GeluTanh.
NEAR: dict[str, Callable[[Expr], Expr]] = {
    "Gelu": partial(
        _gated,
        end=4.4,
        coefficients=(
            *(3.56947457e-11, -3.75408969e-09, 1.74086243e-07, -4.72489828e-06, 8.42933607e-05),
            *(-1.05499478e-03, 9.64303626e-03, -6.60764444e-02, 3.98761618e-01),
        ),
    ),
    "GeluTanh": partial(
        _gated,
        end=4.3,
        coefficients=(
            *(4.89903692e-11, -4.89154687e-09, 2.15051074e-07, -5.52984837e-06, 9.36058702e-05),
            *(-1.11818164e-03, 9.87266553e-03, -6.64057675e-02, 3.98764392e-01),
        ),
    ),
}


def ends_near(postops: Sequence[PostOp], step: float) -> bool:
    """Whether the last post-op may be one of :data:`NEAR`, and no other is a long one.

    Args:
        postops: What is applied.
        step: Distance of neighbouring codes of the result.
    """
    if not postops or postops[-1].op not in NEAR or step < LEAST_STEP:
        return False
    return not any(p.op in LONG for p in postops[:-1])
