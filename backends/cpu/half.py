"""Products of float16 whose sums are float32: ARM's FMLAL and FMLAL2 (ARMv8.2-A FHM).

An instruction multiplies half of the eight float16 of a register and adds to four float32. So what
multiplies float16 is built with vectors of eight: one register of operands, two of sums. The
products are exact and the sums are rounded to float32, as if the operands had been widened.
"""

from __future__ import annotations

from dataclasses import replace

from tvm import tirx

from burnish.backends.cpu.isa import Isa
from burnish.backends.cpu.microkernel import Dot
from burnish.backends.cpu.narrow import Narrow
from burnish.backends.cpu.tir import Expr, Tensor

#: Sums of one instruction.
_SUMS = "float32x4"


def product_isa(isa: Isa, dtype: str) -> Isa:
    """The row that products of tensors of ``dtype`` with constant weights are built with."""
    if not isa.fhm or isa.paired or dtype != "float16":
        return isa
    return replace(isa, lanes=2 * isa.lanes, registers=isa.registers // 2, paired=True)


def _multiply_add(acc: Expr, a: Expr, b: Expr) -> Expr:
    """``acc + a * b`` with float32x8 and float16x8."""
    # An instruction takes a lane of its last operand.
    low, high = tirx.vectorlow(_SUMS, acc), tirx.vectorhigh(_SUMS, acc)
    return tirx.vectorcombine(
        "float32x8",
        tirx.call_llvm_pure_intrin(_SUMS, "llvm.aarch64.neon.fmlal", low, b, a),
        tirx.call_llvm_pure_intrin(_SUMS, "llvm.aarch64.neon.fmlal2", high, b, a),
    )


HALF = Dot("f16", "float16", "float32", 1, _multiply_add, by_lane=True)


def unwidened(tensor: Tensor) -> Tensor:
    """A tensor stored in float16 as it is."""
    assert isinstance(tensor.flat, Narrow)
    return replace(tensor, flat=tensor.flat.buffer)
