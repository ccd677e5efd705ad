"""The result of ``burnish check`` as Markdown, for job summaries and comments."""

from __future__ import annotations

from burnish.gate.result import GateReport
from burnish.report.gate import reasons, summary

_MARKS = {
    "passed": "✅",
    "failed": "❌",
    "error": "❌",
    "inconclusive": "⚠️",
    "skipped": "⏭️",
}


def markdown_text(report: GateReport) -> str:
    """A headline, one table line for each check, and what did not pass."""
    lines = [f"## {'❌' if report.exit_code else '✅'} burnish check", "", summary(report), ""]
    lines += [
        "| | model | target | precision | check | measured | demanded |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in report.rows:
        lines += [
            _line(
                f"{_MARKS[check.outcome]} {check.outcome}",
                *(row.model, row.target, row.precision),
                *(check.name, check.measured, check.limit),
            )
            for check in row.checks
        ]
    found = reasons(report)
    if found:
        lines += ["", "### What did not pass", ""]
        lines += [
            f"- **{_escape(row.name)}, {_escape(check.name)}**: {_escape(check.message)}"
            for row, check in found
        ]
    facts = ", ".join(f"{name} {value}" for name, value in report.environment.items())
    return "\n".join([*lines, "", f"<sub>{_escape(facts)}</sub>", ""])


def _line(*cells: str) -> str:
    return "| " + " | ".join(map(_escape, cells)) + " |"


def _escape(text: str) -> str:
    for sign in ("\\", "|", "*", "_", "<", "`"):
        text = text.replace(sign, "\\" + sign)
    return " ".join(text.split())
