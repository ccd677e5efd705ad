"""The ratio of two programs' times, measured so that a noisy machine does not decide it.

What disturbs a measurement, and what is done about it:

* Other processes, clock frequency, drift: the two take turns in slices of a few milliseconds, in
  random order, and only slices of one pair are compared.
* Interruptions: a slice is judged by its median call. (Its fastest call is a better judge of one
  thread, and a bad one of several, which rarely all find a CPU on a busy machine.)
* Luck of the memory layout, which lasts as long as a process and can be worth several percent: both
  programs are loaded anew in every block, in random order, on inputs at new addresses, and the
  blocks, not the calls, count as independent. (T. Mytkowicz et al., "Producing wrong data without
  doing anything obviously wrong!", ASPLOS 2009.)

:mod:`burnish.bench.sequential` says from the blocks' ratios whether the limit is kept.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from burnish.bench.runners import Call, Feeds, Runner
from burnish.bench.sequential import SequentialTest, Verdict
from burnish.bench.timing import no_collection, time_calls
from burnish.errors import UsageError

Statistic = Literal["min", "median"]
STATISTICS: tuple[Statistic, ...] = ("min", "median")

#: Loads a program anew.
Opener: TypeAlias = Callable[[], Runner]

_SLICE = 0.003  # seconds: a turn of the scheduler, short against changes of the machine
_PAIRS, _SLOW_PAIRS = 5, 3  # of slices in a block, at least; of calls that are slow
_SLOW = 0.03  # seconds
_MOST_PAIRS = 64
_MOST_CALLS = 200  # of a slice
_SPREAD = 64  # cache lines over which inputs are scattered: a page


@dataclass(frozen=True)
class RatioPlan:
    """How a ratio is measured.

    Attributes:
        confidence: Probability that neither ``passed`` nor ``failed`` is said wrongly.
        time_budget: Seconds after which an undecided measurement ends as ``inconclusive``.
        repeats: Blocks, each with both programs loaded anew, before the first decision.
        statistic: The call that a slice is judged by.
        warmup: Calls after loading that do not count, at least one.
        seed: Of the random order.
    """

    confidence: float = 0.999
    time_budget: float = 60.0
    repeats: int = 12
    statistic: Statistic = "median"
    warmup: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.time_budget < math.inf:
            raise UsageError(f"the time budget must be a positive number, not {self.time_budget}")
        if self.statistic not in STATISTICS:
            raise UsageError(f"unknown statistic {self.statistic!r}", hint="min or median")
        if self.warmup < 1:
            raise UsageError(f"at least one call has to warm up, not {self.warmup}")


@dataclass(frozen=True)
class Side:
    """One of the two programs: what it is, and the seconds of its slices."""

    name: str
    version: str
    threads: int
    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median over the slices, in seconds."""
        return statistics.median(self.samples)


@dataclass(frozen=True)
class RatioResult:
    """A measured ratio: time of ``subject`` over time of ``peer``.

    Attributes:
        verdict: Estimate, bounds and decision.
        limit: The largest ratio that passes.
        subject: What is judged.
        peer: What it is compared with.
        seconds: What the measurement took.
        plan: How it was made.
    """

    verdict: Verdict
    limit: float
    subject: Side
    peer: Side
    seconds: float
    plan: RatioPlan

    def to_dict(self) -> dict[str, Any]:
        """The result as plain JSON values; bounds that are not known are None."""
        verdict = self.verdict
        return {
            "ratio": verdict.ratio,
            "lower": verdict.lower or None,
            "upper": verdict.upper if math.isfinite(verdict.upper) else None,
            "limit": self.limit,
            "decision": verdict.decision,
            "confidence": self.plan.confidence,
            "statistic": self.plan.statistic,
            "blocks": verdict.blocks,
            "looks": verdict.looks,
            "pairs": len(self.subject.samples),
            "seconds": self.seconds,
            "sides": [
                {
                    "runner": side.name,
                    "version": side.version,
                    "threads": side.threads,
                    "min_ms": min(side.samples) * 1e3,
                    "median_ms": side.median * 1e3,
                }
                for side in (self.subject, self.peer)
            ],
        }


