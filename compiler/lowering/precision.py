"""In which element type a node computes, as far as the graph says so."""

from __future__ import annotations

from burnish.ir import Graph, Node
from burnish.ir.opinfo import Kind, info
from burnish.ir.types import FLOATS

#: What is not arithmetic: it moves elements, or changes their type.
_MOVES = frozenset({Kind.MOVEMENT, Kind.VIEW, Kind.GENERATOR})


def only_moves(node: Node) -> bool:
    """Whether a node does no arithmetic."""
    return node.key == "Cast" or info(node).kind in _MOVES


def computed_in(node: Node, stored: str) -> str:
    """The element type that a node computes in.

    Args:
        node: A node of the final graph.
        stored: Element type of its result.

    Returns:
        For an Elementwise composite the type of the arithmetic in its body, which may stand
        between Casts; empty for what does none; else ``stored``.
    """
    body = node.attrs.get("body")
    if node.key == "burnish::Elementwise" and isinstance(body, Graph):
        computed = [n.output.dtype for n in body.nodes if not only_moves(n)]
        floats = [dtype for dtype in computed if dtype in FLOATS]
        return next(iter(floats or computed), "")
    return "" if only_moves(node) else stored
