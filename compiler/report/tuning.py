"""What ``burnish compile --tune`` prints of its measurements."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.markup import escape

from burnish.errors import counted
from burnish.report.console import print_counts, print_line

#: Characters of a problem that a table shows.
_WIDTH = 72


def print_tuning(tuning: Mapping[str, Any], *, verbose: bool = False) -> None:
    """Print a tuning to stdout.

    Args:
        tuning: A ``TuningReport`` as plain data.
        verbose: List the problems where the cost table was right, too.
    """
    problems = tuning["problems"]
    print_line(_summary(tuning))
    changed = [p for p in problems if p["chosen"] != p["table"]]
    rows = [_row(p) for p in (problems if verbose else changed)]
    if rows:
        columns = ("problem", "nodes", "cost table", "us", "tuned", "us", "gain in us")
        print_counts(columns, rows)
    if tuning["verdict"]:
        print_line(
            f"whole model: {tuning['table_ms']:.4g} ms by the cost table, "
            f"{tuning['tuned_ms']:.4g} ms tuned: {tuning['verdict']}"
        )
    elif problems:
        print_line("the cost table's choices stay: none is slower beyond noise")
    left = sum(len(p["unmeasured"]) for p in problems)
    if left:
        among = sum(bool(p["unmeasured"]) for p in problems)
        print_line(
            f"not measured: {counted(left, 'tactic')} of {counted(among, 'problem')}, since "
            f"{tuning['budget']:g} s were not enough or the nodes did not run; --tune again goes on"
        )


def _summary(tuning: Mapping[str, Any]) -> str:
    problems = tuning["problems"]
    if not problems:
        return "nothing to tune: no composite has several tactics"
    kept = sum(p["kept"] for p in problems)
    fresh = [p for p in problems if not p["kept"]]
    line = f"tuned in {tuning['seconds']:.1f} s: {counted(len(problems), 'problem')}"
    if fresh:
        tactics = sum(len(p["microseconds"]) for p in fresh)
        line += f", {tactics} tactics measured in {counted(tuning['rounds'], 'round')}"
    if kept:
        line += f", {kept} of them from the timing cache"
    if tuning["sizes"]:
        line += f" with {tuning['sizes']}"
    return f"{line}; times are in {tuning['cache']}"


def _row(problem: Mapping[str, Any]) -> tuple[object, ...]:
    def time(value: float | None) -> str:
        return "-" if value is None else f"{value:.1f}"

    name = problem["problem"].removeprefix("burnish::")
    return (
        escape(name if len(name) <= _WIDTH else f"{name[: _WIDTH - 1]}…"),
        problem["nodes"],
        escape(problem["table"]),
        time(problem["table_us"]),
        escape(problem["chosen"]),
        time(problem["chosen_us"]),
        f"{problem['gain_us']:.1f}",
    )
