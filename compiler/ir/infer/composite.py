"""Composites: inferred through their definitions."""

from __future__ import annotations

from collections.abc import Sequence

from burnish.ir.graph import Graph, Node
from burnish.ir.infer.common import elements
from burnish.ir.infer.registry import Result, infer_graph


def infer_composite(node: Node) -> Sequence[Result]:
    """The types of a composite: those of the body that its definition builds.

    ``Elementwise`` carries its body; that body is inferred again with the types of the inputs.
    """
    from burnish.ir import composites

    body = node.attrs.get("body")
    if node.op == "Elementwise" and isinstance(body, Graph):
        present = [v for v in node.inputs if v is not None]
        for inner, outer in zip(body.inputs, present, strict=True):
            inner.type, inner.content = outer.type, elements(outer)
        infer_graph(body)
        graph = body
    else:
        graph = composites.body(node)
    return [(v.type, elements(v)) if v.type is not None else None for v in graph.outputs]
