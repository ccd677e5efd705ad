"""How long each region of a model takes in each precision: builds of it, timed in turns."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from burnish.bench.profile import match_nodes
from burnish.calibration.samples import Sample
from burnish.runtime import CompiledModel, load

#: Rounds that are timed at least, and seconds after which no further one begins.
_ROUNDS, _SECONDS = 8, 6.0
_MOST_ROUNDS = 60


@dataclass(frozen=True)
class BuildTimes:
    """Times of one build.

    Attributes:
        seconds: The shortest whole call.
        regions: Shortest times of the kernels of each region, in sum.
        rest: The same of kernels that belong to none.
    """

    seconds: float
    regions: tuple[float, ...]
    rest: float


@dataclass
class _Timed:
    model: CompiledModel
    calls: list[float] = field(default_factory=list)
    kernels: list[tuple[str, float]] = field(default_factory=list)

    def round(self, sample: Sample) -> None:
        started = time.perf_counter()
        self.model.run(None, sample)
        self.calls.append(time.perf_counter() - started)
        taken = [(call.name, call.duration_us / 1e6) for call in self.model.profile(sample)]
        if [name for name, _ in taken] != [name for name, _ in self.kernels]:
            self.kernels = taken
            return
        self.kernels = [
            (name, min(a, b)) for (name, a), (_, b) in zip(taken, self.kernels, strict=True)
        ]


def time_builds(
    builds: Mapping[str, Path],
    sample: Sample,
    regions: Mapping[str, int],
    count: int,
    threads: int | None,
) -> dict[str, BuildTimes]:
    """Time builds of one model in turns.

    Args:
        builds: Artifacts, by what they are called.
        sample: The inputs of each call.
        regions: Index of the region of each node, by original name.
        count: Number of regions.
        threads: Threads of a call.
    """
    with ExitStack() as stack:
        timed = {
            name: _Timed(stack.enter_context(load(path, threads=threads)))
            for name, path in builds.items()
        }
        for item in timed.values():
            item.model.run(None, sample)
        started, order = time.perf_counter(), list(timed.values())
        for index in range(_MOST_ROUNDS):
            if index >= _ROUNDS and time.perf_counter() - started > _SECONDS:
                break
            for item in order if index % 2 else reversed(order):
                item.round(sample)
        return {name: _times(item, regions, count) for name, item in timed.items()}


def _times(item: _Timed, regions: Mapping[str, int], count: int) -> BuildTimes:
    sums, rest = [0.0] * count, 0.0
    nodes = match_nodes([name for name, _ in item.kernels], item.model.manifest.nodes)
    for (_, seconds), node in zip(item.kernels, nodes, strict=True):
        region = None if node is None else _region(node.nodes, regions)
        if region is None:
            rest += seconds
        else:
            sums[region] += seconds
    return BuildTimes(min(item.calls), tuple(sums), rest)


def _region(names: Sequence[str], regions: Mapping[str, int]) -> int | None:
    return next((regions[name] for name in names if name in regions), None)
