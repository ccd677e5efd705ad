"""Transposes and reshapes: the rules that let a transpose pass, cancel or become a view."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from burnish.ir import Builder, Node, Value, equal
from burnish.passes.axes import (
    Block,
    Perm,
    aligned_blocks,
    inverse,
    is_identity,
    is_view,
    permutation_of,
    transposed,
)
from burnish.passes.patterns import NoMatch, Tracer
from burnish.passes.rewrite import Replacement, Rule
from burnish.passes.rows import reshape


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


def _view_source(node: Node) -> Value:
    """What a chain of reshapes starts from."""
    value = node.required(0)
    while value.producer is not None and value.producer.key == "Reshape":
        value = value.producer.required(0)
    return value


class TransposeThenSqueeze(Rule):
    """reshape(transpose(x)) => transpose(reshape(x)) when only axes of size 1 go."""

    name = "swap-transpose-squeeze"
    anchors = ("Reshape",)

    def apply(self, node: Node, b: Builder, tracer: Tracer | None) -> Replacement | NoMatch:
        """Drop the axes first: the transpose is smaller then and may cancel."""
        turn = node.required(0).producer
        if turn is None or turn.key != "Transpose" or turn.graph is not node.graph:
            return NoMatch("what is reshaped is not transposed", node)
        x, perm = turn.required(0), permutation_of(turn)
        after = node.output.shape
        if len(after) >= len(x.shape) or is_view(x.shape, perm):
            return NoMatch("no axis is dropped", node)
        axes = [axis for axis in perm if x.shape[axis] != 1]
        if len(axes) != len(after) or not all(
            equal(x.shape[a], d) for a, d in zip(axes, after, strict=True)
        ):
            return NoMatch("other axes than those of size 1 change", node)
        kept = sorted(axes)
        straight = reshape(b, x, [x.shape[a] for a in kept])
        if straight is None:
            return NoMatch("the reshaped shape cannot be written", node)
        turned = transposed(b, straight, tuple(kept.index(a) for a in axes))
        return Replacement({node.output: turned}, (turn, node))


class TransposeOfSplitHeads(Rule):
    """reshape(transpose(reshape(x))) => transpose(x) when the reshapes undo each other."""

    name = "undo-split-around-transpose"
    anchors = ("Reshape",)

    def apply(self, node: Node, b: Builder, tracer: Tracer | None) -> Replacement | NoMatch:
        """Transpose whole blocks of axes instead of their parts."""
        turn = node.required(0).producer
        if turn is None or turn.key != "Transpose" or turn.graph is not node.graph:
            return NoMatch("what is reshaped is not transposed", node)
        split = turn.required(0).producer
        if split is None or split.key != "Reshape":
            return NoMatch("what is transposed is not reshaped", turn)
        x = _view_source(split)
        blocks = aligned_blocks(x.shape, split.output.shape)
        if blocks is None or any(len(left) != 1 for left, _ in blocks):
            return NoMatch("the first reshape does more than split axes", split)
        order = _whole_blocks(blocks, permutation_of(turn))
        if order is None:
            return NoMatch("the transpose tears the parts of an axis apart", turn)
        wanted = [x.shape[a] for a in order]
        result = node.output.shape
        if len(wanted) != len(result) or not all(map(equal, wanted, result)):
            return NoMatch("the second reshape does not undo the first", node)
        return Replacement({node.output: transposed(b, x, order)}, (split, turn, node))


def _whole_blocks(blocks: Sequence[Block], perm: Perm) -> Perm | None:
    """The order of the source axes under a permutation of their parts."""
    owner = {part: left[0] for left, parts in blocks for part in parts}
    sizes = {left[0]: parts for left, parts in blocks}
    order: list[int] = []
    at = 0
    while at < len(perm):
        axis = owner[perm[at]]
        parts = sizes[axis]
        if list(perm[at : at + len(parts)]) != list(parts):
            return None
        order.append(axis)
        at += len(parts)
    return tuple(order)


class SelectParts(Rule):
    """gather(reshape(x, [..., n, d]), i) => part i of split(x) along the last axis."""

    name = "select-to-split"
    anchors = ("Reshape",)

    def apply(self, node: Node, b: Builder, tracer: Tracer | None) -> Replacement | NoMatch:
        """One Split for all the parts that are selected."""
        x, parts = _view_source(node), node.output
        rank = len(parts.shape)
        if rank < 2 or len(x.shape) != rank - 1 or parts.is_output:
            return NoMatch("the reshape does not split the last axis", node)
        count, width = parts.shape[-2:]
        same = all(map(equal, x.shape[:-1], parts.shape[:-2]))
        if not same or not isinstance(count, int) or not isinstance(width, int):
            return NoMatch("the reshape does not split the last axis", node)
        users = parts.users()
        if not users or not all(_selects(user, parts, rank - 2) for user in users):
            return NoMatch("it is used by others than constant selections", node)
        split = b.node(
            "Split", [x, b.ints([width] * count)], {"axis": rank - 2}, outputs=count
        ).outputs
        values = {u.output: split[int(u.required(1).array)] for u in users}
        found = {old: new for old, new in values.items() if new is not None}
        return Replacement(found, (node, *users))


def _selects(user: Node, data: Value, axis: int) -> bool:
    """Whether a node is Gather(data, i) along ``axis`` with one constant index."""
    if user.key != "Gather" or user.required(0) is not data:
        return False
    index = user.required(1)
    here = user.int_attr("axis") % len(data.shape) == axis
    return here and index.is_const and index.t.rank == 0
