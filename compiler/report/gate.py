"""The result of ``burnish check`` as a table."""

from __future__ import annotations

import math

from rich import box
from rich.table import Table
from rich.text import Text

from burnish.gate.result import CheckResult, GateReport, RowResult
from burnish.report.console import print_line, print_table

_STYLES = {
    "passed": "green",
    "failed": "bold red",
    "error": "bold red",
    "inconclusive": "yellow",
    "skipped": "dim",
}


def gate_table(report: GateReport) -> Table:
    """One line for each check; the reasons stand below, see :func:`reasons`."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("model", "target", "precision", "check"):
        table.add_column(name, overflow="fold")
    table.add_column("measured", overflow="fold")
    table.add_column("demanded", overflow="fold")
    table.add_column("outcome", no_wrap=True)
    for row in report.rows:
        for index, check in enumerate(row.checks):
            first = (row.model, row.target, row.precision) if not index else ("", "", "")
            cells = [Text(text) for text in (*first, check.name, check.measured, check.limit)]
            table.add_row(
                *cells,
                Text(check.outcome, _STYLES[check.outcome]),
                end_section=index == len(row.checks) - 1,
            )
    return table


def reasons(report: GateReport) -> list[tuple[RowResult, CheckResult]]:
    """What did not simply pass, the failures first."""
    found = [
        (row, check) for row in report.rows for check in row.checks if check.outcome != "passed"
    ]
    return sorted(found, key=lambda item: item[1].exit_code or math.inf)


def summary(report: GateReport) -> str:
    """One line: how many checks ended how."""
    counts = ", ".join(f"{count} {outcome}" for outcome, count in report.counts.items())
    verdict = f"FAILED (exit code {report.exit_code})" if report.exit_code else "passed"
    rows = f"{len(report.rows)} row" + ("s" if len(report.rows) != 1 else "")
    return f"{verdict}: {rows}, {counts}, {report.seconds:.0f} s"


def print_gate(report: GateReport) -> None:
    """Print the table, the reasons and the verdict to stdout."""
    print_table(gate_table(report))
    for row, check in reasons(report):
        print_line(f"{check.outcome}: {row.name}: {check.name}: {check.message}")
    for row in report.rows:
        if row.baseline_updated:
            print_line(f"new baseline: {row.name}")
    print_line(summary(report))
