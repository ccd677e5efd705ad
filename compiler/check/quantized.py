"""Whether a model rounds activations itself."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from burnish.check.inputs import structure_of
from burnish.check.reference import Model

#: Operators that round what they compute, or their inputs, to 8 or 16 bits.
_ROUNDING = frozenset({"DynamicQuantizeLinear", "QuantizeLinear", "QAttention", "QGemm"})
_PREFIXES = ("QLinear", "DynamicQuantize")


def rounds_activations(model: Model) -> bool:
    """Whether a model rounds activations: a number in the middle of two codes may go to either.

    Args:
        model: An ONNX file or model. External data are not read.
    """
    proto = structure_of(model)
    bodies = [list(proto.graph.node), *(list(f.node) for f in proto.functions)]
    nodes = [node for body in bodies for node in _nodes(body)]
    constants = {tensor.name for tensor in proto.graph.initializer}
    constants |= {node.output[0] for node in nodes if node.op_type == "Constant"}
    return any(
        node.op_type in _ROUNDING or node.op_type.startswith(_PREFIXES)
        for node in nodes
        # Weights are rounded once and for all.
        if not (node.op_type == "QuantizeLinear" and node.input[0] in constants)
    )


def _nodes(body: list[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """The nodes of a body and of all graphs in their attributes."""
    for node in body:
        yield node
        for attribute in node.attribute:
            for graph in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
                yield from _nodes(list(graph.node))
