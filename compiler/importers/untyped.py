"""Operators whose results no shape inference can type: sequences, optionals, unknown operators."""

from __future__ import annotations

from burnish.ir.graph import Graph, Node

#: Operators on lists of tensors, and on tensors that may be absent (ONNX `seq` and `optional`).
SEQUENCE_OPS = frozenset(
    {
        "ConcatFromSequence",
        "Optional",
        "OptionalGetElement",
        "OptionalHasElement",
        "SequenceAt",
        "SequenceConstruct",
        "SequenceEmpty",
        "SequenceErase",
        "SequenceInsert",
        "SequenceLength",
        "SequenceMap",
        "SplitToSequence",
    }
)


def untyped_operators(graph: Graph) -> dict[tuple[str, str], list[str]]:
    """Why some values have no type: (operator, reason) to the nodes, empty when all have one.

    Nodes that only read an untyped value are left out, unless they are foreign or work on
    sequences in any case; so are control-flow operators, whose branches have the reason.
    """
    nodes = list(graph.walk())
    untyped = {v for node in nodes for v in node.outputs if v is not None and v.type is None}
    found: dict[tuple[str, str], list[str]] = {}
    if not untyped:
        return found
    for node in nodes:
        reads = any(v in untyped for v in (*node.inputs, *_branch_outputs(node)))
        culprit = not untyped.isdisjoint(node.outputs) and not reads
        if not node.domain and node.op in SEQUENCE_OPS:
            reason = "works on sequences or optionals; only tensors are supported"
        elif culprit or node.domain not in ("", "burnish"):
            reason = "no such operator is known"
        else:
            continue
        found.setdefault((node.key, reason), []).append(str(node.location) or node.name)
    return found


def _branch_outputs(node: Node) -> tuple[object, ...]:
    return tuple(v for inner in node.subgraphs() for v in inner.outputs)
