"""Throughput: independent streams of calls at once, each on cores of its own.

A stream is a caller with inputs of its own that calls again as soon as it has its result. Runners
take turns in slices, in an order that reverses every round; within a slice all streams of one
runner run. A stream's rate in a slice is its calls over the time to its last result, so that what
it does not finish is not counted against it.
"""

from __future__ import annotations

import math
import os
import statistics
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from burnish.bench.runners import Call, Feeds, Runner
from burnish.bench.timing import no_collection, percentile
from burnish.errors import UsageError

SCHEMA_VERSION = 1
_SLICE = 0.25  # seconds
_SLICE_CALLS = 8  # of each stream, if they take longer than that


@dataclass(frozen=True)
class Slice:
    """What one runner did in one slice.

    Attributes:
        latencies: Seconds of the calls of each stream.
        rate: Calls a second of all streams together.
    """

    latencies: tuple[tuple[float, ...], ...]
    rate: float


class StreamedRunner:
    """Streams that are threads, each calling a runner that may be called from several threads.

    Args:
        runner: The runner.
        feeds: Inputs of each stream.
        cpus: CPUs of each stream, whose thread stays on them; None to leave the threads free.
    """

    def __init__(
        self, runner: Runner, feeds: Sequence[Feeds], cpus: Sequence[Sequence[int]] | None
    ) -> None:
        self.name, self.version, self.threads = runner.name, runner.version, runner.threads
        self._calls = [runner.prepare(own) for own in feeds]
        self._start = threading.Barrier(len(feeds))
        # A pool of one for each: a stream keeps its thread, which may have helpers of its own.
        self._pools = [
            ThreadPoolExecutor(1, initializer=_pin, initargs=(cpus[i] if cpus else (),))
            for i in range(len(feeds))
        ]

    def run(self, seconds: float) -> Slice:
        """Run all streams for ``seconds``; each makes one call at least."""
        started = [
            pool.submit(_call_for, seconds, call, self._start)
            for pool, call in zip(self._pools, self._calls, strict=True)
        ]
        done = [future.result() for future in started]
        rate = sum(len(taken) / elapsed for taken, elapsed in done)
        return Slice(tuple(taken for taken, _ in done), rate)

    def close(self) -> None:
        """End the streams' threads."""
        for pool in self._pools:
            pool.shutdown()


def _pin(cpus: Sequence[int]) -> None:
    if cpus:
        os.sched_setaffinity(0, cpus)


def _call_for(
    seconds: float, call: Call, start: threading.Barrier
) -> tuple[tuple[float, ...], float]:
    clock, taken = time.perf_counter, []
    start.wait()
    begin = before = clock()
    while True:
        call()
        after = clock()
        taken.append(after - before)
        if after - begin >= seconds:
            return tuple(taken), after - begin
        before = after


@dataclass(frozen=True)
class StreamTiming:
    """What one runner did.

    Attributes:
        runner: Its name.
        version: Its version.
        threads: Threads of one stream.
        rates: Calls a second of all streams together, of each slice.
        latencies: Seconds of the calls of each stream.
    """

    runner: str
    version: str
    threads: int
    rates: tuple[float, ...]
    latencies: tuple[tuple[float, ...], ...]

    @property
    def max(self) -> float:
        """Calls a second of the best slice: what the machine can do."""
        return max(self.rates)

    @property
    def median(self) -> float:
        """Calls a second of the median slice: what it did."""
        return statistics.median(self.rates)

    @property
    def samples(self) -> tuple[float, ...]:
        """The latencies of all streams."""
        return tuple(seconds for stream in self.latencies for seconds in stream)


