"""Rounding results to 8 bits, the vectors of a row of a register tile at a time.

``code = saturate(round(value) + zero)`` with ties to even (ONNX QuantizeLinear-25). Four vectors of
32-bit integers are packed into one of bytes, which takes fewer operations than to clamp each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm import tirx

from burnish.backends.cpu.codes import LIMITS
from burnish.backends.cpu.isa import Isa
from burnish.backends.cpu.tir import (
    Expr,
    Index,
    Tensor,
    constant,
    lanes_of,
    let,
    splat,
    with_lanes,
)
from burnish.errors import CompileError

#: Vectors of 32 bits that one vector of bytes holds.
QUAD = 4
#: Integers in the 128 bits inside which vectors are packed.
_LANE = 4
#: Stores that are as good as one with a mask.
_MAX_STORES = 3
#: No code is near it, and no conversion to int32 overflows below it.
LARGE = float(1 << 30)


@dataclass(frozen=True)
class Rounding:
    """How results become codes.

    Attributes:
        dtype: ``uint8`` or ``int8``.
        zero: The code of 0.
        low: Codes below are raised to it.
        high: Codes above are lowered to it.
        bounded: Whether all values are known to be below :data:`LARGE`.
    """

    dtype: str
    zero: int
    low: int
    high: int
    bounded: bool = False

    @classmethod
    def whole(cls, dtype: str, zero: int) -> Rounding:
        """To all codes of a type."""
        return cls(dtype, zero, *LIMITS[dtype])

    def codes(self, isa: Isa, values: Sequence[Expr], *, ordered: bool = True) -> Expr:
        """The codes of up to four vectors of float32, in units of the codes, as one vector.

        Args:
            isa: The instruction set.
            values: The vectors; with fewer than four the last codes have no meaning.
            ordered: Whether the codes lie as the values did. If not, each 128 bits have the codes
                of four neighbours of the first vector, then of the second, and so on.

        Raises:
            CompileError: The instruction set cannot pack.
        """
        if isa.dot8 not in _PACKS:
            raise CompileError(f"no rounding of whole tiles to 8 bits for {isa.name}")
        words, unsigned, signed = _PACKS[isa.dot8]
        lanes = lanes_of(values[0])
        whole = [let(_nearest(v, self.bounded)) for v in values]
        whole += [whole[-1]] * (QUAD - len(whole))
        half = with_lanes("int16", 2 * lanes)
        pairs = [let(tirx.call_llvm_pure_intrin(half, words, *whole[i : i + 2])) for i in (0, 2)]
        if self.zero:
            shift = constant(self.zero, 2 * lanes, "int16")
            pairs = [
                let(tirx.call_llvm_pure_intrin(half, "llvm.sadd.sat", p, shift)) for p in pairs
            ]
        pack = unsigned if self.dtype == "uint8" else signed
        kind = with_lanes("int8", QUAD * lanes)
        packed = let(tirx.call_llvm_pure_intrin(kind, pack, *pairs))
        if ordered:
            packed = _in_order(packed, lanes)
        return self._clamped(tirx.reinterpret(with_lanes(self.dtype, QUAD * lanes), packed))

    def _clamped(self, codes: Expr) -> Expr:
        lanes = lanes_of(codes)
        least, most = LIMITS[self.dtype]
        if self.low > least:
            codes = let(tirx.Max(let(codes), splat(tirx.const(self.low, self.dtype), lanes)))
        if self.high < most:
            codes = let(tirx.Min(let(codes), splat(tirx.const(self.high, self.dtype), lanes)))
        return codes


def store_codes(y: Tensor, offset: Index, codes: Expr, count: int) -> None:
    """Store the first ``count`` codes of a vector in few whole stores: masked ones are slow."""
    lanes = lanes_of(codes)
    widths = [w for w in _powers(lanes) if count & w]
    if len(widths) > _MAX_STORES:
        y.store(offset, codes, count)
        return
    done = 0
    for width in widths:
        part = codes
        if width < lanes:
            part = tirx.Shuffle([codes], [tirx.const(done + i, "int32") for i in range(width)])
        y.store(offset + done, part)
        done += width


def _powers(lanes: int) -> list[int]:
    """Powers of two up to ``lanes``, the largest first."""
    return [1 << i for i in reversed(range(lanes.bit_length()))]


def _nearest(value: Expr, bounded: bool) -> Expr:
    """The nearest int32, ties to even; the least one for NaN and what is below all."""
    lanes = lanes_of(value)
    if not bounded:
        # NaN passes the minimum: it takes its second operand then.
        value = tirx.Min(constant(LARGE, lanes), let(value))
    return tirx.call_llvm_pure_intrin(with_lanes("int32", lanes), "llvm.lrint", let(value))


def _in_order(packed: Expr, lanes: int) -> Expr:
    """Undo that packing works inside of 128 bits."""
    count = lanes // _LANE
    order = [group * QUAD + vector for vector in range(QUAD) for group in range(count)]
    words = let(tirx.reinterpret(with_lanes("int32", lanes), packed))
    return let(tirx.Shuffle([words], [tirx.const(i, "int32") for i in order]))


#: Saturating packs of int32 to int16, and of int16 to uint8 and int8, by ``Isa.dot8``.
_AVX512 = tuple(f"llvm.x86.avx512.pack{kind}.512" for kind in ("ssdw", "uswb", "sswb"))
_AVX2 = tuple(f"llvm.x86.avx2.pack{kind}" for kind in ("ssdw", "uswb", "sswb"))
_PACKS = {"vnni": _AVX512, "avx512bw": _AVX512, "avx2": _AVX2}
