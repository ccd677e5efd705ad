"""Scalar building blocks of the rules: constants, casts, comparisons, with ONNX's semantics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from tvm import te, tirx

from burnish.ir.types import FLOATS
from burnish.lowering.te_context import Prim, TeContext

#: Fills one element of a result from elements of the operands.
Scalar: TypeAlias = Callable[..., Prim]

#: Floats that are computed with in float32 and rounded once at the end.
NARROW_FLOATS = frozenset({"float16", "bfloat16"})

_BITS = {"int8": 8, "int16": 16, "int32": 32, "int64": 64}
_BITS |= {f"u{name}": bits for name, bits in _BITS.items()}


#: Integer of the same width, mask of all bits but the sign, bits of infinity.
_FLOAT_BITS = {
    "float16": ("int16", 0x7FFF, 0x7C00),
    "bfloat16": ("int16", 0x7FFF, 0x7F80),
    "float32": ("int32", 0x7FFFFFFF, 0x7F800000),
    "float64": ("int64", 0x7FFFFFFFFFFFFFFF, 0x7FF0000000000000),
}


def dtype_of(e: Prim) -> str:
    """Element type of an expression."""
    return str(e.ty)


def const(value: float | int | bool, dtype: str) -> Prim:
    """A constant; integers wrap around to the type."""
    if dtype == "bool":
        return tirx.const(bool(value), "bool")
    if dtype in FLOATS:
        return tirx.const(float(value), dtype)
    number = int(value) & ((1 << _BITS[dtype]) - 1)
    if not dtype.startswith("u") and number >> (_BITS[dtype] - 1):
        number -= 1 << _BITS[dtype]
    return tirx.const(number, dtype)


def like(value: float | int, e: Prim) -> Prim:
    """A constant of the type of an expression."""
    return const(value, dtype_of(e))


def bind(value: Prim, body: Callable[[Prim], Prim]) -> Prim:
    """Evaluate ``value`` once and use it in ``body``."""
    if isinstance(value, (tirx.Var, tirx.IntImm, tirx.FloatImm)):
        return body(value)
    var = tirx.Var("t", dtype_of(value))
    return tirx.Let(var, value, body(var))


def select(condition: Prim, then: Prim, otherwise: Prim) -> Prim:
    """``condition ? then : otherwise``, both evaluated: for values, not for accesses."""
    return tirx.Select(condition, then, otherwise)


def is_nan(e: Prim) -> Prim:
    """Whether a float is NaN; false for other types."""
    dtype = dtype_of(e)
    if dtype not in FLOATS:
        return const(False, "bool")
    # TVM takes NE as the ordered comparison, false for NaN, and turns the negation of EQ into it:
    # look at the bits. Never negate a comparison of floats within an expression.
    kind, magnitude, infinity = _FLOAT_BITS[dtype]
    bits = tirx.reinterpret(kind, e)
    return tirx.bitwise_and(bits, const(magnitude, kind)) > const(infinity, kind)


def equal(a: Prim, b: Prim) -> Prim:
    """Whether two elements are equal."""
    if dtype_of(a) == "bool":  # TVM compares i1 values as floats
        a, b = tirx.Cast("int8", a), tirx.Cast("int8", b)
    return tirx.EQ(a, b)


def maximum(a: Prim, b: Prim) -> Prim:
    """The larger of two; NaN if one of them is NaN."""
    if dtype_of(a) not in FLOATS:
        return select(a > b, a, b)
    return bind(a, lambda x: bind(b, lambda y: select(tirx.Or(x > y, is_nan(x)), x, y)))


def minimum(a: Prim, b: Prim) -> Prim:
    """The smaller of two; NaN if one of them is NaN."""
    if dtype_of(a) not in FLOATS:
        return select(a < b, a, b)
    return bind(a, lambda x: bind(b, lambda y: select(tirx.Or(x < y, is_nan(x)), x, y)))


def wide(e: Prim) -> Prim:
    """A value as rules compute with it: float16 and bfloat16 become float32."""
    return tirx.Cast("float32", e) if dtype_of(e) in NARROW_FLOATS else e


def wide_dtype(dtype: str) -> str:
    """The type that :func:`wide` gives."""
    return "float32" if dtype in NARROW_FLOATS else dtype


def cast(e: Prim, dtype: str) -> Prim:
    """ONNX Cast between native types (Cast-25).

    Floats are cut towards zero to integers, which wrap around to narrow types; a float that is out
    of the range of int32 (int64 for 32 and 64 bits) is undefined, as in ONNX.
    """
    source = dtype_of(e)
    if source == dtype:
        return e
    if dtype == "bool":
        e = wide(e)
        return tirx.Or(tirx.NE(e, like(0, e)), is_nan(e))
    if source == "bool":
        number = tirx.Cast("int32", e)
        return number if dtype == "int32" else cast(number, dtype)
    if source in FLOATS and dtype not in FLOATS:
        e = wide(e)
        if dtype in ("int8", "int16", "uint8", "uint16"):
            e = tirx.Cast("int32", e)
        elif dtype == "uint32":
            e = tirx.Cast("int64", e)
        return tirx.Cast(dtype, e)
    if "float32" not in (source, dtype) and {source, dtype} & NARROW_FLOATS:
        return tirx.Cast(dtype, tirx.Cast("float32", e))
    return tirx.Cast(dtype, e)


def as_float(e: Prim) -> Prim:
    """Floats as they are computed with, integers as float64."""
    return wide(e) if dtype_of(e) in FLOATS else cast(e, "float64")


def elementwise(
    ctx: TeContext, function: Scalar, *tensors: te.Tensor | None, output: int = 0
) -> te.Tensor:
    """Apply a scalar function to broadcast operands.

    Args:
        ctx: Context.
        function: Gets one widened element (see :func:`wide`) of each tensor that is present.
        tensors: The node's inputs from the first on.
        output: Output whose shape and type the result has; the function's result is cast to it.
    """
    dtype = ctx.out_type(output).dtype
    dims = ctx.out_dims(output)

    def body(*at: Prim) -> Prim:
        operands = [
            wide(tensor(*ctx.broadcast(index, at, dims)))
            for index, tensor in enumerate(tensors)
            if tensor is not None
        ]
        return cast(function(*operands), dtype)

    return ctx.compute(body, output)


def extern(name: str, *args: Prim) -> Prim:
    """A function of the C library on float64 or (with the suffix f) float32."""
    dtype = dtype_of(args[0])
    return tirx.call_pure_extern(dtype, name if dtype == "float64" else f"{name}f", *args)


def all_of(*conditions: Any) -> Prim:
    """Conjunction; true for none."""
    result: Prim = None
    for condition in conditions:
        result = condition if result is None else tirx.And(result, condition)
    return const(True, "bool") if result is None else result
