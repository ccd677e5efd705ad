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


@contextmanager
def show_progress(quiet: bool = False) -> Iterator[Callable[[str, int, int], None]]:
    """Yield a function (phase, done, total) that draws; it does nothing off a terminal."""
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
        task = bar.add_task("start", total=sum(WEIGHTS.values()))

        def update(phase: str, done: int, total: int) -> None:
            name = phase.split(":")[0]
            before = 0.0
            for known, weight in WEIGHTS.items():
                if known == name:
                    before += weight * done / max(total, 1)
                    break
                before += weight
            bar.update(task, description=name, completed=before)

        yield update
