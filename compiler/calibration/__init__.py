"""Calibration: ranges of a model's tensors on real inputs, measured in bounded memory."""

from __future__ import annotations

from burnish.calibration.channels import Channels
from burnish.calibration.data import CalibrationData, open_data
from burnish.calibration.histogram import Histogram
from burnish.calibration.measure import measure
from burnish.calibration.thresholds import METHODS, Range, threshold

__all__ = [
    "METHODS",
    "CalibrationData",
    "Channels",
    "Histogram",
    "Range",
    "measure",
    "open_data",
    "threshold",
]
