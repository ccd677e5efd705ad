"""bfloat16 in generated kernels: its bits lie in uint16, and widen to float32 by a shift.

TVM's code generator knows no bfloat16. Where the instruction set has instructions of its own
(AVX512-BF16), functions of LLVM's intermediate representation are imported, which LLVM inlines.
They take denormal numbers as zero: vdpbf16ps and vcvtneps2bf16 do.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from tvm import ir, tirx

Expr = Any

#: The type that a kernel sees.
BITS = "uint16"

_ROUND = """
define weak_odr dso_local {bits} @burnish_bf16_round_{lanes}({floats} %x) #0 {{
  %rounded = fptrunc {floats} %x to {halves}
  %bits = bitcast {halves} %rounded to {bits}
  ret {bits} %bits
}}
"""
_DOT = """
declare <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(<16 x float>, <32 x bfloat>, <32 x bfloat>)
define weak_odr dso_local <16 x float> @burnish_bf16_dot(<16 x float> %c, <16 x i32> %a, <16 x i32> %b) #0 {
  %x = bitcast <16 x i32> %a to <32 x bfloat>
  %y = bitcast <16 x i32> %b to <32 x bfloat>
  %sum = call <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(<16 x float> %c, <32 x bfloat> %x, <32 x bfloat> %y)
  ret <16 x float> %sum
}
attributes #0 = { alwaysinline nounwind memory(none) }
"""  # noqa: E501
#: Lanes of vectors that :data:`FUNCTIONS` rounds.
NATIVE_LANES = (1, 16)


def _vector(element: str, lanes: int) -> str:
    return element if lanes == 1 else f"<{lanes} x {element}>"


#: Functions for AVX512-BF16, to be imported by a kernel that calls them.
FUNCTIONS = (
    "".join(
        _ROUND.format(
            lanes=n, bits=_vector("i16", n), floats=_vector("float", n), halves=_vector("bfloat", n)
        )
        for n in NATIVE_LANES
    )
    + _DOT
)


def _typed(base: str, lanes: int) -> str:
    return base if lanes == 1 else f"{base}x{lanes}"


def _constant(value: int, lanes: int) -> Expr:
    number = tirx.const(value, "uint32")
    return number if lanes == 1 else tirx.Broadcast(number, lanes)


def widen(bits: Expr, lanes: int = 1) -> Expr:
    """float32 of bits in uint16; exact."""
    words = tirx.Cast(_typed("uint32", lanes), bits) << _constant(16, lanes)
    return tirx.reinterpret(_typed("float32", lanes), words)


def rounded(value: Expr) -> Expr:
    """Bits in uint16 of float32, rounded to nearest, ties to even; may evaluate it repeatedly."""
    _, _, count = str(value.ty.dtype).partition("x")
    lanes = int(count or 1)
    kind = _typed(BITS, lanes)
    building = _BUILDING.get()
    if building.native and lanes in NATIVE_LANES:
        building.imports = True
        return tirx.call_pure_extern(kind, f"burnish_bf16_round_{lanes}", value)
    bits = tirx.reinterpret(_typed("uint32", lanes), value)
    sixteen, one = _constant(16, lanes), _constant(1, lanes)
    nearest = (bits + _constant(0x7FFF, lanes) + ((bits >> sixteen) & one)) >> sixteen
    # Adding would carry what makes it a NaN away.
    nan = (bits & _constant(0x7FFFFFFF, lanes)) > _constant(0x7F800000, lanes)
    quiet = (bits >> sixteen) | _constant(0x40, lanes)
    return tirx.Cast(kind, tirx.Select(nan, quiet, nearest))


def pair_dot(acc: Expr, a: Expr, b: Expr) -> Expr:
    """``acc + a[0] * b[0] + a[1] * b[1]`` with pairs of bfloat16 in int32x16 (AVX512-BF16)."""
    _BUILDING.get().imports = True
    return tirx.call_pure_extern("float32x16", "burnish_bf16_dot", acc, a, b)


@dataclass
class Building:
    """A kernel that is being built.

    Attributes:
        native: Whether its instruction set has AVX512-BF16.
        imports: Whether it calls :data:`FUNCTIONS`.
    """

    native: bool
    imports: bool = False

    def finish(self, body: Any) -> Any:
        """The body of the kernel with the functions that it calls."""
        if not self.imports:
            return body
        text = ir.StringImm(FUNCTIONS)
        return tirx.AttrStmt(tirx.const(0, "int32"), "pragma_import_llvm", text, body)


_BUILDING: ContextVar[Building] = ContextVar("kernel")


@contextmanager
def building(*, native: bool) -> Iterator[Building]:
    """What is built within belongs to one kernel."""
    made = Building(native)
    outer = _BUILDING.set(made)
    try:
        yield made
    finally:
        _BUILDING.reset(outer)
