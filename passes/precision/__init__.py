"""Precision: which tensors are stored in 16 bits, with the Casts that say so in the graph."""

from __future__ import annotations

from burnish.passes.precision.formats import FORMATS, Format, format_of
from burnish.passes.precision.mixed import MixedPrecision
from burnish.passes.precision.ranges import Extent, Measure

__all__ = ["FORMATS", "Extent", "Format", "Measure", "MixedPrecision", "format_of"]
