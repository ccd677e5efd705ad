"""Quantization: which tensors go to 8 bits, with the QuantizeLinear nodes that say so."""

from __future__ import annotations

from burnish.passes.quantization.dynamic import QuantizeDynamic
from burnish.passes.quantization.equalize import Equalize
from burnish.passes.quantization.parameters import Interval
from burnish.passes.quantization.selection import Selection
from burnish.passes.quantization.smooth import SmoothQuant
from burnish.passes.quantization.static import QuantizeStatic
from burnish.passes.quantization.weights import QuantizeWeights

__all__ = [
    "Equalize",
    "Interval",
    "QuantizeDynamic",
    "QuantizeStatic",
    "QuantizeWeights",
    "Selection",
    "SmoothQuant",
]
