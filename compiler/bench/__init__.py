"""Timing: how fast is a compiled model, and how fast are its peers beside it?"""

from burnish.bench.bench import bench
from burnish.bench.ratio import STATISTICS, RatioPlan, RatioResult, measure_ratio
from burnish.bench.runners import (
    PEERS,
    BurnishRunner,
    OnnxRuntimeRunner,
    OpenVinoRunner,
    Runner,
    peer,
)
from burnish.bench.sequential import SequentialTest, Verdict
from burnish.bench.streams import StreamTiming, ThroughputResult
from burnish.bench.throughput import throughput
from burnish.bench.timing import BenchResult, Timing, measure

__all__ = [
    "PEERS",
    "STATISTICS",
    "BenchResult",
    "BurnishRunner",
    "OnnxRuntimeRunner",
    "OpenVinoRunner",
    "RatioPlan",
    "RatioResult",
    "Runner",
    "SequentialTest",
    "StreamTiming",
    "ThroughputResult",
    "Timing",
    "Verdict",
    "bench",
    "measure",
    "measure_ratio",
    "peer",
    "throughput",
]
