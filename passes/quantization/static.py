"""The pass that quantizes a model by measured ranges."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from burnish.ir import Attr, Builder, Graph, Location, Node, Value
from burnish.passes.base import Numerics, Pass, PassContext, counted, homes
from burnish.passes.quantization.bias import (
    added_bias,
    channel_axis,
    has_plain_bias,
    mean_shift,
)
from burnish.passes.quantization.compensate import compensated, multiplies_last_axis
from burnish.passes.quantization.parameters import (
    Interval,
    Parameters,
    QuantizedWeights,
    activation_parameters,
    quantize_bias,
    quantize_weights,
)
from burnish.passes.quantization.plan import Plan, make_plan, weight_axis
from burnish.passes.quantization.selection import Selection

VIA = "quantize-static"


@dataclass(frozen=True)
class QuantizeStatic(Pass):
    """Store weights and activations of products in 8 bits, by ranges that were measured.

    Before: Relu -> Conv -> Relu, in float32.
    After: Relu -> QuantizeLinear -> DequantizeLinear -> Conv -> Relu, the weights int8 behind a
        DequantizeLinear with a scale for each output channel, the bias int32.
    Keeps: products that the selection excludes, of other types, or with operands that have no
        finite range or were never measured, each with its reason; inputs and outputs of the model.
    Numerics: quantizes: activations are rounded to 256 numbers, weights to 255 in each channel.

    Attributes:
        ranges: What was measured, by name of the value.
        refused: Why values cannot be quantized, by name.
        selection: Which nodes.
        activation_type: ``uint8`` or ``int8``.
        symmetric: Whether the middle of the activations' type represents 0.
        per_channel: Whether each output channel of the weights has its own scale.
        means: Means of channels, by name of the value and axis of the channels: biases are
            corrected where they are known.
        moments: Mean products of channels of the last axis, by name of the value: where they are
            known, later rows of a matrix make up for what earlier ones lose (GPTQ).
    """

    name = "quantize-static"
    numerics = Numerics.QUANTIZES
    ranges: Mapping[str, Interval] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    selection: Selection = field(default_factory=Selection)
    activation_type: str = "uint8"
    symmetric: bool = False
    per_channel: bool = True
    means: Mapping[tuple[str, int], NDArray[np.float64]] = field(default_factory=dict)
    moments: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)

    @property
    def spec(self) -> str:
        """The name with what was chosen, not with all that was measured."""
        return f"{self.name}{{activation_type={self.activation_type},symmetric={self.symmetric}}}"

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        """Decide, then put the nodes in."""
        plan = make_plan(graph, self.ranges, self.refused, self.selection)
        for node, reason in plan.kept.items():
            ctx.keep(node, reason)
        _report(plan, ctx)
        if not plan.products:
            return False
        rewriter = _Rewriter(graph, plan, self)
        rewriter.run(ctx)
        if self.means:
            left = len(plan.products) - rewriter.corrected
            ctx.note(f"bias correction: {rewriter.corrected} products corrected, {left} left")
        if self.moments:
            left = len(plan.products) - rewriter.compensated
            ctx.note(f"gptq: weights of {rewriter.compensated} products compensated, {left} left")
        return True


def _report(plan: Plan, ctx: PassContext) -> None:
    line = f"int8: {len(plan.products)} products quantized, {len(plan.kept)} kept in fp32"
    causes = Counter(f"{node.op}: {reason}" for node, reason in plan.kept.items())
    if causes:
        line += f"; {counted(causes)}"
    ctx.note(line)


class _Rewriter:
    """Carries a plan out."""

    def __init__(self, graph: Graph, plan: Plan, how: QuantizeStatic) -> None:
        self.plan, self.how = plan, how
        self._homes = homes(graph)
        self.parameters = {
            value: activation_parameters(interval, how.activation_type, symmetric=how.symmetric)
            for value, interval in plan.intervals.items()
        }
        self._weights: dict[tuple[Graph | None, int, bytes, bytes], Value] = {}
        #: Products whose bias was corrected, and whose weights make up for what they lose.
        self.corrected = self.compensated = 0

    def run(self, ctx: PassContext) -> None:
        for node, data in self.plan.products.items():
            with ctx.visiting(node):
                self._quantize_constants(node, data)
        reads: dict[Value, list[tuple[Node, int]]] = {}
        for node, index in self.plan.reads:
            reads.setdefault(node.required(index), []).append((node, index))
        for value, uses in reads.items():
            represented = self._represented(value, uses[0][0])
            for node, index in uses:
                node.set_input(index, represented)

    @staticmethod
    def _builder(node: Node) -> Builder:
        assert node.graph is not None
        return Builder(node.graph, Location(node.location.names, (VIA,)))

    def _represented(self, value: Value, user: Node) -> Value:
        """The value through 8 bits, once for all that read it."""
        names = (value.producer or user).location.names
        b = Builder(self._homes[value], Location(names, (VIA,)))
        scale, zero = _constants(b, self.parameters[value], value.name)
        quantized = b.op("QuantizeLinear", value, scale, zero)
        return b.op("DequantizeLinear", quantized, scale, zero)

    def _quantize_constants(self, node: Node, data: tuple[int, ...]) -> None:
        """Weights and bias of a product that has one activation."""
        if len(data) != 1:
            return
        index = 1 - data[0]
        weights = node.required(index)
        axis = weight_axis(node, index) if self.how.per_channel else None
        scale = self.parameters[node.required(data[0])].scale
        bias = self._bias(node)
        found = quantize_weights(
            weights.array, axis, bias=None if bias is None else bias.array, input_scale=scale
        )
        moments = self.how.moments.get(node.required(data[0]).name)
        if moments is not None and multiplies_last_axis(node):
            found = compensated(node, found, moments)
            self.compensated += 1
        self._correct(node, data[0], found)
        node.set_input(index, self._dequantized(weights, found, node))
        bias = self._bias(node)
        if bias is not None:
            values, scales = quantize_bias(bias.array, scale, found.scale)
            node.set_input(2, self._dequantize(bias.name, values, scales, 0, node))

    def _correct(self, node: Node, data: int, found: QuantizedWeights) -> None:
        """Take what the rounded weights add to the mean of each output channel from the bias."""
        axis = channel_axis(node, data)
        mean = None if axis is None else self.how.means.get((node.required(data).name, axis))
        if mean is None:
            return
        weights = node.required(1).array.astype(np.float64)
        shift = mean_shift(node, found.dequantized() - weights, mean)
        b = self._builder(node)
        if node.op != "MatMul":
            bias = node.input(2)
            if not has_plain_bias(bias, len(shift)):
                return
            node.set_inputs([*node.inputs[:2], _less(b, bias, shift)])
        elif (add := added_bias(node)) is not None:
            user, index = add
            user.set_input(index, _less(b, user.required(index), shift))
        else:
            product = node.output
            # The sum takes the place of the product, which the plan knows by its value.
            result = Value(b.graph.unique_name(f"{product.name}_rounded"), product.type)
            node.outputs[0], result.producer = result, node
            made = Node("Add", [result, _less(b, None, shift)], [product], location=b.location)
            b.graph.append(made)
        self.corrected += 1

    def _bias(self, node: Node) -> Value | None:
        """The bias of a product, if it is one number for each output channel."""
        bias = node.input(2)
        if bias is None or not bias.is_const or bias.t.rank != 1:
            return None
        if node.op == "Gemm" and node.float_attr("alpha", 1.0) != node.float_attr("beta", 1.0):
            return None
        channels = node.required(1).shape[weight_axis(node, 1) or 0]
        return bias if bias.shape == (channels,) else None

    def _dequantized(self, weights: Value, found: QuantizedWeights, node: Node) -> Value:
        """Weights behind a DequantizeLinear, shared by all in a graph that read them alike."""
        key = (node.graph, id(weights.const), found.scale.tobytes(), found.values.tobytes())
        if key not in self._weights:
            self._weights[key] = self._dequantize(
                weights.name, found.values, found.scale, found.axis, node
            )
        return self._weights[key]

    def _dequantize(
        self, name: str, values: np.ndarray, scale: np.ndarray, axis: int | None, node: Node
    ) -> Value:
        b = self._builder(node)
        inputs = [
            b.constant(values, f"{name}_quantized"),
            b.constant(scale, f"{name}_scale"),
            b.constant(np.zeros(scale.shape, values.dtype), f"{name}_zero_point"),
        ]
        attrs: dict[str, Attr] = {} if axis is None else {"axis": axis}
        return b.node("DequantizeLinear", inputs, attrs).output


def _less(b: Builder, bias: Value | None, shift: NDArray[np.float64]) -> Value:
    """A bias less a correction."""
    before = 0.0 if bias is None else bias.array.astype(np.float64)
    name = "bias" if bias is None else bias.name
    return b.constant((before - shift).astype(np.float32), f"{name}_corrected")


def _constants(b: Builder, parameters: Parameters, name: str) -> tuple[Value, Value]:
    scale = b.constant(np.asarray(parameters.scale, np.float32), f"{name}_scale")
    zero = np.asarray(parameters.zero, np.dtype(parameters.dtype))
    return scale, b.constant(zero, f"{name}_zero_point")
