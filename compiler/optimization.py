"""From ONNX to ONNX: the passes that leave a model to any runtime."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from burnish.driver import histogram, import_model, optimize
from burnish.errors import UsageError
from burnish.export import save
from burnish.options import STORAGES, CompileOptions
from burnish.passes.base import PassContext
from burnish.precision.advice import advice
from burnish.precision.assignment import Assignment
from burnish.precision.judge import compare_graph
from burnish.precision.quantize import Progress
from burnish.precision.ranges import MeasuredRanges

if TYPE_CHECKING:
    from burnish.check import ComparisonReport
    from burnish.passes.manager import PassRecord


@dataclass(frozen=True)
class OptimizeReport:
    """What was done.

    Attributes:
        output: The file.
        before: Nodes of the model by operator.
        after: Nodes of the result by operator.
        passes: One record for each run of a pass.
        notes: Lines of the importer and the passes.
        kept: Why nodes stay in float32 although 16 bits were asked for, by original name.
        comparison: The comparison of a model in 16 bits with the original, if it was made.
    """

    output: str
    before: dict[str, int]
    after: dict[str, int]
    passes: tuple[PassRecord, ...]
    notes: tuple[str, ...]
    kept: dict[str, str] = field(default_factory=dict)
    comparison: ComparisonReport | None = None


def check_precision(precision: str) -> None:
    """Refuse what is no precision of a whole model.

    Raises:
        UsageError: It is none.
    """
    if precision not in STORAGES:
        raise UsageError(
            f"optimize writes no {precision}",
            hint=f"one of: {', '.join(STORAGES)}; "
            "burnish quantize IN OUT writes models of 8 or 4 bits",
        )


def optimize_model(
    model: str,
    output: str | os.PathLike[str],
    options: CompileOptions,
    *,
    only: tuple[str, ...] = (),
    progress: Progress = lambda *_: None,
) -> OptimizeReport:
    """Rewrite a model and write it as ONNX.

    A model in 16 bits is compared with the original on onnxruntime before it is written, on
    calibration samples that nothing was measured on where there are some, if ``options.check`` asks
    for it. Operators compute there in float32 and round their results to 16 bits: onnxruntime's CPU
    provider has no kernels for bfloat16, and does not round float16 between operators.

    Args:
        model: Path of an ONNX file.
        output: The file to write.
        options: Level, precision, calibration data, checks and dumps.
        only: Names of the passes that run; empty for all.
        progress: Gets (phase, done, total).

    Raises:
        UsageError: The precision is none of a whole model.
        CalibrationError: The samples do not fit the model, or are too few.
        PassError: A pass failed, or changes the results.
        AccuracyError: The model in 16 bits differs by more than the tolerance, or gives NaN or
            infinities that the original does not; nothing is written.
    """
    check_precision(options.precision)
    graph, notes = import_model(model, options)
    before, context = histogram(graph), PassContext()
    assignment = Assignment.constant(options.precision)
    if options.quantization is not None:
        assignment = assignment.excluding(graph, options.quantization.selection)
    ranges = MeasuredRanges.of(graph, model, options, progress)
    records = optimize(
        graph,
        options,
        model,
        model,
        assignment=assignment,
        measure=ranges,
        only=only,
        progress=progress,
        context=context,
    )
    notes += [note for record in records for note in record.notes]
    comparison = None
    if options.check and options.precision != "fp32":
        progress("compare", 0, 1)
        samples, note = ranges.samples.for_judgement() if ranges is not None else ([], "")
        notes += [note] if note else []
        comparison = compare_graph(graph, model, options.precision, samples, notes)
        if comparison is not None:
            comparison.raise_if_failed(advice(options))
    save(graph, Path(output))
    return OptimizeReport(
        os.fspath(output),
        before,
        histogram(graph),
        tuple(records),
        tuple(dict.fromkeys(notes)),
        dict(context.kept),
        comparison,
    )
