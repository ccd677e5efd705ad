"""Convolutions swallow the affine and padding operators around them.

With k = gamma / sqrt(var + epsilon), all per output channel::

    bn(conv(x, w, b))  =  conv(x, w * k, (b - mean) * k + beta)
    bn(x)              =  x * k + (beta - mean * k)
    conv(pad(x), w)    =  conv(x, w)  with the pads added, if the padding is zeros on spatial axes
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from burnish.ir import Attr, Builder, Node, Value
from burnish.passes.base import Numerics
from burnish.passes.patterns import Either, Match, NodePattern, NoMatch, const, either, opt
from burnish.passes.patterns import scalar as scalar_of
from burnish.passes.rewrite import PatternRule, Result, RewritePass, Rule

CONV_KEEP = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
CONV_TRANSPOSE_KEEP = (*CONV_KEEP, "output_padding", "output_shape")


def keep(node: Node, names: tuple[str, ...]) -> dict[str, Attr]:
    """The attributes of a node that are in an allow-list."""
    return {name: node.attrs[name] for name in names if name in node.attrs}


def scale_outputs(
    w: npt.NDArray[Any], factor: npt.NDArray[Any], *, transposed: bool, group: int
) -> npt.NDArray[Any]:
    """Multiply a convolution's weights by one factor per output channel, in double precision.

    Args:
        w: [O, I/group, *kernel], or [I, O/group, *kernel] when ``transposed``.
        factor: [O].
        transposed: Whether the weights are those of ConvTranspose.
        group: Number of groups.
    """
    wide = w.astype(np.float64)
    if not transposed:
        scaled = wide * factor.reshape(-1, *[1] * (w.ndim - 1))
    else:
        grouped = wide.reshape(group, w.shape[0] // group, *w.shape[1:])
        scaled = (grouped * factor.reshape(group, 1, -1, *[1] * (w.ndim - 2))).reshape(w.shape)
    result: npt.NDArray[Any] = scaled.astype(w.dtype)
    return result


def batch_norm_affine(m: Match) -> tuple[npt.NDArray[Any], npt.NDArray[Any]] | NoMatch:
    """Factor and offset of a matched BatchNormalization, in double precision."""
    bn = m.node("bn")
    if bn.int_attr("training_mode"):
        return NoMatch("the batch normalization is in training mode", bn)
    if any(v is not None and (v.uses or v.is_output) for v in bn.outputs[1:]):
        return NoMatch("the running statistics are used", bn)
    gamma, beta, mean, var = (m[n].array.astype(np.float64) for n in ("g", "be", "mean", "var"))
    k = gamma / np.sqrt(var + bn.float_attr("epsilon", 1e-5))
    offset: npt.NDArray[Any] = beta - mean * k
    return k, offset


def _batch_norm(op: Any, x: Any) -> NodePattern:
    statistics = [const(n) for n in ("g", "be", "mean", "var")]
    made: NodePattern = op.BatchNormalization(x, *statistics, _as="bn")
    return made


class FuseConvBatchNorm(PatternRule):
    """bn(conv(x, w, b)) => conv(x, w * k, b * k + (beta - mean * k)); ConvTranspose likewise."""

    name = "fuse-conv-batch-norm"
    numerics = Numerics.REASSOCIATES

    def pattern(self, op: Any, x: Any) -> Either:
        """BatchNormalization of a convolution with constant weights."""
        inputs = (x, const("w"), opt(const("b")))
        return either(
            _batch_norm(op, op.Conv(*inputs, _as="conv")),
            _batch_norm(op, op.ConvTranspose(*inputs, _as="conv")),
        )

    def rewrite(self, m: Match, b: Builder) -> Result:
        """Scale the weights and shift the bias."""
        affine = batch_norm_affine(m)
        if isinstance(affine, NoMatch):
            return affine
        k, offset = affine
        conv, w, bias = m.node("conv"), m["w"], m.get("b")
        if len(w.uses) > 1:
            return NoMatch("the weights are shared: scaling would copy them", w)
        transposed = conv.op == "ConvTranspose"
        scaled = scale_outputs(w.array, k, transposed=transposed, group=conv.int_attr("group", 1))
        shifted = (bias.array.astype(np.float64) if bias is not None else 0.0) * k + offset
        names = CONV_TRANSPOSE_KEEP if transposed else CONV_KEEP
        inputs = [m["x"], b.constant(scaled, w.name), b.constant(shifted.astype(scaled.dtype))]
        return b.node(conv.op, inputs, keep(conv, names)).output


class LowerBatchNorm(PatternRule):
    """bn(x) => x * k + (beta - mean * k), with constants of shape [C, 1, ...]."""

    name = "lower-batch-norm"
    numerics = Numerics.REASSOCIATES

    def pattern(self, op: Any, x: Any) -> NodePattern:
        """A BatchNormalization with constant statistics."""
        return _batch_norm(op, x)

    def rewrite(self, m: Match, b: Builder) -> Result:
        """Multiply and add."""
        affine = batch_norm_affine(m)
        if isinstance(affine, NoMatch):
            return affine
        x = m["x"]
        shape = (-1, *[1] * (len(x.shape) - 2))
        factor, offset = (a.astype(m["g"].array.dtype).reshape(shape) for a in affine)
        return b.op("Add", b.op("Mul", x, b.constant(factor)), b.constant(offset))


class FoldPadIntoConv(PatternRule):
    """conv(pad(x), w) => conv(x, w) with the pads added, for zeros on spatial axes."""

    name = "fold-pad-into-conv"

    def pattern(self, op: Any, x: Any, w: Any, b: Any) -> NodePattern:
        """A convolution of a padded value."""
        padded = op.Pad(x, const("pads"), opt(const("value")), opt(const("axes")), _as="pad")
        made: NodePattern = op.Conv(padded, w, opt(b), _as="conv")
        return made

    def rewrite(self, m: Match, b: Builder) -> Result:
        """Add the pads."""
        pad, conv = m.node("pad"), m.node("conv")
        if pad.str_attr("mode", "constant") != "constant":
            return NoMatch(f"the padding is {pad.str_attr('mode')}, not constant", pad)
        value = m.get("value")
        if value is not None and scalar_of(value) != 0.0:
            return NoMatch("the padding is not zeros", pad)
        if conv.str_attr("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
            return NoMatch("the convolution pads automatically", conv)
        rank = len(m["x"].shape)
        amounts = [int(p) for p in m["pads"].array.reshape(-1)]
        axes = m.get("axes")
        used = range(rank) if axes is None else [int(a) % rank for a in axes.array.reshape(-1)]
        before, after = [0] * rank, [0] * rank
        for i, axis in enumerate(used):
            before[axis], after[axis] = amounts[i], amounts[i + len(amounts) // 2]
        if any(before[:2]) or any(after[:2]):
            return NoMatch("it pads the batch or the channels", pad)
        if min(before + after) < 0:
            return NoMatch("it crops", pad)
        old = conv.ints_attr("pads", (0,) * (2 * (rank - 2)))
        attrs = keep(conv, CONV_KEEP)
        attrs.pop("auto_pad", None)
        attrs["pads"] = tuple(a + c for a, c in zip(old, before[2:] + after[2:], strict=True))
        return b.node("Conv", [m["x"], m["w"], m.get("b")], attrs).output


@dataclass(frozen=True)
class FuseConvNorm(RewritePass):
    """Fold batch normalization and zero padding into convolutions.

    Before: Pad -> Conv -> BatchNormalization, with constant weights and statistics.
    After: one Conv; a BatchNormalization that follows no convolution becomes Mul and Add.
    Keeps: padding that is not zeros, shared weights, training-mode normalization.
    Numerics: reassociates.
    """

    name = "fuse-conv-norm"
    numerics = Numerics.REASSOCIATES
    rules: ClassVar[tuple[Rule, ...]] = (FuseConvBatchNorm(), FoldPadIntoConv(), LowerBatchNorm())


def spatial_attrs(node: Node, rank: int) -> dict[str, Attr]:
    """Attributes of a convolution in full: strides, pads, dilations, group; no kernel_shape."""
    spatial = rank - 2
    return {
        "strides": node.ints_attr("strides", (1,) * spatial),
        "pads": node.ints_attr("pads", (0,) * (2 * spatial)),
        "dilations": node.ints_attr("dilations", (1,) * spatial),
        "group": node.int_attr("group", 1),
    }


def channel_constant(value: Value | None) -> bool:
    """Whether an optional value is absent or a constant of rank 1."""
    return value is None or (value.is_const and value.t.rank == 1)
