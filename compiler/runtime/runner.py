"""Building ``burnish_run``, the program that runs artifacts without Python, as a folder to deploy.

The folder has the program, burnish's runtime with its C header, and the libraries of TVM's runtime:
it works from wherever it is copied to. For another machine the C++ sources, which are a part of
this package, are cross-compiled, and TVM's libraries come from its wheels for that machine.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

from burnish.artifact import compiler_command, cross_compiler
from burnish.errors import CompileError, InputFileError, TargetUnavailableError
from burnish.runtime import onednn
from burnish.runtime.library import LIBRARY_NAME, package_library

PROGRAM = "burnish_run"
#: The C++ sources, a part of the package.
SOURCES = Path(__file__).resolve().parent / "csrc"
_HEADER = "burnish_runtime.h"
_CXXFLAGS = ("-O2", "-std=c++17", "-pthread", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra")
# All lie beside each other.
_LDFLAGS = ("-pthread", "-Wl,-rpath,$ORIGIN", "-Wl,--no-undefined")
# Needing libtvm_runtime, to which it does not refer, makes the loader initialize that first: the
# thread pool that is registered last counts.
_LIBRARY_LDFLAGS = ("-shared", "-Wl,--no-as-needed", "-ltvm_runtime", "-ltvm_ffi")

#: TVM's libraries by device, as (distribution, package, file).
_CPU_LIBRARIES = (
    ("apache-tvm-ffi", "tvm_ffi", "libtvm_ffi.so"),
    ("apache-tvm", "tvm", "libtvm_runtime.so"),
)
_LIBRARIES = {
    "cpu": _CPU_LIBRARIES,
    "cuda": (*_CPU_LIBRARIES, ("apache-tvm", "tvm", "libtvm_runtime_cuda.so")),
}


def build_runner(
    folder: str | os.PathLike[str],
    *,
    machine: str | None = None,
    device: str = "cpu",
    libraries: Sequence[str] = (),
    cache: Path | None = None,
) -> Path:
    """Build the program and put it into a folder with the libraries that it needs.

    Args:
        folder: Made if it is not there; files of the same names are replaced.
        machine: As ``platform.machine()`` gives it; default: this one.
        device: Where the models run: ``cpu`` or ``cuda``.
        libraries: Further libraries that models were compiled with: ``onednn``.
        cache: Where TVM's libraries for another machine are kept; default: below the user's cache
            folder.

    Returns:
        The program.

    Raises:
        TargetUnavailableError: There is no C++ compiler for the machine, TVM's wheels for it
            cannot be fetched, or a further library is not installed.
        CompileError: The compiler refused.
        InputFileError: The folder cannot be written.
    """
    machine = machine or platform.machine()
    compiler = compiler_command(cross_compiler(machine))
    out = Path(folder)
    try:
        out.mkdir(parents=True, exist_ok=True)
        needed = _libraries(machine, device, cache or default_cache())
        for library in [*needed, *_operations(machine, libraries)]:
            shutil.copy(library, out / library.name)
        shutil.copy(SOURCES / _HEADER, out / _HEADER)
        with tempfile.TemporaryDirectory(dir=out) as work:
            for file in _compile(compiler, Path(work), out):
                file.replace(out / file.name)
    except OSError as error:
        raise InputFileError(f"cannot write the runner: {error}", at=str(out)) from None
    return out / PROGRAM


def _compile(compiler: Sequence[str], work: Path, libraries: Path) -> tuple[Path, Path]:
    """Compile every source by itself, on all CPUs; returns burnish's library and the program."""
    spec = importlib.util.find_spec("tvm_ffi")
    assert spec is not None
    assert spec.origin is not None
    include = Path(spec.origin).parent / "include"

    def compile_one(source: Path) -> str:
        output = str(work / f"{source.stem}.o")
        _run([*compiler, *_CXXFLAGS, "-isystem", str(include), "-c", str(source), "-o", output])
        return output

    sources = [sorted(SOURCES.glob(pattern)) for pattern in ("*.cc", "runner/*.cc")]
    with ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0))) as pool:
        objects = [list(pool.map(compile_one, part)) for part in sources]
    library, program = work / LIBRARY_NAME, work / PROGRAM
    link = [*compiler, *_LDFLAGS, f"-L{libraries}", f"-L{work}"]
    _run([*link, *objects[0], "-o", str(library), f"-Wl,-soname,{LIBRARY_NAME}", *_LIBRARY_LDFLAGS])
    _run([*link, *objects[1], "-o", str(program), str(library), f"-Wl,-rpath-link,{libraries}"])
    return library, program


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CompileError(
            f"building {PROGRAM} failed", at=command[0], hint=done.stderr.strip()[-2000:] or None
        )


def _libraries(machine: str, device: str, cache: Path) -> list[Path]:
    if machine == platform.machine():
        return [Path(package_library(package, name)) for _, package, name in _LIBRARIES[device]]
    return [_fetched(machine, cache, *row) for row in _LIBRARIES[device]]


def _operations(machine: str, libraries: Sequence[str]) -> tuple[Path, ...]:
    """The files of further libraries, which are there for this machine only."""
    if "onednn" not in libraries:
        return ()
    if machine != platform.machine():
        raise TargetUnavailableError(
            f"oneDNN's libraries for {machine} are not on this machine, a {platform.machine()}",
            hint="build the runner on the machine that it is for",
        )
    return onednn.libraries()


def default_cache() -> Path:
    """Below the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "burnish"


def _fetched(machine: str, cache: Path, distribution: str, package: str, name: str) -> Path:
    """A library of a wheel for another machine, of the version that is installed here."""
    wanted = version(distribution)
    path = cache / f"{distribution}-{wanted}-{machine}" / name
    if not path.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as work:
            wheel = _download(f"{distribution}=={wanted}", machine, Path(work))
            with zipfile.ZipFile(wheel) as archive:
                part = Path(archive.extract(f"{package}/lib/{name}", work))
            path.parent.mkdir(exist_ok=True)
            part.replace(path)
    return path


def _download(requirement: str, machine: str, work: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary=:all:", "--platform", f"manylinux_2_28_{machine}"]
    done = subprocess.run(
        [*command, "--dest", str(work), requirement], capture_output=True, text=True, check=False
    )
    wheels = list(work.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        raise TargetUnavailableError(
            f"the wheel {requirement} for {machine} cannot be fetched",
            hint="pip has to be installed and to reach the package index; it said: "
            + (done.stderr.strip()[-500:] or "nothing"),
        )
    return wheels[0]
