"""The CUDA toolkit: finding it, loading TVM's CUDA runtime without a driver, compiling kernels."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from burnish.errors import CompileError, TargetUnavailableError

#: Functions of the driver that TVM's CUDA runtime names, none of which is called while building,
#: and the one that tells whether there is a device.
_DRIVER_FUNCTIONS = (
    "cuInit",
    "cuDeviceGetName",
    "cuFuncSetAttribute",
    "cuGetErrorName",
    "cuGetErrorString",
    "cuLaunchKernelEx",
    "cuModuleGetFunction",
    "cuModuleLoadData",
    "cuModuleUnload",
    "cuTensorMapEncodeTiled",
)
#: CUDA_ERROR_NO_DEVICE.
_NO_DEVICE = 100
_DRIVER = "libcuda.so.1"
_RUNTIME = "libcudart.so.13"
_DEFAULT_HOME = Path("/usr/local/cuda")
_TOOLKIT_HINT = (
    "pip install 'burnish[cuda]', or put the bin folder of a CUDA 13 toolkit on PATH, or name its"
    " folder in CUDA_HOME"
)


def find_nvcc() -> Path:
    """The CUDA compiler.

    Raises:
        TargetUnavailableError: There is none.
    """
    named = [os.environ[v] for v in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(v)]
    found = shutil.which("nvcc")
    candidates = [Path(home) / "bin" / "nvcc" for home in named]
    candidates += [Path(found)] if found else []
    candidates += [home / "bin" / "nvcc" for home in (_DEFAULT_HOME, *_wheel_homes())]
    for path in candidates:
        if path.exists():
            return path
    raise TargetUnavailableError(
        "building for CUDA needs the compiler nvcc, which was not found", hint=_TOOLKIT_HINT
    )


def _wheel_homes() -> list[Path]:
    """Where NVIDIA's Python packages put a toolkit."""
    package = importlib.util.find_spec("nvidia")
    folders = package.submodule_search_locations if package is not None else None
    return [Path(folder) / "cu13" for folder in folders or ()]


def _toolkit_folders() -> Iterator[Path]:
    nvcc = find_nvcc()
    for path in (nvcc, nvcc.resolve()):
        yield path.parent.parent / "lib64"
        yield path.parent.parent / "lib"
        yield path.parent.parent / "targets" / "x86_64-linux" / "lib"
    yield _DEFAULT_HOME / "lib64"
    yield from (home / "lib" for home in _wheel_homes())


def _load_runtime_library() -> None:
    with contextlib.suppress(OSError):
        ctypes.CDLL(_RUNTIME, mode=ctypes.RTLD_GLOBAL)
        return
    for folder in _toolkit_folders():
        if (folder / _RUNTIME).exists():
            ctypes.CDLL(str(folder / _RUNTIME), mode=ctypes.RTLD_GLOBAL)
            return
    raise TargetUnavailableError(
        f"building for CUDA needs {_RUNTIME}, which was not found", hint=_TOOLKIT_HINT
    )


def _load_driver_stand_in() -> None:
    """Load a library that answers to the driver's name and says that there is no device."""
    source = "".join(f"int {name}(void) {{ return {_NO_DEVICE}; }}\n" for name in _DRIVER_FUNCTIONS)
    compiler = next((c for c in ("gcc", "cc", "g++", "clang") if shutil.which(c)), None)
    if compiler is None:
        raise TargetUnavailableError(
            "building for CUDA needs a C compiler, and none was found", hint="apt install gcc"
        )
    with tempfile.TemporaryDirectory(prefix="burnish-cuda-") as folder:
        path = Path(folder, _DRIVER)
        command = [compiler, "-xc", "-", "-shared", "-fPIC", f"-Wl,-soname,{_DRIVER}", "-o"]
        done = subprocess.run([*command, str(path)], input=source.encode(), capture_output=True)
        if done.returncode != 0:
            raise TargetUnavailableError(
                f"{compiler} cannot build a shared library, which building for CUDA needs",
                hint=done.stderr.decode(errors="replace")[-1000:] or "apt install gcc libc6-dev",
            )
        ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)


@functools.cache
def load_cuda_runtime() -> None:
    """Load TVM's CUDA runtime, on a machine without a driver too.

    It links against the driver. Without it TVM would put the kernels' *source* into the artifact,
    for a compiler on the machine that runs it.

    Raises:
        TargetUnavailableError: A library or compiler is missing.
    """
    _load_runtime_library()
    try:
        ctypes.CDLL(_DRIVER, mode=ctypes.RTLD_GLOBAL)
    except OSError:
        _load_driver_stand_in()
    import tvm
    from tvm.base import _LOADED_LIBS

    folder = Path(_LOADED_LIBS["tvm_runtime"]._name).resolve().parent
    ctypes.CDLL(str(folder / "libtvm_runtime_cuda.so"))
    if tvm.get_global_func("ffi.Module.create.cuda", allow_missing=True) is None:
        raise TargetUnavailableError(
            "TVM's CUDA runtime could not be loaded",
            hint="reinstall apache-tvm: its wheel holds libtvm_runtime_cuda.so",
        )


def nvcc_options(arch: str) -> list[str]:
    """Options for one architecture: its machine code, and PTX for newer GPUs.

    No ``--use_fast_math``: division, roots and exponentials are as accurate as CUDA documents.
    """
    number = arch.removeprefix("sm_")
    return [
        "-fatbin",
        "-O3",
        "-std=c++17",
        f"-gencode=arch=compute_{number},code=sm_{number}",
        f"-gencode=arch=compute_{number},code=compute_{number}",
    ]


def compile_cuda(source: str, arch: str) -> bytes:
    """Compile kernels; a result is kept for equal sources.

    Args:
        source: CUDA C++.
        arch: ``sm_80``.

    Returns:
        A fat binary with machine code for ``arch`` and PTX.

    Raises:
        TargetUnavailableError: There is no nvcc.
        CompileError: nvcc does not accept the source.
    """
    nvcc = find_nvcc()
    options = nvcc_options(arch)
    key = "\0".join([source, *options, _version(nvcc)])
    kept = _cache_folder() / f"{hashlib.sha256(key.encode()).hexdigest()}.fatbin"
    with contextlib.suppress(OSError):
        return kept.read_bytes()
    if shutil.which("gcc") is None:
        raise TargetUnavailableError(
            "nvcc needs the host compiler gcc, which was not found", hint="apt install g++"
        )
    with tempfile.TemporaryDirectory(prefix="burnish-cuda-") as folder:
        path, result = Path(folder, "kernels.cu"), Path(folder, "kernels.fatbin")
        path.write_text(source)
        command = [str(nvcc), *options, "-o", str(result), str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
        if done.returncode != 0:
            raise CompileError("nvcc failed", hint=(done.stdout + done.stderr)[-2000:])
        binary = result.read_bytes()
        # The cache is an extra: a full or read-only disk is no reason to fail.
        with contextlib.suppress(OSError):
            kept.parent.mkdir(parents=True, exist_ok=True)
            part = Path(tempfile.mkstemp(dir=kept.parent, prefix=".part-")[1])
            part.write_bytes(binary)
            part.replace(kept)
    return binary


@functools.cache
def _version(nvcc: Path) -> str:
    return subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=False).stdout


def nvcc_release(nvcc: Path) -> str:
    """Its release, ``13.0``; empty where it does not tell."""
    found = re.search(r"release ([\d.]+)", _version(nvcc))
    return found[1] if found else ""


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "burnish" / "cuda"


__all__ = ["compile_cuda", "find_nvcc", "load_cuda_runtime", "nvcc_options", "nvcc_release"]
