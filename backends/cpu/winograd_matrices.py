"""The matrices of Winograd's minimal filtering F(m, 3), and programs that multiply by them.

``y = AT [(G g) * (BT d)]`` are ``m`` outputs of a filter ``g`` of 3 taps on ``d``, ``m + 2`` inputs
(A. Lavin, S. Gray: Fast Algorithms for Convolutional Neural Networks, 2015; the construction is
that of Toom and Cook). The points are 0, infinity and pairs +-p, so that rows come in pairs that
share their even and their odd part. For F(4, 3) they are 0, +-11/16, +-3/2: of the pairs with small
denominators they lose least, a quarter of the largest error of the usual 0, +-1, +-2.

Every coefficient but those of ``g`` is a fraction of a small power of two, exact in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Matrix: TypeAlias = tuple[tuple[Fraction, ...], ...]
#: A linear combination: coefficients and the operands they belong to.
Terms: TypeAlias = tuple[tuple[float, int], ...]

TAPS = 3
_PAIRS = {2: (Fraction(1),), 4: (Fraction(11, 16), Fraction(3, 2))}


@dataclass(frozen=True)
class Matrices:
    """The three matrices of F(m, 3): ``at`` [m, m+2], ``g`` [m+2, 3], ``bt`` [m+2, m+2]."""

    at: Matrix
    g: Matrix
    bt: Matrix


@dataclass(frozen=True)
class Program:
    """Multiplication by a constant matrix with shared partial sums.

    Operand ``i`` is element ``i`` of the vector, operand ``size + k`` is partial sum ``k``.

    Attributes:
        size: Elements of the vector.
        shared: Partial sums, in order; each of operands before it.
        results: Elements of the product.
    """

    size: int
    shared: tuple[Terms, ...]
    results: tuple[Terms, ...]


@cache
def matrices(m: int) -> Matrices:
    """The matrices of F(m, 3) for ``m`` 2 or 4."""
    pairs = _PAIRS[m]
    points = [Fraction(0), *(s * p for p in pairs for s in (1, -1))]
    zero, one = Fraction(0), Fraction(1)
    g, bt = [], []
    for point in points:
        others = [q for q in points if q != point]
        scale = one
        for q in others:
            scale *= point - q
        # A sign may stand on either side; here it makes the rows of F(2, 3) sums and differences.
        sign = -1 if scale < 0 and m == 2 else 1
        g.append(tuple(sign * point**k / scale for k in range(TAPS)))
        bt.append(tuple(sign * c for c in (*_expand(others), zero)))
    g.append((zero,) * (TAPS - 1) + (one,))
    bt.append(tuple(_expand(points)))
    at = tuple((*(p**i for p in points), one if i == m - 1 else zero) for i in range(m))
    return Matrices(at, tuple(g), tuple(bt))


def _expand(roots: Sequence[Fraction]) -> list[Fraction]:
    """Coefficients, lowest first, of the monic polynomial with these roots."""
    out = [Fraction(1)]
    for root in roots:
        shifted = [Fraction(0), *out]
        out = [s - root * c for s, c in zip(shifted, [*out, Fraction(0)], strict=True)]
    return out


@cache
def input_program(m: int) -> Program:
    """Multiplication by ``bt``: rows of +-p share their even and odd parts."""
    bt = matrices(m).bt
    shared: list[Terms] = []
    results: list[Terms | None] = [None] * len(bt)
    for i, row in enumerate(bt):
        if results[i] is not None:
            continue
        partner = next((j for j in range(i + 1, len(bt)) if _mirrors(row, bt[j])), None)
        if partner is None:
            results[i] = _terms(enumerate(row))
            continue
        odd_scale = next(c for c in reversed(row[1::2]) if c)
        even = [(k, c) for k, c in enumerate(row) if k % 2 == 0]
        odd = [(k, c / odd_scale) for k, c in enumerate(row) if k % 2]
        e = len(bt) + len(shared)
        shared += [_terms(even), _terms(odd)]
        sign = 1 if all(bt[partner][k] == c for k, c in even) else -1
        results[i] = _terms([(e, Fraction(1)), (e + 1, odd_scale)])
        results[partner] = _terms([(e, Fraction(sign)), (e + 1, -sign * odd_scale)])
    return Program(len(bt), tuple(shared), tuple(r for r in results if r is not None))


def _mirrors(row: Sequence[Fraction], other: Sequence[Fraction]) -> bool:
    """Whether two rows of more than two terms differ in the sign of one parity only."""
    if sum(1 for c in row if c) <= 2:
        return False
    flips = [tuple(c if k % 2 == p else -c for k, c in enumerate(row)) for p in (0, 1)]
    return tuple(other) in flips


@cache
def output_program(m: int) -> Program:
    """Multiplication by ``at``: the columns of +-p meet the sum or the difference of two."""
    at = matrices(m).at
    size = m + 2
    shared: list[Terms] = []
    sums: list[list[tuple[int, Fraction]]] = [[(0, row[0])] for row in at]
    for k in range(1, size - 1, 2):  # +p and -p are neighbours
        base = size + len(shared)
        shared += [((1.0, k), (1.0, k + 1)), ((1.0, k), (-1.0, k + 1))]
        for i, row in enumerate(at):
            sums[i].append((base + i % 2, row[k]))
    for row, terms in zip(at, sums, strict=True):
        terms.append((size - 1, row[-1]))
    return Program(size, tuple(shared), tuple(map(_terms, sums)))


def _terms(row: Any) -> Terms:
    """The terms that are not 0, one with coefficient 1 first if there is one."""
    found = [(float(c), k) for k, c in row if c]
    return tuple(sorted(found, key=lambda t: (t[0] != 1.0, abs(t[0]) != 1.0)))


def combine(terms: Terms, operand: Callable[[int], Any], times: Callable[[float, Any], Any]) -> Any:
    """A linear combination in the order in which the kernels add; ``times`` scales an operand."""
    (first, index), *rest = terms
    value = operand(index) if first == 1.0 else times(first, operand(index))
    for coefficient, k in rest:
        if coefficient == 1.0:
            value = value + operand(k)
        elif coefficient == -1.0:
            value = value - operand(k)
        else:
            value = value + times(coefficient, operand(k))
    return value


def apply(program: Program, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """``matrix @ x`` along the first axis, in the arithmetic of the array's dtype."""
    values = list(x)

    def times(coefficient: float, value: Any) -> Any:
        return x.dtype.type(coefficient) * value

    for terms in program.shared:
        values.append(combine(terms, values.__getitem__, times))
    return np.stack([combine(t, values.__getitem__, times) for t in program.results])


def transform_filters(w: npt.ArrayLike, m: int) -> npt.NDArray[np.float64]:
    """``G w G^T`` in float64: filters [OC, IC, 3, 3] to [(m+2)^2, IC, OC]."""
    g = np.array([[float(c) for c in row] for row in matrices(m).g])
    filters = np.asarray(w, np.float64)
    oc, ic = filters.shape[:2]
    spread = np.einsum("ar,oirs,bs->abio", g, filters, g, optimize=True)
    return np.asarray(spread.reshape((m + 2) ** 2, ic, oc))
