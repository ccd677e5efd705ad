"""Building nodes: one call a node, types inferred at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from burnish.ir.graph import Attr, Constant, Graph, Location, Node, Value
from burnish.ir.infer import infer_node


class Builder:
    """Appends nodes to a graph and infers their types.

    Args:
        graph: The graph that gets the nodes.
        location: Given to every node that is built.
    """

    def __init__(self, graph: Graph, location: Location | None = None) -> None:
        self.graph = graph
        self.location = location or Location()

    def node(
        self,
        op: str,
        inputs: Sequence[Value | None],
        attrs: dict[str, Attr] | None = None,
        *,
        outputs: int = 1,
        domain: str = "",
        name: str = "",
    ) -> Node:
        """Append a node with ``outputs`` fresh output values and infer their types."""
        stem = name or op
        results: list[Value | None] = [self.graph.value(f"{stem}_out") for _ in range(outputs)]
        made = Node(op, inputs, results, attrs, domain=domain, name=name, location=self.location)
        self.graph.append(made)
        infer_node(made)
        return made

    def op(
        self, op: str, *inputs: Value | None, domain: str = "", name: str = "", **attrs: Attr
    ) -> Value:
        """Append a node with one output and return that output."""
        return self.node(op, inputs, attrs, domain=domain, name=name).output

    def composite(self, op: str, *inputs: Value | None, name: str = "", **attrs: Attr) -> Value:
        """Append a composite (domain ``burnish``) and return its first output."""
        return self.node(op, inputs, attrs, domain="burnish", name=name).output

    def constant(self, array: np.ndarray | Constant, name: str = "const") -> Value:
        """A new constant."""
        return self.graph.constant(array, name)

    def ints(self, values: Sequence[int] | int, name: str = "const") -> Value:
        """A new int64 constant, rank 1 for a sequence and rank 0 for a number."""
        return self.constant(np.asarray(values, dtype=np.int64), name)
