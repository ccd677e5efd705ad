"""Numerics: is what was compiled equal to the model that it came from?"""

from burnish.check.compare import attested_numerics, compare
from burnish.check.inputs import InputRange, draw_inputs, draw_session_inputs, input_ranges
from burnish.check.recorded import RecordedCase, RecordedReference
from burnish.check.reference import Reference, load_inputs
from burnish.check.result import ComparisonReport, OutputComparison
from burnish.check.tolerances import Numerics, Tolerance, tolerance

__all__ = [
    "ComparisonReport",
    "InputRange",
    "Numerics",
    "OutputComparison",
    "RecordedCase",
    "RecordedReference",
    "Reference",
    "Tolerance",
    "attested_numerics",
    "compare",
    "draw_inputs",
    "draw_session_inputs",
    "input_ranges",
    "load_inputs",
    "tolerance",
]
