"""Math functions of tensor expressions, from CUDA's accurate library; float16 through float32."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from tvm import ir, tirx
from tvm.ir.prim import expr as prim

from burnish.backends.cpu.te_expr import rebuild
from burnish.backends.cuda.epilogue import UNARY, number
from burnish.backends.cuda.tir import Expr, dtype_of

_FUNCTIONS: dict[str, Callable[..., Expr]] = {
    "exp": tirx.exp,
    "exp2": tirx.exp2,
    "exp10": tirx.exp10,
    "log": tirx.log,
    "log2": tirx.log2,
    "log10": tirx.log10,
    "erf": tirx.erf,
    "tanh": tirx.tanh,
    "sigmoid": UNARY["Sigmoid"],
    "rsqrt": lambda x: number(1.0) / tirx.sqrt(x),
    "sin": tirx.sin,
    "cos": tirx.cos,
    "pow": tirx.pow,
}


def apply(name: str, args: Sequence[Expr]) -> Expr:
    """Emit a function of scalars of one float type."""
    dtype = dtype_of(args[0])
    if dtype == "float16":
        return tirx.Cast("float16", apply(name, [_widen(a) for a in args]))
    if dtype == "float32" and name in _FUNCTIONS:
        return _FUNCTIONS[name](*args)
    return tirx.call_pure_extern(dtype, name if dtype == "float64" else f"{name}f", *args)


def folded(value: Expr) -> Expr:
    """An expression without reinterpreted constants: TVM would take their addresses."""
    if isinstance(value, ir.Var | prim.IntImm | prim.FloatImm | ir.StringImm):
        return value
    if isinstance(value, ir.Call) and value.op.name.endswith("reinterpret"):
        (source,) = value.args
        if isinstance(source, prim.IntImm | prim.FloatImm):
            bits = np.asarray(source.value).astype(dtype_of(source)).view(dtype_of(value))
            return tirx.const(bits.item(), dtype_of(value))
    return rebuild(value, folded)


def _widen(arg: Expr) -> Expr:
    if isinstance(arg, prim.FloatImm):
        return number(float(arg.value))
    return tirx.Cast("float32", arg)
