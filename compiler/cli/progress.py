"""Progress on stderr: a bar with an estimate of the time left, on a terminal only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from burnish.cli.common import on_terminal

#: Share of the whole that a phase takes, from cold builds of the models in tests/bench.
WEIGHTS: dict[str, float] = {
    "import": 6,
    "optimize": 14,
    "load compiler": 10,
    "lower": 15,
    "generate code": 40,
    "link": 5,
    "check": 8,
    "write": 2,
}
#: The same where a model is measured on samples and compared on them, nothing is built.
MEASURE_WEIGHTS: dict[str, float] = {"calibrate": 90, "compare": 10}
#: What precedes measuring on samples, and its share there: most of the time.
_MEASURED_AFTER, _MEASURE = "import", 300
#: What follows in the order of phases, and the weight of a second of it: as of the others.
_BEFORE, _PER_SECOND = "lower", 10


@contextmanager
def show_progress(
    quiet: bool = False, weights: Mapping[str, float] = WEIGHTS
) -> Iterator[Callable[[str, int, int], None]]:
    """Yield a function (phase, done, total) that draws; it does nothing off a terminal.

    Args:
        quiet: Draw nothing.
        weights: Share of the whole of each phase, in their order. What is not among them is named,
            and moves nothing.
    """
    if quiet or not on_terminal():
        yield lambda phase, done, total: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description:<14.14}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    with bar:
        task = bar.add_task("start", total=sum(weights.values()))

        def update(phase: str, done: int, total: int) -> None:
            name = phase.split(":")[0]
            completed = completed_share(weights, name, done / max(total, 1))
            bar.update(task, description=name, completed=completed)

        yield update


def completed_share(weights: Mapping[str, float], phase: str, share: float) -> float | None:
    """How much of the sum of the weights is done.

    Args:
        weights: Of each phase, in their order.
        phase: What is being done.
        share: How much of it, in [0, 1].

    Returns:
        A number up to the sum; None if there is no such phase.
    """
    before = 0.0
    for known, weight in weights.items():
        if known == phase:
            return before + weight * share
        before += weight
    return None


def compile_weights(*, tune_seconds: float = 0, calibrates: bool = False) -> dict[str, float]:
    """The phases of a compilation.

    Args:
        tune_seconds: Time that the phase ``tune`` takes; 0 where there is none.
        calibrates: Whether the model is measured on samples first.
    """
    weights: dict[str, float] = {}
    for phase, weight in WEIGHTS.items():
        if phase == _BEFORE and tune_seconds:
            weights["tune"] = _PER_SECOND * tune_seconds
        weights[phase] = weight
        if phase == _MEASURED_AFTER and calibrates:
            weights["calibrate"] = _MEASURE
    return weights
