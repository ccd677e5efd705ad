"""Measuring the tactics of a model's composites on this machine, and keeping what was measured.

Candidates are measured in place: the whole model is built with different tactics for equal nodes,
and every kernel is timed while the model runs, with the caches as the model leaves them.
"""

from burnish.tuning.choosers import Measured
from burnish.tuning.result import TunedProblem, TuningReport
from burnish.tuning.session import Selection, Tuned, conclude, select
from burnish.tuning.timings import Entry, TimingCache, environment

__all__ = [
    "Entry",
    "Measured",
    "Selection",
    "TimingCache",
    "Tuned",
    "TunedProblem",
    "TuningReport",
    "conclude",
    "environment",
    "select",
]
