"""Quantization: which tensors go to 8 bits, with the QuantizeLinear nodes that say so."""

from __future__ import annotations

from burnish.passes.quantization.dynamic import QuantizeDynamic
from burnish.passes.quantization.parameters import Interval
from burnish.passes.quantization.selection import Selection
from burnish.passes.quantization.static import QuantizeStatic

__all__ = ["Interval", "QuantizeDynamic", "QuantizeStatic", "Selection"]
