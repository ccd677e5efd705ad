"""Tensors in 8 bits: ``real = (code - zero) * scale`` (ONNX DequantizeLinear-25)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from tvm import tirx

from burnish.backends.cpu.coded import Coded
from burnish.backends.cpu.tir import (
    Expr,
    Index,
    Tensor,
    constant,
    lanes_of,
    let,
    load,
    store,
    with_lanes,
)

#: Smallest and largest code of each type.
LIMITS = {"uint8": (0, 255), "int8": (-128, 127)}
_BYTES = 4
_SIGN_BITS = -0x7F7F7F80  # 0x80808080 as int32


@dataclass(frozen=True)
class Codes(Coded):
    """8 bits that are read and written as the real numbers they stand for.

    Attributes:
        buffer: 1-D buffer of uint8 or int8.
        scale: Distance of neighbouring numbers.
        zero: The code of 0.
    """

    buffer: Any
    scale: float = 1.0
    zero: int = 0

    def load(self, offset: Index, lanes: int, valid: Index | None) -> Expr:
        """Real numbers in float32; exact if ``scale`` is 1."""
        code = load(self.buffer, offset, lanes, valid)
        value = tirx.Cast(with_lanes("float32", lanes), tirx.Cast(with_lanes("int32", lanes), code))
        if self.zero:
            value = value - constant(float(self.zero), lanes)
        return value if self.scale == 1.0 else value * constant(self.scale, lanes)

    def store(self, offset: Index, value: Expr, valid: Index | None) -> None:
        """Round to the nearest code, ties to even, and saturate."""
        lanes = lanes_of(value)
        dtype = str(self.buffer.dtype)
        if self.scale != 1.0:
            value = value * constant(1.0 / self.scale, lanes)
        value = tirx.nearbyint(let(value))
        if self.zero:
            value = value + constant(float(self.zero), lanes)
        low, high = (constant(float(end), lanes) for end in LIMITS[dtype])
        # NaN becomes the lower bound: the maximum takes its second operand then.
        value = tirx.Min(tirx.Max(let(value), low), high)
        code = tirx.Cast(with_lanes("int32", lanes), value)
        store(self.buffer, offset, tirx.Cast(with_lanes(dtype, lanes), let(code)), valid)


@dataclass(frozen=True)
class Words(Coded):
    """Four neighbouring codes at a time, as the unsigned bytes that integer dot products take.

    Attributes:
        buffer: 1-D int32 alias of the codes.
        signed: Whether the codes are int8; they are read with 128 added.
    """

    buffer: Any
    signed: bool = False

    def load(self, offset: Index, lanes: int, valid: Index | None) -> Expr:
        """A word, or several."""
        words = load(self.buffer, offset, lanes, valid)
        return words ^ constant(_SIGN_BITS, lanes, "int32") if self.signed else words

    def store(self, offset: Index, value: Expr, valid: Index | None) -> None:
        """Words are only read.

        Raises:
            TypeError: Always.
        """
        raise TypeError("words of codes are only read")


@dataclass(frozen=True)
class ByteWords(Coded):
    """:class:`Words` that begin at any byte.

    Attributes:
        buffer: 1-D buffer of the codes.
        signed: Whether the codes are int8; they are read with 128 added.
    """

    buffer: Any
    signed: bool = False

    def load(self, offset: Index, lanes: int, valid: Index | None) -> Expr:
        """The word of four codes from ``offset`` on."""
        word = tirx.reinterpret("int32", load(self.buffer, offset, 4))
        return word ^ constant(_SIGN_BITS, 1, "int32") if self.signed else word

    def store(self, offset: Index, value: Expr, valid: Index | None) -> None:
        """Words are only read.

        Raises:
            TypeError: Always.
        """
        raise TypeError("words of codes are only read")


def coded(tensor: Tensor, scale: float = 1.0, zero: int = 0) -> Tensor:
    """A tensor of 8 bits that is read and written as real numbers."""
    return replace(tensor, flat=Codes(tensor.flat, scale, zero))
