"""The tuning of one model: rounds that measure every tactic, a duel of the best two, a comparison.

A round builds the whole model with different tactics for nodes of equal problems, and times every
kernel while the model runs; a model with twelve equal layers measures twelve tactics in one round.
Then each problem's best two are measured side by side in two builds that take turns, until a
sequential test tells them apart. At last the tuned build runs against the cost table's.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from burnish.bench.sequential import SequentialTest
from burnish.lowering.tactics import Chooser
from burnish.tuning.choosers import Assignment
from burnish.tuning.ledger import Ledger, Record

#: Shares of the time after which no round, and no pair of runs of the duel, begins.
_EXPLORE, _SETTLE = 0.6, 0.85
#: Runs of a build that are not counted, and that are counted at least and at most.
_WARMUP, _LEAST, _MOST = 2, 5, 30
#: Seconds that the runs of a round take, if they are not the most by then.
_ROUND = 0.5
#: Pairs of runs before the first look at a duel or a comparison, and at most.
_FIRST, _PAIRS = 8, 64
_CONFIDENCE = 0.95
#: What a tactic has to gain on the cost table's if there was no time for a duel.
_CLEAR = 0.95


class Trial(Protocol):
    """A build of the model that can run."""

    def profile(self) -> Mapping[str, float]:
        """Run once; microseconds by the reasons that the chooser gave."""

    def run(self) -> float:
        """Run once without timing kernels; seconds."""


class Builder(Protocol):
    """Builds the model with the tactics of a chooser."""

    def lower(self, chooser: Chooser) -> Any:
        """Have every choice made; returns what :meth:`load` takes."""

    def load(self, lowered: Any) -> AbstractContextManager[Trial]:
        """Generate the code and load it."""


@dataclass
class Tuner:
    """One tuning.

    Attributes:
        builder: Builds the model.
        ledger: Gets what was measured, and the choices.
        budget: Seconds that it may take. A build that was begun is finished.
        progress: Gets the share that is done, from 0 to 1.
        clock: The time in seconds.
        rounds: Builds in which tactics were measured.
        table_ms: Least time of a run of the cost table's build, if it was compared.
        tuned_ms: Of the tuned build.
        verdict: What the comparison says.
        reverted: Whether the cost table's choices were kept.
    """

    builder: Builder
    ledger: Ledger
    budget: float
    progress: Callable[[float], None] = lambda share: None
    clock: Callable[[], float] = time.perf_counter
    rounds: int = 0
    table_ms: float | None = None
    tuned_ms: float | None = None
    verdict: str = ""
    reverted: bool = False
    _began: float = 0.0
    _build_seconds: float = 0.0
    _fresh: set[str] = field(default_factory=set)

    def run(self) -> None:
        """Measure, choose and compare."""
        self._began = self.clock()
        self._explore()
        if self._fresh:
            self._settle()
        self._compare()

    @property
    def elapsed(self) -> float:
        """Seconds since the begin."""
        return self.clock() - self._began

    # --- rounds ----------------------------------------------------------------------------------

    def _explore(self) -> None:
        """Measure every tactic of every problem once, as far as the time suffices."""
        while True:
            began = self.clock()
            settled = {key for key, r in self.ledger.records.items() if r.covered}
            given = Assignment(self.ledger, partial(_next, settled))
            lowered = self.builder.lower(given)
            wanted = {key for key, _ in given.given.values() if not self.ledger.records[key].kept}
            if not wanted - settled:
                return
            self._fresh |= wanted
            with self._loaded(lowered) as trial:
                self._measure(trial, given)
            self.rounds += 1
            self._tell()
            took = self.clock() - began
            late = self.elapsed > _EXPLORE * self.budget or self.elapsed + took > self.budget
            if late or not self.ledger.open():
                return

    def _measure(self, trial: Trial, given: Assignment) -> None:
        for _ in range(_WARMUP):
            trial.profile()
        began, runs = self.clock(), 0
        while runs < _LEAST or (runs < _MOST and self.clock() - began < _ROUND):
            self._add(trial.profile(), given)
            runs += 1

    def _add(self, times: Mapping[str, float], given: Assignment) -> None:
        self.ledger.add((*given.given[label], us) for label, us in times.items())

    # --- duels -----------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Choose among the best two of each problem."""
        fresh = [self.ledger.records[key] for key in self.ledger.records if key in self._fresh]
        duels = {r.key: _Duel(r) for r in fresh if len(r.microseconds) > 1}
        if duels and self.elapsed + 2 * self._build_seconds < _SETTLE * self.budget:
            self._fight(duels)
        for record in fresh:
            duel = duels.get(record.key)
            record.chosen = record.best if duel is None else duel.winner()

    def _fight(self, duels: dict[str, _Duel]) -> None:
        def side(turn: int) -> Assignment:
            def pick(record: Record, node: int) -> str:
                duel = duels.get(record.key)
                return record.best if duel is None else duel.names[(node + turn) % 2]

            return Assignment(self.ledger, pick)

        givens = side(0), side(1)
        with self._built(givens[0]) as first, self._built(givens[1]) as second:
            for pair in self._pairs((first.profile, second.profile)):
                seen: dict[tuple[str, str], float] = {}
                for given, times in zip(givens, pair, strict=True):
                    self._add(times, given)
                    for label, us in times.items():
                        seen[given.given[label]] = seen.get(given.given[label], 0.0) + us
                for duel in duels.values():
                    duel.add(seen)
                if all(duel.decided for duel in duels.values()):
                    return
                if self.elapsed > _SETTLE * self.budget:
                    return

    # --- comparison ------------------------------------------------------------------------------

    def _compare(self) -> None:
        """Run the tuned build against the cost table's; keep the faster one's choices."""
        changed = [r for r in self.ledger.records.values() if r.best != r.table]
        if not changed:
            return
        tuned = Assignment(self.ledger, lambda record, _: record.best)
        table = Assignment(self.ledger, lambda record, _: record.table)
        test = SequentialTest(1.0, _CONFIDENCE, _FIRST)
        seconds: tuple[list[float], list[float]] = [], []
        with self._built(tuned) as first, self._built(table) as second:
            verdict = None
            for pair in self._pairs((first.run, second.run)):
                for taken, value in zip(seconds, pair, strict=True):
                    taken.append(value)
                test.add(math.log(pair[0] / pair[1]))
                if test.due:
                    verdict = test.look()
                    if verdict.decision != "inconclusive" or self.elapsed > self.budget:
                        break
            verdict = verdict or test.look()
        self.tuned_ms, self.table_ms = (min(taken) * 1e3 for taken in seconds)
        gain = (1 / verdict.ratio - 1) * 100
        self.reverted = verdict.decision == "failed" or (
            verdict.decision != "passed" and gain < 0 and self.tuned_ms >= self.table_ms
        )
        if verdict.decision == "passed":
            self.verdict = f"the tuned build is {gain:.1f} % faster"
        elif verdict.decision == "failed":
            self.verdict = f"the tuned build is {-gain:.1f} % slower"
        else:
            self.verdict = f"the tuned build is not faster beyond noise ({gain:+.1f} %)"
        if self.reverted:
            self.verdict += ": the cost table's choices are kept"
            # A choice that is kept has a time; the cost table's has none if its nodes did not run.
            for record in (r for r in changed if r.table in r.microseconds):
                record.chosen = record.table

    # --- builds ----------------------------------------------------------------------------------

    def _built(self, chooser: Chooser) -> AbstractContextManager[Trial]:
        return self._loaded(self.builder.lower(chooser))

    @contextmanager
    def _loaded(self, lowered: Any) -> Iterator[Trial]:
        began = self.clock()
        with self.builder.load(lowered) as trial:
            self._build_seconds = self.clock() - began
            self._tell()
            yield trial

    def _pairs(self, calls: tuple[Callable[[], Any], Callable[[], Any]]) -> Iterator[list[Any]]:
        """Results of two functions that take turns, each time in the other order."""
        for call in calls * _WARMUP:
            call()
        for turn in range(_PAIRS):
            order = (0, 1) if turn % 2 else (1, 0)
            results: list[Any] = [None, None]
            for i in order:
                results[i] = calls[i]()
            self._tell()
            yield results

    def _tell(self) -> None:
        self.progress(min(1.0, self.elapsed / self.budget))


