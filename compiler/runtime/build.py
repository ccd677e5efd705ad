"""Building the native libraries: for pip, and in place for work in a checkout.

pyproject.toml names the commands below, so that the repository needs no setup.py. setuptools runs
this file by its path, before burnish exists: it imports nothing of burnish.

In a checkout, ``python compiler/runtime/build.py`` builds the libraries beside this file. Where
oneDNN's headers are not installed, burnish is built without its operations.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from setuptools import Extension
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

RUNTIME = "libburnish_runtime"
ONEDNN = "libburnish_onednn"
CXXFLAGS = ("-O2", "-std=c++17", "-fPIC", "-pthread", "-fvisibility=hidden", "-Wall", "-Wextra")
# libtvm_ffi is in the process before this library; the path serves programs without Python.
_RPATHS = ("-Wl,-rpath,$ORIGIN/../../tvm_ffi/lib", "-Wl,-rpath,$ORIGIN")
LDFLAGS = ("-shared", "-pthread", *_RPATHS, "-Wl,--no-undefined")

_CSRC = "compiler/runtime/csrc"
_ONEDNN_CSRC = "backends/x86/onednn/csrc"
#: What the library of oneDNN's operations shares with the runtime.
_SHARED = ("failure.cc", "json.cc")


def tvm_ffi_root() -> Path:
    """Folder of the installed tvm_ffi package, with ``include`` and ``lib``."""
    spec = importlib.util.find_spec("tvm_ffi")
    if spec is None or spec.origin is None:
        raise SystemExit("building burnish needs the package apache-tvm-ffi")
    return Path(spec.origin).parent


def installed_file(distribution: str, name: str) -> Path | None:
    """A file of an installed distribution by the end of its path; None if it is not there."""
    try:
        files = importlib.metadata.files(distribution) or ()
    except importlib.metadata.PackageNotFoundError:
        return None
    found = (Path(str(f.locate())).resolve() for f in files if str(f).endswith(f"/{name}"))
    return next((path for path in found if path.is_file()), None)


def onednn_options(root: Path) -> list[str] | None:
    """What compiling and linking with oneDNN takes; None where it is not installed.

    Args:
        root: The repository.
    """
    header = installed_file("onednn-devel-cpu-gomp", "include/dnnl.hpp")
    library = installed_file("onednn-cpu-gomp", "libdnnl.so.3")
    if header is None or library is None:
        return None
    folders = ["-isystem", str(header.parent), "-I", str(root / _CSRC)]
    # oneDNN's wheel puts its library into the environment's lib.
    return [*folders, str(library), "-lgomp", "-Wl,-rpath,$ORIGIN/../../../.."]


def compile_library(sources: list[Path], output: Path, options: Sequence[str] = ()) -> None:
    """Compile and link the C++ ``sources`` into the shared library ``output``.

    The environment variables CXX and CXXFLAGS are respected.

    Args:
        sources: The C++ files.
        output: The library.
        options: Further ones of the compiler.
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
        *options,
    ]
    if subprocess.run(command, check=False).returncode != 0:
        partial.unlink(missing_ok=True)
        raise SystemExit(f"building burnish failed: {shlex.join(command)}")
    # A process that has the old library open keeps it.
    partial.replace(output)


def _without_onednn() -> None:
    print(
        "building burnish without oneDNN: onednn-devel-cpu-gomp is not installed", file=sys.stderr
    )


class BuildExt(build_ext):
    """Builds the libraries under their plain names: they are no Python extension modules."""

    def finalize_options(self) -> None:
        """Leave out what cannot be built here."""
        super().finalize_options()
        if onednn_options(Path()) is None:
            _without_onednn()
            listed: list[Extension] = self.distribution.ext_modules
            self.extensions = [e for e in listed if not e.name.endswith(ONEDNN)]

    def get_ext_filename(self, fullname: str) -> str:
        """Path of a library in the build tree."""
        *folders, name = fullname.split(".")
        return os.path.join(*folders, f"{name}.so")

    def build_extension(self, ext: Extension) -> None:
        """Compile the extension's sources."""
        options = onednn_options(Path()) if ext.name.endswith(ONEDNN) else None
        sources = [Path(source) for source in ext.sources]
        compile_library(sources, Path(self.get_ext_fullpath(ext.name)), options or ())


class BdistWheel(bdist_wheel):
    """Tags the wheel for any Python 3 on this platform: the library does not use Python."""

    def get_tag(self) -> tuple[str, str, str]:
        """Python, ABI and platform tag."""
        return ("py3", "none", super().get_tag()[2])


def main() -> int:
    """Build in place."""
    folder = Path(__file__).resolve().parent
    compile_library(list((folder / "csrc").glob("*.cc")), folder / f"{RUNTIME}.so")
    root = folder.parents[1]
    options = onednn_options(root)
    if options is None:
        _without_onednn()
        return 0
    sources = [*(root / _ONEDNN_CSRC).glob("*.cc"), *(folder / "csrc" / n for n in _SHARED)]
    compile_library(sources, folder / f"{ONEDNN}.so", options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
