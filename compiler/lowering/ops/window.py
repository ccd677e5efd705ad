"""Geometry of sliding windows: what Conv, ConvTranspose and the pools share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from burnish.errors import LoweringError
from burnish.ir.dims import Dim, add, ceildiv, maximum, mul, sub
from burnish.ir.dims import floordiv as dim_floordiv


@dataclass(frozen=True)
class Window:
    """One spatial axis of a sliding window.

    Attributes:
        kernel: Number of taps.
        stride: Elements between windows.
        dilation: Elements between taps.
        before: Padding in front.
        after: Padding behind.
    """

    kernel: int
    stride: int
    dilation: int
    before: Dim
    after: Dim

    @property
    def span(self) -> int:
        """Elements from the first tap to the last, both included."""
        return (self.kernel - 1) * self.dilation + 1


def windows(
    spatial: Sequence[Dim],
    kernel: Sequence[int],
    strides: Sequence[int] | None,
    dilations: Sequence[int] | None,
    pads: Sequence[int] | None,
    auto_pad: str,
) -> list[Window]:
    """The windows along the spatial axes, with ONNX's defaults and ``auto_pad`` resolved."""
    rank = len(spatial)
    stride = tuple(strides or (1,) * rank)
    dilation = tuple(dilations or (1,) * rank)
    pad: Sequence[Dim] = tuple(pads or (0,) * (2 * rank))
    if auto_pad == "VALID":
        pad = (0,) * (2 * rank)
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        totals = [
            _same_padding(d, k, s, e)
            for d, k, s, e in zip(spatial, kernel, stride, dilation, strict=True)
        ]
        small = [dim_floordiv(t, 2) for t in totals]
        large = [sub(t, h) for t, h in zip(totals, small, strict=True)]
        pad = (*small, *large) if auto_pad == "SAME_UPPER" else (*large, *small)
    elif auto_pad not in ("NOTSET", "VALID", ""):
        raise LoweringError(f"unknown auto_pad {auto_pad!r}")
    return [Window(kernel[i], stride[i], dilation[i], pad[i], pad[i + rank]) for i in range(rank)]


def _same_padding(dim: Dim, kernel: int, stride: int, dilation: int) -> Dim:
    """Padding that gives ceil(dim / stride) windows."""
    last = mul(sub(ceildiv(dim, stride), 1), stride)
    return maximum(sub(add(last, (kernel - 1) * dilation + 1), dim), 0)
