"""Scales and zero points: ``real = (quantized - zero) * scale`` (ONNX DequantizeLinear-23)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: Smallest and largest number of each type of activations.
LIMITS = {"uint8": (0, 255), "int8": (-128, 127)}
#: Smallest scale: below it, a scale times another one is no normal float32.
_LEAST_SCALE = 2.0**-60
#: Biases are added to int32 sums of products, which need room above.
_BIAS_LIMIT = 2.0**30


@dataclass(frozen=True)
class Interval:
    """The numbers that a tensor takes.

    Attributes:
        low: Smallest.
        high: Largest.
    """

    low: float
    high: float

    def union(self, other: Interval) -> Interval:
        """The least interval that contains both."""
        return Interval(min(self.low, other.low), max(self.high, other.high))


@dataclass(frozen=True)
class Parameters:
    """How the numbers of one activation are represented.

    Attributes:
        scale: Distance of neighbouring numbers, a float32.
        zero: What represents 0.
        dtype: ``uint8`` or ``int8``.
    """

    scale: float
    zero: int
    dtype: str


def activation_parameters(
    interval: Interval, dtype: str = "uint8", *, symmetric: bool = False
) -> Parameters:
    """Parameters whose range contains ``interval`` and zero.

    Args:
        interval: What was measured.
        dtype: ``uint8`` or ``int8``.
        symmetric: Let the middle of the type represent 0, as some hardware demands.
    """
    least, most = LIMITS[dtype]
    low, high = min(interval.low, 0.0), max(interval.high, 0.0)
    if symmetric:
        zero = (least + most + 1) // 2
        scale = _at_least(max(-low, high) / (most - zero))
        return Parameters(scale, zero, dtype)
    scale = _at_least((high - low) / (most - least))
    zero = int(np.clip(np.rint(least - low / scale), least, most))
    return Parameters(scale, zero, dtype)


def _at_least(scale: float) -> float:
    return float(np.float32(max(scale, _LEAST_SCALE)))


@dataclass(frozen=True)
class QuantizedWeights:
    """Weights in int8, symmetric around zero.

    Attributes:
        values: int8 numbers in [-127, 127], of the weights' shape.
        scale: [channels] float32, or a scalar array.
        axis: The channels' axis; None for one scale.
    """

    values: NDArray[np.int8]
    scale: NDArray[np.float32]
    axis: int | None

    def dequantized(self) -> NDArray[np.float64]:
        """The numbers that they represent."""
        shape = [1] * self.values.ndim
        if self.axis is not None:
            shape[self.axis] = -1
        scale: NDArray[np.float64] = self.scale.astype(np.float64).reshape(shape)
        return self.values * scale


def quantize_weights(
    weights: NDArray[np.floating],
    axis: int | None,
    *,
    bias: NDArray[np.floating] | None = None,
    input_scale: float = 1.0,
) -> QuantizedWeights:
    """Quantize weights symmetrically, one scale for each channel or one for all.

    Args:
        weights: Any shape.
        axis: The axis of output channels; None for one scale.
        bias: [channels]; scales are made large enough that it fits int32 in units of
            ``input_scale * scale``.
        input_scale: Scale of the activations that the weights are multiplied with.
    """
    others = None if axis is None else tuple(a for a in range(weights.ndim) if a != axis)
    largest = np.max(np.abs(weights), axis=others, initial=0.0).astype(np.float64)
    scale = largest / 127.0
    if bias is not None:
        room = np.abs(bias.astype(np.float64)) / (input_scale * _BIAS_LIMIT)
        scale = np.maximum(scale, room if axis is not None else room.max(initial=0.0))
    # A channel of zeros is represented by any scale.
    scale = np.maximum(np.where(scale > 0, scale, 1.0), _LEAST_SCALE).astype(np.float32)
    shape = [1] * weights.ndim
    if axis is not None:
        shape[axis] = -1
    ratio = weights.astype(np.float64) / scale.astype(np.float64).reshape(shape)
    return QuantizedWeights(np.clip(np.rint(ratio), -127, 127).astype(np.int8), scale, axis)


def quantize_bias(
    bias: NDArray[np.floating], input_scale: float, weight_scale: NDArray[np.float32]
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """A bias in int32, in units of the products it is added to.

    Returns:
        [channels] int32 and [channels] float32 scales.
    """
    scale = np.broadcast_to(
        (np.float64(input_scale) * weight_scale.astype(np.float64)).astype(np.float32), bias.shape
    ).copy()
    values = np.rint(bias.astype(np.float64) / scale.astype(np.float64))
    return np.clip(values, -(2**31), 2**31 - 1).astype(np.int32), scale


def centered(
    values: NDArray[np.integer], zero: NDArray[np.integer] | None, axis: int
) -> NDArray[np.int8] | None:
    """Weights of 8 bits with their zero points taken off; None if they do not fit int8.

    Args:
        values: uint8 or int8 of any shape.
        zero: One zero point, one for each index along ``axis``, or none.
        axis: The axis of output channels.
    """
    shift = np.zeros(1, np.int64) if zero is None else zero.astype(np.int64).reshape(-1)
    shape = [1] * values.ndim
    if shift.size > 1:
        shape[axis] = -1
    found = values.astype(np.int64) - shift.reshape(shape)
    if found.min(initial=0) < -128 or found.max(initial=0) > 127:
        return None
    return found.astype(np.int8)
