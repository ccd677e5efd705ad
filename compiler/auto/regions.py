"""Regions: products that get one precision together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from burnish.ir import Graph, Node
from burnish.passes.quantization.selection import PRODUCTS


@dataclass(frozen=True)
class Region:
    """Products of one kind and depth.

    Attributes:
        name: What reports call it: its first and its last product.
        nodes: Original names of its products.
    """

    name: str
    nodes: tuple[str, ...]


def find_regions(graph: Graph, left: Mapping[str, str], most: int) -> list[Region]:
    """Group the products of a prepared graph and its subgraphs.

    Products of one kind (operator and shape of the weights) at neighbouring depths share a region:
    they are about as sensitive. So do products that read one activation and become one kernel.
    Where there are more kinds than regions, depth alone counts.

    Args:
        graph: Plain operators.
        left: Original names of products that stay as they are.
        most: Regions to make at most.
    """
    products = [node for node in graph.walk() if _assignable(node, left)]
    if not products:
        return []
    siblings: dict[tuple[object, ...], list[Node]] = {}
    for node in products:
        # Matrix products of any widths become one kernel: queries, keys and values.
        kind = _kind(node)[:-1] if node.op == "MatMul" else _kind(node)
        siblings.setdefault((node.graph, node.required(0), *kind), []).append(node)
    kinds: dict[tuple[object, ...], list[list[Node]]] = {}
    for unit in siblings.values():
        kinds.setdefault(tuple(_kind(node) for node in unit), []).append(unit)
    groups = list(kinds.values()) if len(kinds) <= most else [list(siblings.values())]
    found: list[list[Node]] = []
    for group, parts in zip(groups, _shares([len(g) for g in groups], most), strict=True):
        found += _cut(group, parts)
    order = {node: i for i, node in enumerate(products)}
    found.sort(key=lambda part: order[part[0]])
    return [_region(part) for part in found]


def region_of_nodes(graph: Graph, regions: Sequence[Region]) -> dict[str, int]:
    """Index of the region that each node's time belongs to, by original name.

    A node belongs to the region of the first product that its result reaches (what quantizes the
    operand of a product is a cost of that product), else to that of the product before it.
    """
    of_product = {name: i for i, region in enumerate(regions) for name in region.nodes}
    found: dict[Node, int] = {}
    nodes = list(graph.walk())
    order = {node: i for i, node in enumerate(nodes)}
    for node in reversed(nodes):
        own = next((of_product[n] for n in names_of(node) if n in of_product), None)
        users = [u for v in node.outputs if v is not None for u in v.users() if u in found]
        if own is not None:
            found[node] = own
        elif users:
            found[node] = found[min(users, key=lambda u: order[u])]
    for node in nodes:
        before = [v.producer for v in node.inputs if v is not None and v.producer in found]
        if node not in found and before:
            last = max(before, key=lambda p: order[p])
            found[node] = found[last]
    return {name: index for node, index in found.items() for name in names_of(node)} | of_product


def names_of(node: Node) -> tuple[str, ...]:
    """Original names of a node."""
    return node.location.names or (node.name,)


def _assignable(node: Node, left: Mapping[str, str]) -> bool:
    return (
        node.key in PRODUCTS
        and node.output.dtype == "float32"
        and not any(name in left for name in names_of(node))
    )


def _kind(node: Node) -> tuple[object, ...]:
    weights = next((v for v in node.inputs[:2] if v is not None and v.is_const), None)
    return (node.op,) if weights is None else (node.op, *weights.shape)


def _shares(counts: Sequence[int], most: int) -> list[int]:
    """How many parts each group gets: at least one, and no more than it has units."""
    parts = [1] * len(counts)
    while sum(parts) < most:
        best = max(range(len(counts)), key=lambda i: (counts[i] / parts[i], -i))
        if counts[best] == parts[best]:
            break
        parts[best] += 1
    return parts


def _cut(group: list[list[Node]], parts: int) -> list[list[Node]]:
    ends = [round(len(group) * i / parts) for i in range(parts + 1)]
    return [[node for unit in group[a:b] for node in unit] for a, b in pairwise(ends) if b > a]


def _region(part: list[Node]) -> Region:
    names = tuple(dict.fromkeys(name for node in part for name in names_of(node)))
    label = names[0] if len(part) == 1 else f"{names[0]} .. {names[-1]} ({len(part)} products)"
    return Region(label, names)
