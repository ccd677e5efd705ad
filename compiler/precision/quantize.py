"""Quantizes a graph: what is measured, and the passes that use it, in their order."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from burnish.calibration.channels import Channels, Moments
from burnish.calibration.histogram import Histogram
from burnish.calibration.measure import is_inside, observe
from burnish.calibration.samples import Sample
from burnish.calibration.thresholds import threshold
from burnish.check.inputs import InputRange
from burnish.errors import UsageError
from burnish.passes.base import Fixpoint, Pass, PassContext, all_graphs, defined
from burnish.passes.fold_constants import FoldConstants
from burnish.passes.fusion.conv_norm import FuseConvNorm
from burnish.passes.manager import PassManager, PassRecord
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
from burnish.passes.quantization.compensate import multiplies_last_axis
from burnish.passes.quantization.equalize import equalizable
from burnish.passes.quantization.outliers import Spread
from burnish.passes.quantization.plan import Plan, make_plan
from burnish.passes.quantization.selection import PRODUCTS
from burnish.passes.quantization.smooth import smoothable
from burnish.passes.quantization.weights import FORMATS
from burnish.precision.options import QuantizeOptions

if TYPE_CHECKING:
    from burnish.ir import Graph, Value

#: Called with (phase, done, total).
Progress: TypeAlias = "Callable[[str, int, int], None]"

#: Numbers beyond are masks, not data.
_UNBOUNDED = 1e30
#: Any of them means that something was quantized.
QUANTIZED = frozenset({"DequantizeLinear", "DynamicQuantizeLinear", "com.microsoft::MatMulNBits"})


@dataclass
class Measured:
    """What was measured of a model's values, by their names; plain data.

    Names of a model's values are the same in every import, so that what was measured once serves
    every way to quantize the model.

    Attributes:
        ranges: What each value represents.
        refused: Why values cannot be quantized.
        means: Means of channels, by name and axis.
        moments: Mean products of channels, by name.
        equalized: Largest magnitudes of channels that are evened out.
        smoothed: Channels of the activations that may be smoothed.
        squares: Mean squares of the channels that weights in blocks multiply.
    """

    ranges: dict[str, Interval] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    means: dict[tuple[str, int], Any] = field(default_factory=dict)
    moments: dict[str, np.ndarray] = field(default_factory=dict)
    equalized: dict[str, np.ndarray] | None = None
    smoothed: dict[str, Spread] | None = None
    squares: dict[str, np.ndarray] | None = None


def prepare(graph: Graph, ctx: PassContext) -> list[PassRecord]:
    """Bring a graph to the form that is quantized: plain operators, norms in convolutions."""
    # Weights that come quantized stay so.
    fold = FoldConstants(dequantize=False)
    passes = [*pipeline(1, explicit=True), FuseConvNorm(), clean_up(fold)]
    return PassManager(passes).run(graph, ctx)


def quantize_graph(
    graph: Graph,
    data: Iterable[Sample] | None,
    how: QuantizeOptions,
    ctx: PassContext,
    *,
    measured: Measured | None = None,
    progress: Progress = lambda *_: None,
) -> tuple[list[PassRecord], Measured]:
    """Quantize a graph in place.

    Args:
        graph: As :func:`prepare` has made it.
        data: Calibration samples; None quantizes products of constant weights by the range of each
            call.
        how: How.
        ctx: Gets the reasons of nodes that are kept.
        measured: What an earlier call measured of the same model, instead of ``data``.
        progress: Gets (phase, done, total).

    Returns:
        What the passes did, and what was measured.

    Raises:
        CalibrationError: The samples do not fit the model, or are too few.
        UsageError: An option needs calibration data.
    """
    unmeasured = data is None and measured is None
    if unmeasured and how.measuring:
        raise UsageError(
            f"{how.measuring[0]} needs calibration data",
            hint="give samples with --calibration-data",
        )
    known = Measured() if measured is None else measured
    quantizer = _Quantizer(graph, data or (), how, known, progress)
    if how.weights_only is not None:
        aware = how.weight_method != "rtn" and not unmeasured
        return _run([quantizer.weights(aware=aware)], graph, ctx), known
    if unmeasured:
        return _run([QuantizeDynamic(how.selection, how.per_channel)], graph, ctx), known
    records: list[PassRecord] = []
    if how.equalize:
        records += _run([quantizer.equalize()], graph, ctx)
    if how.smooth_quant is not None:
        records += _run([quantizer.smooth(how.smooth_quant)], graph, ctx)
    return records + _run([quantizer.static()], graph, ctx), known


class NothingQuantizedError(UsageError):
    """The model has nothing that could be quantized, or that the user wants to be."""


def nothing_quantized(notes: Sequence[str]) -> NothingQuantizedError:
    """The error of a model without anything to quantize."""
    return NothingQuantizedError(
        "nothing was quantized: " + (notes[-1] if notes else "there are no products"),
        hint="see --op-types-to-quantize and --nodes-to-exclude",
    )


def excluded(graph: Graph, selection: Selection) -> dict[str, str]:
    """Products that the user does not want to be quantized, by original name, with the reason."""
    found: dict[str, str] = {}
    for node in graph.walk():
        if node.domain or node.op not in PRODUCTS:
            continue
        reason = selection.refuses(node)
        activations = not any(v is not None and v.is_const for v in node.inputs[:2])
        if not reason and node.op == "MatMul" and activations and selection.matmul_const_b_only:
            reason = "both of its operands are activations"
        if reason:
            found.update(dict.fromkeys(node.location.names or (node.name,), reason))
    return found


def model_inputs(graph: Graph, declared: Sequence[InputRange]) -> list[InputRange]:
    """The model's inputs with the sizes that the user fixed."""
    shapes = {
        v.name: tuple(d if isinstance(d, int) else str(d) for d in v.shape) for v in graph.inputs
    }
    return [InputRange(r.name, r.dtype, shapes.get(r.name, r.shape), r.high) for r in declared]


