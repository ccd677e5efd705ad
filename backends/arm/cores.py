"""ARM cores that can be built for, as rows of data.

A row names LLVM's model of the core, which brings its instructions and its schedule. What the
kernels gain nothing from is turned off, so that the artifact does not ask for it: cryptography,
which is optional on many cores, unaligned atomics, and SVE, whose vectors are not what the kernels
are written in. The features of the row are all that LLVM may then use: tests/backends/test_arm.py
asks LLVM.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from burnish.backends.cpu.isa import NEON, Isa

_TRIPLE = "aarch64-unknown-linux-gnu"
_ALWAYS = ("fp", "asimd")
# ARMv8.1-A and 8.2-A with half precision and dot products.
_V82 = (
    *_ALWAYS,
    *("crc32", "atomics", "asimdrdm"),
    *("fphp", "asimdhp", "asimddp", "lrcpc"),
)
# ARMv8.4-A with the matrix and bfloat16 products of 8.6-A.
_V84 = (
    *_V82,
    *("jscvt", "fcma", "asimdfhm", "ilrcpc", "flagm"),
    *("i8mm", "bf16"),
)
# ARMv8.5-A with the same.
_V85 = (*_V84, "flagm2", "frint")

_OFF_82 = ("-aes", "-sha2")
_OFF_84 = (*_OFF_82, "-sha3", "-sm4", "-lse2", "-sve", "-sve-bitperm")


@dataclass(frozen=True)
class Core:
    """One core, or several that run the same code.

    Attributes:
        name: What follows ``arm:``.
        about: Where it is found.
        mcpu: LLVM's name of it.
        mattr: What LLVM must not or may use besides.
        features: What a CPU must have to run the code: names as in ``/proc/cpuinfo``.
    """

    name: str
    about: str
    mcpu: str
    mattr: tuple[str, ...]
    features: tuple[str, ...]

    def target(self) -> dict[str, Any]:
        """What ``tvm.target.Target`` takes."""
        return {
            "kind": "llvm",
            "mtriple": _TRIPLE,
            "mcpu": self.mcpu,
            "mattr": list(self.mattr),
        }

    def isa(self) -> Isa:
        """NEON as the core has it."""
        fhm = "asimdfhm" in self.features
        return replace(NEON, target=self.target(), features=self.features, fhm=fhm)


#: All rows by name.
CORES: dict[str, Core] = {
    core.name: core
    for core in (
        Core("generic", "any 64-bit ARM CPU (ARMv8-A with NEON)", "generic", ("+neon",), _ALWAYS),
        Core("cortex-a55", "small cores of phones and boards", "cortex-a55", _OFF_82, _V82),
        Core("cortex-a76", "Raspberry Pi 5 and phones", "cortex-a76", _OFF_82, _V82),
        Core("neoverse-n1", "Graviton 2, Ampere Altra", "neoverse-n1", _OFF_82, _V82),
        Core("neoverse-v1", "Graviton 3", "neoverse-v1", _OFF_84, _V84),
        Core("neoverse-v2", "Graviton 4, Grace", "neoverse-v2", _OFF_84, _V85),
    )
}
