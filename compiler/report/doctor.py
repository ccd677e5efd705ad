"""The checks of ``burnish doctor``."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

from burnish import __version__
from burnish.artifact import cpu_features
from burnish.errors import BurnishError
from burnish.runtime.library import default_threads


@dataclass(frozen=True)
class Check:
    """One line.

    Attributes:
        name: What was looked at.
        ok: Whether all is well.
        detail: What was found.
        fix: What to do about it; empty when ok.
        required: Whether burnish cannot compile or run without it.
    """

    name: str
    ok: bool
    detail: str
    fix: str = ""
    required: bool = True

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


def checks() -> list[Check]:
    """Run every check."""
    rows = [Check("burnish", True, f"{__version__}, Python {platform.python_version()}")]
    for make in (_cpu, _threads, _packages, _compiler, _arm, _cuda, _onednn, _runtime, _worker):
        rows += make()
    return rows


def _cpu() -> Iterator[Check]:
    from burnish.backends.registry import resolve_target

    native = "arm" if platform.machine() == "aarch64" else "x86"
    try:
        target = resolve_target(native)
    except BurnishError as error:
        yield Check("CPU", False, error.message, error.hint or "")
        return
    best = target.isa.name != "avx2"
    yield Check(
        "CPU",
        True,
        f"{platform.machine()}, builds for {target.spec} ({target.isa.name})",
        "" if best else "an AVX-512 CPU runs the same models up to twice as fast",
        False,
    )
    if native == "x86":
        library = target.backend.libraries["onednn"]() is None
        found = short_products(cpu_features(), library=library)
        yield Check("short products", True, found, required=False)


#: Instructions of x86 that multiply shorter numbers, by their flag.
_SHORT = {"avx512_bf16": "bf16", "avx512_vnni": "int8"}
#: Those that only oneDNN's kernels use.
_AMX = ("amx_bf16", "amx_int8")


def short_products(flags: frozenset[str], *, library: bool) -> str:
    """Which products of bf16 and int8 an x86 CPU has, and which are used.

    Args:
        flags: Of the CPU.
        library: Whether oneDNN is there.
    """
    parts = [
        f"{kind} by {flag}" if flag in flags else f"no {kind} of its own"
        for flag, kind in _SHORT.items()
    ]
    tiles = " and ".join(flag for flag in _AMX if flag in flags)
    used = "by oneDNN's kernels" if library else "not used: that takes oneDNN"
    parts.append(f"{tiles} {used}" if tiles else "no AMX")
    return ", ".join(parts)


def _threads() -> Iterator[Check]:
    count = default_threads()
    total = os.cpu_count() or count
    yield Check("threads", True, f"{count} of {total} CPUs", required=False)


def _packages() -> Iterator[Check]:
    pinned = {"apache-tvm": "0.27.0.post1", "apache-tvm-ffi": "0.1.14.post1"}
    try:
        for line in requires("burnish") or ():
            name, equals, wanted = line.partition("==")
            if equals and name in pinned:
                pinned[name] = wanted.split(";")[0].strip()
    except PackageNotFoundError:
        pass
    for name in (
        "apache-tvm",
        "apache-tvm-ffi",
        "onnx",
        "onnxruntime",
        "onnx-graphsurgeon",
        "numpy",
    ):
        try:
            found = version(name)
        except PackageNotFoundError:
            yield Check(name, False, "not installed", f"pip install {name}")
            continue
        wanted = pinned.get(name, found)
        fix = "" if found == wanted else f"pip install {name}=={wanted}"
        yield Check(name, found == wanted, found, fix)
    for name in ("torch", "openvino"):
        try:
            yield Check(name, True, version(name), required=False)
        except PackageNotFoundError:
            yield Check(
                name, False, "not installed (optional)", f"pip install burnish[{name}]", False
            )


def _compiler() -> Iterator[Check]:
    command = os.environ.get("CXX", "g++")
    path = shutil.which(command)
    if path is None:
        yield Check(
            "C++ compiler",
            False,
            f"{command} was not found",
            "apt install g++, or name another one in CXX",
        )
        return
    found = subprocess.run([path, "-dumpfullversion"], capture_output=True, text=True, check=False)
    yield Check("C++ compiler", found.returncode == 0, f"{path} {found.stdout.strip()}")


def _arm() -> Iterator[Check]:
    from burnish.backends.registry import resolve_target

    try:
        target = resolve_target("arm")
    except BurnishError as error:
        yield Check("target arm", False, error.message, error.hint or "", required=False)
        return
    yield Check("target arm", True, f"linked by {target.linker or 'this machine'}", required=False)


def _cuda() -> Iterator[Check]:
    from burnish.backends.cuda.toolkit import find_nvcc, nvcc_release

    try:
        path = find_nvcc()
    except BurnishError as error:
        yield Check("target cuda", False, error.message, error.hint or "", required=False)
        return
    yield Check("target cuda", True, f"{path}, CUDA {nvcc_release(path)}", required=False)


def _onednn() -> Iterator[Check]:
    from burnish.runtime import onednn

    if platform.machine() != "x86_64":
        return
    try:
        onednn.load()
    except BurnishError as error:
        yield Check("oneDNN", False, error.message, error.hint or "", required=False)
        return
    yield Check("oneDNN", True, str(onednn.libraries()[0]), required=False)


def _runtime() -> Iterator[Check]:
    yield _attempt("runtime library", _load_runtime)


def _load_runtime() -> str:
    from burnish.runtime.library import library_path, native

    native()
    return str(library_path())


def _worker() -> Iterator[Check]:
    yield _attempt("compile worker", _start_worker)


def _start_worker() -> str:
    from burnish.worker import run_in_worker

    return str(run_in_worker("burnish.report.doctor:compiler_versions"))


def compiler_versions() -> str:
    """Versions of TVM and its LLVM; runs in the compile worker."""
    import tvm

    return f"TVM {tvm.__version__}, LLVM {tvm.target.codegen.llvm_version_major()}"


def _attempt(name: str, probe: Callable[[], str]) -> Check:
    try:
        return Check(name, True, probe())
    except BurnishError as error:
        return Check(name, False, error.message, error.hint or "")
