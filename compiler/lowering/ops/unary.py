"""Unary mathematics: sign, rounding, powers, exponential, trigonometric and bit functions."""

from __future__ import annotations

import math

from tvm import te, tirx

from burnish.ir.types import FLOATS, INTEGERS
from burnish.lowering.ops.common import (
    Scalar,
    bind,
    const,
    dtype_of,
    elementwise,
    extern,
    is_nan,
    like,
    select,
)
from burnish.lowering.registry import REAL, te_rule
from burnish.lowering.te_context import Prim, TeContext


def _horner(x: Prim, coefficients: tuple[float, ...]) -> Prim:
    """Polynomial in ``x``, highest power first."""
    result = like(coefficients[0], x)
    for c in coefficients[1:]:
        result = result * x + like(c, x)
    return result


def _float(x: Prim) -> bool:
    return dtype_of(x) in FLOATS


def magnitude(x: Prim) -> Prim:
    """|x|; -0.0 becomes 0.0."""
    if _float(x):
        return tirx.abs(x)
    if dtype_of(x).startswith("u"):
        return x
    return select(x < like(0, x), like(0, x) - x, x)


def with_sign(value: Prim, sign: Prim) -> Prim:
    """A float ``value`` >= 0 with the sign of ``sign``."""
    return select(sign < like(0, sign), -value, value)


def negate(x: Prim) -> Prim:
    """-x; 0.0 becomes -0.0."""
    return -x if _float(x) else like(0, x) - x


def sign_of(x: Prim) -> Prim:
    """-1, 0 or 1; NaN stays."""
    if dtype_of(x).startswith("u"):
        return select(x > like(0, x), like(1, x), like(0, x))
    result = select(x < like(0, x), like(-1, x), like(0, x))
    result = select(x > like(0, x), like(1, x), result)
    return select(is_nan(x), x, result) if _float(x) else result


def log1p(x: Prim) -> Prim:
    """log(1 + x), accurate near 0 (Higham: log(u) * x / (u - 1) for u = fl(1 + x))."""

    def of(v: Prim) -> Prim:
        def with_u(u: Prim) -> Prim:
            ratio = select(u < like(math.inf, u), v / (u - like(1, u)), like(1, u))
            return select(u.equal(like(1, u)), v, te.log(u) * ratio)

        return bind(like(1, v) + v, with_u)

    return bind(x, of)


def erf(x: Prim) -> Prim:
    """Gauss error function."""
    return extern("erf", x) if dtype_of(x) == "float64" else te.erf(x)


def tan(x: Prim) -> Prim:
    """Tangent."""
    return extern("tan", x) if dtype_of(x) == "float64" else te.sin(x) / te.cos(x)


def asin(x: Prim) -> Prim:
    """Arc sine (Cephes asinf)."""
    if dtype_of(x) == "float64":
        return extern("asin", x)

    def of(a: Prim) -> Prim:
        def series(s: Prim, z: Prim) -> Prim:
            p = _horner(
                z,
                (4.2163199048e-2, 2.4181311049e-2, 4.5470025998e-2, 7.4953002686e-2,
                 1.6666752422e-1),
            )  # fmt: skip
            return s + s * z * p

        def large(z: Prim) -> Prim:
            return like(math.pi / 2, a) - like(2, a) * series(tirx.sqrt(z), z)

        big = bind(like(0.5, a) * (like(1, a) - a), large)
        return with_sign(select(a > like(0.5, a), big, series(a, a * a)), x)

    return bind(tirx.abs(x), of)


def acos(x: Prim) -> Prim:
    """Arc cosine: 2 asin(sqrt((1 - x) / 2)) for x > 1/2, which keeps it accurate near 1."""
    if dtype_of(x) == "float64":
        return extern("acos", x)
    near = like(2, x) * bind(tirx.sqrt(like(0.5, x) * (like(1, x) - x)), asin)
    return select(x > like(0.5, x), near, like(math.pi / 2, x) - asin(x))


def atan(x: Prim) -> Prim:
    """Arc tangent (Cephes atanf)."""
    if dtype_of(x) == "float64":
        return extern("atan", x)

    def of(a: Prim) -> Prim:
        far, middle = a > like(2.414213562373095, a), a > like(0.4142135623730950, a)
        reduced = select(
            far, like(-1, a) / a, select(middle, (a - like(1, a)) / (a + like(1, a)), a)
        )
        offset = select(far, like(math.pi / 2, a), select(middle, like(math.pi / 4, a), like(0, a)))

        def series(r: Prim) -> Prim:
            z = r * r
            p = _horner(
                z, (8.05374449538e-2, -1.38776856032e-1, 1.99777106478e-1, -3.33329491539e-1)
            )
            return offset + (p * z * r + r)

        return with_sign(bind(reduced, series), x)

    return bind(tirx.abs(x), of)


