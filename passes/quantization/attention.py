"""Attention whose two products read 8 bits.

::

    dequantize(quantize(softmax(scale * dequantize(q) @ dequantize(k)T + mask))) @ dequantize(v)
        =  burnish::QAttention(q, k, v, mask)

and, if that is quantized, a QAttention that stores 8 bits. The scores may be rounded as well,
before and after they are scaled: most tools quantize what products make.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from burnish.ir import Attr, Builder, Node, Value
from burnish.passes.base import Numerics
from burnish.passes.fusion.attention import (
    SWAP_HEADS,
    BatchedTranspose,
    Found,
    Heads,
    attention_attrs,
    check_heads,
    find_scores,
    merged_mask,
    peel_scale,
    producer_of,
    replace_result,
)
from burnish.passes.patterns import NoMatch, Tracer
from burnish.passes.quantization.integer import dequantizer, parameters
from burnish.passes.quantization.parameters import LIMITS, Parameters
from burnish.passes.rewrite import Replacement, RewritePass, Rule

#: From [B, H, D, T] to [B, T, H, D].
_KEYS = (0, 3, 1, 2)


class FuseQAttention(Rule):
    """Products of 8 bits around a softmax => burnish::QAttention."""

    name = "fuse-qattention"
    numerics = Numerics.REASSOCIATES
    anchors = ("MatMul",)

    def apply(self, node: Node, b: Builder, tracer: Tracer | None) -> Replacement | NoMatch:
        """Walk back from the product with the values."""
        stored = dequantizer(node.required(0))
        if isinstance(stored, NoMatch):
            return stored
        restored, weights = stored
        rounding = producer_of(restored.required(0), "QuantizeLinear")
        if rounding is None or parameters(rounding) != weights:
            return NoMatch("the weights are not rounded and read alike", restored)
        if not _unsigned(weights):
            return NoMatch("the least code of the weights does not stand for 0", rounding)
        found, scores = Found(nodes=[node, restored, rounding]), _Scores()
        product = find_scores(node, rounding.required(0), found, b, scores.unrounded)
        if isinstance(product, NoMatch):
            return product
        sides = [
            _quantized_heads(value, perm, found, scaled=scaled)
            for value, perm, scaled in (
                (product.required(0), SWAP_HEADS, True),
                (product.required(1), _KEYS, True),
                (node.required(1), SWAP_HEADS, False),
            )
        ]
        for side in sides:
            if isinstance(side, NoMatch):
                return side
        rounded = scores.parameters(found)
        if isinstance(rounded, NoMatch):
            return rounded
        heads = [s for s in sides if not isinstance(s, NoMatch)]
        return _build(node, found, heads, weights, rounded, b)


class _Scores:
    """How scores are rounded on their way from the product to the masks."""

    def __init__(self) -> None:
        #: Last one first, each with what scores are multiplied with after it.
        self._roundings: list[tuple[Parameters, float]] = []

    def unrounded(self, value: Value, found: Found) -> Value:
        """What ``value`` is rounded from, if it is, without what scales it in between."""
        while True:
            stored = dequantizer(value)
            if isinstance(stored, NoMatch):
                return value
            restored, at = stored
            rounding = producer_of(restored.required(0), "QuantizeLinear")
            if rounding is None or parameters(rounding) != at:
                return value
            self._roundings.append((at, found.scale))
            found.nodes += [restored, rounding]
            value = peel_scale(rounding.required(0), found)

    def parameters(self, found: Found) -> dict[str, Parameters] | NoMatch:
        """``t`` of scores that are scaled, ``s`` of those that nothing has scaled yet.

        All factors become one, between both: codes stay the same when scales move along.
        """
        if not self._roundings:
            return {}
        last, after = self._roundings[0]
        factors = {"t": after}
        made = {"t": last}
        if len(self._roundings) > 1:
            made["s"], scaled = self._roundings[1]
            factors["s"] = scaled / found.scale
        if len(self._roundings) > 2:
            return NoMatch("scores are rounded more than twice", found.nodes[0])
        if min(factors.values()) <= 0:
            return NoMatch("scores change their signs besides being rounded", found.nodes[0])
        return {n: replace(at, scale=at.scale * factors[n]) for n, at in made.items()}


def _unsigned(weights: Parameters) -> bool:
    """Whether codes of numbers from 0 on, less the zero point, fit the unsigned operand."""
    return weights.zero == LIMITS[weights.dtype][0] or weights.zero == 0


def _quantized_heads(
    value: Value, perm: tuple[int, ...], found: Found, *, scaled: bool
) -> tuple[Heads, Parameters] | NoMatch:
    """The stored operand behind a DequantizeLinear, taken back to where its heads were split."""
    outer = Heads.of(value, perm, found if scaled else None)
    stored = dequantizer(outer.value)
    if isinstance(stored, NoMatch):
        return stored
    source, at = stored
    inner = Heads.of(source.required(0), outer.perm)
    if outer.repeat != 1 and inner.repeat != 1:
        return NoMatch("heads are repeated twice", source)
    return replace(inner, repeat=max(outer.repeat, inner.repeat)), at


def _build(
    node: Node,
    found: Found,
    sides: list[tuple[Heads, Parameters]],
    weights: Parameters,
    scores: dict[str, Parameters],
    b: Builder,
) -> Replacement | NoMatch:
    (q, _), (k, _), (v, _) = sides
    refused = check_heads(q, k, v, node)
    if refused is not None:
        return refused
    mask = merged_mask(found, b)
    if isinstance(mask, NoMatch):
        return mask
    flat = [heads.flat(b) for heads, _ in sides]
    attrs: dict[str, Attr] = attention_attrs(q, k, found)
    for name, at in zip("qkvp", (*(at for _, at in sides), weights), strict=True):
        attrs |= {f"{name}_scale": at.scale, f"{name}_zero_point": at.zero}
    attrs |= {"p_dtype": weights.dtype, "y_dtype": "float32"}
    for name, at in scores.items():
        attrs |= {f"{name}_dtype": at.dtype, f"{name}_scale": at.scale}
        attrs[f"{name}_zero_point"] = at.zero
    inside, end = list(found.nodes), node
    user = node.output.single_user()
    if user is not None and user.key == "QuantizeLinear":
        result = parameters(user)
        if not isinstance(result, NoMatch):
            attrs |= {"y_dtype": result.dtype, "y_scale": result.scale}
            attrs["y_zero_point"] = result.zero
            inside.append(user)
            end = user
    inputs = [*flat, mask] if mask is not None else flat
    out = b.node("QAttention", inputs, attrs, domain="burnish").output
    return replace_result(end, out, q.shape[2], v.shape[3], inside, b)


@dataclass(frozen=True)
class IntegerAttention(RewritePass):
    """Let attention multiply 8 bits where its operands and weights are quantized.

    Before: DequantizeLinear (q, k, v), MatMul, perhaps QuantizeLinear and DequantizeLinear, Mul,
        Add, Softmax, QuantizeLinear, DequantizeLinear, MatMul, QuantizeLinear.
    After: burnish::QAttention on what is stored.
    Keeps: weights that are not quantized, or whose least code does not stand for 0; scores that are
        rounded with the mask, or more than twice; what fuse-attention keeps.
    Numerics: reassociates (sums are exact int32, scaled once).
    """

    name = "integer-attention"
    numerics = Numerics.REASSOCIATES
    rules: ClassVar[tuple[Rule, ...]] = (BatchedTranspose(), FuseQAttention())