@dataclass(frozen=True)
class ThroughputResult:
    """Rates of one model; the first runner is what the others are compared with.

    Attributes:
        timings: One for each runner.
        streams: Streams at once.
        batch: Items of one call.
        cpus: CPUs that the process may use.
        shapes: Shapes of the inputs of one call.
        percentiles: Percentiles of the latency that reports show.
    """

    timings: tuple[StreamTiming, ...]
    streams: int
    batch: int
    cpus: int
    shapes: dict[str, tuple[int, ...]]
    percentiles: tuple[float, ...]

    @property
    def oversubscribed(self) -> bool:
        """Whether the streams have more threads than there are CPUs."""
        return self.streams * self.timings[0].threads > self.cpus

    def ratio(self, timing: StreamTiming, statistic: str = "max") -> float:
        """How many times ``timing``'s rate the first runner has."""
        return float(getattr(self.timings[0], statistic) / getattr(timing, statistic))

    def to_dict(self) -> dict[str, Any]:
        """The result as plain JSON values; latencies are in milliseconds."""
        return {
            "schema_version": SCHEMA_VERSION,
            "mode": "throughput",
            "streams": self.streams,
            "batch": self.batch,
            "cpus": self.cpus,
            "oversubscribed": self.oversubscribed,
            "shapes": {name: list(shape) for name, shape in self.shapes.items()},
            "timings": [self._timing(timing) for timing in self.timings],
        }

    def _timing(self, timing: StreamTiming) -> dict[str, Any]:
        return {
            "runner": timing.runner,
            "version": timing.version,
            "threads": timing.threads,
            "slices": len(timing.rates),
            "calls_per_s_max": timing.max,
            "calls_per_s_median": timing.median,
            "items_per_s_max": timing.max * self.batch,
            "items_per_s_median": timing.median * self.batch,
            "ratio_max": self.ratio(timing, "max"),
            "ratio_median": self.ratio(timing, "median"),
            "latency": self._latency(timing.samples),
            "streams": [self._latency(stream) for stream in timing.latencies],
        }

    def _latency(self, samples: Sequence[float]) -> dict[str, Any]:
        return {
            "calls": len(samples),
            "min_ms": min(samples) * 1e3,
            "median_ms": statistics.median(samples) * 1e3,
            "percentiles_ms": {f"{p:g}": percentile(samples, p) * 1e3 for p in self.percentiles},
        }


def cpus_of_streams(streams: int, threads: int) -> list[list[int]] | None:
    """CPUs for each stream, of those that the process may use; None if they do not suffice."""
    cpus = sorted(os.sched_getaffinity(0))
    if streams * threads > len(cpus):
        return None
    return [cpus[i * threads : (i + 1) * threads] for i in range(streams)]


def measure_streams(
    runners: Sequence[StreamedRunner], *, duration: float = 2.0, warmup: int = 3
) -> list[StreamTiming]:
    """Run the streams of several runners, interleaved.

    Args:
        runners: The runners; they are closed in the end.
        duration: Stop after this many seconds of each, after three slices at least.
        warmup: Slices of one call or more of each before the first round.

    Raises:
        UsageError: A number is out of range.
    """
    if not 0 < duration < math.inf:
        raise UsageError(f"duration must be a positive number of seconds, not {duration}")
    try:
        with no_collection():
            taken = _rounds(runners, duration, max(1, warmup))
    finally:
        for runner in runners:
            runner.close()
    return [
        StreamTiming(
            runner.name,
            runner.version,
            runner.threads,
            tuple(one.rate for one in slices),
            tuple(
                tuple(seconds for one in slices for seconds in one.latencies[i])
                for i in range(len(slices[0].latencies))
            ),
        )
        for runner, slices in zip(runners, taken, strict=True)
    ]


def _rounds(runners: Sequence[StreamedRunner], duration: float, warmup: int) -> list[list[Slice]]:
    # Some runners need a few calls in a row of every stream before they are at their speed.
    once = [
        max(s for stream in runner.run(0).latencies for s in stream)
        for runner in runners
        for _ in range(warmup)
    ]
    length = max(_SLICE, _SLICE_CALLS * min(once))
    length = min(length, duration / 3)
    taken: list[list[Slice]] = [[] for _ in runners]
    forward = True
    while len(taken[0]) < 3 or len(taken[0]) * length < duration:
        order = range(len(runners))
        for i in order if forward else reversed(order):
            taken[i].append(runners[i].run(length))
        forward = not forward
    return taken
