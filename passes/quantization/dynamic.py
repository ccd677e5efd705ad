"""The pass that quantizes products of constant weights without calibration data."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from burnish.ir import Builder, Graph, Location, Node, Value
from burnish.ir.types import BY_NAME
from burnish.passes.base import Numerics, Pass, PassContext, counted
from burnish.passes.quantization.parameters import quantize_weights
from burnish.passes.quantization.selection import QUANTIZED_ALREADY, Selection, comes_quantized

VIA = "quantize-dynamic"


@dataclass(frozen=True)
class QuantizeDynamic(Pass):
    """Multiply with int8 weights; activations are quantized by the range of each call.

    Before: MatMul of an activation and constant weights, in float32.
    After: DynamicQuantizeLinear -> MatMulInteger -> Cast -> Mul by both scales.
    Keeps: all but MatMul with a constant right operand of rank 2; what the selection excludes, each
        with its reason.
    Numerics: quantizes: activations are rounded to 256 numbers over the range of a call, weights to
        255 in each column.

    Attributes:
        selection: Which nodes.
        per_channel: Whether each column of the weights has its own scale.
    """

    name = "quantize-dynamic"
    numerics = Numerics.QUANTIZES
    selection: Selection = field(default_factory=Selection)
    per_channel: bool = True

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        """Replace the products."""
        kept: Counter[str] = Counter()
        rewriter = _Rewriter(self.per_channel)
        for node in list(graph.walk()):
            if node.domain or node.op not in self.selection.op_types_to_quantize:
                continue
            reason = self.selection.refuses(node) or _unfit(node)
            if reason:
                kept[f"{node.op}: {reason}"] += 1
                ctx.keep(node, reason)
                continue
            with ctx.visiting(node):
                rewriter.replace(node)
        line = f"int8: {rewriter.count} products quantized, {kept.total()} kept in fp32"
        if kept:
            line += f"; {counted(kept)}"
        ctx.note(line)
        return rewriter.count > 0


def _unfit(node: Node) -> str:
    if comes_quantized(node):
        return QUANTIZED_ALREADY
    if node.op != "MatMul":
        return f"{node.op} needs calibration data"
    left, right = node.required(0), node.required(1)
    if not right.is_const or left.is_const:
        return "its right operand is not constant"
    if right.t.rank != 2:
        return "its weights are not a matrix"
    return "" if left.dtype == "float32" else f"it computes in {left.dtype}"


class _Rewriter:
    def __init__(self, per_channel: bool) -> None:
        self.per_channel = per_channel
        self.count = 0
        # Queries, keys and values read one activation: it is quantized once.
        self._quantized: dict[tuple[Graph, Value], tuple[Value, ...]] = {}

    def replace(self, node: Node) -> None:
        graph = node.graph
        assert graph is not None
        self.count += 1
        b = Builder(graph, Location(node.location.names, (*node.location.via, VIA)))
        weights = node.required(1)
        x, x_scale, x_zero = self._activation(graph, node.required(0))
        found = quantize_weights(weights.array, 1 if self.per_channel else None)
        values = b.constant(found.values, f"{weights.name}_quantized")
        zero = b.constant(np.zeros((), np.int8), f"{weights.name}_zero_point")
        product = b.op("MatMulInteger", x, values, x_zero, zero)
        scale = b.op("Mul", x_scale, b.constant(found.scale, f"{weights.name}_scale"))
        wide = b.op("Cast", product, to=BY_NAME["float32"].onnx)
        graph.replace_uses(node.output, b.op("Mul", wide, scale))

    def _activation(self, graph: Graph, value: Value) -> tuple[Value, ...]:
        key = (graph, value)
        if key not in self._quantized:
            producer = value.producer
            names = producer.location.names if producer is not None else ()
            b = Builder(graph, Location(names, (VIA,)))
            made = b.node("DynamicQuantizeLinear", [value], outputs=3)
            self._quantized[key] = tuple(v for v in made.outputs if v is not None)
        return self._quantized[key]
