"""The last rewrites before a graph is lowered: for one target, and no more exported."""

from __future__ import annotations

from typing import TYPE_CHECKING

from burnish.errors import first_few
from burnish.importers.function_body import expand_all
from burnish.ir import Graph, Node, composites
from burnish.lowering import registry
from burnish.lowering.dynamic import Namer, has_run_time_sizes
from burnish.lowering.module_ops import is_native
from burnish.passes.manager import clean

if TYPE_CHECKING:
    from burnish.backends.base import Target


def prepare(graph: Graph, target: Target) -> list[str]:
    """Name sizes that depend on data, inline composites without a kernel, and refuse the rest.

    Args:
        graph: The optimized graph; it is changed in place.
        target: What it is lowered for.

    Returns:
        A line for each kind of composite that was inlined and reason for it.

    Raises:
        UnsupportedOpError: Lists every node without a lowering.
    """
    rules = target.backend.rules()
    inlined: dict[str, list[str]] = {}

    def accepted(node: Node) -> bool:
        rule = rules.get(node.key)
        ranked = all(
            v is None or (v.type is not None and v.type.rank is not None) for v in node.inputs
        )
        return rule is not None and ranked and rule.accepts(node) is None

    host_sizes, namer = target.backend.host_sizes, Namer(graph)

    def name_sizes() -> None:
        if host_sizes and has_run_time_sizes(graph):
            namer.run()
            clean(graph)

    # Kernels are chosen by sizes that have names.
    name_sizes()
    for node in list(graph.walk()):
        if composites.is_composite(node) and node.op != "Elementwise" and not accepted(node):
            rule = rules.get(node.key)
            refused = rule.accepts(node) if rule is not None else None
            why = refused.reason if refused is not None else "no kernel"
            names = inlined.setdefault(f"{node.key} as plain operators: {why}", [])
            names.append(" + ".join(node.location.names) or node.name)
            composites.inline(node)
    if inlined:
        clean(graph)
    name_sizes()

    def elsewhere(node: Node) -> bool:
        return is_native(node, host_sizes) or accepted(node)

    # What has no lowering, and is composed of operators by ONNX itself, needs none.
    sequential, lacks = target.backend.sequential, target.backend.lacks

    def has_none(node: Node) -> bool:
        return not elsewhere(node) and registry.supported(node, sequential, lacks) is not None

    if expand_all(graph, has_none):
        clean(graph)
        name_sizes()
    registry.check(graph, elsewhere, sequential, lacks)
    return [f"{len(names)} x {what} ({first_few(names)})" for what, names in inlined.items()]
