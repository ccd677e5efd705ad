"""The definitions of all composites; importing the package registers them."""

from __future__ import annotations

from burnish.ir.definitions import (
    attention,
    convolution,
    elementwise,
    matmul,
    normalization,
    pooling,
    quantized,
    weight_only,
)

__all__ = [
    "attention",
    "convolution",
    "elementwise",
    "matmul",
    "normalization",
    "pooling",
    "quantized",
    "weight_only",
]
