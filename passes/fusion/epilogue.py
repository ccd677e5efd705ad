"""Elementwise operators after a convolution or matrix product become its post-ops.

::

    Relu(Conv(x, w) + r) = burnish::Conv(x, w, r; Add:full, Relu)
    (x @ w + c) * k      = burnish::MatMul(x, w * k, c * k; Add:channel)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from burnish.ir import Builder, Node, PostOp, Value, parse_postops
from burnish.ir.definitions.convolution import is_channels_last
from burnish.ir.definitions.quantized import CORE as QUANTIZED_CORE
from burnish.ir.definitions.weight_only import CORE as WEIGHT_ONLY_CORE
from burnish.ir.postops import Operand, operands
from burnish.ir.types import to_numpy
from burnish.passes.axes import Block, aligned_blocks
from burnish.passes.base import Numerics
from burnish.passes.fusion.conv_norm import scale_outputs
from burnish.passes.patterns import NoMatch, Tracer
from burnish.passes.patterns import scalar as scalar_of
from burnish.passes.rewrite import Replacement, RewritePass, Rule

#: Composites that take post-ops, and the number of their core inputs.
CORE_INPUTS = {
    "burnish::Conv": 2,
    "burnish::ConvTranspose": 2,
    "burnish::MatMul": 2,
    "burnish::BatchMatMul": 2,
    "burnish::QConv": QUANTIZED_CORE,
    "burnish::QMatMul": QUANTIZED_CORE,
    "burnish::MatMulNBits": WEIGHT_ONLY_CORE,
}
_PLAIN = {"Relu", "Sigmoid", "Tanh", "HardSwish", "Neg", "Abs", "Sqrt", "Exp", "Erf", "Softplus"}
_PARAMETERS: dict[str, tuple[tuple[str, float], ...]] = {
    "LeakyRelu": (("alpha", 0.01),),
    "Elu": (("alpha", 1.0),),
    "HardSigmoid": (("alpha", 0.2), ("beta", 0.5)),
}
_BINARY = ("Add", "Sub", "Mul", "Div", "Max", "Min")
_VIEWS = ("DepthToSpace", "Reshape")
_COMMUTES = ("Add", "Mul", "Max", "Min")


def channel_axis(node: Node) -> int:
    """The axis of a composite's result that its channel operands lie along."""
    is_conv = node.op in ("Conv", "ConvTranspose", "QConv")
    return 1 if is_conv and not is_channels_last(node) else len(node.output.shape) - 1


def unary_postop(node: Node) -> PostOp | NoMatch:
    """The post-op that a unary operator is."""
    if node.op in _PLAIN:
        return PostOp(node.op)
    if node.op == "Gelu":
        tanh = node.str_attr("approximate", "none") == "tanh"
        return PostOp("GeluTanh" if tanh else "Gelu")
    if node.op == "Swish":
        alpha = node.float_attr("alpha", 1.0)
        return PostOp("Silu") if alpha == 1.0 else NoMatch(f"Swish has alpha {alpha:g}", node)
    if node.op in _PARAMETERS:
        values = tuple(node.float_attr(n, default) for n, default in _PARAMETERS[node.op])
        return PostOp(node.op, "", values)
    low, high = node.input(1), node.input(2)
    bounds = [
        default if value is None else scalar_of(value)
        for value, default in ((low, -np.inf), (high, np.inf))
    ]
    if bounds[0] is None or bounds[1] is None:
        return NoMatch("the bounds of Clip are not constant", node)
    return PostOp("Clip", "", (float(bounds[0]), float(bounds[1])))


def classify(b: Builder, result: Value, axis: int, operand: Value) -> tuple[Operand, Value] | None:
    """How an operand broadcasts onto a composite's result: its kind and its normalized value."""
    if operand.dtype != result.dtype or operand.t.rank is None:
        return None
    if operand.t.same_shape(result.t) and not (operand.is_const and len(result.shape) == 1):
        return "full", operand
    if operand.const is None or len(operand.shape) > len(result.shape):
        return None
    shape = (1,) * (len(result.shape) - len(operand.shape)) + operand.array.shape
    if all(d == 1 for d in shape):
        return "scalar", b.constant(operand.array.reshape(1), operand.name)
    if shape[axis] == result.shape[axis] and all(d == 1 for i, d in enumerate(shape) if i != axis):
        return "channel", b.constant(operand.array.reshape(-1), operand.name)
    if shape == result.shape:
        return "full", b.constant(operand.array.reshape(shape), operand.name)
    return None


def with_postop(b: Builder, node: Node, postop: PostOp, operand: Value | None) -> Node:
    """A copy of a composite with one more post-op."""
    attrs = {**node.attrs, "postops": (*node.strs_attr("postops"), postop.encode())}
    inputs = [*node.inputs, operand] if operand is not None else node.inputs
    return b.node(node.op, inputs, attrs, domain="burnish")


