"""What of a graph can be lowered at all."""

from __future__ import annotations

from collections.abc import Collection

from burnish.importers.function_body import function_of
from burnish.importers.untyped import untyped_operators
from burnish.ir import Graph
from burnish.ir.infer.run_time import DOMAIN
from burnish.lowering import registry
from burnish.lowering.dynamic_rules import RULES
from burnish.lowering.module_ops import CONTROL, VIEWS


def known_nowhere(graph: Graph, kernels: Collection[str]) -> dict[tuple[str, str], list[str]]:
    """Nodes of operators that nothing can lower, whatever their types and attributes are.

    For a graph that no pass can work on because something in it has no type.

    Args:
        graph: The graph as imported.
        kernels: Operators that the backend has kernel rules for.

    Returns:
        Names of the nodes by operator and reason.
    """
    found = untyped_operators(graph)
    known = {*kernels, *RULES, *VIEWS, *CONTROL, "Scan", *(op for op, _ in found)}
    for node in graph.walk():
        if node.key in known or node.domain == DOMAIN or registry.find(node) is not None:
            continue
        if function_of(node) is None:
            names = found.setdefault((node.key, "no lowering for this operator"), [])
            names.append(str(node.location) or node.name)
    return found
