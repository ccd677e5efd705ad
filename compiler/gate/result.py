"""What the gate found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from burnish.errors import (
    AccuracyError,
    BurnishError,
    LatencyError,
    PrecisionError,
    SizeError,
)

SCHEMA_VERSION = 1

Gate = Literal["compile", "accuracy", "latency", "size", "memory", "precision", "placement"]
Outcome = Literal["passed", "failed", "inconclusive", "skipped", "error"]

#: Exit code of a gate that fails. Compilation has those of its errors.
EXIT_CODES: dict[Gate, int] = {
    "accuracy": AccuracyError.exit_code,
    "latency": LatencyError.exit_code,
    "size": SizeError.exit_code,
    "memory": SizeError.exit_code,
    "precision": PrecisionError.exit_code,
    "placement": PrecisionError.exit_code,
}
#: Exit code of what no class of error is for: a bug.
BUG = 1

_LISTED = 5


def listed(items: Sequence[str], separator: str = ", ") -> str:
    """The first few of many, and how many there are beside them."""
    text = separator.join(items[:_LISTED])
    return text + (f" and {len(items) - _LISTED} more" if len(items) > _LISTED else "")


@dataclass(frozen=True)
class CheckResult:
    """One thing that was checked.

    Attributes:
        gate: The gate it belongs to.
        subject: What of the gate: an output, a peer; empty where there is only one.
        outcome: ``passed``, ``failed``, ``inconclusive`` (the noise left it undecided),
            ``skipped`` (this machine cannot check it), ``error`` (it could not be checked).
        measured: What was found, in a few words.
        limit: What is demanded, in a few words.
        message: Why it did not pass, or a remark.
        exit_code: What the process exits with for this check alone.
        details: Numbers, as plain JSON values.
    """

    gate: Gate
    subject: str
    outcome: Outcome
    measured: str = ""
    limit: str = ""
    message: str = ""
    exit_code: int = 0
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The gate with the subject."""
        return f"{self.gate} {self.subject}".strip()

    @classmethod
    def judged(
        cls, gate: Gate, subject: str, reason: str, measured: str, limit: str, **details: Any
    ) -> CheckResult:
        """Passed if there is no reason against it."""
        return cls(
            gate,
            subject,
            "failed" if reason else "passed",
            measured,
            limit,
            reason,
            EXIT_CODES[gate] if reason else 0,
            details,
        )

    @classmethod
    def broken(cls, gate: Gate, subject: str, error: BaseException) -> CheckResult:
        """What could not be checked, with the exit code of the error."""
        code = error.exit_code if isinstance(error, BurnishError) else BUG
        message = str(error) if isinstance(error, BurnishError) else repr(error)
        details = {"error": type(error).__name__}
        return cls(gate, subject, "error", "", "", message, code, details)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "gate": self.gate,
            "subject": self.subject,
            "outcome": self.outcome,
            "measured": self.measured,
            "limit": self.limit,
            "message": self.message,
            "exit_code": self.exit_code,
            "details": dict(self.details),
        }


@dataclass(frozen=True)
class RowResult:
    """All checks of one model for one target at one precision.

    Attributes:
        name: Of the row.
        model: Name of the model.
        target: The target.
        precision: The precision.
        checks: In the order of the gates.
        seconds: What it all took.
        notes: Lines of the compiler.
        artifact: Where the artifact was kept; None if it was not.
        baseline_updated: Whether the artifact became the baseline.
    """

    name: str
    model: str
    target: str
    precision: str
    checks: tuple[CheckResult, ...]
    seconds: float
    notes: tuple[str, ...] = ()
    artifact: str | None = None
    baseline_updated: bool = False

    @property
    def failed(self) -> bool:
        """Whether a check makes the process fail."""
        return any(check.exit_code for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "name": self.name,
            "model": self.model,
            "target": self.target,
            "precision": self.precision,
            "failed": self.failed,
            "seconds": self.seconds,
            "artifact": self.artifact,
            "baseline_updated": self.baseline_updated,
            "notes": list(self.notes),
            "checks": [check.to_dict() for check in self.checks],
        }


@dataclass(frozen=True)
class GateReport:
    """Everything that one run of the gate found.

    Attributes:
        config: The configuration file.
        rows: In the order of the file.
        environment: Machine and versions, by name.
        seconds: What it took.
    """

    config: str
    rows: tuple[RowResult, ...]
    environment: Mapping[str, str]
    seconds: float

    @property
    def exit_code(self) -> int:
        """The lowest exit code of what failed: errors, then accuracy, latency, size, precision."""
        codes = [check.exit_code for row in self.rows for check in row.checks if check.exit_code]
        return min(codes, default=0)

    @property
    def counts(self) -> dict[str, int]:
        """Number of checks by outcome."""
        return dict(Counter(check.outcome for row in self.rows for check in row.checks))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "schema_version": SCHEMA_VERSION,
            "config": self.config,
            "exit_code": self.exit_code,
            "counts": self.counts,
            "seconds": self.seconds,
            "environment": dict(self.environment),
            "rows": [row.to_dict() for row in self.rows],
        }
