"""Progress on stderr: a bar with an estimate of the time left, on a terminal only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
#: What follows in the order of phases, and the weight of a second of it: as of the others.
_BEFORE, _PER_SECOND = "lower", 10


@contextmanager
def show_progress(
    quiet: bool = False, tune_seconds: float = 0
) -> Iterator[Callable[[str, int, int], None]]:
    """Yield a function (phase, done, total) that draws; it does nothing off a terminal.

    Args:
        quiet: Draw nothing.
        tune_seconds: Time that the phase ``tune`` takes; 0 where there is none.
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
        weights = _weights(tune_seconds)
        task = bar.add_task("start", total=sum(weights.values()))

        def update(phase: str, done: int, total: int) -> None:
            name = phase.split(":")[0]
            before = 0.0
            for known, weight in weights.items():
                if known == name:
                    before += weight * done / max(total, 1)
                    break
                before += weight
            bar.update(task, description=name, completed=before)

        yield update


def _weights(tune_seconds: float) -> dict[str, float]:
    weights: dict[str, float] = {}
    for phase, weight in WEIGHTS.items():
        if phase == _BEFORE and tune_seconds:
            weights["tune"] = _PER_SECOND * tune_seconds
        weights[phase] = weight
    return weights