class AbsorbUnary(Rule):
    """f(composite(...)) => composite(...; f)."""

    name = "absorb-activation"
    anchors = (*sorted(_PLAIN), *_PARAMETERS, "Gelu", "Swish", "Clip")

    def apply(self, node: Node, b: Builder, tracer: Tracer | None) -> Replacement | NoMatch:
        """Append the function."""
        found = absorbing(node, node.required(0))
        if isinstance(found, NoMatch):
            return found
        postop = unary_postop(node)
        if isinstance(postop, NoMatch):
            return postop
        made = with_postop(b, found, postop, None)
        return Replacement({node.output: made.output}, (found, node))


class AbsorbBinary(Rule):
    """composite(...) op y => composite(..., y; op:kind), in either operand order."""

    name = "absorb-operand"
    anchors = _BINARY

    def apply(self, node: Node, b: Builder, tracer: Tracer | None) -> Replacement | NoMatch:
        """Append the operator with its operand; the later of two producers absorbs."""
        if len(node.inputs) != 2:
            return NoMatch("it has more than two operands", node)
        reason: NoMatch | None = None
        order = (1, 0) if _runs_later(node, 1, 0) else (0, 1)
        for index in order:
            found = absorbing(node, node.required(index))
            if isinstance(found, NoMatch):
                reason = reason or found
                continue
            made = self._absorb(node, b, found, node.required(1 - index), swapped=index == 1)
            if not isinstance(made, NoMatch):
                return Replacement({node.output: made.output}, (found, node))
            reason = made
        assert reason is not None
        return reason

    @staticmethod
    def _absorb(
        node: Node, b: Builder, found: Node, operand: Value, *, swapped: bool
    ) -> Node | NoMatch:
        result = found.output
        if operand is result:
            return NoMatch("both operands are the same value", node)
        if not node.output.t.same_shape(result.t):
            return NoMatch("the operand broadcasts the result to another shape", node)
        kind = classify(b, result, channel_axis(found), operand)
        if kind is None:
            return NoMatch(
                "the operand is neither a channel, a scalar nor of the same shape", operand
            )
        if not swapped or node.op in _COMMUTES:
            return with_postop(b, found, PostOp(node.op, kind[0]), kind[1])
        if node.op == "Sub":  # c - acc = (-acc) + c
            negated = with_postop(b, found, PostOp("Neg"), None)
            return with_postop(b, negated, PostOp("Add", kind[0]), kind[1])
        return NoMatch("the result is the divisor", node)


def _runs_later(node: Node, a: int, c: int) -> bool:
    """Whether input ``a`` is made after input ``c``: absorbing there keeps both values short."""
    first, second = node.required(a).producer, node.required(c).producer
    if first is None or second is None or node.graph is None:
        return first is not None
    for other in node.graph.nodes:
        if other is second:
            return True
        if other is first:
            return False
    return False


def absorbing(user: Node, value: Value) -> Node | NoMatch:
    """The composite that makes ``value``, if ``user`` is the only one who sees it."""
    producer = value.producer
    if producer is None or producer.graph is not user.graph or producer.key not in CORE_INPUTS:
        return NoMatch("it does not follow a convolution or matrix product", user)
    if value.single_user() is not user:
        return NoMatch("the result is used elsewhere or is a graph output", producer)
    if producer.str_attr("y_dtype", "float32") != "float32":
        return NoMatch("the result is stored in 8 bits", producer)
    return producer


class SinkView(Rule):
    """f(reshape(composite(...))) => reshape(f(composite(...))), so that f can be absorbed.

    DepthToSpace too, if no operand of ``f`` depends on the place of an element.
    """

    name = "sink-view"
    anchors = (*AbsorbUnary.anchors, *_BINARY)

    def apply(self, node: Node, b: Builder, tracer: Tracer | None) -> Replacement | NoMatch:
        """Reshape afterwards; constant operands are reshaped at once."""
        runtime = [v for v in node.inputs if v is not None and not v.is_const]
        view = runtime[0].producer if len(runtime) == 1 else None
        if view is None or view.key not in _VIEWS or view.graph is not node.graph:
            return NoMatch("it does not follow a reshape", node)
        if runtime[0].single_user() is not node or not runtime[0].t.same_shape(node.output.t):
            return NoMatch("the reshaped value is used elsewhere or broadcast", view)
        found = absorbing(view, view.required(0))
        if isinstance(found, NoMatch):
            return found
        scalars = all(v is None or not v.is_const or v.array.size == 1 for v in node.inputs)
        blocks = aligned_blocks(found.output.shape, view.output.shape)
        if view.op == "DepthToSpace":
            blocks = [] if scalars else None
        if blocks is None:
            return NoMatch("the reshape does not keep blocks of axes", view)
        inputs: list[Value | None] = []
        for value in node.inputs:
            if value is None or value is runtime[0] or value.array.size == 1:
                inputs.append(found.output if value is runtime[0] else value)
                continue
            shape = _before_view(value, found.output, view.output, blocks)
            if shape is None:
                return NoMatch("an operand does not keep blocks of axes", value)
            inputs.append(b.constant(value.array.reshape(shape), value.name))
        moved = b.node(node.op, inputs, node.attrs).output
        result = b.node(view.op, [moved, *view.inputs[1:]], view.attrs).output
        return Replacement({node.output: result}, (view, node))


