"""Quantized models in float16: what stands between codes computes in float32.

::

    dequantize(x; scale in 16 bits)   =  half(dequantize(x; scale))
    f(half(a), half(b))               =  half(f(a, b))
    quantize(half(x))                 =  quantize(x)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from burnish.ir import Builder, Node, Value
from burnish.ir.types import BY_NAME
from burnish.passes.base import Numerics
from burnish.passes.patterns import NoMatch, Tracer
from burnish.passes.quantization.plan import MOVES
from burnish.passes.rewrite import Replacement, RewritePass, Rule

_HALF, _FLOAT = "float16", "float32"
_POOLS = ("AveragePool", "GlobalAveragePool", "MaxPool", "ReduceMean")
_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def _wide(b: Builder, value: Value | None) -> Value | None:
    """A float16 value in float32: a constant, or what was rounded to it."""
    if value is None or value.dtype != _HALF:
        return value
    if value.is_const:
        return b.constant(value.array.astype(np.float32), value.name)
    return _rounded(value)


def _rounded(value: Value) -> Value | None:
    """The float32 value that a Cast rounds to float16."""
    node = value.producer
    if node is None or node.key != "Cast" or node.required(0).dtype != _FLOAT:
        return None
    return node.required(0)


class WidenDequantize(Rule):
    """DequantizeLinear with a float16 scale => a float32 one, and a Cast."""

    name = "widen-dequantize"
    numerics = Numerics.NARROWS
    anchors = ("DequantizeLinear",)

    def apply(self, node: Node, b: Builder, tracer: Tracer | None) -> Replacement | NoMatch:
        """Widen the scale."""
        scale = node.required(1)
        if scale.dtype != _HALF or not scale.is_const or node.output.dtype != _HALF:
            return NoMatch("its scale is not a float16 constant", node)
        inputs = [node.required(0), _wide(b, scale), *node.inputs[2:]]
        attrs = {k: v for k, v in node.attrs.items() if k != "output_dtype"}
        y = b.node("DequantizeLinear", inputs, attrs).output
        return Replacement({node.output: b.op("Cast", y, to=BY_NAME[_HALF].onnx)}, (node,))


class WidenQuantize(Rule):
    """QuantizeLinear of what was rounded to float16 => QuantizeLinear of what it was."""

    name = "widen-quantize"
    numerics = Numerics.NARROWS
    anchors = ("QuantizeLinear",)

    def apply(self, node: Node, b: Builder, tracer: Tracer | None) -> Replacement | NoMatch:
        """Widen the data and the scale."""
        x, scale = _rounded(node.required(0)), node.required(1)
        if node.required(0).dtype != _HALF or x is None or not scale.is_const:
            return NoMatch("what is quantized is not rounded to float16", node)
        inputs = [x, _wide(b, scale), *node.inputs[2:]]
        attrs = {k: v for k, v in node.attrs.items() if k != "precision"}
        return Replacement({node.output: b.node("QuantizeLinear", inputs, attrs).output}, (node,))


class WidenBetween(Rule):
    """f(half(a), half(b)) => half(f(a, b))."""

    name = "widen-between"
    numerics = Numerics.NARROWS
    anchors = (
        *_PRODUCTS,
        *_POOLS,
        *MOVES,
        *("Add", "Clip", "Div", "Elu", "Erf", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu"),
        *("Max", "Min", "Mul", "PRelu", "Relu", "Sigmoid", "Softmax", "Sub", "Swish", "Tanh"),
    )

    def apply(self, node: Node, b: Builder, tracer: Tracer | None) -> Replacement | NoMatch:
        """Compute in float32, and round the result."""
        if len([v for v in node.outputs if v is not None]) != 1 or node.output.dtype != _HALF:
            return NoMatch("it has not one result in float16", node)
        halves = [v for v in node.inputs if v is not None and v.dtype == _HALF and not v.is_const]
        if not halves or any(_rounded(v) is None for v in halves):
            return NoMatch("an operand is in float16 itself", node)
        y = b.node(node.op, [_wide(b, v) for v in node.inputs], node.attrs).output
        return Replacement({node.output: b.op("Cast", y, to=BY_NAME[_HALF].onnx)}, (node,))


@dataclass(frozen=True)
class WidenQuantized(RewritePass):
    """Let quantized models in float16 compute in float32 between their codes.

    Before: DequantizeLinear with a float16 scale -> Conv -> Relu -> QuantizeLinear.
    After: the same in float32, which integer products store 8 bits of; Casts at the borders.
    Keeps: what reads tensors that are float16 themselves.
    Numerics: narrows (roundings to float16 go).
    """

    name = "widen-quantized"
    numerics = Numerics.NARROWS
    rules: ClassVar[tuple[Rule, ...]] = (WidenDequantize(), WidenQuantize(), WidenBetween())
