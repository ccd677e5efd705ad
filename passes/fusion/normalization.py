"""Normalizations that exporters spell out become ONNX's own operators.

::

    LayerNormalization(x) = (x - mean) / sqrt(mean((x - mean)^2) + epsilon) * scale + bias
    RMSNormalization(x)   = x / sqrt(mean(x^2) + epsilon) * scale          (Zhang, Sennrich, 2019)
    Softmax(x)            = exp(x - max(x)) / sum(exp(x - max(x)))

The core is found first, with a scale of ones; then factors and offsets after it are taken in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from burnish.ir import Attr, Builder, Node, Value
from burnish.ir.types import to_numpy
from burnish.passes.base import Numerics
from burnish.passes.patterns import Either, Match, NodePattern, NoMatch, Tracer, const, either, opt
from burnish.passes.patterns import scalar as scalar_of
from burnish.passes.rewrite import PatternRule, Replacement, Result, RewritePass, Rule


def inverse_root(op: Any, total: Any) -> list[NodePattern]:
    """``1 / sqrt(total)`` in its spellings."""
    root = op.Sqrt(total)
    return [op.Reciprocal(root), op.Div(1.0, root), op.Pow(total, -0.5)]


def over_root(op: Any, x: Any, total: Any) -> list[NodePattern]:
    """``x / sqrt(total)`` in its spellings."""
    scaled = [op.Mul(x, inverse) for inverse in inverse_root(op, total)]
    return [op.Div(x, op.Sqrt(total)), op.Div(x, op.Pow(total, 0.5)), *scaled]


def reduced_last_axis(node: Node) -> NoMatch | None:
    """None if a reduction keeps its dims and reduces the last axis only, else why not."""
    x, axes = node.required(0), node.input(1)
    if node.int_attr("keepdims", 1) != 1:
        return NoMatch("the reduction drops its axis", node)
    if axes is None or not axes.is_const:
        return NoMatch("the reduced axes are not constant", node)
    last = len(x.shape) - 1
    if [int(a) % (last + 1) for a in axes.array.reshape(-1)] != [last]:
        return NoMatch("it reduces other axes than the last", node)
    return None


def epsilon_of(m: Match) -> float | NoMatch:
    """The matched epsilon, a single non-negative number."""
    epsilon = scalar_of(m["eps"])
    if epsilon is None or epsilon < 0:
        return NoMatch("epsilon is not a single number", m["eps"])
    return epsilon


def normalized(m: Match, b: Builder, op: str, means: Sequence[str]) -> Result:
    """``op(x)`` over the last axis with a scale of ones, or why not."""
    x = m["x"]
    for name in means:
        refused = reduced_last_axis(m.node(name))
        if refused is not None:
            return refused
    epsilon = epsilon_of(m)
    if isinstance(epsilon, NoMatch):
        return epsilon
    channels = x.shape[-1]
    if not isinstance(channels, int):
        return NoMatch("the normalized size is not static", x)
    ones = b.constant(np.ones(channels, to_numpy(x.dtype)), "scale")
    return b.op(op, x, ones, axis=-1, epsilon=epsilon)


class FuseLayerNorm(PatternRule):
    """(x - mean) / sqrt(mean((x - mean)^2) + eps) => LayerNormalization(x, 1)."""

    name = "fuse-layer-norm"
    numerics = Numerics.REASSOCIATES

    def pattern(self, op: Any, x: Any) -> Either:
        """The square as Pow or Mul, the root as Div, Reciprocal or Pow."""
        mean = op.ReduceMean(x, const("axes"), _as="mean")
        d = op.Sub(x, mean)
        square = either(op.Pow(d, 2.0), op.Mul(d, d))
        total = op.Add(op.ReduceMean(square, const("axes2"), _as="variance"), const("eps"))
        return either(*over_root(op, d, total))

    def rewrite(self, m: Match, b: Builder) -> Result:
        """One LayerNormalization."""
        return normalized(m, b, "LayerNormalization", ("mean", "variance"))


class FuseLayerNormMoments(PatternRule):
    """(x - mean) / sqrt(max(mean(x^2) - mean^2, 0) + eps) => LayerNormalization(x, 1)."""

    name = "fuse-layer-norm-moments"
    numerics = Numerics.REASSOCIATES

    def pattern(self, op: Any, x: Any) -> Either:
        """The variance as the difference of two moments, clipped or not."""
        mean = op.ReduceMean(x, const("axes"), _as="mean")
        square = either(op.Pow(x, 2.0), op.Mul(x, x))
        mean_square = either(op.Pow(mean, 2.0), op.Mul(mean, mean))
        variance = op.Sub(op.ReduceMean(square, const("axes2"), _as="moment"), mean_square)
        clipped = either(op.Max(variance, 0.0), op.Relu(variance), variance)
        return either(*over_root(op, op.Sub(x, mean), op.Add(clipped, const("eps"))))

    def rewrite(self, m: Match, b: Builder) -> Result:
        """One LayerNormalization."""
        return normalized(m, b, "LayerNormalization", ("mean", "moment"))


class FuseRMSNorm(PatternRule):
    """x / sqrt(mean(x^2) + eps) => RMSNormalization(x, 1)."""

    name = "fuse-rms-norm"
    numerics = Numerics.REASSOCIATES

    def pattern(self, op: Any, x: Any) -> Either:
        """The square as Pow or Mul, the root as Div, Reciprocal or Pow."""
        square = either(op.Pow(x, 2.0), op.Mul(x, x))
        total = op.Add(op.ReduceMean(square, const("axes"), _as="mean"), const("eps"))
        return either(*over_root(op, x, total))

    def rewrite(self, m: Match, b: Builder) -> Result:
        """One RMSNormalization."""
        return normalized(m, b, "RMSNormalization", ("mean",))


class ScaleNorm(Rule):
    """norm(x, s, c) * k => norm(x, s * k, c * k) for constants along the last axis."""

    name = "scale-norm"
    numerics = Numerics.REASSOCIATES
    anchors = ("Mul",)

    def apply(self, node: Node, b: Builder, tracer: Tracer | None) -> Replacement | NoMatch:
        """Multiply scale and bias."""
        found = _norm_and_constant(node, ("LayerNormalization", "RMSNormalization"))
        if isinstance(found, NoMatch):
            return found
        norm, factor = found
        dtype = to_numpy(norm.output.dtype)
        parts = [
            None
            if v is None
            else b.constant((v.array.astype(np.float64) * factor).astype(dtype), "scale")
            for v in (norm.required(1), norm.input(2))
        ]
        inputs = (
            [norm.required(0), *parts] if parts[1] is not None else [norm.required(0), parts[0]]
        )
        made = b.node(norm.op, inputs, _norm_attrs(norm))
        return Replacement({node.output: made.output}, (norm, node))


class ShiftNorm(Rule):
    """LayerNormalization(x, s, c) + k => LayerNormalization(x, s, c + k)."""

    name = "shift-norm"
    numerics = Numerics.REASSOCIATES
    anchors = ("Add",)

    def apply(self, node: Node, b: Builder, tracer: Tracer | None) -> Replacement | NoMatch:
        """Add to the bias."""
        found = _norm_and_constant(node, ("LayerNormalization",))
        if isinstance(found, NoMatch):
            return found
        norm, offset = found
        old = norm.input(2)
        total = offset if old is None else old.array.astype(np.float64) + offset
        bias = b.constant(total.astype(to_numpy(norm.output.dtype)), "bias")
        made = b.node(norm.op, [norm.required(0), norm.required(1), bias], _norm_attrs(norm))
        return Replacement({node.output: made.output}, (norm, node))


def _norm_attrs(norm: Node) -> dict[str, Any]:
    return {"axis": -1, "epsilon": norm.float_attr("epsilon", 1e-5)}


def last_axis_norm(norm: Node) -> bool:
    """Whether a normalization works on the last axis and has one output in single precision."""
    rank = len(norm.required(0).shape)
    only = all(v is None or not (v.uses or v.is_output) for v in norm.outputs[1:])
    return norm.int_attr("axis", -1) % rank == rank - 1 and only


def _norm_and_constant(node: Node, ops: tuple[str, ...]) -> tuple[Node, np.ndarray] | NoMatch:
    """The normalization and the constant [C] that ``node`` combines, in double precision."""
    for index in (0, 1):
        norm, other = node.required(index).producer, node.required(1 - index)
        if norm is None or norm.domain or norm.op not in ops or norm.graph is not node.graph:
            continue
        if norm.output.single_user() is not node:
            return NoMatch("the normalization is used elsewhere", norm)
        if not last_axis_norm(norm):
            return NoMatch("it normalizes other axes than the last", norm)
        if any(v is not None and not v.is_const for v in norm.inputs[1:]):
            return NoMatch("scale or bias is not constant", norm)
        channels = norm.output.shape[-1]
        if not other.is_const or any(d != 1 for d in other.shape[:-1]):
            return NoMatch("the operand is not a constant along the last axis", other)
        if len(other.shape) > len(norm.output.shape) or not isinstance(channels, int):
            return NoMatch("the operand broadcasts the result to another shape", other)
        if other.array.size not in (1, channels):
            return NoMatch("the operand broadcasts the result to another shape", other)
        return norm, np.broadcast_to(other.array.reshape(-1), (channels,)).astype(np.float64)
    return NoMatch("no operand is a normalization", node)


class FuseSoftmax(PatternRule):
    """exp(x - max) / sum(exp(x - max)) => Softmax(x)."""

    name = "fuse-softmax"
    numerics = Numerics.REASSOCIATES

    def pattern(self, op: Any, x: Any) -> Either:
        """With the maximum subtracted, in the spellings of numpy-like frontends."""
        low = op.ReduceMax(x, opt(const("axes")), _as="max")
        low = either(low, op.Max(low, -math.inf))  # where the frontend starts from -inf
        kept = either(low, op.Reshape(low, const("shape1")), op.Unsqueeze(low, const("shape1")))
        e = op.Exp(op.Sub(x, kept))
        total = op.ReduceSum(e, opt(const("axes2")), _as="sum")
        wide = either(
            total, op.Reshape(total, const("shape2")), op.Unsqueeze(total, const("shape2"))
        )
        return either(op.Div(e, wide), op.Mul(e, op.Reciprocal(wide)))

    def rewrite(self, m: Match, b: Builder) -> Result:
        """One Softmax, if both reductions are along the same single axis."""
        x = m["x"]
        rank = len(x.shape)
        axes = []
        for name in ("max", "sum"):
            node = m.node(name)
            value = node.input(1)
            if value is None or value.array.size != 1:
                return NoMatch("it reduces several axes", node)
            axis = int(value.array.reshape(())) % rank
            axes.append(axis)
            reduced = node.output
            while not node.int_attr("keepdims", 1) and len(reduced.shape) < rank:
                reduced = reduced.users()[0].output  # Max with -inf, then the view
            shape = reduced.shape
            wanted = tuple(1 if i == axis else d for i, d in enumerate(x.shape))
            if len(shape) != rank or any(p != q for p, q in zip(shape, wanted, strict=True)):
                return NoMatch("the reduced values are not broadcast along the axis", node)
        if axes[0] != axes[1]:
            return NoMatch("maximum and sum are along different axes", m.root)
        return b.op("Softmax", x, axis=axes[0])


def _shares_sum(add: Node) -> bool:
    return add.output.single_user() is None


class FuseAddNorm(Rule):
    """norm(x + skip) => AddLayerNorm or AddRMSNorm; the sum is a second output if it is used."""

    name = "fuse-add-norm"
    anchors = ("LayerNormalization", "RMSNormalization")

    def apply(self, node: Node, b: Builder, tracer: Tracer | None) -> Replacement | NoMatch:
        """Check that both operands have the result's shape."""
        add = node.required(0).producer
        if add is None or add.key != "Add" or add.graph is not node.graph:
            return NoMatch("the input is no sum", node)
        if not last_axis_norm(node):
            return NoMatch("it normalizes other axes than the last", node)
        x, skip = add.required(0), add.required(1)
        total = add.output
        if x is skip or x.is_const or skip.is_const:
            return NoMatch("an operand of the sum is a constant", add)
        if not (x.t.same_shape(total.t) and skip.t.same_shape(total.t)):
            return NoMatch("the operands of the sum have different shapes", add)
        if total.is_output or (_shares_sum(add) and _foldable(add)):
            return NoMatch("the sum is needed and belongs to the product before it", add)
        if total.dtype != node.output.dtype or any(
            v is not None and not v.is_const for v in node.inputs[1:]
        ):
            return NoMatch("scale or bias is not constant", node)
        op, parameters = "AddRMSNorm", 1
        if node.op == "LayerNormalization":
            op, parameters = "AddLayerNorm", 2
        # An absent bias has its place: operands of post-ops follow.
        inputs = [x, skip, *(node.input(1 + i) for i in range(parameters))]
        attrs: dict[str, Attr] = {"epsilon": node.float_attr("epsilon", 1e-5), "postops": ()}
        shared = _shares_sum(add)
        made = b.node(op, inputs, attrs, domain="burnish", outputs=2 if shared else 1)
        values = {node.output: made.output}
        if shared:
            second = made.outputs[1]
            assert second is not None
            values[total] = second
        return Replacement(values, (add, node))


