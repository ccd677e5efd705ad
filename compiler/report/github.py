"""Annotations of GitHub Actions: lines that its log turns into marks on the run.

Source: docs.github.com, "Workflow commands for GitHub Actions".
"""

from __future__ import annotations

from burnish.gate.result import GateReport
from burnish.report.gate import reasons


def workflow_commands(report: GateReport) -> list[str]:
    """``::error`` for what fails, ``::warning`` for what stayed undecided."""
    lines = []
    for row, check in reasons(report):
        if not check.exit_code and check.outcome != "inconclusive":
            continue
        kind = "error" if check.exit_code else "warning"
        title = _property(f"{row.name}: {check.name}")
        lines.append(f"::{kind} title={title}::{_data(check.message)}")
    return lines


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
