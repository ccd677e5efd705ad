"""The ARM backend: generated CPU kernels for 64-bit ARM (AArch64) with NEON, also cross-built."""

from __future__ import annotations

from burnish.artifact import cross_compiler
from burnish.backends.arm.cores import CORES, Core
from burnish.backends.base import Target
from burnish.backends.cpu_backend import COMPUTES, PRECISIONS, cpu_backend
from burnish.errors import UsageError

MACHINE = "aarch64"


def _resolve(spec: str) -> Target:
    core = _core(spec)
    isa = core.isa()
    return Target(
        spec,
        ARM,
        dict(isa.target),
        MACHINE,
        isa.features,
        isa,
        precisions=PRECISIONS,
        # Products of float16 have instructions of their own there, with four sums like float32's.
        computes={k: v for k, v in COMPUTES.items() if not (isa.fhm and k == "float16")},
        no_faster=("float16",) if isa.fhm else (),
        linker=cross_compiler(MACHINE),
        weight_only=True,
    )


def _core(spec: str) -> Core:
    family, colon, name = spec.partition(":")
    if not colon:
        return CORES["generic"]
    if name not in CORES:
        raise UsageError(
            f"unknown ARM core {name!r}",
            at=spec,
            hint="one of: " + ", ".join(f"{family}:{known}" for known in CORES),
        )
    return CORES[name]


ARM = cpu_backend(
    "arm",
    {"arm": "any 64-bit ARM CPU (ARMv8-A with NEON)"}
    | {f"arm:{core.name}": core.about for core in CORES.values() if core.name != "generic"},
    _resolve,
)
