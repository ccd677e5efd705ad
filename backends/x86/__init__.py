"""The x86-64 backend: generated CPU kernels for AVX-512 and AVX2, and oneDNN's operations."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from burnish.artifact import cpu_features, cross_compiler
from burnish.backends.base import Target
from burnish.backends.cpu.isa import AVX2, AVX512, AVX512_BF16, AVX512_VNNI, Isa
from burnish.backends.cpu_backend import COMPUTES, PRECISIONS, cpu_backend
from burnish.errors import BurnishError, TargetUnavailableError, UsageError
from burnish.runtime.onednn import load as load_onednn

if TYPE_CHECKING:
    from burnish.lowering.tactics import Source

_MACHINE = "x86_64"
_LEVELS: dict[str, Isa] = {
    "x86-64-v4-bf16": AVX512_BF16,
    "x86-64-v4-vnni": AVX512_VNNI,
    "x86-64-v4": AVX512,
    "x86-64-v3": AVX2,
}


def _resolve(spec: str) -> Target:
    if spec == "x86":
        if platform.machine() != _MACHINE:
            raise TargetUnavailableError(
                "target x86 means this machine's CPU, and this machine is no x86-64",
                hint="name the level to build for: x86-64-v3 or x86-64-v4",
            )
        flags = cpu_features()
        spec = next((s for s, isa in _LEVELS.items() if set(isa.features) <= flags), "")
        if not spec:
            raise TargetUnavailableError(
                "this CPU has neither AVX-512 nor AVX2 with FMA",
                hint="build on or for a newer CPU: --target x86-64-v3",
            )
    if spec not in _LEVELS:
        raise UsageError(f"unknown target {spec!r}", hint=f"one of: {', '.join(X86.specs)}")
    isa = _LEVELS[spec]
    return Target(
        spec,
        X86,
        dict(isa.target),
        _MACHINE,
        isa.features,
        isa,
        precisions=(*PRECISIONS, "int8", "auto"),
        # Products of bfloat16 have instructions of their own there.
        computes={k: v for k, v in COMPUTES.items() if not (isa.bf16 and k == "bfloat16")},
        linker=cross_compiler(_MACHINE),
        integers=bool(isa.dot8),
        weight_only=True,
    )


def _missing_onednn() -> BurnishError | None:
    try:
        load_onednn()
    except TargetUnavailableError as error:
        return error
    return None


def _tactics() -> Mapping[str, Sequence[Source]]:
    if _missing_onednn() is not None:
        return {}
    from burnish.backends.x86.onednn.tactics import SOURCES

    return SOURCES


X86 = cpu_backend(
    "x86",
    {
        "x86": "this machine's CPU: the best level below that it has",
        "x86-64-v4-bf16": "AVX-512 with VNNI and BF16, the dot products of pairs of bfloat16",
        "x86-64-v4-vnni": "AVX-512 with VNNI, the dot products of bytes",
        "x86-64-v4": "AVX-512 (F, BW, CD, DQ, VL)",
        "x86-64-v3": "AVX2 with FMA",
    },
    _resolve,
    _tactics,
    {"onednn": _missing_onednn},
)