def _before_view(
    operand: Value, before: Value, after: Value, blocks: Sequence[Block]
) -> tuple[int, ...] | None:
    """The shape of a constant operand on the other side of a reshape."""
    rank = len(after.shape)
    if len(operand.shape) > rank:
        return None
    lifted = (1,) * (rank - len(operand.shape)) + operand.array.shape
    shape = [1] * len(before.shape)
    for left, right in blocks:
        if all(lifted[a] == 1 for a in right):
            continue
        if any(lifted[a] != after.shape[a] for a in right):
            return None
        for axis in left:
            size = before.shape[axis]
            if not isinstance(size, int):
                return None
            shape[axis] = size
    return tuple(shape)


class FoldAffinePostOps(Rule):
    """Leading Mul, Div, Add, Sub by constants => scaled weights and one Add:channel."""

    name = "fold-affine-post-ops"
    numerics = Numerics.REASSOCIATES
    anchors = ("burnish::Conv", "burnish::ConvTranspose", "burnish::MatMul")

    def apply(self, node: Node, b: Builder, tracer: Tracer | None) -> Replacement | NoMatch:
        """Fold when that saves a post-op."""
        posts, rest = parse_postops(node.strs_attr("postops")), list(node.inputs[2:])
        prefix = _affine_prefix(posts)
        if prefix < 2 and not (prefix == 1 and posts[0].op != "Add"):
            return NoMatch("no constant factors come first", node)
        w = node.required(1)
        scales = any(p.op in ("Mul", "Div") for p in posts[:prefix])
        if scales and len(w.uses) > 1:
            return NoMatch("the weights are shared: scaling would copy them", w)
        factor, offset = _affine(
            posts[:prefix], rest[:prefix], node.output.shape[channel_axis(node)]
        )
        dtype = to_numpy(w.dtype)
        if scales and node.op == "MatMul":
            w = b.constant((w.array.astype(np.float64) * factor).astype(dtype), w.name)
        elif scales:
            transposed, group = node.op == "ConvTranspose", node.int_attr("group", 1)
            scaled = scale_outputs(w.array, factor, transposed=transposed, group=group)
            w = b.constant(scaled, w.name)
        kept = [p.encode() for p in posts[prefix:]]
        inputs: list[Value | None] = [node.required(0), w]
        if np.any(offset != 0.0):
            inputs.append(b.constant(offset.astype(dtype), "bias"))
            kept.insert(0, "Add:channel")
        made = b.node(
            node.op,
            [*inputs, *rest[prefix:]],
            {**node.attrs, "postops": tuple(kept)},
            domain="burnish",
        )
        return Replacement({node.output: made.output}, (node,))


def _affine_prefix(posts: Sequence[PostOp]) -> int:
    """How many leading post-ops are affine with constant operands."""
    count = 0
    for post in posts:
        if post.op not in ("Add", "Sub", "Mul", "Div") or post.operand not in ("channel", "scalar"):
            break
        count += 1
    assert count == len(operands(posts[:count]))
    return count


def _affine(
    posts: Sequence[PostOp], values: Sequence[Value | None], channels: object
) -> tuple[np.ndarray, np.ndarray]:
    """Factor and offset, [channels] each, in double precision."""
    assert isinstance(channels, int)
    factor, offset = np.ones(channels), np.zeros(channels)
    for post, value in zip(posts, values, strict=True):
        assert value is not None
        number = value.array.astype(np.float64)
        if post.op in ("Mul", "Div"):
            number = number if post.op == "Mul" else 1.0 / number
            factor, offset = factor * number, offset * number
        else:
            offset = offset + number if post.op == "Add" else offset - number
    return factor, offset


@dataclass(frozen=True)
class FuseEpilogues(RewritePass):
    """Absorb elementwise operators into the convolution or matrix product before them.

    Before: burnish::Conv -> Mul (channel) -> Relu -> Add (residual) -> Relu.
    After: burnish::Conv with scaled weights and post-ops Relu, Add:full, Relu.
    Keeps: results that are used elsewhere, operands that broadcast otherwise.
    Numerics: reassociates (constant factors are folded into the weights).
    """

    name = "fuse-epilogues"
    numerics = Numerics.REASSOCIATES
    rules: ClassVar[tuple[Rule, ...]] = (
        AbsorbUnary(),
        AbsorbBinary(),
        SinkView(),
        FoldAffinePostOps(),
    )
