"""Channels last: convolutions and pools take NHWC, and the transposes around them go away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from burnish.ir import Attr, Builder, Graph, Node, Value, equal
from burnish.ir.definitions.convolution import (
    channels_last_format,
    is_channels_last,
    to_channels_first,
    to_channels_last,
)
from burnish.ir.definitions.pooling import POOL_ATTRS
from burnish.ir.postops import operands, parse_postops
from burnish.ir.types import FLOATS
from burnish.passes.axes import (
    Block,
    aligned_blocks,
    inverse,
    is_identity,
    is_view,
    permutation_of,
    transposed,
)
from burnish.passes.base import Pass, PassContext, all_graphs
from burnish.passes.fusion.epilogue import CORE_INPUTS
from burnish.passes.layout.propagate import propagate
from burnish.passes.patterns import NoMatch, Tracer
from burnish.passes.rewrite import Replacement, RewritePass, Rule, run_rules
from burnish.passes.rows import reshape


class ConvToChannelsLast(Rule):
    """conv(x) in NCHW => transpose(conv(transpose(x)) in NHWC)."""

    name = "conv-to-nhwc"
    anchors = ("burnish::Conv", "burnish::ConvTranspose")

    def apply(self, node: Node, b: Builder, tracer: Tracer | None) -> Replacement | NoMatch:
        """Transpose the data and the full operands."""
        if is_channels_last(node):
            return NoMatch("it has the channels last", node)
        rank = len(node.output.shape)
        core = CORE_INPUTS[node.key]
        kinds = operands(parse_postops(node.strs_attr("postops")))
        perm = to_channels_last(rank)
        inputs: list[Value | None] = [transposed(b, node.required(0), perm), node.required(1)]
        for i, kind in enumerate(kinds):
            operand = node.required(core + i)
            inputs.append(transposed(b, operand, perm) if kind == "full" else operand)
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
        if x.dtype not in FLOATS:
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


class PermuteWeightRows(Rule):
    """matmul(reshape(transpose(x)), w) => matmul(reshape(x), w with its rows permuted)."""

    name = "permute-weight-rows"
    anchors = ("burnish::MatMul",)

    def apply(self, node: Node, b: Builder, tracer: Tracer | None) -> Replacement | NoMatch:
        """Absorb a transpose of the axes that a flatten merges."""
        flat, w = node.required(0), node.required(1)
        merge = flat.producer
        if merge is None or merge.key != "Reshape" or len(flat.shape) != 2:
            return NoMatch("the input is not flattened", node)
        turn = merge.required(0).producer
        if turn is None or turn.key != "Transpose" or turn.graph is not node.graph:
            return NoMatch("what is flattened is not transposed", merge)
        perm = permutation_of(turn)
        shape = turn.output.shape
        inner = [d for d in shape[1:] if isinstance(d, int)]
        if perm[0] != 0 or len(inner) != len(shape) - 1 or not equal(shape[0], flat.shape[0]):
            return NoMatch("the batch is transposed, or a merged axis is not static", turn)
        if len(w.uses) > 1:
            return NoMatch("the weights are shared: permuting would copy them", w)
        rows = np.arange(int(np.prod(inner))).reshape(inner)
        order = rows.transpose([p - 1 for p in inverse(perm)[1:]]).reshape(-1)
        source = turn.required(0)
        straight = reshape(b, source, (source.shape[0], len(order)))
        if straight is None:
            return NoMatch("the flattened shape cannot be written", merge)
        permuted = b.constant(np.ascontiguousarray(w.array[order]), w.name)
        inputs = [straight, permuted, *node.inputs[2:]]
        made = b.node("MatMul", inputs, node.attrs, domain="burnish")
        return Replacement({node.output: made.output}, (turn, merge, node))


class TransposeAfterReshape(Rule):
    """transpose(reshape(transpose(x))) => transpose(reshape(x)) when blocks of axes stay whole."""

    name = "swap-transpose-reshape"
    anchors = ("Transpose",)

    def apply(self, node: Node, b: Builder, tracer: Tracer | None) -> Replacement | NoMatch:
        """Reshape before the two transposes, which then compose."""
        middle = node.required(0).producer
        if middle is None or middle.key != "Reshape" or middle.graph is not node.graph:
            return NoMatch("it does not follow a reshape", node)
        first = middle.required(0).producer
        if first is None or first.key != "Transpose":
            return NoMatch("what is reshaped is not transposed", middle)
        perm = permutation_of(first)
        blocks = aligned_blocks(first.output.shape, middle.output.shape)
        if blocks is None:
            return NoMatch("the shapes do not split into equal blocks", middle)
        order = _block_order(blocks, perm)
        if order is None:
            return NoMatch("the reshape merges axes that the transpose tears apart", middle)
        source = first.required(0)
        target = [middle.output.shape[a] for i in order for a in blocks[i][1]]
        straight = reshape(b, source, target)
        if straight is None:
            return NoMatch("the reshaped shape cannot be written", middle)
        axes = [a for i in order for a in blocks[i][1]]
        back = tuple(axes.index(a) for a in range(len(axes)))
        turned = b.op("Transpose", straight, perm=back)
        total = transposed(b, turned, permutation_of(node))
        return Replacement({node.output: total}, (first, middle, node))


def _block_order(blocks: Sequence[Block], perm: Sequence[int]) -> list[int] | None:
    """The blocks in the order of the source's axes, if no block is torn apart."""
    runs = []
    for index, (axes, _) in enumerate(blocks):
        sources = [perm[a] for a in axes]
        if sources != list(range(sources[0], sources[0] + len(sources))):
            return None
        runs.append((sources[0], index))
    return [index for _, index in sorted(runs)]


