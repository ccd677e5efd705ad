"""Scaled dot-product attention, in the spellings of exporters and as ONNX ``Attention``.

::

    softmax(scale * q @ kT + mask) @ v  =  burnish::Attention(q, k, v, mask)

``q``, ``k`` and ``v`` are taken back to flat heads [B, S, H*D]: the reshapes and transposes that
split the heads are absorbed, and those that exporters put around them are undone. Grouped key heads
(Unsqueeze, Expand, Reshape) are read in place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from burnish.ir import Attr, Builder, Node, Value, equal
from burnish.ir.types import FLOATS, to_numpy
from burnish.passes.base import Numerics
from burnish.passes.patterns import Match, NodePattern, NoMatch, Tracer, escapes
from burnish.passes.patterns import scalar as scalar_of
from burnish.passes.rewrite import PatternRule, Replacement, Result, RewritePass, Rule

#: From [B, H, S, D] to [B, S, H, D], and back.
SWAP_HEADS = (0, 2, 1, 3)
#: What scales and masks scores before a softmax reads them.
SCORES = ("Add", "Div", "Mul", "Where")
#: Adding a number below this leaves nothing of a score in single precision.
MASKING = -1e30


@dataclass
class Found:
    """What has been recognized so far."""

    scale: float = 1.0
    masks: list[Value] = field(default_factory=list)
    keep: Value | None = None
    nan_to_zero: bool = False
    nodes: list[Node] = field(default_factory=list)


def producer_of(value: Value, op: str) -> Node | None:
    """The ONNX node of type ``op`` that makes ``value``."""
    node = value.producer
    return node if node is not None and node.op == op and not node.domain else None


def peel_scale(value: Value, found: Found) -> Value:
    """Take Mul and Div by one number off a value."""
    while True:
        node = value.producer
        if node is None or node.domain or node.op not in ("Mul", "Div"):
            return value
        left, right = node.required(0), node.required(1)
        factor = scalar_of(right)
        inner = left
        if factor is None and node.op == "Mul":
            factor, inner = scalar_of(left), right
        if factor is None or factor == 0 or not inner.t.same_shape(value.t):
            return value
        found.scale *= factor if node.op == "Mul" else 1.0 / factor
        found.nodes.append(node)
        value = inner


def _peel_nan(value: Value, found: Found) -> Value:
    """Take Where(IsNaN(p), 0, p) off probabilities."""
    node = producer_of(value, "Where")
    if node is None or scalar_of(node.required(1)) != 0.0:
        return value
    test = producer_of(node.required(0), "IsNaN")
    if test is None or test.required(0) is not node.required(2):
        return value
    found.nan_to_zero = True
    found.nodes += [node, test]
    return node.required(2)


def _peel_masks(value: Value, found: Found, b: Builder) -> Value | NoMatch:
    """Take masks off scores, down to a scaled product."""
    while True:
        node = value.producer
        if node is None or node.domain or node.op not in ("Add", "Where"):
            return value
        if node.op == "Where":
            inner = _boolean_mask(node, found, b)
            if isinstance(inner, NoMatch):
                return inner
        else:
            index = 0 if _leads_to_product(node.required(0)) else 1
            inner = node.required(index)
            found.masks.append(node.required(1 - index))
        if not inner.t.same_shape(value.t):
            return NoMatch("a mask broadcasts the scores to another shape", node)
        found.nodes.append(node)
        value = inner


def _boolean_mask(node: Node, found: Found, b: Builder) -> Value | NoMatch:
    """The scores of Where(keep, scores, low) or Where(drop, low, scores)."""
    test = node.required(0)
    low = scalar_of(node.required(2))
    kept = low is not None
    if not kept:
        low = scalar_of(node.required(1))
    if low is None or low > MASKING:
        return NoMatch("masked scores are not replaced by a very low number", node)
    inner = node.required(1 if kept else 2)
    if low == -np.inf and not found.masks and found.keep is None:
        found.keep = test if kept else b.op("Not", test)
        return inner
    if inner.dtype != "float32":
        return NoMatch(f"scores of dtype {inner.dtype} may overflow with the mask", node)
    zero = b.constant(np.asarray(0, np.float32), "zero")
    lowest = b.constant(np.asarray(low, np.float32), "lowest")
    found.masks.append(b.op("Where", test, *((zero, lowest) if kept else (lowest, zero))))
    return inner


def _leads_to_product(value: Value) -> bool:
    """Whether a chain of scalings and masks ends in a MatMul of two run-time values."""
    for _ in range(8):
        node = value.producer
        if node is None or node.domain:
            return False
        if node.op == "MatMul":
            return not node.required(1).is_const
        if node.op not in (*SCORES, "DequantizeLinear", "QuantizeLinear"):
            return False
        operands = node.inputs[1:] if node.op == "Where" else node.inputs
        value = next((v for v in operands if v is not None and not v.is_const), value)
    return False


def compose(first: Sequence[int], then: Sequence[int]) -> tuple[int, ...]:
    """The permutation of Transpose(Transpose(x, first), then)."""
    return tuple(first[i] for i in then)


def _step_into_groups(value: Value) -> tuple[Value, int] | None:
    """The [B, Hkv, T, D] behind repeated key heads [B, Hkv*g, T, D], and g."""
    merge = producer_of(value, "Reshape")
    wide = merge.required(0) if merge is not None else None
    expand = producer_of(wide, "Expand") if wide is not None else None
    if wide is None or expand is None or wide.t.rank != 5 or value.t.rank != 4:
        return None
    narrow = expand.required(0)
    lift = narrow.producer
    if lift is None or lift.op not in ("Unsqueeze", "Reshape") or narrow.t.rank != 5:
        return None
    inner = lift.required(0)
    batch, heads, group, length, width = wide.shape
    if not isinstance(group, int) or not isinstance(heads, int) or narrow.shape[2] != 1:
        return None
    want = (batch, heads, length, width)
    same = inner.t.rank == 4 and all(map(equal, inner.shape, want))
    merged = all(map(equal, value.shape, (batch, heads * group, length, width)))
    return (inner, group) if same and merged else None


@dataclass
class Heads:
    """A [B, H, S, D] operand taken back to where its heads were split.

    ``perm`` takes ``value`` to [B, S, H, D]; ``repeat`` is how often each head is used.
    """

    value: Value
    perm: tuple[int, ...]
    repeat: int = 1

    @staticmethod
    def of(value: Value, perm: tuple[int, ...], found: Found | None = None) -> Heads:
        """Follow transposes, repeated heads and, given ``found``, scalings backwards."""
        heads = Heads(value, perm)
        while True:
            if found is not None:
                heads.value = peel_scale(heads.value, found)
            turn = producer_of(heads.value, "Transpose")
            if turn is not None:
                heads.perm = compose(turn.ints_attr("perm"), heads.perm)
                heads.value = turn.required(0)
                continue
            group = _step_into_groups(heads.value) if heads.perm == SWAP_HEADS else None
            if group is None or heads.repeat != 1:
                return heads
            heads.value, heads.repeat = group

    @property
    def shape(self) -> tuple[Any, ...]:
        """B, S, H, D."""
        return tuple(self.value.shape[i] for i in self.perm)

    def flat(self, b: Builder) -> Value:
        """[B, S, H*D]."""
        batch, length, heads, width = self.shape
        if self.perm == (0, 1, 2, 3):
            split = producer_of(self.value, "Reshape")
            if split is not None:
                source = split.required(0)
                want = (batch, length, heads * width)
                if source.t.rank == 3 and all(map(equal, source.shape, want)):
                    return source
            ordered = self.value
        else:
            ordered = b.op("Transpose", self.value, perm=self.perm)
        return b.op("Reshape", ordered, b.ints([0, 0, heads * width]))


def find_scores(
    node: Node,
    weights: Value,
    found: Found,
    b: Builder,
    unrounded: Callable[[Value, Found], Value] = lambda scores, found: scores,
) -> Node | NoMatch:
    """The product of queries and keys that the weights of an attention come from.

    Args:
        node: The product with the values.
        weights: Its left operand, as the softmax made it.
        found: Gets masks, scale and the nodes between.
        b: Builds masks.
        unrounded: What scores are rounded from, taken off them once their scale is.
    """
    weights = _peel_nan(weights, found)
    softmax = producer_of(weights, "Softmax")
    if softmax is None:
        return NoMatch("the left operand is no softmax", node)
    if weights.t.rank != 4 or node.required(1).t.rank != 4:
        return NoMatch("the operands do not have 4 axes", node)
    if softmax.int_attr("axis", -1) % 4 != 3:
        return NoMatch("the softmax is not along the last axis", softmax)
    if weights.dtype not in FLOATS:
        return NoMatch(f"the dtype is {weights.dtype}", weights)
    found.nodes.append(softmax)
    scores = _peel_masks(softmax.required(0), found, b)
    if isinstance(scores, NoMatch):
        return scores
    scores = peel_scale(unrounded(peel_scale(scores, found), found), found)
    product = producer_of(scores, "MatMul")
    if product is None:
        return NoMatch("the scores are no scaled and masked product", softmax)
    found.nodes.append(product)
    if any(escapes(n, found.nodes) for n in found.nodes[1:]):
        return NoMatch("an inner value is used elsewhere or is a graph output", node)
    return product


def attention_attrs(q: Heads, k: Heads, found: Found) -> dict[str, Attr]:
    """Attributes of the composite."""
    return {
        "num_heads": q.shape[2],
        "kv_num_heads": k.shape[2],
        "scale": float(np.float32(found.scale)),
        "causal": 0,
        "nan_to_zero": int(found.nan_to_zero),
    }


class FuseAttention(Rule):
    """softmax(scale * q @ kT + mask) @ v => burnish::Attention."""

    name = "fuse-attention"
    numerics = Numerics.REASSOCIATES
    anchors = ("MatMul",)

    def apply(self, node: Node, b: Builder, tracer: Tracer | None) -> Replacement | NoMatch:
        """Walk back from the product with v."""
        found = Found(nodes=[node])
        product = find_scores(node, node.required(0), found, b)
        if isinstance(product, NoMatch):
            return product
        return self._build(node, product, found, b)

    @staticmethod
    def _build(node: Node, product: Node, found: Found, b: Builder) -> Replacement | NoMatch:
        inside = list(found.nodes)
        q = Heads.of(product.required(0), SWAP_HEADS, found)
        k = Heads.of(product.required(1), (0, 3, 1, 2), found)
        v = Heads.of(node.required(1), SWAP_HEADS)
        refused = check_heads(q, k, v, node)
        if refused is not None:
            return refused
        heads = q.shape[2]
        mask = merged_mask(found, b)
        if isinstance(mask, NoMatch):
            return mask
        flat = [peel_scale(q.flat(b), found), peel_scale(k.flat(b), found), v.flat(b)]
        inputs = [*flat, mask] if mask is not None else flat
        attrs = attention_attrs(q, k, found)
        out = b.node("Attention", inputs, attrs, domain="burnish").output
        return replace_result(node, out, heads, v.shape[3], inside, b)


def check_heads(q: Heads, k: Heads, v: Heads, node: Node) -> NoMatch | None:
    """Why three operands are no queries, keys and values; None if they are."""
    for side in (q, k, v):
        if not isinstance(side.shape[2], int) or not isinstance(side.shape[3], int):
            return NoMatch("the number or width of the heads is not static", side.value)
        if not equal(side.shape[0], q.shape[0]):
            return NoMatch("the operands have different batch sizes", side.value)
    if k.shape[2] != v.shape[2] or k.repeat != v.repeat:
        return NoMatch("keys and values have different heads", node)
    if k.shape[2] * k.repeat != q.shape[2]:
        return NoMatch("the heads of the queries do not fit those of the keys", node)
    if k.shape[3] != q.shape[3]:
        return NoMatch("queries and keys have different widths", node)
    return None


def merged_mask(found: Found, b: Builder) -> Value | NoMatch | None:
    """All masks as one of rank 4."""
    masks = found.masks[::-1]
    total = masks[0] if masks else found.keep
    if total is None:
        return None
    for other in masks[1:]:
        total = b.op("Add", total, other)
    if found.keep is not None and masks:
        dropped = b.constant(np.asarray(-np.inf, to_numpy(total.dtype)), "dropped")
        total = b.op("Where", found.keep, total, dropped)
    rank = total.t.rank
    if rank is None or rank > 4:
        return NoMatch("the mask does not have at most 4 axes", total)
    return total if rank == 4 else b.op("Unsqueeze", total, b.ints(list(range(4 - rank))))


def replace_result(
    node: Node, out: Value, heads: int, width: int, inside: list[Node], b: Builder
) -> Replacement:
    """Let the flat result stand for the merged heads; split them again if nobody merges them."""
    turn = node.output.single_user()
    if turn is not None and turn.key == "Transpose" and turn.ints_attr("perm") == SWAP_HEADS:
        merge = turn.output.single_user()
        if merge is not None and merge.key == "Reshape":
            result = merge.output
            if result.t.rank == 3 and all(map(equal, result.shape, out.shape)):
                return Replacement({result: out}, (*inside, turn, merge))
    split = b.op("Reshape", out, b.ints([0, 0, heads, width]))
    return Replacement({node.output: b.op("Transpose", split, perm=SWAP_HEADS)}, tuple(inside))


class LowerOnnxAttention(Rule):
    """ONNX Attention-23 without a cache => burnish::Attention."""

    name = "lower-onnx-attention"
    anchors = ("Attention",)

    def apply(self, node: Node, b: Builder, tracer: Tracer | None) -> Replacement | NoMatch:
        """Flatten the heads of the 4-D form; keep mask, scale and causality."""
        q, k, v, mask = node.required(0), node.required(1), node.required(2), node.input(3)
        if any(node.input(i) is not None for i in range(4, 7)):
            return NoMatch("it has a cache or key lengths", node)
        if any(o is not None and (o.uses or o.is_output) for o in node.outputs[1:]):
            return NoMatch("the cache or the scores are used", node)
        if node.float_attr("softcap") != 0.0:
            return NoMatch("the scores are capped", node)
        if any(node.int_attr(f"{side}_window_size", -1) != -1 for side in ("left", "right")):
            return NoMatch("each query sees a window of the keys", node)
        rank = q.t.rank
        heads = node.int_attr("q_num_heads") if rank == 3 else q.shape[1]
        kv_heads = node.int_attr("kv_num_heads") if rank == 3 else k.shape[1]
        width = q.shape[-1]
        if not isinstance(heads, int) or not isinstance(kv_heads, int) or heads % kv_heads:
            return NoMatch("the number of heads is not static", node)
        if not isinstance(width, int) or not isinstance(v.shape[-1], int):
            return NoMatch("the width of the heads is not static", node)
        if mask is not None and (mask.t.rank is None or not 2 <= mask.t.rank <= 4):
            return NoMatch("the mask does not have 2 to 4 axes", mask)
        if mask is not None and not equal(mask.shape[-1], k.shape[-2 if rank == 4 else 1]):
            return NoMatch("the mask is shorter than the keys", mask)
        head_width = width // heads if rank == 3 else width
        attrs: dict[str, Attr] = {
            "num_heads": heads,
            "kv_num_heads": kv_heads,
            "scale": node.float_attr("scale", float(np.float32(head_width**-0.5))),
            "causal": node.int_attr("is_causal"),
            # ONNX: a row with every key masked gives zeros.
            "nan_to_zero": int(mask is not None),
        }
        flat = [q, k, v] if rank == 3 else [Heads(x, SWAP_HEADS).flat(b) for x in (q, k, v)]
        if mask is not None:
            missing = 4 - len(mask.shape)
            if missing:
                mask = b.op("Unsqueeze", mask, b.ints(list(range(missing))))
            flat.append(mask)
        out = b.node("Attention", flat, attrs, domain="burnish").output
        if rank == 3:
            return Replacement({node.output: out}, (node,))
        return replace_result(node, out, heads, v.shape[-1], [node], b)


class BatchedTranspose(PatternRule):
    """reshape(transpose(reshape(x, [B*H, T, D]), 021), [B, H, D, T]) => transpose(x, 0132)."""

    name = "unflatten-transpose"

    def pattern(self, op: Any, x: Any, s1: Any, s2: Any) -> NodePattern:
        """The dynamo exporter's transposed keys."""
        turned = op.Transpose(op.Reshape(x, s1, _as="merge"), perm=(0, 2, 1))
        made: NodePattern = op.Reshape(turned, s2, _as="split")
        return made

    def rewrite(self, m: Match, b: Builder) -> Result:
        """One transpose, if both reshapes only merge and split the first two axes."""
        x, out, merged = m["x"], m.node("split").output, m.node("merge").output
        if x.t.rank != 4 or out.t.rank != 4:
            return NoMatch("it does not have 4 axes", x)
        want = (*x.shape[:2], x.shape[3], x.shape[2])
        if not all(map(equal, out.shape, want)) or not all(
            map(equal, merged.shape[1:], x.shape[2:])
        ):
            return NoMatch("the reshapes do not merge and split the first two axes", m.root)
        return b.op("Transpose", x, perm=(0, 1, 3, 2))


@dataclass(frozen=True)
class FuseAttentions(RewritePass):
    """Recognize scaled dot-product attention.

    Before: Reshape, Transpose (q, k, v), MatMul, Mul, Add, Softmax, MatMul, Transpose, Reshape.
    After: burnish::Attention on flat heads.
    Keeps: caches, soft-capped scores, masks that are not very low, shared inner values.
    Numerics: reassociates (scales are combined).
    """

    name = "fuse-attention"
    numerics = Numerics.REASSOCIATES
    rules: ClassVar[tuple[Rule, ...]] = (
        BatchedTranspose(),
        FuseAttention(),
        LowerOnnxAttention(),
    )
