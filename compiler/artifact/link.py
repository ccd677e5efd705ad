"""Linking a TVM executable to the model library ``model.so``, the same bytes each time."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from burnish.errors import CompileError, TargetUnavailableError

# TVM announces every memory scope that it writes or reads, as a warning.
_NOISE = re.compile(rb"Warning: Scope (Saving|Loaded)")

# No build id and no symbols of object files: both tell one build's temporary names from another's.
_LINK_OPTIONS = ("-shared", "-fPIC", "-Wl,--build-id=none", "-Wl,--strip-all", "-Wl,-z,noexecstack")


def link_module(executable: Any, path: Path, *, linker: str | None = None) -> None:
    """Export a compiled Relax executable as a shared library.

    Args:
        executable: What ``tvm.compile`` returned: anything with TVM's ``export_library``.
        path: The library to write.
        linker: The C++ compiler that links it; the environment's ``CXX``, or ``g++``.

    Raises:
        TargetUnavailableError: The linker is not installed.
        CompileError: Linking failed.
    """
    command = linker or os.environ.get("CXX") or "g++"
    if shutil.which(command) is None:
        raise TargetUnavailableError(
            f"linking the model needs a C++ compiler, and {command} was not found",
            hint="install it (Debian, Ubuntu: apt install g++), or name another one in CXX",
        )

    def link(output: str, objects: Sequence[str], options: Sequence[str] | None = None) -> None:
        arguments = [command, *_LINK_OPTIONS, "-o", output, *objects, *(options or ())]
        result = subprocess.run(arguments, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise CompileError(
                "linking the model library failed",
                at=str(path),
                hint=result.stderr.strip()[-2000:] or None,
            )

    with tempfile.TemporaryDirectory(prefix="burnish-link-") as workspace, quiet_tvm():
        executable.export_library(str(path), fcompile=link, workspace_dir=workspace)


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