class ViewTranspose(Rule):
    """transpose(x) => reshape(x) when only axes of size 1 move."""

    name = "transpose-to-reshape"
    anchors = ("Transpose",)

    def apply(self, node: Node, b: Builder, tracer: Tracer | None) -> Replacement | NoMatch:
        """Write the shape with constants."""
        x, perm = node.required(0), permutation_of(node)
        if is_identity(perm) or not is_view(x.shape, perm):
            return NoMatch("axes of other sizes than 1 move", node)
        viewed = reshape(b, x, node.output.shape)
        if viewed is None:  # several symbolic dims: only the axes of size 1 can be named
            ones = [axis for axis, d in enumerate(x.shape) if isinstance(d, int) and d == 1]
            places = [i for i, axis in enumerate(perm) if axis in ones]
            viewed = b.op("Unsqueeze", b.op("Squeeze", x, b.ints(ones)), b.ints(places))
        return Replacement({node.output: viewed}, (node,))


class ComposeTransposes(Rule):
    """transpose(transpose(x)) => transpose(x), or x when they undo each other."""

    name = "compose-transposes"
    anchors = ("Transpose",)

    def apply(self, node: Node, b: Builder, tracer: Tracer | None) -> Replacement | NoMatch:
        """Look through every transpose before."""
        inner = node.required(0).producer
        if inner is None or inner.key != "Transpose":
            return NoMatch("it does not follow a transpose", node)
        total = transposed(b, node.required(0), permutation_of(node))
        return Replacement({node.output: total}, (inner, node))


_CONVERT: tuple[Rule, ...] = (ConvToChannelsLast(), PoolToChannelsLast())
_MOVE: tuple[Rule, ...] = (ComposeTransposes(), PermuteWeightRows(), TransposeAfterReshape())


@dataclass(frozen=True)
class ChannelsLast(Pass):
    """Give convolutions and pools channels-last data, and let transposes cancel.

    Before: burnish::Conv (NCHW), MaxPool, elementwise operators, Transposes of the model.
    After: burnish::Conv (NHWC), burnish::MaxPool (NHWC); Transposes only where data enter or leave
    a region whose layout is fixed, and only if they move more than axes of size 1.
    Keeps: pools with indices or automatic padding, integer pools.
    Numerics: exact.
    """

    name = "channels-last"

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
