"""Channels last: convolutions and pools take NHWC, and the transposes around them go away."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from burnish.ir import Attr, Builder, Graph, Node, Value
from burnish.ir.definitions.convolution import (
    channels_last_format,
    is_channels_last,
    to_channels_first,
    to_channels_last,
)
from burnish.ir.definitions.pooling import POOL_ATTRS
from burnish.ir.definitions.quantized import AVERAGES
from burnish.ir.postops import operands, parse_postops
from burnish.ir.types import FLOATS
from burnish.passes.axes import (
    transposed,
)
from burnish.passes.base import Numerics, Pass, PassContext, all_graphs
from burnish.passes.fusion.epilogue import CORE_INPUTS
from burnish.passes.layout.conv_transpose import ConvTransposeToMatMul
from burnish.passes.layout.propagate import propagate
from burnish.passes.layout.reshapes import (
    ComposeTransposes,
    PermuteWeightRows,
    SelectParts,
    TransposeAfterReshape,
    TransposeOfSplitHeads,
    TransposeThenSqueeze,
    ViewTranspose,
)
from burnish.passes.patterns import NoMatch, Tracer
from burnish.passes.rewrite import Replacement, RewritePass, Rule, run_rules


class ConvToChannelsLast(Rule):
    """conv(x) in NCHW => transpose(conv(transpose(x)) in NHWC); averages of codes alike."""

    name = "conv-to-nhwc"
    anchors = ("burnish::Conv", "burnish::ConvTranspose", "burnish::QConv", *AVERAGES)

    def apply(self, node: Node, b: Builder, tracer: Tracer | None) -> Replacement | NoMatch:
        """Transpose the data and the full operands."""
        if is_channels_last(node):
            return NoMatch("it has the channels last", node)
        rank = len(node.output.shape)
        core = CORE_INPUTS.get(node.key, 1)  # averages have one input, and no post-ops
        kinds = operands(parse_postops(node.strs_attr("postops")))
        perm = to_channels_last(rank)
        inputs: list[Value | None] = [transposed(b, node.required(0), perm), *node.inputs[1:core]]
        for i, kind in enumerate(kinds):
            operand = node.required(core + i)
            moves = kind in ("full", "quantized")
            inputs.append(transposed(b, operand, perm) if moves else operand)
        attrs: dict[str, Attr] = {**node.attrs, "data_format": channels_last_format(rank)}
        made = b.node(node.op, inputs, attrs, domain="burnish")
        back = b.op("Transpose", made.output, perm=to_channels_first(rank))
        return Replacement({node.output: back}, (node,))


class PoolToChannelsLast(Rule):
    """pool(x) => transpose(burnish pool in NHWC (transpose(x)))."""

    name = "pool-to-nhwc"
    anchors = tuple(POOL_ATTRS)

    def apply(self, node: Node, b: Builder, tracer: Tracer | None) -> Replacement | NoMatch:
        """Spell the attributes out."""
        x = node.required(0)
        rank = x.t.rank
        if rank not in (3, 4, 5):
            return NoMatch("it has no 1 to 3 spatial axes", node)
        if x.dtype not in FLOATS and not (node.op == "MaxPool" and x.dtype in ("uint8", "int8")):
            return NoMatch(f"the dtype is {x.dtype}", x)
        if any(v is not None and (v.uses or v.is_output) for v in node.outputs[1:]):
            return NoMatch("the indices are used", node)
        if node.str_attr("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
            return NoMatch("the padding depends on the input size", node)
        attrs = _pool_attrs(node, rank - 2)
        attrs["data_format"] = channels_last_format(rank)
        data = transposed(b, x, to_channels_last(rank))
        made = b.node(node.op, [data], attrs, domain="burnish")
        back = b.op("Transpose", made.output, perm=to_channels_first(rank))
        return Replacement({node.output: back}, (node,))


def _pool_attrs(node: Node, spatial: int) -> dict[str, Attr]:
    """All attributes of a pool with their defaults written out."""
    defaults: dict[str, Attr] = {
        "kernel_shape": node.ints_attr("kernel_shape"),
        "strides": (1,) * spatial,
        "pads": (0,) * (2 * spatial),
        "dilations": (1,) * spatial,
        "ceil_mode": 0,
        "count_include_pad": 0,
    }
    names = POOL_ATTRS[node.op]
    attrs = {name: node.attrs.get(name, defaults[name]) for name in names}
    return {**attrs, "postops": ()}


_CONVERT: tuple[Rule, ...] = (
    ConvTransposeToMatMul(),
    ConvToChannelsLast(),
    PoolToChannelsLast(),
)
_MOVE: tuple[Rule, ...] = (
    ComposeTransposes(),
    PermuteWeightRows(),
    TransposeAfterReshape(),
    TransposeThenSqueeze(),
    TransposeOfSplitHeads(),
    SelectParts(),
)


@dataclass(frozen=True)
class ChannelsLast(Pass):
    """Give convolutions and pools channels-last data, and let transposes cancel.

    Before: burnish::Conv (NCHW), MaxPool, elementwise operators, Transposes of the model.
    After: burnish::Conv (NHWC), burnish::MaxPool (NHWC); Transposes only where data enter or leave
    a region whose layout is fixed, and only if they move more than axes of size 1.
    Keeps: pools with indices or automatic padding, integer pools other than maxima of 8 bits.
    Numerics: reassociates (transposed convolutions without overlap become matrix products).
    """

    name = "channels-last"
    numerics = Numerics.REASSOCIATES
    rules: ClassVar[tuple[Rule, ...]] = (*_CONVERT, *_MOVE)

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        """Convert, then let each region of layout-agnostic operators choose its layout."""
        changed = False
        for g in all_graphs(graph):
            changed |= run_rules(g, _CONVERT, ctx)
            moved = True
            while moved:
                moved = run_rules(g, _MOVE, ctx)
                moved |= propagate(g)
                changed |= moved
        return changed


@dataclass(frozen=True)
class ViewTransposes(RewritePass):
    """Turn transposes that move only axes of size 1 into views.

    Before: Transpose of [N, 1, 1, C].
    After: Reshape.
    Keeps: transposes that change the order of elements.
    Numerics: exact.
    """

    name = "view-transposes"
    rules: ClassVar[tuple[Rule, ...]] = (ViewTranspose(),)
