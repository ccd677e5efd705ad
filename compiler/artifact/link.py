"""Linking a TVM executable to the model library ``model.so``, the same bytes each time."""

from __future__ import annotations

import errno
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from burnish.errors import BurnishError, CompileError, InputFileError, TargetUnavailableError

# TVM announces every memory scope that it writes or reads, as a warning.
_NOISE = re.compile(rb"Warning: Scope (Saving|Loaded)")

_COMPILERS = ("g++", "c++", "clang++")
#: C++ compilers for the Linux of another machine, by their usual names: of Debian and Ubuntu, of
#: ARM's own distribution, of conda. The second is the package of Debian and Ubuntu.
_CROSS_COMPILERS = {
    "aarch64": (
        ("aarch64-linux-gnu-g++", "aarch64-none-linux-gnu-g++", "aarch64-conda-linux-gnu-g++"),
        "g++-aarch64-linux-gnu",
    ),
    "x86_64": (("x86_64-linux-gnu-g++", "x86_64-conda-linux-gnu-g++"), "g++-x86-64-linux-gnu"),
}

# No build id and no symbols of object files: both tell one build's temporary names from another's.
_LINK_OPTIONS = ("-shared", "-fPIC", "-Wl,--build-id=none", "-Wl,--strip-all", "-Wl,-z,noexecstack")


def link_module(executable: Any, path: Path, *, linker: str | None = None) -> None:
    """Export a compiled Relax executable as a shared library.

    Args:
        executable: What ``tvm.compile`` returned: anything with TVM's ``export_library``.
        path: The library to write.
        linker: The C++ compiler that links it, options included; default: the environment's
            ``CXX``, or the first of g++, c++ and clang++ that is there.

    Raises:
        TargetUnavailableError: The linker is not installed.
        InputFileError: The disk is full.
        CompileError: Linking failed.
    """
    command = compiler_command(linker)

    def link(output: str, objects: Sequence[str], options: Sequence[str] | None = None) -> None:
        arguments = [*command, *_LINK_OPTIONS, "-o", output, *objects, *(options or ())]
        result = subprocess.run(arguments, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise _link_error(path, result.stderr.strip())

    with tempfile.TemporaryDirectory(prefix="burnish-link-") as workspace, quiet_tvm():
        executable.export_library(str(path), fcompile=link, workspace_dir=workspace)


def compiler_command(asked: str | None = None) -> list[str]:
    """The C++ compiler's command.

    Args:
        asked: The compiler, options included; default: the environment's ``CXX``, or the first of
            g++, c++ and clang++ that is there.

    Raises:
        TargetUnavailableError: It is not installed.
    """
    asked = asked or os.environ.get("CXX")
    for candidate in [shlex.split(asked)] if asked else [[name] for name in _COMPILERS]:
        if candidate and shutil.which(candidate[0]) is not None:
            return candidate
    raise TargetUnavailableError(
        f"linking needs a C++ compiler, and {asked or _COMPILERS[0]} was not found",
        hint="install it (Debian, Ubuntu: apt install g++), or name another one in CXX",
    )


def cross_compiler(machine: str) -> str | None:
    """The C++ compiler for the Linux of ``machine``; None if that is this machine's own.

    Args:
        machine: As ``platform.machine()`` gives it.

    Raises:
        TargetUnavailableError: None is installed.
    """
    if platform.machine() == machine:
        return None
    names, package = _CROSS_COMPILERS[machine]
    for name in names:
        if shutil.which(name) is not None:
            return name
    raise TargetUnavailableError(
        f"building for {machine} on {platform.machine()} needs a cross compiler, and {names[0]} "
        "was not found",
        hint=f"install it (Debian, Ubuntu: apt install {package})",
    )


def _link_error(path: Path, output: str) -> BurnishError:
    if os.strerror(errno.ENOSPC) in output:
        return InputFileError(
            "the disk is full",
            at=str(path),
            hint="free some space there and in the temporary folder (TMPDIR)",
        )
    return CompileError(
        "linking the model library failed", at=str(path), hint=output[-2000:] or None
    )


@contextmanager
def quiet_tvm() -> Iterator[None]:
    """Hold back what native code writes to stderr, and pass on all but TVM's known noise.

    File descriptor 2 belongs to the whole process: for the compile worker only.
    """
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held:
        saved = os.dup(2)
        try:
            os.dup2(held.fileno(), 2)
            yield
        finally:
            sys.stderr.flush()
            os.dup2(saved, 2)
            os.close(saved)
            _pass_on(held)


def _pass_on(held: IO[bytes]) -> None:
    held.seek(0)
    kept = b"".join(line for line in held if not _NOISE.search(line))
    while kept:
        kept = kept[os.write(2, kept) :]
