"""Builds the emulated CUDA device: a libcuda and a libcudart whose device is the CPU."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.models.store import cache_dir

_HERE = Path(__file__).resolve().parent
_CXX = ("g++", "-std=gnu++17", "-fPIC", "-shared", "-Wall", "-Wextra")
_KERNEL = re.compile(r'extern\s+"C"\s+__global__\s+void\s+([^{;]*?)(\w+)\s*\(([^)]*)\)\s*\{')
_DYNAMIC_SHARED = re.compile(
    r"extern\s+__shared__\s+(?:(?:__align__|alignas)\(\d+\)\s*)?(\w[\w ]*?)\s+(\w+)\s*\[\s*\]\s*;"
)
_SHARED_ALIGNED = re.compile(r"__shared__\s+(alignas\(\d+\))")

# The linker gives the ends of a section whose name is an identifier, if there is one.
_ENTRY = """
extern "C" {
extern char __attribute__((weak, visibility("hidden"))) __start_shared_NAME[];
extern char __attribute__((weak, visibility("hidden"))) __stop_shared_NAME[];
char* NAME__shared_begin = __start_shared_NAME;
char* NAME__shared_end = __stop_shared_NAME;
void NAME__emulated(void** a) { NAME(ARGUMENTS); }
}
"""


@functools.cache
def missing() -> str:
    """Why the emulated device cannot be built here; empty if it can."""
    if platform.machine() != "x86_64":
        return "the emulated CUDA device is written for x86-64"
    if shutil.which("g++") is None:
        return "g++ is not installed"
    version = subprocess.run(["g++", "-dumpversion"], capture_output=True, text=True, check=True)
    # The first whose C++ has _Float16.
    return "" if int(version.stdout.split(".")[0]) >= 12 else "g++ is older than version 12"


@functools.cache
def libraries() -> Path:
    """Folder with the emulated ``libcuda.so.1`` and ``libcudart.so.13``, built on first use."""
    sources = sorted([*_HERE.glob("*.cc"), *_HERE.glob("*.h"), *_HERE.glob("include/*")])
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]
    folder = cache_dir() / f"cuda_emulator-{digest}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        partial = Path(temporary) / "lib"
        partial.mkdir()
        driver = [_HERE / "driver.cc", _HERE / "fibers.cc"]
        _build(partial / "libcuda.so.1", driver, "-Wl,-soname,libcuda.so.1")
        runtime_map = f"-Wl,--version-script={_HERE / 'runtime.map'}"
        _build(
            partial / "libcudart.so.13",
            [_HERE / "runtime.cc"],
            "-Wl,-soname,libcudart.so.13",
            runtime_map,
        )
        try:
            partial.replace(folder)
        except OSError:
            if not folder.is_dir():  # another process was not faster
                raise
    return folder


def _build(output: Path, sources: list[Path], *options: str) -> None:
    subprocess.run(
        [*_CXX, "-O2", *map(str, sources), "-o", str(output), *options, "-ldl"], check=True
    )


def compile_cuda(source: str, arch: str) -> bytes:
    """Compile CUDA C++ to a module of the emulated device.

    Takes the place of ``burnish.backends.cuda``'s function of this name, which calls nvcc.

    Args:
        source: What TVM generated.
        arch: ``sm_80``; the macro ``__CUDA_ARCH__`` follows from it.

    Raises:
        RuntimeError: g++ refused it; with its messages.
    """
    capability = re.sub(r"\D", "", arch)
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / "kernels.cc"
        output = Path(temporary) / "kernels.so"
        file.write_text(_for_host(source), encoding="utf-8")
        command = [
            *(*_CXX, "-O1", "-march=native", "-Wno-all", "-Wno-extra", "-fno-strict-aliasing"),
            *(f"-I{_HERE / 'include'}", f"-D__CUDA_ARCH__={capability}0"),
            *(str(file), "-o", str(output), str(libraries() / "libcuda.so.1")),
        ]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            kept = os.environ.get("CUDA_EMULATOR_DUMP")
            if kept:
                shutil.copy(file, kept)
            raise RuntimeError(f"g++ refused the generated CUDA source:\n{result.stderr[:4000]}")
        return output.read_bytes()


def _for_host(source: str) -> str:
    """The source with what g++ needs around it: types before, an entry for each kernel behind."""
    source = _DYNAMIC_SHARED.sub(r"\1* \2 = (\1*)emulator_dynamic_shared();", source)
    source = _SHARED_ALIGNED.sub(r"\1 __shared__", source)  # the order that g++ takes
    entries = []
    for _, name, parameters in _KERNEL.findall(source):
        types = [_type_of(text) for text in parameters.split(",") if text.strip()]
        arguments = ", ".join(f"*({kind}*)a[{i}]" for i, kind in enumerate(types))
        entries.append(_ENTRY.replace("NAME", name).replace("ARGUMENTS", arguments))
    source = _KERNEL.sub(_with_shared_section, source)
    return "\n".join(['#include "emulator.h"', source, *entries])


def _with_shared_section(kernel: re.Match[str]) -> str:
    """The begin of a kernel, whose shared arrays get a section of their own."""
    section = f'__attribute__((section("shared_{kernel[2]}")))'
    return f"\n#undef __shared__\n#define __shared__ {section} static\n{kernel[0]}"


def _type_of(parameter: str) -> str:
    """The type of ``half* __restrict__ A``."""
    plain = re.sub(r"__restrict__|__grid_constant__", " ", parameter).strip()
    return re.sub(r"\w+$", "", plain).strip()
