"""Integer dot products of four bytes: the inner operation of quantized products.

``acc[i] += sum(a[j] * b[i][j] for j in range(4))`` with unsigned ``a``, signed ``b``, in int32
without saturation. The operands are int32 vectors whose bytes are the factors.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx

from burnish.backends.cpu.isa import Isa
from burnish.backends.cpu.microkernel import Dot
from burnish.backends.cpu.tir import Expr, constant, let, with_lanes

#: Factors of one dot product.
PACK = 4


def dot8(isa: Isa) -> Dot | None:
    """The inner operation of an instruction set; None if it has none."""
    accumulate = _ACCUMULATE.get(isa.dot8)
    return None if accumulate is None else Dot("u8s8", "int32", "int32", PACK, accumulate)


def _vnni(acc: Expr, a: Expr, b: Expr) -> Expr:
    """AVX512-VNNI's vpdpbusd."""
    return tirx.call_llvm_pure_intrin(
        "int32x16",
        "llvm.x86.avx512.vpdpbusd.512",
        acc,
        tirx.reinterpret("uint8x64", a),
        tirx.reinterpret("int8x64", b),
    )


def _widened(lanes: int, intrinsic: str) -> Callable[[Expr, Expr, Expr], Expr]:
    """Even and odd bytes widened to 16 bits and multiplied by vpmaddwd.

    vpmaddubsw, which multiplies bytes, saturates sums of two products at 16 bits.
    """
    half = with_lanes("int16", 2 * lanes)
    words = with_lanes("int32", lanes)

    def product(a: Expr, b: Expr) -> Expr:
        pair = (tirx.reinterpret(half, let(x)) for x in (a, b))
        return tirx.call_llvm_pure_intrin(words, intrinsic, *pair)

    def accumulate(acc: Expr, a: Expr, b: Expr) -> Expr:
        mask = constant(0x00FF00FF, lanes, "int32")
        eight = constant(8, 2 * lanes, "int16")
        pairs = let(tirx.reinterpret(half, b))
        even = tirx.reinterpret(words, let((pairs << eight) >> eight))
        odd = tirx.reinterpret(words, let(pairs >> eight))
        high = tirx.reinterpret(words, let(tirx.reinterpret(half, a)))
        above = let((high >> constant(8, lanes, "int32")) & mask)
        return acc + product(a & mask, even) + product(above, odd)

    return accumulate


_ACCUMULATE: dict[str, Callable[[Expr, Expr, Expr], Expr]] = {
    "vnni": _vnni,
    "avx512bw": _widened(16, "llvm.x86.avx512.pmaddw.d.512"),
    "avx2": _widened(8, "llvm.x86.avx2.pmadd.wd"),
}
