"""Older operator forms brought to the canonical opset, once, while types are inferred.

A row of the table rewrites one operator from the versions before ``until`` to the form of
``until``; rows of the same operator apply one after the other. Rows see typed inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import onnx

from burnish.errors import ModelError, ShapeError
from burnish.importers.schema import check_node
from burnish.importers.sequences import remove_unused, resolve
from burnish.importers.untyped import SEQUENCE_OPS
from burnish.ir.builder import Builder
from burnish.ir.graph import Graph, Node
from burnish.ir.infer import infer_node
from burnish.ir.infer.control import seed_body

#: The newest opset whose operators are all known here. What a later one changes would be read with
#: its old meaning: the importer refuses it.
NEWEST_OPSET = 28

#: The opset that the IR is written in: ONNX answers questions about newer operators with the newest
#: that it knows.
CANONICAL_OPSET = min(NEWEST_OPSET, onnx.defs.onnx_opset_version())

#: Changes the node in place or replaces it; returns nodes to be inferred after it.
Upgrade: TypeAlias = "Callable[[Builder, Node], list[Node] | None]"

_TABLE: dict[tuple[str, str], list[tuple[int, Upgrade]]] = {}


def upgrade(*ops: str, until: int, domain: str = "") -> Callable[[Upgrade], Upgrade]:
    """Register a rewriter for versions of operators before ``until``."""

    def register(fn: Upgrade) -> Upgrade:
        for op in ops:
            rows = _TABLE.setdefault((domain, op), [])
            if any(u == until for u, _ in rows):
                raise ValueError(f"two upgrades of {op} until {until}")
            rows.append((until, fn))
            rows.sort(key=lambda row: row[0])
        return fn

    return register


def upgrade_graph(graph: Graph, versions: Mapping[Node, int]) -> None:
    """Upgrade and infer all nodes of a sorted graph, in order.

    Args:
        graph: The graph, in the form that the model has.
        versions: Opset versions of nodes that do not follow ``graph.opset``, from functions.

    Raises:
        ModelError: A form that cannot be upgraded.
        ShapeError: A node contradicts its operator.
    """
    import burnish.importers.upgrade_contrib
    import burnish.importers.upgrade_early
    import burnish.importers.upgrade_nbits
    import burnish.importers.upgrade_quantized
    import burnish.importers.upgrade_rules
    import burnish.importers.upgrade_transformers  # noqa: F401  (the imports fill the table)

    model_version = graph.opset.get("", CANONICAL_OPSET)
    graph.opset[""] = CANONICAL_OPSET
    _upgrade_nodes(graph, versions, model_version)
    graph.sort()
    remove_unused(graph, SEQUENCE_OPS)


def _upgrade_nodes(graph: Graph, versions: Mapping[Node, int], model_version: int) -> None:
    graph.sort()
    for node in graph.nodes:
        declared = model_version if node.domain == "" else graph.opset.get(node.domain, 1)
        version = versions.get(node, declared)
        check_node(node, version)
        trailing = _upgrade_node(graph, node, version)
        if node.graph is None:
            continue  # replaced, and its replacement was inferred as it was built
        if any(True for _ in node.subgraphs()):
            seed_body(node)
            for subgraph in node.subgraphs():
                _upgrade_nodes(subgraph, versions, model_version)
        if (
            node.op in SEQUENCE_OPS
            and not node.domain
            and resolve(Builder(graph, node.location), node)
        ):
            continue
        infer_node(node)
        for follower in trailing:
            infer_node(follower)


def _upgrade_node(graph: Graph, node: Node, version: int) -> list[Node]:
    trailing: list[Node] = []
    for until, fn in _TABLE.get((node.domain, node.op), ()):
        if version >= until or node.graph is None:
            continue
        try:
            trailing += fn(Builder(graph, node.location), node) or []
        except ModelError as error:
            if error.at is not None:
                raise
            raise type(error)(
                f"{node.key}: {error.message}", at=str(node.location), hint=error.hint
            ) from None
        except (ValueError, IndexError, AssertionError, TypeError) as error:
            raise ShapeError(
                f"{node.key}: inputs or attributes do not fit opset {version}: {error}",
                at=str(node.location),
            ) from None
    return trailing
