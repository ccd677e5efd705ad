"""Is a graph in 16 bits like the model? Judged on onnxruntime, before there is any code."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from burnish.artifact import unfit
from burnish.calibration.samples import Sample
from burnish.check.compare import compare
from burnish.check.reference import Reference
from burnish.check.stages import candidates
from burnish.check.tolerances import Numerics
from burnish.errors import InvalidInputError, ModelError
from burnish.export import save
from burnish.precision.advice import advice
from burnish.runtime import missing_device

if TYPE_CHECKING:
    from burnish.artifact import TargetInfo
    from burnish.check.reference import Model
    from burnish.check.result import ComparisonReport
    from burnish.ir import Graph
    from burnish.options import CompileOptions
    from burnish.precision.build import Lowered

#: Rows of the table of tolerances by precision.
_ROWS: dict[str, Numerics] = {"fp16": "fp16", "bf16": "bf16"}


def compare_graph(
    graph: Graph, model: Model, precision: str, samples: Sequence[Sample], notes: list[str]
) -> ComparisonReport | None:
    """Compare a graph whose tensors have 16 bits with the model it comes from.

    Operators compute in float32 and round their results: onnxruntime's CPU provider has no kernels
    for bfloat16, and does not round float16 between operators.

    Args:
        graph: The graph, composites included.
        model: The unmodified model.
        precision: ``fp16`` or ``bf16``.
        samples: Inputs; inputs are drawn if there are none.
        notes: Gets a line if the model takes none of the inputs that were drawn.

    Returns:
        The comparison; None if nothing could be compared.
    """
    row, refusal = _ROWS[precision], ""
    with tempfile.TemporaryDirectory(prefix="burnish-judge-") as folder:
        path = Path(folder) / "graph.onnx"
        save(graph, path, widened=True)
        with Reference(path) as result:
            if samples:
                return compare(result, model, samples, numerics=row)
            for inputs in candidates(model, result.get_inputs(), graph.dim_bounds):
                try:
                    return compare(result, model, inputs, numerics=row)
                except InvalidInputError as error:
                    refusal = error.message
    notes.append(f"not compared: {refusal}; use burnish compare --inputs")
    return None


def judge_elsewhere(
    graph: Graph,
    model: Model,
    target: TargetInfo,
    options: CompileOptions,
    lowered: Lowered,
    notes: list[str],
) -> None:
    """Compare the graph itself where nobody here can run its code.

    Args:
        graph: The graph that is built.
        model: The unmodified model.
        target: What it is built for.
        options: What the user chose.
        lowered: Has the samples to judge on.
        notes: Gets a line about the result.

    Raises:
        AccuracyError: 16 bits change the results by more than the tolerance.
    """
    if not (unfit(target) or missing_device(target)):
        return
    try:
        comparison = compare_graph(graph, model, options.precision, lowered.samples, notes)
    except ModelError as error:
        notes.append(f"not compared: {error.message}")
        return
    if comparison is not None:
        comparison.raise_if_failed(advice(options))
        notes.append(f"the graph in {options.precision} is like the model on onnxruntime")
