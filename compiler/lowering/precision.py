"""In which element type a node computes, as far as the graph says so."""

from __future__ import annotations

from burnish.ir import Graph, Node
from burnish.ir.opinfo import Kind, info
from burnish.ir.types import BY_NAME, FLOATS

#: Operators that may multiply elements of 16 bits as they are; their sums are float32. All others
#: widen what they read.
_PRODUCTS = frozenset(
    {
        *("Conv", "ConvTranspose", "Gemm", "MatMul"),
        *("burnish::Conv", "burnish::ConvTranspose", "burnish::MatMul", "burnish::BatchMatMul"),
        "burnish::Attention",
    }
)
#: What is not arithmetic: it moves elements, or changes their type.
_MOVES = frozenset({Kind.MOVEMENT, Kind.VIEW, Kind.GENERATOR})


#: Products of 8 bits; what follows in their epilogues is float32.
_INTEGER = frozenset(
    {"burnish::QAttention", "burnish::QBatchMatMul", "burnish::QConv", "burnish::QMatMul"}
)
#: Products in float32 whose weights alone are stored in less.
_WEIGHT_ONLY = "burnish::MatMulNBits"


def is_product(key: str) -> bool:
    """Whether an operator is a convolution or a matrix product, which lower precisions are for."""
    return key in _PRODUCTS or key in _INTEGER or key == _WEIGHT_ONLY


def weights_in(node: Node) -> str:
    """What weights are stored in that are wider when they are computed with; else empty."""
    return f"int{BY_NAME[node.required(1).dtype].bits}" if node.key == _WEIGHT_ONLY else ""


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
        between Casts; empty for what does none; float32 for what widens 16 bits; else ``stored``.
    """
    body = node.attrs.get("body")
    if node.key == "burnish::Elementwise" and isinstance(body, Graph):
        computed = [n.output.dtype for n in body.nodes if not only_moves(n)]
        floats = [dtype for dtype in computed if dtype in FLOATS]
        return _widened(next(iter(floats or computed), ""))
    if only_moves(node):
        return ""
    if node.key in _INTEGER:
        return "int8"
    return stored if node.key in _PRODUCTS else _widened(stored)


def _widened(dtype: str) -> str:
    return "float32" if dtype in ("float16", "bfloat16") else dtype
