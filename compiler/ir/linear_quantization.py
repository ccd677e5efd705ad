"""QuantizeLinear and DequantizeLinear nodes in one form (ONNX DequantizeLinear-25).

Operators that take scales and zero points along allow them in more shapes: one number may come as a
tensor with one element, and scales of channels with one zero point for all.
"""

from __future__ import annotations

import numpy as np

from burnish.ir.builder import Builder
from burnish.ir.graph import Value
from burnish.ir.types import BY_NAME


def scalar_parameter(b: Builder, value: Value | None) -> Value | None:
    """A scale or zero point of one element as a scalar; any other one as it is."""
    if value is None or value.t.rank in (None, 0) or any(d != 1 for d in value.shape):
        return value
    if value.is_const:
        return b.constant(value.array.reshape(()), value.name)
    return b.op("Reshape", value, b.ints([]))


def dequantize(
    b: Builder, x: Value, scale: Value, zero: Value | None = None, axis: int = 1
) -> Value:
    """DequantizeLinear of ``x``.

    Args:
        b: Makes the node.
        x: Codes.
        scale: One number, or [channels].
        zero: One number, or of the shape of ``scale``; absent for 0.
        axis: The axis of the channels.
    """
    scale_, zero_ = scalar_parameter(b, scale), scalar_parameter(b, zero)
    assert scale_ is not None
    if scale_.t.rank == 0:
        return b.op("DequantizeLinear", x, scale_, zero_)
    if zero_ is not None and zero_.t.rank == 0:
        if zero_.is_const and scale_.t.static:
            shape = tuple(d for d in scale_.shape if isinstance(d, int))
            zero_ = b.constant(np.full(shape, zero_.array), zero_.name)
        else:
            zero_ = b.op("Expand", zero_, b.op("Shape", scale_))
    return b.op("DequantizeLinear", x, scale_, zero_, axis=axis)


def quantize(b: Builder, y: Value, scale: Value, zero: Value | None, dtype: str) -> Value:
    """QuantizeLinear of ``y`` with one scale, to ``dtype``."""
    scale_, zero_ = scalar_parameter(b, scale), scalar_parameter(b, zero)
    if zero_ is None:
        return b.op("QuantizeLinear", y, scale_, output_dtype=BY_NAME[dtype].onnx)
    return b.op("QuantizeLinear", y, scale_, zero_)
