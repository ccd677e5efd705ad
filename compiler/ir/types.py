"""Element types and tensor types. The one table dtype <-> ONNX <-> numpy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import ml_dtypes
import numpy as np

from burnish.ir.dims import Dim, equal, is_static


@dataclass(frozen=True)
class DType:
    """One row of the dtype table.

    Attributes:
        name: burnish's (and TVM's) name.
        onnx: Value of ``onnx.TensorProto.DataType``.
        numpy: The numpy (or ml_dtypes) dtype that holds one element.
        bits: Storage bits of one element in ONNX's raw data.
    """

    name: str
    onnx: int
    numpy: np.dtype
    bits: int


_ROWS: Final = (
    DType("float32", 1, np.dtype(np.float32), 32),
    DType("uint8", 2, np.dtype(np.uint8), 8),
    DType("int8", 3, np.dtype(np.int8), 8),
    DType("uint16", 4, np.dtype(np.uint16), 16),
    DType("int16", 5, np.dtype(np.int16), 16),
    DType("int32", 6, np.dtype(np.int32), 32),
    DType("int64", 7, np.dtype(np.int64), 64),
    DType("string", 8, np.dtype(np.object_), 0),
    DType("bool", 9, np.dtype(np.bool_), 8),
    DType("float16", 10, np.dtype(np.float16), 16),
    DType("float64", 11, np.dtype(np.float64), 64),
    DType("uint32", 12, np.dtype(np.uint32), 32),
    DType("uint64", 13, np.dtype(np.uint64), 64),
    DType("complex64", 14, np.dtype(np.complex64), 64),
    DType("complex128", 15, np.dtype(np.complex128), 128),
    DType("bfloat16", 16, np.dtype(ml_dtypes.bfloat16), 16),
    DType("float8_e4m3fn", 17, np.dtype(ml_dtypes.float8_e4m3fn), 8),
    DType("float8_e4m3fnuz", 18, np.dtype(ml_dtypes.float8_e4m3fnuz), 8),
    DType("float8_e5m2", 19, np.dtype(ml_dtypes.float8_e5m2), 8),
    DType("float8_e5m2fnuz", 20, np.dtype(ml_dtypes.float8_e5m2fnuz), 8),
    DType("uint4", 21, np.dtype(ml_dtypes.uint4), 4),
    DType("int4", 22, np.dtype(ml_dtypes.int4), 4),
    DType("float4_e2m1fn", 23, np.dtype(ml_dtypes.float4_e2m1fn), 4),
    DType("float8_e8m0fnu", 24, np.dtype(ml_dtypes.float8_e8m0fnu), 8),
    DType("uint2", 25, np.dtype(ml_dtypes.uint2), 2),
    DType("int2", 26, np.dtype(ml_dtypes.int2), 2),
    DType("float6_e2m3fn", 27, np.dtype(ml_dtypes.float6_e2m3fn), 6),
    DType("float6_e3m2fn", 28, np.dtype(ml_dtypes.float6_e3m2fn), 6),
)
BY_NAME: Final = {row.name: row for row in _ROWS}
BY_ONNX: Final = {row.onnx: row for row in _ROWS}
BY_NUMPY: Final = {row.numpy: row for row in _ROWS}

FLOATS: Final = frozenset({"float16", "bfloat16", "float32", "float64"})
INTEGERS: Final = frozenset(
    {"int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"}
)


def from_numpy(dtype: np.dtype) -> str:
    """Burnish's name of a numpy dtype; raises KeyError when there is none."""
    return BY_NUMPY[np.dtype(dtype)].name


def to_numpy(name: str) -> np.dtype:
    """The numpy dtype of a burnish dtype name."""
    return BY_NAME[name].numpy


class UnknownTypeError(ValueError):
    """Asked for the type or rank of a value that has none: it comes from a foreign operator."""


@dataclass(frozen=True)
class TensorType:
    """Element type and shape of a value.

    Attributes:
        dtype: A name of the dtype table.
        shape: The dims, or None when even the rank is unknown.
    """

    dtype: str
    shape: tuple[Dim, ...] | None

    @property
    def rank(self) -> int | None:
        """Number of dims, or None."""
        return None if self.shape is None else len(self.shape)

    @property
    def static(self) -> bool:
        """Whether every dim is a number."""
        return self.shape is not None and all(map(is_static, self.shape))

    @property
    def dims(self) -> tuple[Dim, ...]:
        """The shape of a tensor whose rank must be known."""
        if self.shape is None:
            raise UnknownTypeError("rank is unknown")
        return self.shape

    def same_shape(self, other: TensorType) -> bool:
        """Whether both shapes are known and equal for every value of their symbols."""
        return (
            self.shape is not None
            and other.shape is not None
            and len(self.shape) == len(other.shape)
            and all(map(equal, self.shape, other.shape))
        )

    def __str__(self) -> str:
        if self.shape is None:
            return f"{self.dtype}[...]"
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"
