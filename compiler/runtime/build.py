"""Building the native library: for pip, and in place for work in a checkout.

pyproject.toml names the commands below, so that the repository needs no setup.py. setuptools runs
this file by its path, before burnish exists: it imports nothing of burnish.

In a checkout, ``python compiler/runtime/build.py`` builds the library beside this file.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

LIBRARY_NAME = "libburnish_runtime.so"
CXXFLAGS = ("-O2", "-std=c++17", "-fPIC", "-pthread", "-fvisibility=hidden", "-Wall", "-Wextra")
# libtvm_ffi is in the process before this library; the path serves programs without Python.
LDFLAGS = ("-shared", "-pthread", "-Wl,-rpath,$ORIGIN/../../tvm_ffi/lib", "-Wl,--no-undefined")


def tvm_ffi_root() -> Path:
    """Folder of the installed tvm_ffi package, with ``include`` and ``lib``."""
    spec = importlib.util.find_spec("tvm_ffi")
    if spec is None or spec.origin is None:
        raise SystemExit("building burnish needs the package apache-tvm-ffi")
    return Path(spec.origin).parent


def compile_library(sources: list[Path], output: Path) -> None:
    """Compile and link the C++ ``sources`` into the shared library ``output``.

    The environment variables CXX and CXXFLAGS are respected.
    """
    compiler = shlex.split(os.environ.get("CXX", "")) or ["g++"]
    if shutil.which(compiler[0]) is None:
        raise SystemExit(
            f"building burnish needs a C++17 compiler, and {compiler[0]} was not found "
            "(Debian, Ubuntu: apt install g++; or set CXX)"
        )
    ffi = tvm_ffi_root()
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_suffix(".partial")
    command = [
        *compiler,
        *CXXFLAGS,
        *shlex.split(os.environ.get("CXXFLAGS", "")),
        *(str(source) for source in sorted(sources)),
        *("-isystem", str(ffi / "include")),
        *("-o", str(partial)),
        *LDFLAGS,
        f"-L{ffi / 'lib'}",
        "-ltvm_ffi",
    ]
    if subprocess.run(command, check=False).returncode != 0:
        partial.unlink(missing_ok=True)
        raise SystemExit(f"building burnish failed: {shlex.join(command)}")
    # A process that has the old library open keeps it.
    partial.replace(output)


class BuildExt(build_ext):
    """Builds the library under its plain name: it is no Python extension module."""

    def get_ext_filename(self, fullname: str) -> str:
        """Path of the library in the build tree."""
        return os.path.join(*fullname.split(".")[:-1], LIBRARY_NAME)

    def build_extension(self, ext: Extension) -> None:
        """Compile the extension's sources."""
        compile_library(
            [Path(source) for source in ext.sources], Path(self.get_ext_fullpath(ext.name))
        )


class BdistWheel(bdist_wheel):
    """Tags the wheel for any Python 3 on this platform: the library does not use Python."""

    def get_tag(self) -> tuple[str, str, str]:
        """Python, ABI and platform tag."""
        return ("py3", "none", super().get_tag()[2])


def main() -> int:
    """Build in place."""
    folder = Path(__file__).resolve().parent
    compile_library(list((folder / "csrc").glob("*.cc")), folder / LIBRARY_NAME)
    return 0


if __name__ == "__main__":
    sys.exit(main())