def sinh(x: Prim) -> Prim:
    """Hyperbolic sine: a series near 0, where the exponentials cancel."""
    if dtype_of(x) == "float64":
        return extern("sinh", x)
    z = x * x
    series = x + x * z * _horner(z, (1 / 362880, 1 / 5040, 1 / 120, 1 / 6))

    def large(e: Prim) -> Prim:
        # e = exp(|x| / 2): its square would overflow before sinh does.
        return with_sign(like(0.5, e) * e * e - like(0.5, e) / (e * e), x)

    far = bind(te.exp(like(0.5, x) * tirx.abs(x)), large)
    return select(tirx.abs(x) < like(1, x), series, far)


def cosh(x: Prim) -> Prim:
    """Hyperbolic cosine."""
    if dtype_of(x) == "float64":
        return extern("cosh", x)
    return bind(
        te.exp(like(0.5, x) * tirx.abs(x)),
        lambda e: like(0.5, e) * e * e + like(0.5, e) / (e * e),
    )


def asinh(x: Prim) -> Prim:
    """Inverse hyperbolic sine."""
    if dtype_of(x) == "float64":
        return extern("asinh", x)

    def of(a: Prim) -> Prim:
        one = like(1, a)
        near = log1p(a + a * a / (one + tirx.sqrt(a * a + one)))
        far = te.log(a) + like(math.log(2), a)  # a * a would overflow
        return with_sign(select(a > like(1e9, a), far, near), x)

    return bind(tirx.abs(x), of)


def acosh(x: Prim) -> Prim:
    """Inverse hyperbolic cosine; NaN below 1."""
    if dtype_of(x) == "float64":
        return extern("acosh", x)
    near = bind(x - like(1, x), lambda t: log1p(t + tirx.sqrt(like(2, t) * t + t * t)))
    return select(x > like(1e9, x), te.log(x) + like(math.log(2), x), near)


def atanh(x: Prim) -> Prim:
    """Inverse hyperbolic tangent; NaN beyond -1 and 1, where it is infinite."""
    if dtype_of(x) == "float64":
        return extern("atanh", x)
    return bind(
        tirx.abs(x),
        lambda a: with_sign(like(0.5, a) * log1p(like(2, a) * a / (like(1, a) - a)), x),
    )


def reciprocal(x: Prim) -> Prim:
    """1 / x."""
    return like(1, x) / x


_FLOAT_FUNCTIONS: dict[str, Scalar] = {
    "Acos": acos,
    "Acosh": acosh,
    "Asin": asin,
    "Asinh": asinh,
    "Atan": atan,
    "Atanh": atanh,
    "Ceil": te.ceil,
    "Cos": te.cos,
    "Cosh": cosh,
    "Erf": erf,
    "Exp": te.exp,
    "Floor": te.floor,
    "Log": te.log,
    "Reciprocal": reciprocal,
    "Round": te.nearbyint,  # half to even
    "Sin": te.sin,
    "Sinh": sinh,
    "Sqrt": tirx.sqrt,
    "Tan": tan,
    "Tanh": te.tanh,
}
_REAL_FUNCTIONS: dict[str, Scalar] = {"Abs": magnitude, "Neg": negate, "Sign": sign_of}


def _add_row(op: str, function: Scalar, dtypes: frozenset[str]) -> None:
    @te_rule(op, dtypes=dtypes)
    def row(ctx: TeContext, x: te.Tensor) -> te.Tensor:
        return elementwise(ctx, function, x)


for _op, _function in _FLOAT_FUNCTIONS.items():
    _add_row(_op, _function, FLOATS)
for _op, _function in _REAL_FUNCTIONS.items():
    _add_row(_op, _function, REAL)


@te_rule("Not", dtypes={"bool"})
def logical_not(ctx: TeContext, x: te.Tensor) -> te.Tensor:
    """Not-1."""

    def negated(v: Prim) -> Prim:
        # TVM turns the negation of x > y into x <= y, which is wrong for NaN: compare as integers.
        return tirx.EQ(tirx.Cast("int8", v), const(0, "int8"))

    return elementwise(ctx, negated, x)


@te_rule("BitwiseNot", dtypes=INTEGERS)
def bitwise_not(ctx: TeContext, x: te.Tensor) -> te.Tensor:
    """BitwiseNot-18."""
    return elementwise(ctx, tirx.bitwise_not, x)


@te_rule("IsNaN", dtypes=FLOATS | {"bool"})
def isnan(ctx: TeContext, x: te.Tensor) -> te.Tensor:
    """IsNaN-20."""
    return elementwise(ctx, is_nan, x)


@te_rule("IsInf", dtypes=FLOATS | {"bool"})
def isinf(
    ctx: TeContext, x: te.Tensor, *, detect_negative: int = 1, detect_positive: int = 1
) -> te.Tensor:
    """IsInf-20."""

    def test(v: Prim) -> Prim:
        result = const(False, "bool")
        if detect_positive:
            result = tirx.Or(result, v.equal(like(math.inf, v)))
        if detect_negative:
            result = tirx.Or(result, v.equal(like(-math.inf, v)))
        return result

    return elementwise(ctx, test, x)
