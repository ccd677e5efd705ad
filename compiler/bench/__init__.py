"""Timing: how fast is a compiled model, and how fast are its peers beside it?"""

from burnish.bench.bench import bench
from burnish.bench.runners import (
    PEERS,
    BurnishRunner,
    OnnxRuntimeRunner,
    OpenVinoRunner,
    Runner,
    peer,
)
from burnish.bench.timing import BenchResult, Timing, measure

__all__ = [
    "PEERS",
    "BenchResult",
    "BurnishRunner",
    "OnnxRuntimeRunner",
    "OpenVinoRunner",
    "Runner",
    "Timing",
    "bench",
    "measure",
    "peer",
]
