"""The registry of inference rules and the driver that applies them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from burnish.ir.dims import Dim
from burnish.ir.graph import Graph, Node
from burnish.ir.types import TensorType

#: The context of a rule is the node itself: its inputs carry types, constants and contents.
InferContext: TypeAlias = Node

#: Returns the types of the outputs; a rule that knows an output's content returns (type, content).
Result: TypeAlias = "TensorType | tuple[TensorType, tuple[Dim, ...] | None]"
Rule: TypeAlias = "Callable[[Node], Sequence[Result]]"

_RULES: dict[tuple[str, str], Rule] = {}


def infer(*ops: str, domain: str = "") -> Callable[[Rule], Rule]:
    """Register a rule for operators of a domain."""

    def register(rule: Rule) -> Rule:
        for op in ops:
            if (domain, op) in _RULES:
                raise ValueError(f"two inference rules for {domain}::{op}")
            _RULES[domain, op] = rule
        return rule

    return register


def infer_node(node: Node) -> None:
    """Set types and contents of a node's outputs.

    Raises:
        ShapeError: The inputs contradict the operator.
    """
    raise NotImplementedError


def infer_graph(graph: Graph) -> None:
    """Infer every node of a graph, subgraphs included, in topological order."""
    raise NotImplementedError
