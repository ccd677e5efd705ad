"""A model that is not built: its nodes take the time that a test says, by a clock of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from burnish.lowering.tactics import Chooser, CostTable, Problem, Tactic
from burnish.tuning.ledger import Ledger
from burnish.tuning.timings import Entry
from burnish.tuning.tuner import Tuner


@dataclass(frozen=True)
class Node:
    """A node: its problem, and microseconds and estimated cost of its tactics."""

    problem: str
    times: Mapping[str, float]
    costs: Mapping[str, float] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The problem as the ledger knows it."""
        return Problem("burnish::Conv", "avx512", self.problem).key

    def tactics(self) -> list[Tactic]:
        """Without costs, the order of the times is that of the costs."""
        return [
            Tactic(name, self.costs.get(name, float(i)), lambda: None)
            for i, name in enumerate(self.times)
        ]


@dataclass
class Clock:
    """Time goes on when something is done."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Trial:
    """A build: what runs, in order."""

    model: Model
    kernels: list[tuple[str, float]]

    def profile(self) -> dict[str, float]:
        times: dict[str, float] = {}
        for label, us in self.kernels:
            taken = us * self.model.noise()
            self.model.clock.now += taken / 1e6
            if label.startswith("trial "):
                times[label] = taken
        return times

    def run(self) -> float:
        seconds = sum(us * self.model.noise() for _, us in self.kernels) / 1e6
        self.model.clock.now += seconds
        return seconds


@dataclass
class Model:
    """Builds of some nodes.

    Attributes:
        nodes: In order.
        build_seconds: Of every build.
        noise: Factor of each time.
        built: Tactics of the nodes, by build.
        loaded: Builds that are loaded now.
    """

    nodes: list[Node]
    build_seconds: float = 1.0
    noise: Callable[[], float] = lambda: 1.0
    clock: Clock = field(default_factory=Clock)
    built: list[list[str]] = field(default_factory=list)
    loaded: int = 0

    def lower(self, chooser: Chooser) -> Trial:
        kernels, names = [], []
        for node in self.nodes:
            problem = Problem("burnish::Conv", "avx512", node.problem)
            choice = chooser.choose(problem, node.tactics())
            names.append(choice.tactic.name)
            kernels.append((choice.why, node.times[choice.tactic.name]))
        self._names = names
        return Trial(self, kernels)

    @contextmanager
    def load(self, lowered: Trial) -> Iterator[Trial]:
        self.built.append(self._names)
        self.clock.now += self.build_seconds
        self.loaded += 1
        try:
            yield lowered
        finally:
            self.loaded -= 1


def tune(
    model: Model, budget: float = 60.0, known: Mapping[str, Entry] | None = None
) -> tuple[Tuner, Ledger]:
    """Tune a model; returns the tuner and what it knows afterwards."""
    ledger = Ledger(CostTable(), known or {})
    tuner = Tuner(model, ledger, budget, clock=model.clock)
    tuner.run()
    return tuner, ledger


def jitter(seed: int, spread: float, outliers: float = 0.0) -> Callable[[], float]:
    """Factors above 1: a slow tail, and now and then something ten times slower."""
    rng = np.random.default_rng(seed)

    def draw() -> float:
        if rng.random() < outliers:
            return 10.0
        return float(1.0 + spread * rng.exponential())

    return draw
