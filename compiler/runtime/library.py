"""The native runtime library: finding it, loading it, and its functions' ctypes signatures.

Only three shared libraries are loaded: ``libtvm_ffi`` and ``libtvm_runtime`` from their wheels, and
burnish's own. The Python packages they come with are not imported: ``tvm`` would bring the compiler
and ``tvm_ffi`` would bring torch where that is installed, a second or more each.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
from pathlib import Path

from burnish.errors import TargetUnavailableError

#: File name of the native library; ``burnish.runtime.build`` gives it to the build.
LIBRARY_NAME = "libburnish_runtime.so"

#: What a function returns when a library or device is missing, and when an artifact is not for
#: this machine: ``BurnishStatus``.
UNAVAILABLE = 5
INVALID = 2

# Where the wheels have their libraries, below the package.
_LIBRARY_DIRS = ("lib", "lib64", "")


class DType(ctypes.Structure):
    """``BurnishDType``: DLPack's type code, bits and lanes."""

    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class Device(ctypes.Structure):
    """``BurnishDevice``."""

    _fields_ = (("type", ctypes.c_int32), ("id", ctypes.c_int32), ("arch", ctypes.c_char_p))


class InputSpec(ctypes.Structure):
    """``BurnishInputSpec``."""

    _fields_ = (("dtype", DType), ("ndim", ctypes.c_int32))


class WeightSpec(ctypes.Structure):
    """``BurnishWeightSpec``."""

    _fields_ = (
        ("dtype", DType),
        ("ndim", ctypes.c_int32),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("offset", ctypes.c_uint64),
    )


class Tensor(ctypes.Structure):
    """``BurnishTensor``: an output and the handle that owns it."""

    _fields_ = (
        ("handle", ctypes.c_void_p),
        ("data", ctypes.c_void_p),
        ("shape", ctypes.c_void_p),
        ("ndim", ctypes.c_int32),
        ("dtype", DType),
    )


class KernelTime(ctypes.Structure):
    """``BurnishKernelTime``."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("start_ns", ctypes.c_int64),
        ("duration_ns", ctypes.c_int64),
    )


def package_library(package: str, name: str) -> str:
    """Path of a shared library in an installed package, without importing the package."""
    spec = importlib.util.find_spec(package)
    for root in (spec.submodule_search_locations or ()) if spec else ():
        for folder in _LIBRARY_DIRS:
            path = os.path.join(root, folder, name)
            if os.path.isfile(path):
                return path
    raise TargetUnavailableError(
        f"the package {package} with {name} is not installed",
        hint="install burnish's requirements: pip install burnish",
    )


def library_path() -> Path:
    """Where the native library lies: beside this file.

    Raises:
        TargetUnavailableError: It has not been built.
    """
    path = Path(__file__).resolve().parent / LIBRARY_NAME
    if not path.is_file():
        raise TargetUnavailableError(
            f"burnish's native library {LIBRARY_NAME} is missing",
            at=str(path.parent),
            hint="install burnish with a C++17 compiler at hand (Debian, Ubuntu: apt install g++), "
            "or in a checkout run: python -m burnish.runtime.build",
        )
    return path


def _declare(lib: ctypes.CDLL) -> None:
    status, handle = ctypes.c_int, ctypes.c_void_p
    lib.burnish_last_error.restype = ctypes.c_char_p
    lib.burnish_default_threads.restype = status
    lib.burnish_session_create.restype = status
    lib.burnish_session_create.argtypes = (
        Device,
        ctypes.c_char_p,
        ctypes.c_char_p,
        ctypes.POINTER(InputSpec),
        ctypes.c_int32,
        ctypes.POINTER(WeightSpec),
        ctypes.c_int32,
        ctypes.c_int32,
        ctypes.POINTER(handle),
    )
    lib.burnish_device_check.restype = status
    lib.burnish_device_check.argtypes = (Device,)
    lib.burnish_session_free.restype = None
    lib.burnish_session_free.argtypes = (handle,)
    # The arrays are passed as they are: a declared pointer type would cost a conversion a call.
    lib.burnish_session_run.restype = status
    lib.burnish_session_profile.restype = status
    lib.burnish_session_memory.restype = ctypes.c_int64
    lib.burnish_session_memory.argtypes = (handle,)
    lib.burnish_tensor_release.restype = None
    lib.burnish_tensor_release.argtypes = (handle,)


@functools.cache
def native() -> ctypes.CDLL:
    """The loaded native library. The first call loads it; from then on TVM's kernels use its pool.

    Raises:
        TargetUnavailableError: A library is missing or cannot be loaded.
    """
    # The order matters: libtvm_runtime registers its thread pool, then ours replaces it.
    paths = (
        package_library("tvm_ffi", "libtvm_ffi.so"),
        package_library("tvm", "libtvm_runtime.so"),
        str(library_path()),
    )
    loaded = None
    for path in paths:
        try:
            loaded = ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            raise TargetUnavailableError(
                f"a shared library cannot be loaded: {error}",
                at=path,
                hint="install burnish again on this machine",
            ) from None
    assert loaded is not None
    _declare(loaded)
    return loaded


def last_error() -> str:
    """Message of the native library's last failure in this thread."""
    message: bytes = native().burnish_last_error()
    return message.decode(errors="replace")


def default_threads() -> int:
    """CPUs that this process may use: its affinity mask, limited by its cgroup's CPU quota."""
    count: int = native().burnish_default_threads()
    return count
