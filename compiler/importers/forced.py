"""Symbols that the model itself forces to one size.

Exporters name dims that the weights or other inputs fix: a GRU whose initial state has batch 1
runs with batch 1 only, whatever its other input is called. Such a symbol becomes the number, and
two symbols that must always be equal become one.
"""

from __future__ import annotations

from burnish.ir import dims
from burnish.ir.dims import Dim, Expr
from burnish.ir.graph import Graph
from burnish.ir.infer import guards, infer_graph
from burnish.ir.types import TensorType

#: Each round removes at least one symbol; no sane model needs many.
MAX_ROUNDS = 64


def bind_forced_symbols(graph: Graph) -> None:
    """Replace forced symbols in a typed graph and infer it again; adds a note for each.

    What remains of the conditions on sizes is left in ``graph.conditions``.
    """
    for _ in range(MAX_ROUNDS):
        graph.conditions = guards(graph)
        binding = _forced(graph)
        if binding is None:
            return
        name, dim, node = binding
        graph.notes.append(f"dimension {name} is always {dim}: {node} runs with no other size")
        for value in graph.inputs:
            if value.type is not None and value.type.shape is not None:
                shape = tuple(dims.substitute(d, {name: dim}) for d in value.type.shape)
                value.type = TensorType(value.type.dtype, shape)
        infer_graph(graph)


def _forced(graph: Graph) -> tuple[str, Dim, str] | None:
    """The first symbol that an unconditional node ties to a number or to another symbol."""
    for guard in graph.conditions:
        if guard.kind != "equal":
            continue
        for symbol, other in ((guard.a, guard.b), (guard.b, guard.a)):
            name = bare_symbol(symbol)
            if name is None:
                continue
            if isinstance(other, int) and other > 0:
                return name, other, guard.node
            if bare_symbol(other) is not None:
                return name, other, guard.node
    return None


def bare_symbol(dim: Dim) -> str | None:
    """The name of a dim that is one symbol."""
    if isinstance(dim, Expr) and dims.symbols(dim) == {str(dim)}:
        return str(dim)
    return None
