"""A residual sum and the normalization after it, in one pass over the rows."""

from __future__ import annotations

from collections.abc import Sequence

from burnish.ir.builder import Builder
from burnish.ir.composites import define
from burnish.ir.definitions.epilogue import apply_postops
from burnish.ir.graph import Node, Value


@define("AddLayerNorm")
def add_layer_norm(b: Builder, node: Node, inputs: Sequence[Value | None]) -> list[Value]:
    """``AddLayerNorm(x, skip, scale, bias?, *operands) -> (y, sum?)``.

    ``sum = x + skip`` (one shape), ``y = LayerNormalization(sum)`` over the last axis with
    ``epsilon``, then post-ops; the second output is there only when somebody uses it.
    """
    return [*layer_norm_of_sum(b, node, inputs)][: len(node.outputs)]


def layer_norm_of_sum(
    b: Builder, node: Node, inputs: Sequence[Value | None]
) -> tuple[Value, Value]:
    """``y`` and ``sum`` of AddLayerNorm."""
    x, skip, scale, bias, *operands = inputs
    total = b.op("Add", x, skip)
    epsilon = node.float_attr("epsilon", 1e-5)
    y = b.op("LayerNormalization", total, scale, bias, axis=-1, epsilon=epsilon)
    return apply_postops(b, node, y, operands), total


@define("AddRMSNorm")
def add_rms_norm(b: Builder, node: Node, inputs: Sequence[Value | None]) -> list[Value]:
    """``AddRMSNorm(x, skip, scale, *operands) -> (y, sum?)``; RMSNormalization-23, last axis."""
    x, skip, scale, *operands = inputs
    total = b.op("Add", x, skip)
    epsilon = node.float_attr("epsilon", 1e-5)
    y = b.op("RMSNormalization", total, scale, axis=-1, epsilon=epsilon)
    return [apply_postops(b, node, y, operands), total][: len(node.outputs)]
