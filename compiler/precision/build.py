"""What a compilation does below 16 bits before its passes run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from burnish.calibration.data import open_data
from burnish.calibration.samples import Sample
from burnish.check.inputs import input_ranges
from burnish.passes.base import PassContext
from burnish.passes.manager import PassRecord
from burnish.precision.assignment import Assignment
from burnish.precision.options import QuantizeOptions
from burnish.precision.quantize import (
    QUANTIZED,
    Measured,
    Progress,
    excluded,
    model_inputs,
    nothing_quantized,
    prepare,
    quantize_graph,
)
from burnish.precision.split import EVERY, JUDGED, SplitSamples

if TYPE_CHECKING:
    from burnish.check.reference import Model
    from burnish.ir import Graph
    from burnish.options import CompileOptions


@dataclass
class Lowered:
    """What became of a graph.

    Attributes:
        records: What the passes did.
        excluded: Products that were not asked for, by original name, with the reason.
        samples: Samples to judge the result on; empty without calibration data.
        note: What they are.
        quantized: Whether anything was quantized.
        assignment: What was asked for, with what the user excludes.
    """

    records: list[PassRecord] = field(default_factory=list)
    excluded: dict[str, str] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    note: str = ""
    quantized: bool = False
    assignment: Assignment = field(default_factory=Assignment)


def lower_products(
    graph: Graph,
    reference: Model,
    options: CompileOptions,
    assignment: Assignment,
    ctx: PassContext,
    *,
    measured: Measured | None = None,
    progress: Progress = lambda *_: None,
) -> Lowered:
    """Quantize the products of a graph that have 8 or 4 bits.

    Args:
        graph: As it was imported; changed in place.
        reference: The model it was imported from.
        options: Where calibration samples come from, and how is quantized.
        assignment: Precisions of the products.
        ctx: Gets the reasons of those that are kept.
        measured: What was measured before, instead of on calibration samples.
        progress: Gets (phase, done, total).

    Raises:
        CalibrationError: The samples do not fit the model, or are too few.
        UsageError: An option names no node, or nothing is left to quantize.
    """
    how = options.quantization or QuantizeOptions()
    samples = None
    if options.calibration_data is not None and measured is None:
        inputs = model_inputs(graph, input_ranges(reference))
        data = open_data(options.calibration_data, inputs, count=options.calibration_samples)
        samples = SplitSamples(data, EVERY, JUDGED)
    how.selection.check(graph)
    done = Lowered(quantized=True, records=prepare(graph, ctx))
    done.excluded = _excluded(graph, how, assignment)
    for precision, chosen in (
        ("int4", _weights_alone(how, assignment.held("int4"))),
        ("int8", _holding(how, assignment.held("int8"))),
    ):
        if assignment.has(precision):
            records, _ = quantize_graph(
                graph, samples, chosen, ctx, measured=measured, progress=progress
            )
            done.records += records
    if not QUANTIZED & {node.key for node in graph.walk()}:
        raise nothing_quantized([note for record in done.records for note in record.notes])
    if samples is not None:
        done.samples, done.note = samples.for_judgement()
    return done


def _excluded(graph: Graph, how: QuantizeOptions, assignment: Assignment) -> dict[str, str]:
    """What nobody asked to be quantized, found before any product changes."""
    asked = {"int8", "int4"}
    chosen = {
        n: assignment.reasons.get(n, "") for n, p in assignment.nodes.items() if p not in asked
    }
    return {**chosen, **excluded(graph, how.selection)}


def _holding(how: QuantizeOptions, held: Mapping[str, str]) -> QuantizeOptions:
    return replace(how, selection=replace(how.selection, held=held))


def _weights_alone(how: QuantizeOptions, held: Mapping[str, str]) -> QuantizeOptions:
    """The same nodes with weights of 4 bits, without what is about 8-bit activations."""
    selection = replace(
        how.selection, held=held, matmul_const_b_only=True, quantize_residuals=False
    )
    return QuantizeOptions(selection=selection, symmetric=how.symmetric, weights_only="int4")
