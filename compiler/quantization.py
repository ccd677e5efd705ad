"""From a model to one in 8 bits, written as ordinary ONNX for any runtime."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from burnish.calibration.channels import Channels
from burnish.calibration.data import CalibrationData, open_data
from burnish.calibration.histogram import Histogram
from burnish.calibration.measure import observe
from burnish.calibration.thresholds import PERCENTILE, threshold
from burnish.check.inputs import InputRange, draw_inputs, input_ranges
from burnish.check.metrics import cosine
from burnish.check.reference import Reference
from burnish.driver import histogram as count_operators
from burnish.driver import import_model, reference_model
from burnish.errors import AccuracyError, UsageError
from burnish.export import save, to_model
from burnish.options import CompileOptions, DimSpec
from burnish.passes.base import Fixpoint, Pass, PassContext
from burnish.passes.fold_constants import FoldConstants
from burnish.passes.fusion.conv_norm import FuseConvNorm
from burnish.passes.manager import PassManager
from burnish.passes.pipelines import clean_up, pipeline
from burnish.passes.quantization import (
    Equalize,
    Interval,
    QuantizeDynamic,
    QuantizeStatic,
    QuantizeWeights,
    Selection,
    SmoothQuant,
)
from burnish.passes.quantization.bias import channel_axis
from burnish.passes.quantization.equalize import equalizable
from burnish.passes.quantization.parameters import LIMITS
from burnish.passes.quantization.plan import Plan, make_plan
from burnish.passes.quantization.smooth import smoothable
from burnish.passes.quantization.weights import BITS, BLOCK_SIZES, FORMATS

if TYPE_CHECKING:
    from burnish.ir import Graph, Value

#: Called with (phase, done, total).
Progress: TypeAlias = "Callable[[str, int, int], None]"

#: Numbers beyond are masks, not data.
_UNBOUNDED = 1e30
#: Any of them means that something was quantized.
_QUANTIZED = frozenset({"DequantizeLinear", "DynamicQuantizeLinear", "com.microsoft::MatMulNBits"})
#: Samples on which the result is compared with the model.
_COMPARED = 8


@dataclass(frozen=True)
class QuantizeOptions:
    """How a model is quantized; names as in onnxruntime, ModelOpt and NNCF.

    Attributes:
        selection: Which nodes.
        calibration_method: ``minmax``, ``percentile``, ``entropy`` or ``mse``.
        percentile: Share of the numbers within a range, in percent, for ``percentile``.
        calibration_samples: Samples to take; None for all there are.
        activation_type: ``uint8`` or ``int8``.
        symmetric: Whether the middle of the activations' type represents 0; with ``weights_only``,
            that of the weights' type.
        per_channel: Whether each output channel of weights has its own scale.
        bias_correction: Take from biases what rounded weights add to the mean of each output
            channel on the calibration data.
        smooth_quant: Share of the outliers of normalized activations that weights take over, in
            [0, 1]; None: they stay.
        equalize: Even the ranges of channels out between convolutions.
        weights_only: ``int8`` or ``int4``: store weights of matrix products in blocks of this type
            and leave activations; None quantizes activations too.
        block_size: Rows of a block, with ``weights_only``; None for 32.
        weight_format: How weights are read, with ``weights_only``: ``dequantize``
            (DequantizeLinear of ONNX, the default) or ``matmulnbits`` (onnxruntime's operator).
        input_shapes: Input name to dims, as in :class:`burnish.options.CompileOptions`.
        min_cosine: Least cosine similarity of every output with the model's; None: not checked.
    """

    selection: Selection = field(default_factory=Selection)
    calibration_method: str = "minmax"
    percentile: float = PERCENTILE
    calibration_samples: int | None = None
    activation_type: str = "uint8"
    symmetric: bool = False
    per_channel: bool = True
    bias_correction: bool = False
    smooth_quant: float | None = None
    equalize: bool = False
    weights_only: str | None = None
    block_size: int | None = None
    weight_format: str | None = None
    input_shapes: Mapping[str, tuple[DimSpec, ...]] = field(default_factory=dict)
    min_cosine: float | None = None

    def __post_init__(self) -> None:
        if self.activation_type not in LIMITS:
            raise UsageError(
                f"activations cannot be {self.activation_type}", hint=f"one of: {', '.join(LIMITS)}"
            )
        if self.min_cosine is not None and not -1 <= self.min_cosine <= 1:
            raise UsageError(f"a cosine lies in [-1, 1], not {self.min_cosine}")
        if self.smooth_quant is not None and not 0 <= self.smooth_quant <= 1:
            raise UsageError(f"--smooth-quant takes a share in [0, 1], not {self.smooth_quant}")
        self._check_weights()
        # What is wrong with the method is said before minutes of measuring.
        threshold(Histogram(), self.calibration_method, percentile=self.percentile)

    @property
    def corrections(self) -> list[str]:
        """Options that need calibration data."""
        wanted = {
            "--bias-correction": self.bias_correction,
            "--smooth-quant": self.smooth_quant is not None,
            "--equalize": self.equalize,
        }
        return [option for option, given in wanted.items() if given]

    def _check_weights(self) -> None:
        if self.weights_only is None:
            given = {"--block-size": self.block_size, "--format": self.weight_format}
            if alone := [option for option, value in given.items() if value is not None]:
                raise UsageError(f"{alone[0]} is of use with --weights-only only")
            return
        if self.corrections:
            raise UsageError(
                f"{self.corrections[0]} corrects 8-bit activations, --weights-only leaves them",
                hint="choose one of the two",
            )
        for value, known, what in (
            (self.weights_only, BITS, "type of weights"),
            (self.block_size or 32, BLOCK_SIZES, "block size"),
            (self.weight_format or FORMATS[0], FORMATS, "format of weights"),
        ):
            if value not in known:
                raise UsageError(
                    f"{value} is no {what}", hint=f"one of: {', '.join(map(str, known))}"
                )


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
    graph, notes = import_model(model, CompileOptions(input_shapes=how.input_shapes))
    reference = reference_model(model)
    inputs = _inputs(graph, input_ranges(reference))
    ctx = PassContext()
    _run([*pipeline(1), FuseConvNorm(), clean_up(FoldConstants())], graph, ctx, notes)
    how.selection.check(graph)
    data = None
    if calibration_data is not None:
        data = open_data(calibration_data, inputs, count=how.calibration_samples)
    elif how.corrections:
        raise UsageError(
            f"{how.corrections[0]} measures activations",
            hint="give samples with --calibration-data",
        )
    _run(_steps(graph, data, how, ctx, notes, progress), graph, ctx, notes)
    operators = count_operators(graph)
    if not _QUANTIZED & set(operators):
        raise UsageError(
            "nothing was quantized: " + (notes[-1] if notes else "there are no products"),
            hint="see --op-types-to-quantize and --nodes-to-exclude",
        )
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


def _run(
    passes: Sequence[Pass | Fixpoint], graph: Graph, ctx: PassContext, notes: list[str]
) -> None:
    for record in PassManager(passes).run(graph, ctx):
        notes.extend(record.notes)


def _steps(
    graph: Graph,
    data: CalibrationData | None,
    how: QuantizeOptions,
    ctx: PassContext,
    notes: list[str],
    progress: Progress,
) -> list[Pass | Fixpoint]:
    """The pass that quantizes; what prepares the graph for it is done already."""
    if how.weights_only is not None:
        block, form = how.block_size or 32, how.weight_format or FORMATS[0]
        return [QuantizeWeights(how.weights_only, block, how.symmetric, form, how.selection)]
    if data is None:
        return [QuantizeDynamic(how.selection, how.per_channel)]
    if how.equalize:
        pairs, _ = equalizable(graph)
        clips = [pair.clip.output for pair in pairs if pair.clip is not None]
        largest = _largest(graph, clips, 1, data, progress)
        _run([Equalize(largest)], graph, ctx, notes)
    if how.smooth_quant is not None:
        activations = list(smoothable(graph, how.selection)[0])
        largest = _largest(graph, activations, -1, data, progress)
        _run([SmoothQuant(how.smooth_quant, largest, how.selection)], graph, ctx, notes)
    return [_static(graph, data, how, progress)]


def _largest(
    graph: Graph, values: Sequence[Value], axis: int, data: CalibrationData, progress: Progress
) -> dict[str, np.ndarray]:
    """Largest magnitude of each channel, by name of the value."""
    found = {value.name: Channels(axis) for value in values}
    if found:
        _observe(graph, values, data, lambda name, array: found[name].add(array), progress)
    return {name: statistics.largest for name, statistics in found.items()}


def _inputs(graph: Graph, declared: Sequence[InputRange]) -> list[InputRange]:
    """The model's inputs with the sizes that the user fixed."""
    shapes = {
        v.name: tuple(d if isinstance(d, int) else str(d) for d in v.shape) for v in graph.inputs
    }
    return [InputRange(r.name, r.dtype, shapes.get(r.name, r.shape), r.high) for r in declared]


def _static(
    graph: Graph, data: CalibrationData, how: QuantizeOptions, progress: Progress
) -> QuantizeStatic:
    """The pass, with the ranges of all values that it will quantize."""
    values = {v.name: v for v in graph.inputs if v.dtype == "float32"}
    for node in graph.nodes:
        for value in node.outputs:
            if value is not None and value.type is not None and value.dtype == "float32":
                values[value.name] = value
    anything = dict.fromkeys(values, Interval(-1.0, 1.0))
    plan = make_plan(graph, anything, {}, how.selection)
    measured = {v.name: Histogram() for v in values.values() if v in plan.intervals}
    channels = _channels_of_products(plan) if how.bias_correction else {}

    def observer(name: str, array: Any) -> None:
        measured[name].add(array)
        for statistics in channels.get(name, {}).values():
            statistics.add(array)

    _observe(graph, [values[name] for name in measured], data, observer, progress)
    ranges: dict[str, Interval] = {}
    refused: dict[str, str] = {}
    for name, found in measured.items():
        if found.infinite or max(-found.low, found.high) > _UNBOUNDED:
            refused[name] = "has no finite range on the calibration data"
        else:
            r = threshold(found, how.calibration_method, percentile=how.percentile)
            ranges[name] = Interval(r.low, r.high)
    return QuantizeStatic(
        ranges,
        refused,
        how.selection,
        how.activation_type,
        how.symmetric,
        how.per_channel,
        {(name, axis): c.mean for name, by in channels.items() for axis, c in by.items()},
    )


def _channels_of_products(plan: Plan) -> dict[str, dict[int, Channels]]:
    """Statistics to gather of what products read, by name of the value and axis of channels."""
    found: dict[str, dict[int, Channels]] = {}
    for node, data in plan.products.items():
        axis = channel_axis(node, data[0]) if len(data) == 1 else None
        if axis is not None:
            found.setdefault(node.required(data[0]).name, {}).setdefault(axis, Channels(axis))
    return found


def _observe(
    graph: Graph,
    values: Sequence[Value],
    data: CalibrationData,
    observer: Callable[[str, Any], None],
    progress: Progress,
) -> None:
    def report(done: int, total: int) -> None:
        progress("calibrate", done, total)

    observe(graph, values, data, observer, progress=report)


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
