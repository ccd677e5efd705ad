"""What builds for a target, as a digest: the part of a cache key that no option tells."""

from __future__ import annotations

import os

from burnish.artifact import compiler_command
from burnish.backends.base import Target
from burnish.cache import KernelCache, Store, stable_digest, toolchain_digest


def toolchain(target: Target) -> str:
    """A digest of burnish, the backend, the packages and the programs that build for a target.

    Raises:
        TargetUnavailableError: A program is missing.
    """
    backend = target.backend
    command = compiler_command(target.linker)
    package = backend.resolve.__module__.partition(".")[0]
    digest = toolchain_digest([command[0], *backend.tools()], [package])
    return stable_digest([digest, command])


def kernel_cache(folder: str | os.PathLike[str] | None, target: Target) -> KernelCache | None:
    """The cache of a target's kernels in a folder; None without one.

    Raises:
        InputFileError: The folder cannot be made.
        TargetUnavailableError: A program that builds for the target is missing.
    """
    if folder is None:
        return None
    return KernelCache(Store.open(folder), toolchain(target))
