"""Buffers of 16-bit floats that are read and written as float32."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
from tvm import tirx

from burnish.backends.cpu import bfloat16

Expr: TypeAlias = Any

#: Element types that kernels only store: they compute in float32.
NARROW = ("float16", "bfloat16")


@dataclass(frozen=True)
class Narrow:
    """A 1-D buffer of float16 or bfloat16 that is read and written as float32.

    Reading is exact; writing rounds to the nearest, ties to even.

    Attributes:
        buffer: The buffer: float16, or the bits of bfloat16 in uint16.
        dtype: ``float16`` or ``bfloat16``.
    """

    buffer: Any
    dtype: str = "float16"

    def over(self, buffer: Any) -> Narrow:
        """The same for another buffer."""
        return replace(self, buffer=buffer)

    def bits(self, value: float) -> int:
        """A number as int16."""
        kind = ml_dtypes.bfloat16 if self.dtype == "bfloat16" else np.float16
        return int(np.asarray(value, kind).view(np.int16))

    def widen(self, value: Expr, lanes: int) -> Expr:
        """float32 of elements as the buffer has them."""
        if self.dtype == "bfloat16":
            return bfloat16.widen(value, lanes)
        return tirx.Cast("float32" if lanes == 1 else f"float32x{lanes}", value)

    def round(self, value: Expr, lanes: int) -> Expr:
        """Elements as the buffer has them of float32, which may be evaluated more than once."""
        if self.dtype == "bfloat16":
            return bfloat16.rounded(value)
        return tirx.Cast("float16" if lanes == 1 else f"float16x{lanes}", value)
