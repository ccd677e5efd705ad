"""All backends, in an explicit tuple."""

from __future__ import annotations

from burnish.backends.base import Backend, Target
from burnish.backends.x86 import X86
from burnish.errors import TargetUnavailableError, UsageError

BACKENDS: tuple[Backend, ...] = (X86,)

#: Targets of the design that this version does not build.
PLANNED: dict[str, str] = {
    "arm": "this version of burnish has no ARM backend",
    "cuda": "this version of burnish has no CUDA backend",
}


def resolve_target(spec: str) -> Target:
    """The target of ``--target SPEC``.

    Raises:
        UsageError: No backend knows the name.
        TargetUnavailableError: The target is known, but cannot be built here.
    """
    family = spec.split(":")[0]
    for backend in BACKENDS:
        if spec in backend.specs or family in backend.specs:
            return backend.resolve(spec)
    known = [name for backend in BACKENDS for name in backend.specs]
    if family in PLANNED:
        raise TargetUnavailableError(PLANNED[family], at=spec, hint=f"use {', '.join(known)}")
    raise UsageError(f"unknown target {spec!r}", hint=f"one of: {', '.join(known)}")
