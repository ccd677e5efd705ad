"""One loaded model in the native library, seen from Python."""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from burnish.artifact.dtypes import DATA_TYPES
from burnish.artifact.manifest import TargetInfo, TensorInfo
from burnish.artifact.reader import Artifact
from burnish.errors import ArtifactError, BurnishError, RunError, TargetUnavailableError
from burnish.runtime import library, onednn
from burnish.runtime.inputs import Array, as_bfloat16

_PROFILE_CAPACITY = 1 << 16
# DLPack's device types.
_CPU = 1
_CUDA = 2


@dataclass(frozen=True)
class KernelCall:
    """One kernel call of a profiled run.

    Attributes:
        name: The kernel's function, as in the manifest's nodes.
        start_us: Microseconds from the run's begin to the call.
        duration_us: Microseconds that it took.
    """

    name: str
    start_us: float
    duration_us: float


class _Owner:
    """Gives an output's memory back when the array over it is gone."""

    __slots__ = ("_handle", "_release")

    def __init__(self, handle: int, release: Any) -> None:
        self._handle = handle
        self._release = release

    def __del__(self) -> None:
        self._release(self._handle)


class Session:
    """A model's code, weights and virtual machines. It may be used from several threads at once.

    Args:
        artifact: The checked artifact.
        device: Which of the devices of the artifact's kind; 0 if that is the CPU.

    Raises:
        ArtifactError: The library cannot be loaded, or not on this GPU.
        TargetUnavailableError: There is no such device here, or no driver or library for it, or
            a library is missing whose operations the model calls.
    """

    def __init__(self, artifact: Artifact, device: int = 0) -> None:
        self._native = library.native()
        onednn.load_for(artifact.manifest.libraries)
        self._handle = ctypes.c_void_p()
        manifest = artifact.manifest
        inputs = (library.InputSpec * len(manifest.inputs))(
            *[library.InputSpec(_dtype(i.dtype), len(i.shape)) for i in manifest.inputs]
        )
        weights = (library.WeightSpec * len(manifest.weights))(
            *[
                _weight(info, offset)
                for info, offset in zip(manifest.weights, artifact.offsets, strict=True)
            ]
        )
        status = self._native.burnish_session_create(
            _device(manifest.target, device),
            bytes(artifact.library_path),
            bytes(artifact.weights_path) if manifest.weights else None,
            inputs,
            len(inputs),
            weights,
            len(weights),
            len(manifest.outputs),
            ctypes.byref(self._handle),
        )
        if status:
            raise _load_error(status, artifact)
        self._run = self._native.burnish_session_run
        self._release = self._native.burnish_tensor_release
        self._results = library.Tensor * len(manifest.outputs)
        self._outputs = tuple(enumerate(map(_Output, manifest.outputs)))

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self._native.burnish_session_free(self._handle)

    @property
    def memory(self) -> int:
        """Bytes held for activations and outputs."""
        return int(self._native.burnish_session_memory(self._handle))

    def run(self, pointers: Any, shapes: Any, threads: int) -> list[Array]:
        """Run once on what :meth:`burnish.runtime.inputs.InputBinder.bind` made.

        Raises:
            RunError: The model failed.
        """
        results = self._results()
        if self._run(self._handle, pointers, shapes, threads, results):
            raise RunError(f"the model failed: {library.last_error()}")
        release = self._release
        return [output.array(results[i], release) for i, output in self._outputs]

    def profile(
        self, pointers: Any, shapes: Any, threads: int
    ) -> tuple[list[Array], list[KernelCall]]:
        """As :meth:`run`, with the time of each kernel; slower by a fraction of a µs for each."""
        results = self._results()
        times = (library.KernelTime * _PROFILE_CAPACITY)()
        count = ctypes.c_int64()
        if self._native.burnish_session_profile(
            self._handle,
            pointers,
            shapes,
            threads,
            results,
            times,
            ctypes.c_int64(_PROFILE_CAPACITY),
            ctypes.byref(count),
        ):
            raise RunError(f"the model failed: {library.last_error()}")
        arrays = [output.array(results[i], self._release) for i, output in self._outputs]
        calls = [
            KernelCall(t.name.decode(), t.start_ns / 1e3, t.duration_ns / 1e3)
            for t in times[: count.value]
            # A call of a branch has no name; its kernels have.
            if t.name and not t.name.startswith(b"vm.builtin.")
        ]
        return arrays, calls


class _Output:
    """How one output becomes an array."""

    def __init__(self, info: TensorInfo) -> None:
        self._dtype = np.dtype(DATA_TYPES[info.dtype].numpy)
        self._bfloat16 = info.dtype == "bfloat16"
        self._sizes = ctypes.c_int64 * len(info.shape)
        self._static = all(isinstance(dim, int) for dim in info.shape)
        self._shape = cast(tuple[int, ...], tuple(info.shape)) if self._static else ()
        self._memory = self._memory_type(self._shape)

    def _memory_type(self, shape: tuple[int, ...]) -> Any:
        return ctypes.c_char * (math.prod(shape) * self._dtype.itemsize)

    def array(self, result: Any, release: Any) -> Array:
        """The array over the memory of a native tensor, which it takes over."""
        shape, memory = self._shape, self._memory
        if not self._static:
            shape = tuple(self._sizes.from_address(result.shape))
            memory = self._memory_type(shape)
        # A ctypes array over the memory is the array's base: numpy makes an array of a buffer in
        # a third of the time that it takes through the array interface.
        buffer = memory.from_address(result.data)
        buffer.owner = _Owner(result.handle, release)
        array: Array = np.ndarray(shape, self._dtype, buffer)
        return as_bfloat16(array) if self._bfloat16 else array


def missing_device(target: TargetInfo, number: int = 0) -> str:
    """Why this machine's GPUs cannot run what was compiled for ``target``; empty if they can.

    Says nothing of the CPU: :func:`burnish.artifact.unfit` does.
    """
    if target.device != "cpu" and library.native().burnish_device_check(_device(target, number)):
        return library.last_error()
    return ""


def _device(target: TargetInfo, number: int) -> library.Device:
    if target.device == "cuda":
        return library.Device(_CUDA, number, target.isa.encode())
    return library.Device(_CPU, number, None)


def _load_error(status: int, artifact: Artifact) -> BurnishError:
    message, at = library.last_error(), str(artifact.path)
    if status == library.UNAVAILABLE:
        hint = "run it where the device is, or compile the model for a target of this machine"
        return TargetUnavailableError(message, at=at, hint=hint)
    if status == library.INVALID:
        hint = "compile the model for this machine's device (see `burnish targets`)"
        return ArtifactError(message, at=at, hint=hint)
    return ArtifactError(
        f"the model library cannot be loaded: {message}", at=at, hint="compile the model again"
    )


def _dtype(name: str) -> library.DType:
    kind = DATA_TYPES[name]
    return library.DType(kind.code, kind.bits, 1)


def _weight(info: TensorInfo, offset: int) -> library.WeightSpec:
    shape = (ctypes.c_int64 * len(info.shape))(*cast(tuple[int, ...], info.shape))
    return library.WeightSpec(_dtype(info.dtype), len(info.shape), shape, offset)
