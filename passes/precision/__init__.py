"""Precision: which tensors are stored in 16 bits, with the Casts that say so in the graph."""

from __future__ import annotations

from burnish.passes.precision.formats import FORMATS, Format, format_of
from burnish.passes.precision.mixed import MixedPrecision

__all__ = ["FORMATS", "Format", "MixedPrecision", "format_of"]
