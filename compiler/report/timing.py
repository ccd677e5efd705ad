"""Timings as a table."""

from __future__ import annotations

from rich import box
from rich.table import Table

from burnish.bench.timing import BenchResult
from burnish.report.console import print_table


def timing_table(result: BenchResult) -> Table:
    """One row for each runner; the speed-up is that of the first one over it (minimum)."""
    first = result.timings[0]
    table = Table(
        title=f"Time of one call, {first.threads} thread(s)",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("runner")
    for name in ("calls", "min ms", "median ms"):
        table.add_column(name, justify="right")
    for percent in result.percentiles:
        table.add_column(f"p{percent:g} ms", justify="right")
    table.add_column("speed-up", justify="right")
    for timing in result.timings:
        times = [timing.min, timing.median, *map(timing.percentile, result.percentiles)]
        ratio = "" if timing is first else f"{result.ratio(timing):.2f}x"
        label = f"{timing.runner} {timing.version}"
        table.add_row(label, str(len(timing.samples)), *map(_milliseconds, times), ratio)
    return table


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.4g}"


def print_timing(result: BenchResult) -> None:
    """Print the table to stdout."""
    print_table(timing_table(result))
