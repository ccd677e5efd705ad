"""Transposed convolutions of quantized tensors whose windows do not overlap are products.

With stride = kernel size every pixel of the input makes a block of the result on its own::

    ConvTranspose(dequantize(x), dequantize(w), b)
        =  depth-to-space(burnish::QConv(x, w', ..., b'; Add:channel)),

with the channels of a block in the order (row, column, channel).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from burnish.ir import Attr, Builder, Node
from burnish.passes.base import Numerics
from burnish.passes.layout.conv_transpose import overlaps
from burnish.passes.patterns import NoMatch, Tracer
from burnish.passes.quantization.integer import core_inputs, dequantizer, known_bias, weights_of
from burnish.passes.rewrite import Replacement, RewritePass, Rule


class MakeQConvTranspose(Rule):
    """ConvTranspose of dequantized data and weights => depth-to-space of burnish::QConv."""

    name = "make-qconv-transpose"
    numerics = Numerics.REASSOCIATES
    anchors = ("ConvTranspose",)

    def apply(self, node: Node, b: Builder, tracer: Tracer | None) -> Replacement | NoMatch:
        """Take the stored tensors; a filter for each pixel of a block and channel."""
        data = dequantizer(node.required(0))
        if isinstance(data, NoMatch):
            return data
        weights = weights_of(node.required(1), 1)
        if isinstance(weights, NoMatch):
            return weights
        values, scale = weights
        if values.ndim != 4:
            return NoMatch("it has not 2 spatial axes", node)
        refused = overlaps(node, values.shape[2:])
        if refused:
            return NoMatch(f"no integer kernel for a transposed convolution: {refused}", node)
        bias = known_bias(node)
        if isinstance(bias, NoMatch):
            return bias
        block = values.shape[2]
        filters = values.transpose(2, 3, 1, 0).reshape(-1, values.shape[0], 1, 1)
        factors = scale if scale.ndim == 0 else np.tile(scale, block * block)
        inputs = core_inputs(b, *data, np.ascontiguousarray(filters), factors)
        attrs: dict[str, Attr] = {"data_format": "NCHW", "y_dtype": "float32", "postops": ()}
        if bias is not None:
            inputs.append(b.constant(np.tile(bias, block * block), "bias"))
            attrs["postops"] = ("Add:channel",)
        product = b.node("QConv", inputs, attrs, domain="burnish").output
        y = b.op("DepthToSpace", product, blocksize=block, mode="DCR")
        return Replacement({node.output: y}, (node,))


@dataclass(frozen=True)
class IntegerTransposed(RewritePass):
    """Let transposed convolutions of quantized tensors compute in integers.

    Before: DequantizeLinear -> ConvTranspose whose strides are its kernel's size.
    After: burnish::QConv -> DepthToSpace.
    Keeps: windows that overlap, groups, padding.
    Numerics: reassociates (sums are exact int32, scaled once).
    """

    name = "integer-transposed"
    numerics = Numerics.REASSOCIATES
    rules: ClassVar[tuple[Rule, ...]] = (MakeQConvTranspose(),)