def _run(passes: Sequence[Pass | Fixpoint], graph: Graph, ctx: PassContext) -> list[PassRecord]:
    return PassManager(passes).run(graph, ctx)


@dataclass
class _Quantizer:
    """Makes the passes of static quantization, and measures what they need."""

    graph: Graph
    data: Iterable[Sample]
    how: QuantizeOptions
    known: Measured
    progress: Progress
    #: Times that the samples were gone through.
    rounds: int = 0

    def weights(self, *, aware: bool) -> QuantizeWeights:
        """Stores weights alone; ``aware`` of what they multiply."""
        how = self.how
        assert how.weights_only is not None
        block, form = how.block_size or 32, how.weight_format or FORMATS[0]
        plain = QuantizeWeights(how.weights_only, block, how.symmetric, form, how.selection)
        if not aware or (self.known.squares is None and not self.data):
            return plain
        if self.known.squares is None:
            values = {n.required(0).name: n.required(0) for n in plain.products(self.graph)}
            found = self._channels(list(values.values()), -1)
            self.known.squares = {name: c.square for name, c in found.items()}
        return replace(plain, squares=self.known.squares)

    def equalize(self) -> Equalize:
        """Evens the ranges of channels out."""
        if self.known.equalized is None:
            pairs, _ = equalizable(self.graph)
            clips = [pair.clip.output for pair in pairs if pair.clip is not None]
            found = self._channels(clips, 1)
            self.known.equalized = {name: c.largest for name, c in found.items()}
        return Equalize(self.known.equalized)

    def smooth(self, share: float | str) -> SmoothQuant:
        """Moves outliers into weights."""
        alpha = None if isinstance(share, str) else share
        if self.known.smoothed is None:
            activations = list(smoothable(self.graph, self.how.selection, alpha)[0])
            found = self._channels(activations, -1)
            self.known.smoothed = {n: Spread(c.low, c.high, c.square) for n, c in found.items()}
        return SmoothQuant(alpha, self.known.smoothed, self.how.selection)

    def static(self) -> QuantizeStatic:
        """The pass, with the ranges of all values that it will quantize."""
        if not self.known.ranges and not self.known.refused:
            self._measure()
        how, known = self.how, self.known
        return QuantizeStatic(
            known.ranges,
            known.refused,
            how.selection,
            how.activation_type,
            how.symmetric,
            how.per_channel,
            known.means,
            known.moments,
        )

    def _measure(self) -> None:
        known = (v for g in all_graphs(self.graph) for v in defined(g) if v.type is not None)
        values = {v.name: v for v in known if v.dtype == "float32"}
        anything = dict.fromkeys(values, Interval(-1.0, 1.0))
        plan = make_plan(self.graph, anything, {}, self.how.selection)
        measured = {v.name: Histogram() for v in values.values() if v in plan.intervals}
        whole = {n for n, v in values.items() if not is_inside(self.graph, v)}
        channels = _channels_of_products(plan, whole) if self.how.bias_correction else {}
        moments = _moments_of_products(plan, whole) if self.how.gptq else {}

        def observer(name: str, array: Any) -> None:
            measured[name].add(array)
            for statistics in channels.get(name, {}).values():
                statistics.add(array)
            if name in moments:
                moments[name].add(array)

        self._observe([values[name] for name in measured], observer)
        self._conclude(measured, whole)
        self.known.means = {
            (name, axis): c.mean for name, by in channels.items() for axis, c in by.items()
        }
        self.known.moments = {name: m.mean for name, m in moments.items()}

    def _conclude(self, measured: Mapping[str, Histogram], whole: Collection[str]) -> None:
        """Ranges by the chosen method; by the extremes where nothing else was measured."""
        how, known = self.how, self.known
        for name, found in measured.items():
            if found.infinite or max(-found.low, found.high) > _UNBOUNDED:
                known.refused[name] = "has no finite range on the calibration data"
            elif name not in whole and not found.total:
                known.refused[name] = "was reached by no calibration sample"
            else:
                method = how.calibration_method if name in whole else "minmax"
                r = threshold(found, method, percentile=how.percentile)
                known.ranges[name] = Interval(r.low, r.high)

    def _channels(self, values: Sequence[Value], axis: int) -> dict[str, Channels]:
        """Statistics of each channel, by name of the value."""
        found = {value.name: Channels(axis) for value in values}
        if found:
            self._observe(values, lambda name, array: found[name].add(array))
        return found

    def _observe(self, values: Sequence[Value], observer: Callable[[str, Any], None]) -> None:
        how = self.how
        rounds = 1 + (not how.weights_only and how.equalize + (how.smooth_quant is not None))

        def report(done: int, total: int) -> None:
            self.progress("calibrate", self.rounds * total + done, rounds * total)

        observe(self.graph, values, self.data, observer, progress=report)
        self.rounds += 1


def _channels_of_products(plan: Plan, whole: Collection[str]) -> dict[str, dict[int, Channels]]:
    """Statistics to gather of what products read, by name of the value and axis of channels."""
    found: dict[str, dict[int, Channels]] = {}
    for node, data in plan.products.items():
        axis = channel_axis(node, data[0]) if len(data) == 1 else None
        name = node.required(data[0]).name
        if axis is not None and name in whole:
            found.setdefault(name, {}).setdefault(axis, Channels(axis))
    return found


def _moments_of_products(plan: Plan, whole: Collection[str]) -> dict[str, Moments]:
    """Statistics to gather of what matrix products read, by name of the value."""
    names = (n.required(0).name for n in plan.products if multiplies_last_axis(n))
    return {name: Moments() for name in names if name in whole}
