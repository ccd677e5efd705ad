"""``Elementwise``: a group of elementwise operators with its body as an attribute."""

from __future__ import annotations

from collections.abc import Sequence

from burnish.ir.builder import Builder
from burnish.ir.composites import define
from burnish.ir.graph import Graph, Node, Value


def copy_nodes(b: Builder, body: Graph, inputs: Sequence[Value | None]) -> list[Value]:
    """Copy the nodes of a closed graph; returns what its outputs became."""
    mapping: dict[Value, Value] = {
        inner: outer for inner, outer in zip(body.inputs, inputs, strict=True) if outer is not None
    }

    def mapped(value: Value | None) -> Value | None:
        if value is None or value in mapping:
            return None if value is None else mapping[value]
        assert value.const is not None, f"{value.name} is used before it is made"
        mapping[value] = b.constant(value.const, value.name)
        return mapping[value]

    for node in body.nodes:
        made = b.node(
            node.op,
            [mapped(v) for v in node.inputs],
            node.attrs,
            outputs=len(node.outputs),
            domain=node.domain,
        )
        pairs = zip(node.outputs, made.outputs, strict=True)
        mapping.update((old, new) for old, new in pairs if old is not None and new is not None)
    return [found for v in body.outputs if (found := mapped(v)) is not None]


@define("Elementwise")
def elementwise(b: Builder, node: Node, inputs: Sequence[Value | None]) -> list[Value]:
    """``Elementwise(*inputs)``: the operators of the graph attribute ``body``.

    The body is a closed graph whose inputs stand for the node's inputs, in order.
    """
    body = node.attrs["body"]
    assert isinstance(body, Graph)
    return copy_nodes(b, body, inputs)
