"""How much of a model's arithmetic is in which precision."""

from __future__ import annotations

from collections.abc import Sequence

from burnish.artifact import NodeInfo
from burnish.lowering.precision import is_product


def below_fp32(nodes: Sequence[NodeInfo]) -> float:
    """Share of the operations of convolutions and matrix products that are below fp32.

    Products whose operations depend on symbolic sizes count as the mean of the others.
    """
    products = [node for node in nodes if is_product(node.op)]
    counted = [float(n.flops) for n in products if n.flops.isdigit() and int(n.flops)]
    typical = sum(counted) / len(counted) if counted else 1.0
    total = low = 0.0
    for node in products:
        flops = float(node.flops) if node.flops.isdigit() and int(node.flops) else typical
        total += flops
        low += flops * (node.precision not in ("fp32", "fp64"))
    return low / total if total else 0.0
