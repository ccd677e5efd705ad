"""What a comparison found."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from burnish.errors import AccuracyError

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class OutputComparison:
    """One output of one set of inputs.

    Attributes:
        name: Name of the output.
        case: Index of the set of inputs.
        passed: The verdict.
        reason: Why it failed, or an empty string.
        dtype: Of the reference.
        shape: Of the reference.
        elements: Number of elements compared.
        scale: Root mean square of the reference, the unit of ``atol``.
        max_abs: Largest error.
        mean_abs: Mean error.
        rms: Root-mean-square error.
        max_rel: Largest error relative to its element, of the elements above a thousandth of the
            scale.
        mean_rel: Mean of the same.
        cosine: Cosine similarity.
        psnr: Peak signal-to-noise ratio in dB; infinite where nothing differs.
        worst: Index of the largest error, with the value found and the one expected.
        atol: Bound of an element in units of the scale.
        rtol: Bound relative to an element, added to the former.
        rms_tol: Bound of ``rms`` in units of the scale; infinite: not checked.
    """

    name: str
    case: int
    passed: bool
    reason: str = ""
    dtype: str = ""
    shape: tuple[int, ...] = ()
    elements: int = 0
    scale: float = 0.0
    max_abs: float = 0.0
    mean_abs: float = 0.0
    rms: float = 0.0
    max_rel: float = 0.0
    mean_rel: float = 0.0
    cosine: float = 1.0
    psnr: float = math.inf
    worst: tuple[tuple[int, ...], float, float] | None = None
    atol: float = 0.0
    rtol: float = 0.0
    rms_tol: float = math.inf

    @property
    def tolerance(self) -> float:
        """The bound of an error at an element of value 0, in units of the output."""
        return self.atol * self.scale

    @property
    def bounds(self) -> str:
        """The tolerance in a few words."""
        if math.isinf(self.atol):
            return f"rms {self.rms_tol:g}"
        return f"atol {self.atol:g} rtol {self.rtol:g}"

    @classmethod
    def failed(cls, name: str, case: int, reason: str, **found: Any) -> OutputComparison:
        """A failure that no numbers describe."""
        return cls(name, case, False, reason, cosine=0.0, psnr=-math.inf, **found)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; infinities, which JSON lacks, are None."""
        return {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in asdict(self).items()
        }


@dataclass(frozen=True)
class ComparisonReport:
    """All outputs of all sets of inputs.

    Attributes:
        subject: What was compared.
        model: The model that the reference ran.
        reference: What ran it.
        cases: Shapes of the inputs of each set.
        seed: Seed of the inputs, None where they were given.
        outputs: One entry for each output of each set.
    """

    subject: str
    model: str
    reference: str
    cases: tuple[dict[str, tuple[int, ...]], ...]
    seed: int | None
    outputs: tuple[OutputComparison, ...]

    @property
    def passed(self) -> bool:
        """Whether every output is within its tolerance."""
        return all(output.passed for output in self.outputs)

    def __bool__(self) -> bool:
        return self.passed

    def raise_if_failed(self, hint: str | None = None) -> None:
        """Do nothing if all is equal.

        Args:
            hint: What helps; None: another tolerance.

        Raises:
            AccuracyError: Names each output that differs, and by how much.
        """
        failures = [output for output in self.outputs if not output.passed]
        if failures:
            lines = [f"{f.name} (inputs {f.case}): {f.reason}" for f in failures]
            raise AccuracyError(
                f"{len(failures)} of {len(self.outputs)} outputs differ from {self.reference}",
                at="\n      ".join(lines),
                hint=hint or "compare with explicit --atol/--rtol if the difference is acceptable",
            )

    def to_dict(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        return {
            "schema_version": SCHEMA_VERSION,
            "passed": self.passed,
            "subject": self.subject,
            "model": self.model,
            "reference": self.reference,
            "seed": self.seed,
            "cases": [{name: list(shape) for name, shape in c.items()} for c in self.cases],
            "outputs": [output.to_dict() for output in self.outputs],
        }
