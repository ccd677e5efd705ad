"""What a caller hands in, checked against the model's inputs and made ready for the native call."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from burnish.artifact.dtypes import DATA_TYPES
from burnish.artifact.manifest import Condition, Dim, TensorInfo
from burnish.errors import InvalidInputError
from burnish.runtime.conditions import check_conditions

Array = npt.NDArray[Any]

# DLPack device types whose memory the CPU can read: kDLCPU, kDLCUDAHost, kDLROCMHost.
_HOST_DEVICES = (1, 3, 11)
# Shapes that were checked once need not be checked again; more than this many are forgotten.
_SEEN_SHAPES = 256

_one_byte: Callable[[Any], ctypes.c_char] = ctypes.c_char.from_buffer
_address = ctypes.addressof
_ndarray = np.ndarray


def describe(info: TensorInfo) -> str:
    """``name: float32[batch, 3, 224, 224]``."""
    dims = ", ".join("?" if dim is None else str(dim) for dim in info.shape)
    return f"{info.name}: {info.dtype}[{dims}]"


def data_pointer(array: Array) -> int:
    """Address of an array's first element; much cheaper than ``array.ctypes.data``."""
    try:
        return _address(_one_byte(array))
    except (TypeError, ValueError):  # read-only, or empty
        return int(array.ctypes.data)


class InputBinder:
    """Checks the inputs of a call, cheaply where they are as expected.

    Args:
        inputs: The model's inputs.
        symbols: Inclusive bounds of symbolic dims, where there are some.
        conditions: What the model demands of the sizes of its symbolic dims.
    """

    def __init__(
        self,
        inputs: Sequence[TensorInfo],
        symbols: Mapping[str, tuple[int, int]],
        conditions: Sequence[Condition] = (),
    ) -> None:
        self._conditions = tuple(conditions)
        self._inputs = tuple(inputs)
        self._symbols = dict(symbols)
        self._expected = tuple((i.name, np.dtype(DATA_TYPES[i.dtype].numpy), i) for i in inputs)
        # An array of just this dtype needs no conversion; numpy's own bfloat16 there is not.
        self._plain = tuple(
            (name, None if i.dtype == "bfloat16" else dtype) for name, dtype, i in self._expected
        )
        self._pointers = ctypes.c_void_p * len(self._inputs)
        self._seen: dict[tuple[tuple[int, ...], ...], Any] = {}

    def bind(self, feeds: Mapping[str, Any]) -> tuple[list[Array], Any, Any]:
        """Check the inputs of one call.

        Args:
            feeds: Array, DLPack tensor or anything that numpy makes an array of, by input name.

        Returns:
            The arrays, which have to live as long as the call; their addresses; their shapes one
            after the other. The last two are ctypes arrays.

        Raises:
            InvalidInputError: A name, dtype, rank or dimension is wrong.
        """
        arrays: list[Array] = []
        pointers = self._pointers()
        for index, (name, dtype) in enumerate(self._plain):
            try:
                value = feeds[name]
            except KeyError:
                raise self._wrong_names(feeds) from None
            # The cheap way to an array's address needs one that is writable and not empty as well.
            if (
                type(value) is _ndarray
                and value.dtype is dtype
                and value.flags.carray
                and value.size
            ):
                pointers[index] = _address(_one_byte(value))
            else:
                value = self._convert(index, value)
                pointers[index] = data_pointer(value)
            arrays.append(value)
        if len(feeds) != len(arrays):
            raise self._wrong_names(feeds)
        key = tuple([array.shape for array in arrays])
        shapes = self._seen.get(key)
        if shapes is None:
            shapes = self._check(key)
        return arrays, pointers, shapes

    def _convert(self, index: int, value: object) -> Array:
        """An input that is not an array of the right dtype and layout, as one."""
        _, dtype, info = self._expected[index]
        if type(value) is not np.ndarray or value.dtype != dtype or info.dtype == "bfloat16":
            value = _to_array(info, dtype, value)
        flags = value.flags
        if not (flags.c_contiguous and flags.aligned):
            value = np.array(value, order="C", copy=True)
        return value

    def _check(self, key: tuple[tuple[int, ...], ...]) -> Any:
        """Check the shapes of all inputs together; returns them for the native call."""
        bound: dict[str, tuple[int, str]] = {}
        for info, shape in zip(self._inputs, key, strict=True):
            if len(shape) != len(info.shape):
                raise _wrong(info, "rank", len(info.shape), len(shape), shape)
            for axis, (dim, size) in enumerate(zip(info.shape, shape, strict=True)):
                self._check_dim(info, shape, axis, dim, size, bound)
        check_conditions(self._conditions, {dim: size for dim, (size, _) in bound.items()})
        flat = [size for shape in key for size in shape]
        shapes = (ctypes.c_int64 * len(flat))(*flat)
        if len(self._seen) >= _SEEN_SHAPES:
            self._seen.clear()
        self._seen[key] = shapes
        return shapes

    def _check_dim(
        self,
        info: TensorInfo,
        shape: tuple[int, ...],
        axis: int,
        dim: Dim,
        size: int,
        bound: dict[str, tuple[int, str]],
    ) -> None:
        if isinstance(dim, int):
            if dim != size:
                raise _wrong(info, f"size of axis {axis}", dim, size, shape)
        elif dim is not None:
            low, high = self._symbols.get(dim, (0, size))
            if not low <= size <= high:
                raise _wrong(info, f"size of axis {axis} ({dim})", f"{low} to {high}", size, shape)
            known, where = bound.setdefault(dim, (size, info.name))
            if known != size:
                raise _wrong(
                    info, f"size of axis {axis}", f"{known} ({dim}, as in {where!r})", size, shape
                )

    def _wrong_names(self, feeds: Mapping[str, Any]) -> InvalidInputError:
        names = [info.name for info in self._inputs]
        missing = [name for name in names if name not in feeds]
        unknown = [name for name in feeds if name not in names]
        parts = []
        if missing:
            parts.append("missing: " + ", ".join(map(repr, missing)))
        if unknown:
            parts.append("unknown: " + ", ".join(map(repr, unknown)))
        takes = ", ".join(map(describe, self._inputs)) or "no inputs"
        return InvalidInputError(
            "wrong input names; " + "; ".join(parts),
            at=(missing + unknown)[0],
            hint=f"the model takes {takes}",
        )