def measure_ratio(
    subject: Opener,
    peer: Opener,
    feeds: Feeds,
    limit: float,
    plan: RatioPlan | None = None,
    *,
    on_block: Callable[[int, float], None] | None = None,
) -> RatioResult:
    """Measure how long ``subject`` takes in units of ``peer``, until the limit is decided.

    Args:
        subject: Loads what is judged.
        peer: Loads what it is compared with.
        feeds: Inputs of both, by name.
        limit: The largest ratio that passes.
        plan: How; by default with a confidence of 99.9 % in at most a minute.
        on_block: Told the number of blocks and the seconds so far.

    Raises:
        UsageError: A number is out of range.
        BurnishError: A program cannot be loaded or run.
    """
    plan = plan or RatioPlan()
    test = SequentialTest(limit, plan.confidence, plan.repeats)
    meter = _Meter((subject, peer), feeds, plan)
    start = time.perf_counter()
    verdict: Verdict | None = None
    with no_collection():
        while True:
            test.add(meter.block())
            elapsed = time.perf_counter() - start
            if on_block is not None:
                on_block(len(test.values), elapsed)
            over = elapsed >= plan.time_budget
            if test.due or over:
                verdict = test.look()
                if over or verdict.decision != "inconclusive":
                    break
            gc.collect(0)  # what the sessions of this block may have left in cycles
    sides = [
        Side(name, version, threads, tuple(samples))
        for (name, version, threads), samples in zip(meter.labels, meter.samples, strict=True)
    ]
    return RatioResult(verdict, limit, sides[0], sides[1], elapsed, plan)


@dataclass
class _Meter:
    """Measures blocks, and keeps what the slices took."""

    openers: Sequence[Opener]
    feeds: Feeds
    plan: RatioPlan
    samples: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))
    labels: list[tuple[str, str, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(self.plan.seed)

    def block(self) -> float:
        """Load both, time pairs of slices; returns the median logarithm of their ratios."""
        start = time.perf_counter()
        calls = self._load()
        loading = time.perf_counter() - start
        warm = [min(time_calls(call, self.plan.warmup, settle=False)) for call in calls]
        once = sum(warm) / 2
        # Both make as many calls in a slice: the fastest of more calls would be faster.
        count = max(1, min(_MOST_CALLS, int(_SLICE / max(once, 1e-9))))
        pairs = _PAIRS if once < _SLOW else _SLOW_PAIRS
        ratios: list[float] = []
        start = time.perf_counter()
        # As long is measured as was loaded: models that load slowly get fewer, surer blocks.
        while len(ratios) < pairs or (
            time.perf_counter() - start < loading and len(ratios) < _MOST_PAIRS
        ):
            ratios.append(self._pair(calls, count))
        return statistics.median(ratios)

    def _load(self) -> list[Call]:
        runners: dict[int, Runner] = {i: self.openers[i]() for i in self._order()}
        if not self.labels:
            self.labels = [
                (runners[i].name, runners[i].version, runners[i].threads) for i in (0, 1)
            ]
        calls = {i: runners[i].prepare(_scattered(self.feeds, self._rng)) for i in self._order()}
        return [calls[0], calls[1]]

    def _pair(self, calls: Sequence[Call], count: int) -> float:
        taken = [0.0, 0.0]
        judge = min if self.plan.statistic == "min" else statistics.median
        for i in self._order():
            taken[i] = judge(time_calls(calls[i], count, settle=count > 1))
            self.samples[i].append(taken[i])
        return math.log(max(taken[0], 1e-9) / max(taken[1], 1e-9))

    def _order(self) -> tuple[int, int]:
        return (0, 1) if self._rng.random() < 0.5 else (1, 0)


def _scattered(feeds: Feeds, rng: np.random.Generator) -> dict[str, NDArray[Any]]:
    """Copies at random addresses, aligned to cache lines."""
    return {name: _moved(array, int(rng.integers(_SPREAD))) for name, array in feeds.items()}


def _moved(array: NDArray[Any], lines: int) -> NDArray[Any]:
    if array.dtype.hasobject or not array.size:
        return array
    memory = np.empty(array.nbytes + 64 * (_SPREAD + 1), np.uint8)
    start = -memory.ctypes.data % 64 + 64 * lines
    copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy
