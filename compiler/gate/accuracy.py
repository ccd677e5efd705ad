"""The accuracy gate: every output of every sample against onnxruntime on the unmodified model."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

import burnish.runtime
from burnish.check import Numerics, OutputComparison, Reference, attested_numerics
from burnish.check.metrics import compare_output
from burnish.errors import UsageError
from burnish.gate.config import AccuracyGate, AccuracyLimits, Row
from burnish.gate.inputs import samples
from burnish.gate.result import CheckResult, listed


@dataclass(frozen=True)
class _Measure:
    """A number of a comparison that can be limited.

    Attributes:
        name: Of the limit in the configuration.
        field: Of :class:`OutputComparison`.
        least: Whether the limit is a lower one.
    """

    name: str
    field: str
    least: bool = False

    def broken(self, limits: AccuracyLimits, found: OutputComparison) -> str:
        """What is wrong, or an empty string."""
        limit = getattr(limits, self.name.replace("-", "_"))
        if limit is None:
            return ""
        value = getattr(found, self.field)
        if value >= limit if self.least else value <= limit:
            return ""
        return f"{self.field} {value:.6g}, {self.name} is {limit:g}"


_MEASURES = (
    _Measure("max-abs", "max_abs"),
    _Measure("max-mean-abs", "mean_abs"),
    _Measure("max-rel", "max_rel"),
    _Measure("max-rms", "rms"),
    _Measure("min-cosine", "cosine", least=True),
    _Measure("min-psnr", "psnr", least=True),
)


@dataclass
class _Output:
    """What is known of one output over the samples so far."""

    limits: AccuracyLimits
    compared: list[OutputComparison] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    rows: int = 0
    same: int = 0


def check_accuracy(row: Row, artifact: str) -> list[CheckResult]:
    """Run all samples through the artifact and through the reference; one result per output.

    Raises:
        BurnishError: An input source is wrong, or one of the two fails.
    """
    gate, model = row.model.accuracy, row.model
    found: dict[str, _Output] = {}
    with (
        burnish.runtime.load(artifact, threads=model.threads) as compiled,
        Reference(model.path) as reference,
    ):
        declared = [output.name for output in reference.get_outputs()]
        _refuse_unknown(gate, declared)
        names = [output.name for output in compiled.get_outputs()]
        numerics = attested_numerics(compiled)
        for case, feeds in enumerate(samples(model.inputs, model.path, compiled.get_inputs())):
            actual = dict(zip(names, compiled.run(None, feeds), strict=True))
            expected = dict(zip(declared, reference.run(None, feeds), strict=True))
            for name, value in expected.items():
                output = found.setdefault(name, _Output(gate.of(name)))
                _compare(output, name, case, actual.get(name), value, numerics)
    if not any(entry.elements for output in found.values() for entry in output.compared):
        raise UsageError(
            "nothing was compared: all outputs are empty",
            hint="give inputs of a size that produces output",
        )
    return [_result(name, output) for name, output in found.items()]


def _refuse_unknown(gate: AccuracyGate, declared: list[str]) -> None:
    unknown = [name for name in gate.outputs if name not in declared]
    if unknown:
        raise UsageError(
            f"the model has no output {unknown[0]!r}",
            at="accuracy.outputs",
            hint=f"its outputs are {', '.join(declared)}",
        )


def _compare(
    output: _Output, name: str, case: int, actual: Any, expected: Any, numerics: Numerics
) -> None:
    limits = output.limits
    atol, rtol = limits.atol, limits.rtol
    if limits.given and atol is None and rtol is None:
        # What is given stands in place of the table; values that are not finite fail in any case.
        atol = math.inf
    found = compare_output(name, case, actual, expected, atol, rtol, numerics)
    output.compared.append(found)
    reasons = [found.reason] if found.reason else []
    if found.worst is not None or found.passed:
        reasons += [text for m in _MEASURES if (text := m.broken(limits, found))]
    output.reasons += [f"sample {case}: {reason}" for reason in reasons]
    if actual is not None:
        rows, same = _top1(np.asarray(actual), np.asarray(expected))
        output.rows += rows
        output.same += same


def _top1(actual: NDArray[Any], expected: NDArray[Any]) -> tuple[int, int]:
    """Rows along the last axis, and those whose largest element is at the same place."""
    if not expected.ndim or not expected.size or actual.shape != expected.shape:
        return 0, 0
    if expected.dtype.kind in "OSUc":
        return 0, 0
    same = actual.argmax(-1) == expected.argmax(-1)
    return same.size, int(same.sum())


def _result(name: str, output: _Output) -> CheckResult:
    limits, reasons = output.limits, list(output.reasons)
    top1 = output.same / output.rows if output.rows else None
    if limits.min_top1 is not None and (top1 is None or top1 < limits.min_top1):
        share = "cannot be told" if top1 is None else f"{top1:.4f}"
        reasons.append(f"top-1 agreement {share}, min-top1 is {limits.min_top1:g}")
    largest = max(entry.max_abs for entry in output.compared)
    cosine = min(entry.cosine for entry in output.compared)
    measured = f"max {largest:.2g}, cos {cosine:.6f}"
    if limits.min_top1 is not None and top1 is not None:
        measured += f", top1 {top1:.4f}"
    return CheckResult.judged(
        "accuracy",
        name,
        listed(reasons, "; "),
        measured,
        _spell(limits, output.compared),
        samples=[entry.to_dict() for entry in output.compared],
        top1=top1,
    )


def _spell(limits: AccuracyLimits, compared: list[OutputComparison]) -> str:
    """The limits in a few words."""
    if not limits.given:
        first = compared[0]
        if first.atol == first.rtol == 0:
            return "equal"
        rms = f", rms {first.rms_tol:g}" if math.isfinite(first.rms_tol) else ""
        return f"atol {first.atol:g}, rtol {first.rtol:g}{rms} (default)"
    parts = [
        f"{name.replace('_', '-')} {value:g}"
        for name, value in vars(limits).items()
        if value is not None
    ]
    return ", ".join(parts)
