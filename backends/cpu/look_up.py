"""Look-up in a table that one register holds."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import tirx

from burnish.backends.cpu.tir import Expr, constant, let, with_lanes

#: By lanes: vpermps, which looks at the low bits of an index only.
_INSTRUCTIONS = {16: "llvm.x86.avx512.permvar.sf.512"}


def entries(lanes: int) -> int:
    """Numbers that a table has; 0 without such an instruction for vectors of so many lanes."""
    return lanes if lanes in _INSTRUCTIONS else 0


def look_up(table: Sequence[float], index: Expr) -> Expr:
    """The numbers in float32 at the low bits of ``index``, a vector of int32."""
    lanes = len(table)
    numbers = [constant(number) for number in table]
    vector = tirx.Shuffle(numbers, [tirx.const(i, "int32") for i in range(lanes)])
    kind = with_lanes("float32", lanes)
    return let(tirx.call_llvm_pure_intrin(kind, _INSTRUCTIONS[lanes], vector, index))
