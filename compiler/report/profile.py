"""A profile as a table."""

from __future__ import annotations

from rich import box
from rich.markup import escape
from rich.table import Table

from burnish.bench.profile import Profile, Step
from burnish.errors import first_few
from burnish.report.console import print_line, print_table


def profile_table(profile: Profile, top: int | None = None) -> Table:
    """One row for each call in the order of execution; with ``top``, the longest first."""
    steps = list(profile.steps)
    if top is not None:
        steps = sorted(steps, key=lambda step: -step.seconds)[:top]
    table = Table(
        title=f"{profile.model}: {profile.seconds * 1e3:.4g} ms in {len(profile.steps)} calls, "
        f"{profile.threads} thread(s), shortest of {profile.runs} runs",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("operation")
    for name in ("µs", "share", "GFLOP/s", "GB/s", "of limit"):
        table.add_column(name, justify="right")
    for name in ("precision", "kernel", "original nodes"):
        table.add_column(name)
    for step in steps:
        table.add_row(*_cells(step, profile.seconds))
    return table


def _cells(step: Step, total: float) -> list[str]:
    data = step.to_dict()
    gflops, gbytes, limit = data["gflops"], data["gbytes"], step.share_of_limit
    kernel = f"{step.kernel}, {data['detail']}" if data["detail"] else step.kernel
    return [
        data["op"] or "(runtime)",
        f"{step.seconds * 1e6:.1f}",
        f"{step.seconds / total:.1%}" if total else "",
        f"{gflops:.1f}" if gflops is not None else "",
        f"{gbytes:.1f}" if gbytes is not None else "",
        f"{limit:.0%}" if limit is not None else "",
        data["precision"],
        escape(kernel),
        escape(first_few(data["nodes"])),
    ]


def print_profile(profile: Profile, top: int | None = None) -> None:
    """Print the table to stdout, and the limits that it speaks of."""
    print_table(profile_table(profile, top))
    if profile.roofline is not None:
        limits = profile.roofline
        rates = ", ".join(f"{name} {rate / 1e9:.0f}" for name, rate in limits.rates.items())
        print_line(
            f"limits of {limits.threads} thread(s): {rates} GFLOP/s, {limits.bandwidth / 1e9:.1f} "
            f"GB/s from memory, {limits.cache_bandwidth / 1e9:.0f} GB/s from caches"
        )
