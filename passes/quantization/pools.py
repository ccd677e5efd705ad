"""Averages of quantized tensors become integer composites.

::

    AveragePool(dequantize(x))            =  burnish::QAveragePool(x)
    ReduceMean(dequantize(x); H, W)       =  burnish::QGlobalAveragePool(x)
    quantize(burnish::QAveragePool(x))    =  burnish::QAveragePool(x; y_dtype)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from burnish.ir import Attr, Builder, Node
from burnish.ir.definitions.convolution import channels_first_format, channels_last_format
from burnish.ir.definitions.pooling import POOL_ATTRS
from burnish.passes.base import Numerics
from burnish.passes.patterns import NoMatch, Tracer
from burnish.passes.quantization.integer import dequantizer, image_rank
from burnish.passes.quantization.parameters import Parameters
from burnish.passes.rewrite import Replacement, RewritePass, Rule


def _attributes(at: Parameters, data_format: str) -> dict[str, Attr]:
    return {
        "data_format": data_format,
        "x_scale": at.scale,
        "x_zero_point": at.zero,
        "y_dtype": "float32",
    }


class MakeQAveragePool(Rule):
    """AveragePool or GlobalAveragePool of dequantized data => the composite on what is stored."""

    name = "make-qaveragepool"
    numerics = Numerics.REASSOCIATES
    anchors = ("AveragePool", "GlobalAveragePool")

    def apply(self, node: Node, b: Builder, tracer: Tracer | None) -> Replacement | NoMatch:
        """Take the stored tensor."""
        data = dequantizer(node.required(0))
        if isinstance(data, NoMatch):
            return data
        rank = image_rank(node)
        if isinstance(rank, NoMatch):
            return rank
        attrs = _attributes(data[1], channels_first_format(rank))
        attrs |= {n: node.attrs[n] for n in POOL_ATTRS[node.op] if n in node.attrs}
        made = b.node(f"Q{node.op}", [data[0].required(0)], attrs, domain="burnish")
        return Replacement({node.output: made.output}, (node,))


class MakeQMean(Rule):
    """ReduceMean of dequantized data over its spatial axes => burnish::QGlobalAveragePool."""

    name = "make-qmean"
    numerics = Numerics.REASSOCIATES
    anchors = ("ReduceMean",)

    def apply(self, node: Node, b: Builder, tracer: Tracer | None) -> Replacement | NoMatch:
        """Take the stored tensor; drop the axes after that."""
        data = dequantizer(node.required(0))
        if isinstance(data, NoMatch):
            return data
        rank, axes = node.required(0).t.rank, node.input(1)
        if rank not in (3, 4) or axes is None or not axes.is_const:
            return NoMatch("it does not reduce known axes of an image", node)
        reduced = sorted(int(a) % rank for a in axes.array.reshape(-1))
        if reduced == list(range(1, rank - 1)):
            data_format = channels_last_format(rank)
        elif rank == 4 and reduced == [2, 3]:
            data_format = channels_first_format(rank)
        else:
            return NoMatch("what it reduces are not the spatial axes of an image", node)
        attrs = _attributes(data[1], data_format)
        made = b.node("QGlobalAveragePool", [data[0].required(0)], attrs, domain="burnish").output
        if not node.int_attr("keepdims", 1):
            made = b.op("Squeeze", made, b.ints(reduced))
        return Replacement({node.output: made}, (node,))


@dataclass(frozen=True)
class IntegerPools(RewritePass):
    """Let averages of quantized tensors add up what is stored.

    Before: DequantizeLinear -> AveragePool, GlobalAveragePool, or ReduceMean over spatial axes.
    After: burnish::QAveragePool, burnish::QGlobalAveragePool; a QuantizeLinear after them is taken
        as that of a product is.
    Keeps: averages over other axes, automatic padding.
    Numerics: reassociates (sums are exact int32, scaled once).
    """

    name = "integer-pools"
    numerics = Numerics.REASSOCIATES
    rules: ClassVar[tuple[Rule, ...]] = (MakeQAveragePool(), MakeQMean())
