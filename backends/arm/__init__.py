"""The ARM backend: generated CPU kernels for 64-bit ARM (AArch64) with NEON, also cross-built."""

from __future__ import annotations

import platform
import shutil
from dataclasses import replace

from burnish.backends.arm.cores import CORES, Core
from burnish.backends.base import Target
from burnish.backends.cpu.isa import NEON
from burnish.backends.cpu_backend import COMPUTES, PRECISIONS, cpu_backend
from burnish.errors import TargetUnavailableError, UsageError

MACHINE = "aarch64"
#: C++ compilers for 64-bit ARM Linux, by their usual names: of Debian and Ubuntu, of Fedora and
#: ARM's own, of conda.
CROSS_COMPILERS = (
    "aarch64-linux-gnu-g++",
    "aarch64-none-linux-gnu-g++",
    "aarch64-conda-linux-gnu-g++",
)


def cross_compiler() -> str | None:
    """The C++ compiler for AArch64 Linux; None on such a machine, whose own compiler serves.

    Raises:
        TargetUnavailableError: None is installed.
    """
    if platform.machine() == MACHINE:
        return None
    for name in CROSS_COMPILERS:
        if shutil.which(name) is not None:
            return name
    raise TargetUnavailableError(
        f"building for ARM on {platform.machine()} needs a cross compiler, and "
        f"{CROSS_COMPILERS[0]} was not found",
        hint="install it (Debian, Ubuntu: apt install g++-aarch64-linux-gnu)",
    )


def _resolve(spec: str) -> Target:
    core = _core(spec)
    isa = replace(NEON, target=core.target(), features=core.features)
    return Target(
        spec,
        ARM,
        dict(isa.target),
        MACHINE,
        isa.features,
        isa,
        precisions=PRECISIONS,
        computes=COMPUTES,
        linker=cross_compiler(),
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