def _wrong(
    info: TensorInfo, what: str, expected: object, got: object, shape: object
) -> InvalidInputError:
    return InvalidInputError(
        f"the input {info.name!r} has a wrong {what}: expected {expected}, got {got}",
        at=info.name,
        hint=f"the model takes {describe(info)}; the shape given is {shape}",
    )


def _to_array(info: TensorInfo, dtype: np.dtype[Any], value: object) -> Array:
    """Anything that is not an array of the right dtype, as one; without a copy where possible."""
    if not isinstance(value, np.ndarray):
        value = _from_other(info, value)
    if info.dtype == "bfloat16" and value.dtype.name == "bfloat16":
        value = value.view(np.uint16)
    elif info.dtype == "bfloat16" or value.dtype.newbyteorder("=") != dtype:
        raise InvalidInputError(
            f"the input {info.name!r} has a wrong dtype: expected {info.dtype}, got {value.dtype}",
            at=info.name,
            hint=f"convert it: .astype({info.dtype!r})",
        )
    return value.astype(dtype, copy=False)  # only the byte order may differ still


def _from_other(info: TensorInfo, value: object) -> Array:
    if not hasattr(value, "__dlpack__"):
        try:
            return np.asarray(value)
        except (ValueError, TypeError) as error:
            raise InvalidInputError(
                f"the input {info.name!r} is no array: {error}", at=info.name
            ) from None
    device = value.__dlpack_device__()[0] if hasattr(value, "__dlpack_device__") else 1
    if device not in _HOST_DEVICES:
        raise InvalidInputError(
            f"the input {info.name!r} is not in the CPU's memory",
            at=info.name,
            hint="copy it to the CPU first, e.g. with .cpu()",
        )
    if is_torch(value):
        return _from_torch(value)
    try:
        return np.from_dlpack(value)
    except (BufferError, RuntimeError, TypeError) as error:
        raise InvalidInputError(
            f"the input {info.name!r} cannot be read through DLPack: {error}", at=info.name
        ) from None


def is_torch(value: object) -> bool:
    """Whether ``value`` is a torch tensor; does not import torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _from_torch(tensor: Any) -> Array:
    import torch

    tensor = tensor.detach().resolve_conj().resolve_neg()
    if tensor.dtype == torch.bfloat16:
        bits: Array = tensor.view(torch.int16).numpy()
        return as_bfloat16(bits)
    array: Array = tensor.numpy()
    return array


def as_bfloat16(bits: Array) -> Array:
    """An array of 16-bit integers as ml_dtypes' bfloat16, which numpy itself lacks."""
    import ml_dtypes

    return bits.view(ml_dtypes.bfloat16)


def to_torch(array: Array) -> Any:
    """An output as a torch tensor over the same memory."""
    import torch

    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
