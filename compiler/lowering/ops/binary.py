"""Binary and variadic arithmetic, comparison, logic; Where, Clip and Cast."""

from __future__ import annotations

from functools import reduce

from tvm import te, tirx

from burnish.ir.graph import Node
from burnish.ir.types import BY_NAME, FLOATS, INTEGERS
from burnish.lowering.ops.activation import clamp
from burnish.lowering.ops.common import (
    Scalar,
    bind,
    cast,
    const,
    dtype_of,
    elementwise,
    equal,
    extern,
    like,
    maximum,
    minimum,
    select,
)
from burnish.lowering.registry import NATIVE, REAL, te_rule
from burnish.lowering.te_context import Prim, TeContext


def _integer_divide(function: Scalar, a: Prim, b: Prim) -> Prim:
    """Division or remainder without the traps of the hardware at 0 and at MIN / -1.

    Division by 0 gives 0, as in NumPy. The guards look at bits, and no selection stands around the
    division: TVM simplifies with what an enclosing selection implies, and would drop a guard, even
    the model's own, although the division is still carried out.
    """
    dtype = dtype_of(b)
    signed = not dtype.startswith("u")
    bits = tirx.reinterpret(f"u{dtype}" if signed else dtype[1:], b)
    zero = bits.equal(like(0, bits))
    negated = bits.equal(like(-1, bits)) if signed else const(False, "bool")
    quotient = function(a, select(tirx.Or(zero, negated), like(1, b), b))  # a / 1 is a, a % 1 is 0
    if function is not tirx.truncdiv:
        return quotient
    quotient = quotient - cast(zero, dtype) * a
    return quotient - cast(negated, dtype) * (a + a) if signed else quotient


def divide(a: Prim, b: Prim) -> Prim:
    """Quotient; of integers, cut towards zero."""
    if dtype_of(a) in FLOATS:
        return a / b
    return bind(a, lambda x: bind(b, lambda y: _integer_divide(tirx.truncdiv, x, y)))


def remainder(a: Prim, b: Prim, fmod: int) -> Prim:
    """Remainder with the sign of the divisor; with the sign of the dividend for ``fmod``."""
    if dtype_of(a) not in FLOATS:
        function = tirx.truncmod if fmod else tirx.floormod
        return bind(a, lambda x: bind(b, lambda y: _integer_divide(function, x, y)))
    if fmod:
        return extern("fmod", a, b)

    def floor(x: Prim, y: Prim) -> Prim:
        def fixed(r: Prim) -> Prim:
            opposite = select(r < like(0, r), y > like(0, y), y < like(0, y))
            return select(tirx.And(opposite, tirx.NE(r, like(0, r))), r + y, r)

        return bind(extern("fmod", x, y), fixed)

    return bind(a, lambda x: bind(b, lambda y: floor(x, y)))


def power(a: Prim, b: Prim) -> Prim:
    """``a ** b`` of the type of ``a``; integers through float64, cut towards zero."""
    if dtype_of(a) in FLOATS:
        return extern("pow", a, cast(b, dtype_of(a)))
    result = extern("pow", cast(a, "float64"), cast(b, "float64"))
    return cast(result, dtype_of(a))


def constant_power(a: Prim, exponent: float) -> Prim:
    """``a ** exponent``; small whole exponents are products, exact for integers."""
    floating = dtype_of(a) in FLOATS
    if exponent in range(1, 9):
        return bind(a, lambda v: _repeated_product(v, int(exponent)))
    if floating and -exponent in range(1, 9):
        return like(1, a) / bind(a, lambda v: _repeated_product(v, int(-exponent)))
    if floating and exponent == 0.5:
        return te.power(a, like(0.5, a))
    return power(a, const(exponent, dtype_of(a) if floating else "float64"))


