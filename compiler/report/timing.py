"""Timings and rates as tables."""

from __future__ import annotations

import statistics

from rich import box
from rich.table import Table

from burnish.bench.streams import ThroughputResult
from burnish.bench.timing import BenchResult, percentile
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


def throughput_table(result: ThroughputResult) -> Table:
    """One row for each runner; the speed-up is that of the first one over it (best slice)."""
    first = result.timings[0]
    table = Table(
        title=f"Throughput of {result.streams} stream(s), {first.threads} thread(s) each, "
        f"batch {result.batch}",
        title_justify="left",
        caption="Rates of all streams together, best and median slice; latencies of one call.",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("runner")
    for name in ("calls", "items/s best", "items/s median", "min ms", "median ms"):
        table.add_column(name, justify="right")
    for percent in result.percentiles:
        table.add_column(f"p{percent:g} ms", justify="right")
    table.add_column("speed-up", justify="right")
    for timing in result.timings:
        samples = timing.samples
        rates = (timing.max * result.batch, timing.median * result.batch)
        latencies = (min(samples), statistics.median(samples))
        table.add_row(
            f"{timing.runner} {timing.version}",
            str(len(samples)),
            *(f"{rate:,.4g}" if rate < 1000 else f"{rate:,.0f}" for rate in rates),
            *map(_milliseconds, latencies),
            *(_milliseconds(percentile(samples, p)) for p in result.percentiles),
            "" if timing is first else f"{result.ratio(timing):.2f}x",
        )
    return table


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.4g}"


def print_timing(result: BenchResult) -> None:
    """Print the table to stdout."""
    print_table(timing_table(result))


def print_throughput(result: ThroughputResult) -> None:
    """Print the table to stdout."""
    print_table(throughput_table(result))
