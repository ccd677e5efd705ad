"""Projections of one input become one matrix product.

::

    x @ w1 + c1, x @ w2 + c2, x @ w3 + c3  =  split(x @ [w1 w2 w3] + [c1 c2 c3])
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from burnish.ir import Attr, Builder, Node, Value
from burnish.ir.types import to_numpy
from burnish.passes.patterns import NoMatch, Tracer
from burnish.passes.rewrite import Replacement, RewritePass, Rule


def _is_projection(node: Node, x: Value) -> bool:
    """Whether a node is ``x @ w`` or ``x @ w + c`` with weights of its own."""
    if node.key != "burnish::MatMul" or node.required(0) is not x:
        return False
    return node.strs_attr("postops") in ((), ("Add:channel",)) and not node.output.is_output


def _feeds_attention(node: Node) -> bool:
    """Whether the product reaches an Attention through elementwise operators and moves only."""
    work = list(node.output.users())
    seen: set[Node] = set()
    while work:
        user = work.pop()
        if user.key == "burnish::Attention":
            return True
        if user in seen or user.domain or len(seen) > 40:
            continue
        seen.add(user)
        if user.op in ("Reshape", "Transpose", "Mul", "Add", "Neg", "Slice", "Concat", "Unsqueeze"):
            work += [u for v in user.outputs if v is not None for u in v.users()]
        if user.op in ("Expand", "RotaryEmbedding", "Split", "Sub"):
            work += [u for v in user.outputs if v is not None for u in v.users()]
        if user.op.endswith("Normalization") and len(user.required(0).shape) == 4:  # of each head
            work += user.output.users()
    return False


class MergeProjections(Rule):
    """The query, key and value projections of one input => one MatMul and a Split."""

    name = "merge-projections"
    anchors = ("burnish::MatMul",)

    def apply(self, node: Node, b: Builder, tracer: Tracer | None) -> Replacement | NoMatch:
        """Concatenate weights and biases."""
        x = node.required(0)
        if not _is_projection(node, x):
            return NoMatch("it has other post-ops than a bias, or is a graph output", node)
        if not _feeds_attention(node):
            return NoMatch("the product does not feed an attention", node)
        group = [
            user
            for user in x.users()
            if user.graph is node.graph and _is_projection(user, x) and _feeds_attention(user)
        ]
        if len(group) < 2:
            return NoMatch("no other projection has the same input", node)
        if any(len(user.required(1).uses) > 1 for user in group):
            return NoMatch("the weights are shared: merging would copy them", node)
        if len({user.required(1).dtype for user in group}) > 1:
            return NoMatch("the weights have different dtypes", node)
        weights = [user.required(1).array for user in group]
        sizes = [w.shape[1] for w in weights]
        dtype = to_numpy(x.dtype)
        inputs = [x, b.constant(np.concatenate(weights, axis=1), "merged_weights")]
        attrs: dict[str, Attr] = {"postops": ()}
        if any(user.input(2) is not None for user in group):
            biases = [
                np.zeros(n, dtype) if user.input(2) is None else user.required(2).array
                for user, n in zip(group, sizes, strict=True)
            ]
            inputs.append(b.constant(np.concatenate(biases), "merged_bias"))
            attrs["postops"] = ("Add:channel",)
        merged = b.node("MatMul", inputs, attrs, domain="burnish").output
        parts = b.node(
            "Split", [merged, b.ints(sizes)], {"axis": len(merged.shape) - 1}, outputs=len(group)
        ).outputs
        pairs = zip(group, parts, strict=True)
        values = {user.output: part for user, part in pairs if part is not None}
        return Replacement(values, tuple(group))


@dataclass(frozen=True)
class MergeQKV(RewritePass):
    """Merge the projections that feed one attention.

    Before: three burnish::MatMul of one input. After: one burnish::MatMul and a Split.
    Keeps: products with activations, shared weights, products that feed no attention.
    Numerics: exact.
    """

    name = "merge-projections"
    rules: ClassVar[tuple[Rule, ...]] = (MergeProjections(),)
