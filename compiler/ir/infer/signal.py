"""Fourier transforms, blocks of images, mel filters."""

from __future__ import annotations

from collections.abc import Sequence

from burnish.errors import ShapeError
from burnish.ir import dims
from burnish.ir.dims import UNKNOWN, Dim
from burnish.ir.graph import Node, Value
from burnish.ir.infer.common import (
    at_least,
    axis_of,
    dtype_of,
    elements,
    length,
    required,
    scalar_int,
    shape_of,
    tensor,
    unknown_shape,
)
from burnish.ir.infer.registry import Result, UnknownRankError, infer
from burnish.ir.types import BY_ONNX


def _one(value: Value | None) -> Dim | None:
    """The one element of an operand; None if there is no operand."""
    if value is None:
        return None
    found = elements(value)
    return found[0] if found else UNKNOWN


@infer("DFT")
def dft(node: Node) -> Sequence[Result]:
    """DFT(x [..., 1|2], dft_length?, axis?), opset 20."""
    source = shape_of(node, 0)
    inverse, onesided = node.int_attr("inverse"), node.int_attr("onesided")
    size = _one(node.input(1))
    axis = -2 if node.input(2) is None else scalar_int(node.input(2))
    result = [*source[:-1], 1 if inverse and onesided else 2]
    if axis is not None:
        along = axis_of(axis, len(source))
        if along == len(source) - 1:
            raise ShapeError("the axis is that of real and imaginary parts")
        if size is None:
            size = source[along]
            if inverse and onesided:
                size = dims.mul(dims.sub(size, 1), 2)
        if onesided and not inverse:
            size = dims.add(dims.floordiv(size, 2), 1)
        result[along] = size
    elif size is not None or onesided:
        result[:-1] = unknown_shape(len(source) - 1)
    return [tensor(dtype_of(node), result)]


@infer("STFT")
def stft(node: Node) -> Sequence[Result]:
    """STFT(signal [B, L, 1|2], frame_step, window?, frame_length?): [B, frames, bins, 2]."""
    signal = shape_of(node, 0)
    if len(signal) not in (2, 3):
        raise ShapeError(f"the signal has rank {len(signal)}")
    frame = _one(node.input(3))
    if frame is None:
        frame = signal[1] if node.input(2) is None else shape_of(node, 2)[0]
    step = _one(node.input(1))
    frames: Dim = UNKNOWN
    if isinstance(step, int) and step < 1:
        raise ShapeError(f"frame_step is {step}")
    if step is not None and step is not UNKNOWN:
        at_least(signal[1], frame if isinstance(frame, int) else 1, "signal length")
        frames = dims.add(dims.floordiv(dims.sub(signal[1], frame), step), 1)
    bins = dims.add(dims.floordiv(frame, 2), 1) if node.int_attr("onesided", 1) else frame
    return [tensor(dtype_of(node), (signal[0], frames, bins, 2))]


@infer("MelWeightMatrix")
def mel_weight_matrix(node: Node) -> Sequence[Result]:
    """MelWeightMatrix(num_mel_bins, dft_length, ...): [dft_length / 2 + 1, num_mel_bins]."""
    bins, size = _one(required(node, 0)), _one(required(node, 1))
    assert bins is not None
    assert size is not None
    dtype = BY_ONNX[node.int_attr("output_datatype", 1)].name
    return [tensor(dtype, (dims.add(dims.floordiv(size, 2), 1), bins))]


@infer("Col2Im")
def col2im(node: Node) -> Sequence[Result]:
    """Col2Im(x [N, C * block, blocks], image_shape, block_shape): [N, C, image...]."""
    source = shape_of(node, 0)
    image, block = elements(node.input(1)), elements(node.input(2))
    if image is None:
        rank = length(required(node, 1))
        if rank is None:
            raise UnknownRankError
        image = unknown_shape(rank)
    channels: Dim = UNKNOWN
    if block is not None and all(d is not UNKNOWN for d in block):
        channels = dims.floordiv(source[1], dims.product(block))
    return [tensor(dtype_of(node), (source[0], channels, *image))]
