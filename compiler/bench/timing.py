"""Interleaved timing: what is compared sees the same machine in the same minute.

The runners take turns in short slices, in an order that reverses every round, so that a change of
the clock frequency or of the load hits all alike. The first call of a slice is not counted: it
finds the caches, and the spinning threads, of the runner before it. The minimum is what the
machine can do, the median what it did.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from burnish.bench.runners import Call, Feeds, Runner
from burnish.errors import UsageError

SCHEMA_VERSION = 1
_SLICE = 0.025  # seconds: long against the switch, short against changes of the machine


def percentile(samples: Sequence[float], percent: float) -> float:
    """The sample that ``percent`` of all are no greater than (nearest rank)."""
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


@dataclass(frozen=True)
class Timing:
    """Seconds that single calls of one runner took, in the order of measurement."""

    runner: str
    version: str
    threads: int
    samples: tuple[float, ...]

    @property
    def min(self) -> float:
        """The fastest call."""
        return min(self.samples)

    @property
    def median(self) -> float:
        """The median call."""
        return statistics.median(self.samples)

    def percentile(self, percent: float) -> float:
        """The call that ``percent`` of all calls are no slower than (nearest rank)."""
        return percentile(self.samples, percent)


@dataclass(frozen=True)
class BenchResult:
    """Timings of one model on one set of inputs; the first is what the others are compared with.

    Attributes:
        timings: One for each runner.
        shapes: Shapes of the inputs.
        warmup: Calls of each runner before the first measurement.
        percentiles: Percentiles that reports show.
    """

    timings: tuple[Timing, ...]
    shapes: dict[str, tuple[int, ...]]
    warmup: int
    percentiles: tuple[float, ...]

    def ratio(self, timing: Timing, statistic: str = "min") -> float:
        """How many times faster than ``timing`` the first runner is."""
        return float(getattr(timing, statistic) / getattr(self.timings[0], statistic))

    def to_dict(self) -> dict[str, Any]:
        """The result as plain JSON values; times are in milliseconds."""
        return {
            "schema_version": SCHEMA_VERSION,
            "shapes": {name: list(shape) for name, shape in self.shapes.items()},
            "warmup": self.warmup,
            "timings": [self._timing(timing) for timing in self.timings],
        }

    def _timing(self, timing: Timing) -> dict[str, Any]:
        return {
            "runner": timing.runner,
            "version": timing.version,
            "threads": timing.threads,
            "iterations": len(timing.samples),
            "min_ms": timing.min * 1e3,
            "median_ms": timing.median * 1e3,
            "percentiles_ms": {f"{p:g}": timing.percentile(p) * 1e3 for p in self.percentiles},
            "ratio_min": self.ratio(timing, "min"),
            "ratio_median": self.ratio(timing, "median"),
        }


def measure(
    runners: Sequence[Runner],
    feeds: Feeds,
    *,
    iterations: int | None = None,
    duration: float | None = None,
    warmup: int = 3,
    percentiles: Sequence[float] = (90.0, 99.0),
) -> BenchResult:
    """Time several runners on the same inputs, interleaved.

    Args:
        runners: The runners; the first is the one that ratios are about.
        feeds: Inputs by name.
        iterations: Stop after this many timed calls of each.
        duration: Stop after this many seconds of timed calls of each, after five calls at least.
            Whichever comes first; without either, two seconds.
        warmup: Untimed calls of each before the first round.
        percentiles: Percentiles that reports show, in (0, 100].

    Raises:
        UsageError: A number is out of range, or two runners have the same name.
    """
    _validate(runners, iterations, duration, warmup, percentiles)
    if iterations is None and duration is None:
        duration = 2.0
    calls = [runner.prepare(feeds) for runner in runners]
    counts = [_slice_calls(call, warmup) for call in calls]
    samples: list[list[float]] = [[] for _ in runners]
    with no_collection():
        forward = True
        while any(_unfinished(taken, iterations, duration) for taken in samples):
            order = range(len(calls))
            for i in order if forward else reversed(order):
                if _unfinished(samples[i], iterations, duration):
                    left = counts[i] if iterations is None else iterations - len(samples[i])
                    samples[i] += time_calls(calls[i], min(counts[i], left), settle=counts[i] > 1)
            forward = not forward
    return BenchResult(
        timings=tuple(
            Timing(runner.name, runner.version, runner.threads, tuple(taken))
            for runner, taken in zip(runners, samples, strict=True)
        ),
        shapes={name: tuple(array.shape) for name, array in feeds.items()},
        warmup=warmup,
        percentiles=tuple(percentiles),
    )


def _validate(
    runners: Sequence[Runner],
    iterations: int | None,
    duration: float | None,
    warmup: int,
    percentiles: Sequence[float],
) -> None:
    if not runners:
        raise UsageError("nothing to time")
    names = [runner.name for runner in runners]
    if len(set(names)) != len(names):
        raise UsageError(f"a runner is given twice: {', '.join(names)}")
    if iterations is not None and iterations < 1:
        raise UsageError(f"iterations must be at least 1, not {iterations}")
    if duration is not None and not 0 < duration < math.inf:
        raise UsageError(f"duration must be a positive number of seconds, not {duration}")
    if warmup < 0:
        raise UsageError(f"warmup must not be negative: {warmup}")
    for percent in percentiles:
        if not 0 < percent <= 100:
            raise UsageError(f"percentile must lie in (0, 100]: {percent}")


def _unfinished(taken: list[float], iterations: int | None, duration: float | None) -> bool:
    if iterations is not None and len(taken) >= iterations:
        return False
    return duration is None or len(taken) < 5 or sum(taken) < duration


def _slice_calls(call: Call, warmup: int) -> int:
    """Warm up, and say how many calls make a slice."""
    for _ in range(warmup):
        call()
    (once,) = time_calls(call, 1, settle=False)
    return max(1, min(200, int(_SLICE / max(once, 1e-9))))


def time_calls(call: Call, count: int, *, settle: bool) -> list[float]:
    """Seconds of ``count`` calls, after an untimed one that finds the caches of others."""
    if settle:
        call()
    clock, taken = time.perf_counter, []
    for _ in range(count):
        start = clock()
        call()
        taken.append(clock() - start)
    return taken


@contextmanager
def no_collection() -> Iterator[None]:
    """Keep the garbage collector out of what is timed."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
