"""Math functions of tensor expressions, as LLVM can vectorize them.

TVM lowers ``tirx.exp`` and its like to calls into the C library, one per element. In float32 (and
in float16, which computes in float32) they become polynomials from
:mod:`burnish.backends.cpu.vmath`. float64, and functions without a polynomial, keep the call.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from tvm import tirx
from tvm.ir.prim import expr as prim

from burnish.backends.cpu import bfloat16, vmath
from burnish.backends.cpu.tir import constant, let

Expr = Any


def _exp2(x: Expr) -> Expr:
    return vmath.exp(x * constant(math.log(2.0)))


def _exp10(x: Expr) -> Expr:
    return vmath.exp(x * constant(math.log(10.0)))


def _log2(x: Expr) -> Expr:
    return vmath.log(x) * constant(1.0 / math.log(2.0))


def _log10(x: Expr) -> Expr:
    return vmath.log(x) * constant(1.0 / math.log(10.0))


def _rsqrt(x: Expr) -> Expr:
    return constant(1.0) / tirx.sqrt(x)


def _integer_power(x: Expr, exponent: int) -> Expr:
    """``x ** exponent`` by squaring, for 1 <= exponent <= 8."""
    result: Expr = None
    square = let(x)
    while exponent:
        if exponent & 1:
            result = square if result is None else let(result * square)
        exponent >>= 1
        if exponent:
            square = let(square * square)
    return result


def _power(x: Expr, y: Expr) -> Expr:
    """``x ** y``; constant exponents that occur in models need no library call."""
    if isinstance(y, prim.FloatImm):
        if y.value == 0.5:
            return tirx.sqrt(x)
        if y.value == -0.5:
            return constant(1.0) / tirx.sqrt(x)
        if abs(y.value) in range(1, 9):
            result = _integer_power(x, int(abs(y.value)))
            return result if y.value > 0 else constant(1.0) / result
    return tirx.pow(x, y)


_UNARY: dict[str, Callable[[Expr], Expr]] = {
    "exp": vmath.exp,
    "exp2": _exp2,
    "exp10": _exp10,
    "log": vmath.log,
    "log2": _log2,
    "log10": _log10,
    "erf": vmath.erf,
    "tanh": vmath.tanh,
    "sigmoid": vmath.sigmoid,
    "rsqrt": _rsqrt,
    "sin": vmath.sin,
    "cos": vmath.cos,
}
_FUNCTIONS: dict[str, Callable[..., Expr]] = {**_UNARY, "pow": _power}
#: Functions of the C library that TVM's LLVM backend does not know.
_LIBRARY = frozenset(
    {"acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "cosh", "erf", "exp10", "hypot",
     "log1p", "nextafter", "sinh", "tan"}
)  # fmt: skip


#: Rounds float32 to the bits of bfloat16.
TO_BFLOAT16 = "to_bfloat16"


def lookup(op_name: str, dtype: str) -> str:
    """The function for a TIR operator of that result type, empty if it is left to TVM."""
    name = op_name.rpartition(".")[2]
    if dtype in ("float32", "float16") and name in _FUNCTIONS:
        return name
    if dtype in ("float64", "float32", "float16") and name in _LIBRARY:
        return name
    return ""


def apply(name: str, args: Sequence[Expr]) -> Expr:
    """Emit the function that :func:`lookup` found for scalar arguments."""
    if name == TO_BFLOAT16:
        return bfloat16.rounded(args[0])
    dtype = args[0].ty.dtype
    if str(dtype) == "float16":
        return prim.Cast(dtype, apply(name, [_widen(a) for a in args]))
    if str(dtype) == "float32" and name in _FUNCTIONS:
        return _FUNCTIONS[name](*args)
    return tirx.call_pure_extern(dtype, name if str(dtype) == "float64" else f"{name}f", *args)


def _widen(arg: Expr) -> Expr:
    if isinstance(arg, prim.FloatImm):
        return tirx.const(float(arg.value), "float32")
    return prim.Cast("float32", arg)
