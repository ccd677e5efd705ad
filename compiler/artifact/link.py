"""Linking a TVM executable to the model library ``model.so``, the same bytes each time."""

from __future__ import annotations

import errno
import os
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

_LINKERS = ("g++", "c++", "clang++")

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
    command = _linker(linker)

    def link(output: str, objects: Sequence[str], options: Sequence[str] | None = None) -> None:
        arguments = [*command, *_LINK_OPTIONS, "-o", output, *objects, *(options or ())]
        result = subprocess.run(arguments, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise _link_error(path, result.stderr.strip())

    with tempfile.TemporaryDirectory(prefix="burnish-link-") as workspace, quiet_tvm():
        executable.export_library(str(path), fcompile=link, workspace_dir=workspace)


def _linker(linker: str | None) -> list[str]:
    asked = linker or os.environ.get("CXX")
    for candidate in [shlex.split(asked)] if asked else [[name] for name in _LINKERS]:
        if candidate and shutil.which(candidate[0]) is not None:
            return candidate
    raise TargetUnavailableError(
        f"linking the model needs a C++ compiler, and {asked or _LINKERS[0]} was not found",
        hint="install it (Debian, Ubuntu: apt install g++), or name another one in CXX",
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
