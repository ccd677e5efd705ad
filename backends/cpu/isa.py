"""Instruction sets that the CPU kernel templates generate code for, as rows of data.

A template never asks for a name: it reads the vector width and the number of registers.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from burnish.errors import TargetUnavailableError


@dataclass(frozen=True)
class Isa:
    """One instruction set.

    Attributes:
        name: Name used in options, artifacts and reports.
        lanes: float32 elements in one vector register.
        registers: Number of vector registers.
        target: What ``tvm.target.Target`` takes. The CPU is a portable level, never the build
            machine's own model, so that two machines generate the same code.
        dot8: Its integer dot products, a row of :mod:`burnish.backends.cpu.dot8`; empty if the
            templates have none.
        bf16: Whether it multiplies pairs of bfloat16 (:mod:`burnish.backends.cpu.dot2`) and rounds
            to bfloat16 itself.
        fhm: Whether it multiplies float16 into sums of float32 (:mod:`burnish.backends.cpu.half`).
        paired: Whether a vector is two registers, so that as many float16 are one.
        features: Flags, as ``/proc/cpuinfo`` spells them, that a CPU must have to run the code.
    """

    name: str
    lanes: int
    registers: int
    target: dict[str, Any] = field(hash=False)
    features: tuple[str, ...] = ()
    dot8: str = ""
    bf16: bool = False
    fhm: bool = False
    paired: bool = False


_X86 = "x86_64-unknown-linux-gnu"
_AVX2_FLAGS = ("avx", "avx2", "fma", "bmi1", "bmi2", "f16c", "movbe")

AVX512 = Isa(
    name="avx512",
    lanes=16,
    registers=32,
    # LLVM's x86-64-v4 prefers 256-bit vectors, for the first CPUs that lowered their clock.
    target={
        "kind": "llvm",
        "mtriple": _X86,
        "mcpu": "x86-64-v4",
        "mattr": ["-prefer-256-bit"],
    },
    features=(*_AVX2_FLAGS, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"),
    dot8="avx512bw",
)
#: With dot products of bytes.
AVX512_VNNI = replace(
    AVX512,
    name="avx512_vnni",
    target={**AVX512.target, "mattr": [*AVX512.target["mattr"], "+avx512vnni"]},
    features=(*AVX512.features, "avx512_vnni"),
    dot8="vnni",
)
#: With dot products of pairs of bfloat16.
AVX512_BF16 = replace(
    AVX512_VNNI,
    name="avx512_bf16",
    target={**AVX512_VNNI.target, "mattr": [*AVX512_VNNI.target["mattr"], "+avx512bf16"]},
    features=(*AVX512_VNNI.features, "avx512_bf16"),
    bf16=True,
)
AVX2 = Isa(
    name="avx2",
    lanes=8,
    registers=16,
    target={"kind": "llvm", "mtriple": _X86, "mcpu": "x86-64-v3"},
    features=_AVX2_FLAGS,
    dot8="avx2",
)
NEON = Isa(
    name="neon",
    lanes=4,
    registers=32,
    target={
        "kind": "llvm",
        "mtriple": "aarch64-unknown-linux-gnu",
        "mcpu": "generic",
        "mattr": ["+neon"],
    },
    features=("asimd",),
)

#: All rows by name.
ISAS: dict[str, Isa] = {isa.name: isa for isa in (AVX512_BF16, AVX512_VNNI, AVX512, AVX2, NEON)}


def isa_named(name: str) -> Isa:
    """The row called ``name``; raises :class:`TargetUnavailableError` when there is none."""
    try:
        return ISAS[name]
    except KeyError:
        raise TargetUnavailableError(
            f"unknown instruction set {name!r}", hint=f"one of: {', '.join(ISAS)}"
        ) from None