def _foldable(add: Node) -> bool:
    """Whether a product before the sum can take the other operand as a post-op: cheaper then."""
    return any(_product_before(v) for v in (add.required(0), add.required(1)))


def _product_before(value: Value) -> bool:
    node: Node | None = value.producer
    while node is not None and value.single_user() is not None:
        if node.op in ("MatMul", "Gemm", "Conv", "ConvTranspose"):
            return True
        if node.op not in ("Add", "Mul", "Reshape"):
            return False
        runtime = [v for v in node.inputs if v is not None and not v.is_const]
        if len(runtime) != 1:
            return False
        value = runtime[0]
        node = value.producer
    return False


@dataclass(frozen=True)
class FuseNormalization(RewritePass):
    """Recognize layer and RMS normalization and softmax that are spelled out.

    Before: ReduceMean, Sub, Pow, ReduceMean, Add, Sqrt, Div, Mul, Add.
    After: LayerNormalization, RMSNormalization, Softmax.
    Keeps: other axes than the last, run-time scales, values that are used elsewhere.
    Numerics: reassociates.
    """

    name = "fuse-normalization"
    numerics = Numerics.REASSOCIATES
    rules: ClassVar[tuple[Rule, ...]] = (
        FuseLayerNorm(),
        FuseLayerNormMoments(),
        FuseRMSNorm(),
        ScaleNorm(),
        ShiftNorm(),
        FuseSoftmax(),
    )


@dataclass(frozen=True)
class FuseAddNormalization(RewritePass):
    """Fuse a residual sum into the normalization after it.

    Before: Add -> LayerNormalization. After: burnish::AddLayerNorm; RMSNormalization likewise.
    Keeps: a sum that is used elsewhere and follows a product, which takes it as a post-op.
    Numerics: exact.
    """

    name = "fuse-add-normalization"
    rules: ClassVar[tuple[Rule, ...]] = (FuseAddNorm(),)
