"""Dead code elimination."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from burnish.ir import Graph, Node, Value
from burnish.passes.base import Numerics, Pass, PassContext, inputs_and_captures

#: Operators with optional trailing outputs that may be left out (None) when nobody uses them.
_OPTIONAL_OUTPUTS = frozenset(
    {"Attention", "BatchNormalization", "Dropout", "GRU", "LSTM", "LayerNormalization", "MaxPool"}
    | {"RNN", "Unique", "burnish::AddLayerNorm", "burnish::AddRMSNorm", "burnish::QAddLayerNorm"}
)


@dataclass(frozen=True)
class DeadCode(Pass):
    """Remove nodes and optional outputs that nothing uses.

    Before: `y = Relu(x); unused = Exp(x)`, `y` is the output.
    After: `y = Relu(x)`.
    Keeps: graph inputs, graph outputs and their names, the outputs of If, Loop and Scan that are
        used, random operators that are used.
    Numerics: exact.
    """

    name: ClassVar[str] = "dead-code"
    numerics: ClassVar[Numerics] = Numerics.EXACT

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        """See :class:`DeadCode`."""
        return remove_dead_code(graph)


def remove_dead_code(graph: Graph) -> bool:
    """Remove what nothing uses, subgraphs included; returns whether anything was removed."""
    changed = False
    # Outputs of an If first: what fed them dies with them.
    for node in graph.nodes:
        changed |= _prune_if_outputs(node)
        for inner in node.subgraphs():
            changed |= remove_dead_code(inner)
    for node in reversed(graph.nodes):
        changed |= _remove_if_dead(node)
    return changed


def _is_used(value: Value | None) -> bool:
    return value is not None and bool(value.uses or value.outputs_of)


def _remove_if_dead(start: Node) -> bool:
    """Remove a node if nothing uses it, then the producers that only it used."""
    changed = False
    stack = [start]
    while stack:
        node = stack.pop()
        graph = node.graph
        if graph is None:
            continue
        if any(map(_is_used, node.outputs)):
            changed |= _drop_optional_outputs(node)
            continue
        producers = [v.producer for v in inputs_and_captures(node) if v.producer is not None]
        graph.remove(node)
        changed = True
        stack += producers
    return changed


def _drop_optional_outputs(node: Node) -> bool:
    """Mark unused optional outputs as left out; cut those at the end."""
    if node.key not in _OPTIONAL_OUTPUTS:
        return False
    kept = [v if index == 0 or _is_used(v) else None for index, v in enumerate(node.outputs)]
    while len(kept) > 1 and kept[-1] is None:
        kept.pop()
    changed = kept != node.outputs
    node.outputs = kept
    return changed


def _prune_if_outputs(node: Node) -> bool:
    """Remove outputs of an If that nobody uses, from the node and from both branches."""
    if node.op != "If" or node.domain:
        return False
    used = [index for index, value in enumerate(node.outputs) if _is_used(value)]
    if not used or len(used) == len(node.outputs):
        return False
    for branch in node.subgraphs():
        branch.set_outputs([branch.outputs[index] for index in used])
    node.outputs = [node.outputs[index] for index in used]
    return True