def _repeated_product(v: Prim, exponent: int) -> Prim:
    if exponent == 1:
        return v
    half = bind(_repeated_product(v, exponent // 2), lambda h: h * h)
    return half * v if exponent % 2 else half


_ARITHMETIC: dict[str, Scalar] = {
    "Add": lambda a, b: a + b,
    "Sub": lambda a, b: a - b,
    "Mul": lambda a, b: a * b,
    "Div": divide,
}
_COMPARISONS: dict[str, Scalar] = {
    "Greater": lambda a, b: a > b,
    "GreaterOrEqual": lambda a, b: a >= b,
    "Less": lambda a, b: a < b,
    "LessOrEqual": lambda a, b: a <= b,
}
_LOGIC: dict[str, Scalar] = {
    "And": tirx.And,
    "Or": tirx.Or,
    "Xor": lambda a, b: tirx.Not(equal(a, b)),
}
_BITWISE: dict[str, Scalar] = {
    "BitwiseAnd": tirx.bitwise_and,
    "BitwiseOr": tirx.bitwise_or,
    "BitwiseXor": tirx.bitwise_xor,
}


def _add_row(op: str, function: Scalar, dtypes: frozenset[str]) -> None:
    @te_rule(op, dtypes=dtypes)
    def row(ctx: TeContext, a: te.Tensor, b: te.Tensor) -> te.Tensor:
        return elementwise(ctx, function, a, b)


for _table, _dtypes in (
    (_ARITHMETIC, REAL),
    (_COMPARISONS, NATIVE),
    ({"Equal": equal}, NATIVE),
    (_LOGIC, frozenset({"bool"})),
    (_BITWISE, INTEGERS),
):
    for _op, _function in _table.items():
        _add_row(_op, _function, _dtypes)


@te_rule("Mod", dtypes=REAL)
def mod(ctx: TeContext, a: te.Tensor, b: te.Tensor, *, fmod: int = 0) -> te.Tensor:
    """Mod-13."""
    return elementwise(ctx, lambda x, y: remainder(x, y, fmod), a, b)


@te_rule("Pow", dtypes=REAL)
def pow_rule(ctx: TeContext, x: te.Tensor, y: te.Tensor) -> te.Tensor:
    """Pow-15; the result has the type of the base."""
    exponent = ctx.constant(1)
    if exponent is None or exponent.size != 1:
        return elementwise(ctx, power, x, y)
    number = float(exponent.reshape(())[()])
    return elementwise(ctx, lambda a: constant_power(a, number), x)


@te_rule("BitShift", dtypes=INTEGERS)
def bit_shift(ctx: TeContext, x: te.Tensor, y: te.Tensor, *, direction: str) -> te.Tensor:
    """BitShift-28; distances from the width on, and negative ones, leave the sign only."""
    left = direction == "LEFT"

    def shift(a: Prim, b: Prim) -> Prim:
        dtype = dtype_of(a)
        bits = int(dtype.lstrip("uint"))
        # As an unsigned number, a negative distance is a large one.
        distance = b if dtype.startswith("u") else tirx.reinterpret(f"u{dtype}", b)
        small = distance < like(bits, distance)
        safe = select(small, b, like(0 if left else bits - 1, b))
        moved = tirx.shift_left(a, safe) if left else tirx.shift_right(a, safe)
        return select(small, moved, like(0, a)) if left or dtype.startswith("u") else moved

    return elementwise(ctx, shift, x, y)


def _fold(function: Scalar) -> Scalar:
    return lambda *values: reduce(function, values)


@te_rule("Max", dtypes=REAL)
def max_rule(ctx: TeContext, *data: te.Tensor) -> te.Tensor:
    """Max-13."""
    return elementwise(ctx, _fold(maximum), *data)


@te_rule("Min", dtypes=REAL)
def min_rule(ctx: TeContext, *data: te.Tensor) -> te.Tensor:
    """Min-13."""
    return elementwise(ctx, _fold(minimum), *data)


@te_rule("Sum", dtypes=FLOATS)
def sum_rule(ctx: TeContext, *data: te.Tensor) -> te.Tensor:
    """Sum-13."""
    return elementwise(ctx, _fold(lambda a, b: a + b), *data)


@te_rule("Mean", dtypes=FLOATS)
def mean_rule(ctx: TeContext, *data: te.Tensor) -> te.Tensor:
    """Mean-13."""

    def mean(*values: Prim) -> Prim:
        return reduce(lambda a, b: a + b, values) / like(len(values), values[0])

    return elementwise(ctx, mean, *data)


@te_rule("Where")
def where(ctx: TeContext, condition: te.Tensor, x: te.Tensor, y: te.Tensor) -> te.Tensor:
    """Where-16."""
    return elementwise(ctx, select, condition, x, y)


@te_rule("Clip", dtypes=REAL)
def clip(
    ctx: TeContext, x: te.Tensor, low: te.Tensor | None = None, high: te.Tensor | None = None
) -> te.Tensor:
    """Clip-13; NaN stays, the upper bound wins."""

    def of(v: Prim, *bounds: Prim) -> Prim:
        if low is not None and high is not None:
            return clamp(v, *bounds)
        if low is not None:
            return select(v < bounds[0], bounds[0], v)
        return select(v > bounds[0], bounds[0], v) if bounds else v

    return elementwise(ctx, of, x, low, high)


@te_rule("Cast")
def cast_rule(
    ctx: TeContext, x: te.Tensor, *, to: int, saturate: int = 1, round_mode: str = "up"
) -> te.Tensor:
    """Cast-25 between native types; ``saturate`` and ``round_mode`` only concern float8."""
    return elementwise(ctx, lambda v: v, x)


def _same_width(node: Node) -> str | None:
    """BitCast between types of one width; not all bits make a bool."""
    source, target = node.required(0).dtype, node.output.dtype
    fits = BY_NAME[source].bits == BY_NAME[target].bits
    return None if fits and (target != "bool" or source == "bool") else f"{source} to {target}"


@te_rule("BitCast", check=_same_width)
def bit_cast(ctx: TeContext, x: te.Tensor, *, to: int) -> te.Tensor:
    """BitCast-26."""
    dtype = ctx.out_type().dtype

    def bits(value: Prim) -> Prim:
        # A bool of TVM is one bit wide.
        return tirx.reinterpret(dtype, cast(value, "int8") if str(x.dtype) == "bool" else value)

    return ctx.compute(lambda *i: x(*i) if str(x.dtype) == dtype else bits(x(*i)))


@te_rule("CastLike")
def cast_like(
    ctx: TeContext,
    x: te.Tensor,
    target_type: te.Tensor,
    *,
    saturate: int = 1,
    round_mode: str = "up",
) -> te.Tensor:
    """CastLike-25."""
    return elementwise(ctx, lambda v: v, x)


@te_rule("Identity")
def identity(ctx: TeContext, x: te.Tensor) -> te.Tensor:
    """Identity-25."""
    return ctx.compute(lambda *i: x(*i))