def _next(settled: Set[str], record: Record, node: int) -> str:
    """What a node is measured with in a round that began with some problems ``settled``."""
    return record.best if record.kept or record.key in settled else record.plan()


class _Duel:
    """The best two tactics of a problem, measured in pairs of runs until one has won.

    Args:
        record: The problem, with two times at least.
    """

    def __init__(self, record: Record) -> None:
        self.record = record
        self.names = record.ranked[0], record.ranked[1]
        self._test = SequentialTest(1.0, _CONFIDENCE, _FIRST)
        self._winner = ""

    @property
    def decided(self) -> bool:
        """Whether more pairs would tell nothing."""
        return bool(self._winner)

    def add(self, seen: Mapping[tuple[str, str], float]) -> None:
        """Take microseconds by problem and tactic, over all nodes of a pair of runs."""
        first, second = (seen.get((self.record.key, name), 0.0) for name in self.names)
        if self.decided or not (first > 0 and second > 0):
            return
        self._test.add(math.log(first / second))
        if self._test.due:
            decision = self._test.look().decision
            if decision != "inconclusive":
                self._winner = self.names[0 if decision == "passed" else 1]

    def winner(self) -> str:
        """The faster one; the cost table's choice if neither is beyond noise."""
        record, times = self.record, self.record.microseconds
        if self._winner:
            # Both have to speak for it: the pairs of runs, and the least times.
            slower = times[self._winner] >= times.get(record.table, math.inf)
            return record.table if slower else self._winner
        if self._test.values:
            return record.table if record.table in self.names else self.names[0]
        # Rounds only: their runs did not take turns.
        best = self.names[0]
        clear = times[best] < _CLEAR * times.get(record.table, math.inf)
        return best if clear else record.table
