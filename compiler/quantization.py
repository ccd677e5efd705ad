"""From a model to one in 8 bits, written as ordinary ONNX for any runtime."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from burnish.calibration.data import CalibrationData, open_data
from burnish.check.inputs import draw_inputs, input_ranges
from burnish.check.metrics import cosine
from burnish.check.reference import Reference
from burnish.driver import histogram as count_operators
from burnish.driver import import_model, reference_model
from burnish.errors import AccuracyError
from burnish.export import save, to_model
from burnish.options import CompileOptions, no_samples
from burnish.passes.base import PassContext
from burnish.precision.options import QuantizeOptions
from burnish.precision.quantize import (
    QUANTIZED,
    Progress,
    model_inputs,
    nothing_quantized,
    prepare,
    quantize_graph,
)

if TYPE_CHECKING:
    from burnish.ir import Graph

#: Samples on which the result is compared with the model.
_COMPARED = 8


@dataclass(frozen=True)
class QuantizeReport:
    """What was done.

    Attributes:
        output: The file.
        samples: Calibration samples; 0 without calibration data.
        operators: Operators of the result and how often they occur.
        notes: Lines of the importer and the passes.
        kept: Why nodes stay in floating point, by original name.
        cosine: Least cosine similarity with the model's results, by output.
        size_before: Bytes of the model file; 0 if it was given as a protobuf.
        size_after: Bytes of the result.
    """

    output: str
    samples: int
    operators: dict[str, int]
    notes: tuple[str, ...]
    kept: dict[str, str]
    cosine: dict[str, float]
    size_before: int
    size_after: int


def quantize_model(
    model: str | bytes,
    output: str,
    calibration_data: Any = None,
    options: QuantizeOptions | None = None,
    *,
    progress: Progress = lambda *_: None,
) -> QuantizeReport:
    """Quantize a model and write it as ONNX.

    Args:
        model: Path of an ONNX file, or a serialized ModelProto.
        output: The file to write.
        calibration_data: What :func:`burnish.calibration.open_data` takes; None quantizes products
            of constant weights by the range of each call.
        options: How.
        progress: Gets (phase, done, total).

    Raises:
        CalibrationError: The samples do not fit the model, or are too few.
        UsageError: An option is wrong, or names no node; nothing was found to quantize.
        AccuracyError: An output's cosine similarity is below ``min_cosine``; nothing is written.
    """
    how = options or QuantizeOptions()
    if how.calibration_samples is not None and calibration_data is None:
        raise no_samples()
    graph, notes = import_model(model, CompileOptions(input_shapes=how.input_shapes))
    reference = reference_model(model)
    inputs = model_inputs(graph, input_ranges(reference))
    ctx = PassContext()
    data = None
    if calibration_data is not None:
        data = open_data(calibration_data, inputs, count=how.calibration_samples)
    how.selection.check(graph)
    records = prepare(graph, ctx)
    records += quantize_graph(graph, data, how, ctx, progress=progress)[0]
    notes += [note for record in records for note in record.notes]
    operators = count_operators(graph)
    if not QUANTIZED & set(operators):
        raise nothing_quantized(notes)
    progress("compare", 0, 1)
    found, samples = _compared(reference, graph, data)
    if how.min_cosine is not None and min(found.values()) < how.min_cosine:
        worst = min(found, key=lambda name: found[name])
        raise AccuracyError(
            f"output {worst} has a cosine similarity of {found[worst]:.5f} with the model's, "
            f"below {how.min_cosine}",
            hint="another --calibration-method, more samples, or --nodes-to-exclude",
        )
    save(graph, output)
    return QuantizeReport(
        output=output,
        samples=samples,
        operators=operators,
        notes=tuple(dict.fromkeys(notes)),
        kept=dict(ctx.kept),
        cosine=found,
        size_before=os.path.getsize(model) if isinstance(model, str) else 0,
        size_after=os.path.getsize(output),
    )


def _compared(
    model: Any, graph: Graph, data: CalibrationData | None
) -> tuple[dict[str, float], int]:
    """Least cosine similarity of each output over a few samples, and how many samples there are."""
    samples: list[Any] = []
    count = 0
    for sample in data or ():
        count += 1
        if len(samples) < _COMPARED:
            samples.append(sample)
    if data is None:
        samples.append(draw_inputs(model))
    found: dict[str, float] = {}
    with Reference(model) as reference, Reference(to_model(graph)) as quantized:
        names = [o.name for o in reference.get_outputs()]
        for sample in samples:
            wanted, got = reference.run(names, sample), quantized.run(names, sample)
            for name, a, b in zip(names, got, wanted, strict=True):
                similarity = cosine(np.asarray(a, np.float64), np.asarray(b, np.float64))
                found[name] = min(found.get(name, 1.0), similarity)
    return found, count
