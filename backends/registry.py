"""All backends: those of this package in an explicit tuple, and those of other packages by name."""

from __future__ import annotations

import functools
import importlib
import os
from importlib.metadata import entry_points

from burnish.backends.arm import ARM
from burnish.backends.base import Backend, Target
from burnish.backends.cuda import CUDA
from burnish.backends.x86 import X86
from burnish.errors import TargetUnavailableError, UsageError

BACKENDS: tuple[Backend, ...] = (X86, ARM, CUDA)

#: Entry points of this group name a Backend: ``"module:ATTRIBUTE"``.
ENTRY_POINTS = "burnish.backends"
#: So does this environment variable, separated by commas, for backends that are not installed.
VARIABLE = "BURNISH_BACKENDS"


def backends() -> tuple[Backend, ...]:
    """All backends: this package's, then those that installed packages and the environment name.

    Raises:
        UsageError: A name does not lead to a backend, or two backends claim a spelling.
    """
    return _backends(os.environ.get(VARIABLE, ""))


@functools.cache
def _backends(variable: str) -> tuple[Backend, ...]:
    sources = [(e.value, f"the package {e.dist}") for e in entry_points(group=ENTRY_POINTS)]
    sources += [(name.strip(), VARIABLE) for name in variable.split(",") if name.strip()]
    found = list(BACKENDS)
    for name, source in sources:
        backend = _load(name, source)
        taken = {spec: known.name for known in found for spec in known.specs}
        both = [spec for spec in backend.specs if spec in taken]
        if both:
            raise UsageError(
                f"the backend {backend.name} of {source} claims the target {both[0]}, which is "
                f"the backend {taken[both[0]]}'s",
                at=name,
            )
        found.append(backend)
    return tuple(found)


def _load(name: str, source: str) -> Backend:
    """The backend that ``module:ATTRIBUTE`` names."""
    module, _, attribute = name.partition(":")
    try:
        backend = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(
            f"a backend that {source} names cannot be loaded: {error}",
            at=name,
            hint="it has to read module:ATTRIBUTE, and the module has to be on Python's path",
        ) from None
    if not isinstance(backend, Backend):
        raise UsageError(
            f"{source} names a {type(backend).__name__}, not a burnish.backends.base.Backend",
            at=name,
        )
    return backend


def resolve_target(spec: str, precision: str = "fp32") -> Target:
    """The target of ``--target SPEC``, which has kernels for ``--precision PRECISION``.

    Raises:
        UsageError: No backend knows the name.
        TargetUnavailableError: The target is known, but cannot be built here, or lacks the
            precision.
    """
    family = spec.split(":")[0]
    for backend in backends():
        if spec in backend.specs or family in backend.specs:
            return _with_precision(backend.resolve(spec), precision)
    known = [name for backend in backends() for name in backend.specs]
    raise UsageError(f"unknown target {spec!r}", hint=f"one of: {', '.join(known)}")


def check_library(target: Target, library: str) -> list[str]:
    """Check that a target has what ``--library LIBRARY`` asks for.

    Returns:
        A line for each library that might be used but is not there.

    Raises:
        UsageError: The target has no operations of the library.
        TargetUnavailableError: The library is not installed.
    """
    known = target.backend.libraries
    if library == "none":
        return []
    if library != "auto":
        if library not in known:
            raise UsageError(
                f"target {target.spec} has no operations of {library}",
                hint=f"use --library {' or '.join(('auto', 'none', *known))}",
            )
        error = known[library]()
        if error is not None:
            raise error
        return []
    missing = {name: error for name, why in known.items() if (error := why()) is not None}
    return [f"compiled without {name}: {error.message}" for name, error in missing.items()]


def _with_precision(target: Target, precision: str) -> Target:
    if precision not in target.precisions:
        raise TargetUnavailableError(
            f"target {target.spec} has no kernels for precision {precision}",
            hint=f"use --precision {' or '.join(target.precisions)}",
        )
    return target
