"""Composites: operations of the domain ``burnish``, each defined by plain ONNX operators.

A composite is one node whose meaning is given by *one* function that builds its body from ONNX
operators. Everything else follows from that function: types are inferred through it, export writes
it as a local function, and a backend without a kernel inlines it. (The idea of StableHLO's
``composite`` operation.)

The composite ``Elementwise`` carries its body as an attribute, since it is found and not designed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

from burnish.ir.graph import Graph, Node, Value

if TYPE_CHECKING:
    from burnish.ir.builder import Builder

DOMAIN = "burnish"

#: Builds the body: gets a builder, the composite (for its attributes) and values that stand for its
#: inputs; returns the values of its outputs, as many as the node has.
Definition: TypeAlias = "Callable[[Builder, Node, Sequence[Value | None]], Sequence[Value]]"

_DEFINITIONS: dict[str, Definition] = {}


def define(op: str) -> Callable[[Definition], Definition]:
    """Register the definition of the composite ``burnish::op``."""

    def register(definition: Definition) -> Definition:
        if op in _DEFINITIONS:
            raise ValueError(f"composite {op} is defined twice")
        _DEFINITIONS[op] = definition
        return definition

    return register


def names() -> tuple[str, ...]:
    """All composites."""
    return tuple(sorted(_DEFINITIONS))


def is_composite(node: Node) -> bool:
    """Whether a node is a composite."""
    return node.domain == DOMAIN


def body(node: Node) -> Graph:
    """The body of a composite as a closed graph with one input for each input that is present.

    Constants stay constants of the body only where a definition needs their value; the inputs of
    the body have the types, constants and contents of the composite's inputs.
    """
    from burnish.ir.builder import Builder
    from burnish.ir.infer import elements

    graph = Graph(node.op)
    graph.opset = dict(node.graph.opset) if node.graph is not None else {}
    stand_ins: list[Value | None] = []
    for index, value in enumerate(node.inputs):
        if value is None:
            stand_ins.append(None)
            continue
        stand_in = graph.value(f"in{index}", value.type)
        stand_in.content = elements(value)
        graph.inputs.append(stand_in)
        stand_ins.append(stand_in)
    graph.set_outputs(list(_DEFINITIONS[node.op](Builder(graph, node.location), node, stand_ins)))
    return graph


def inline(node: Node) -> None:
    """Replace a composite by its body."""
    from burnish.ir.builder import Builder

    graph = node.graph
    assert graph is not None
    results = _DEFINITIONS[node.op](Builder(graph, node.location), node, node.inputs)
    for old, new in zip(node.outputs, results, strict=False):
        if old is not None:
            graph.replace_uses(old, new)
    graph.remove(node)
