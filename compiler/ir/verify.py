"""The invariants of the IR, as a table of named checks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from burnish.errors import VerifyError
from burnish.ir import composites, postops
from burnish.ir.dims import static_product
from burnish.ir.graph import Constant, Graph, Node, Value
from burnish.ir.text import node_text

#: Yields (where, what is wrong) for everything that breaks the invariant in one graph.
Check: TypeAlias = "Callable[[Graph], Iterator[tuple[str, str]]]"


@dataclass(frozen=True)
class Invariant:
    """A named property that every graph has between two passes."""

    name: str
    check: Check


def verify(graph: Graph) -> None:
    """Check every invariant of a graph and its subgraphs.

    Raises:
        VerifyError: Names the first invariant that is broken, where, and how.
    """
    for invariant in INVARIANTS:
        for where, problem in invariant.check(graph):
            raise VerifyError(f"{invariant.name}: {problem}", at=where)


def _graphs(graph: Graph) -> Iterator[Graph]:
    yield graph
    for node in graph.nodes:
        for inner in node.subgraphs():
            yield from _graphs(inner)


def _where(node: Node) -> str:
    return f"{str(node.location) or node.name}: {node_text(node)}"


def _values(graph: Graph) -> Iterator[Value]:
    """Every value that is reachable from a graph, each once, subgraphs included."""
    found: dict[Value, None] = {}
    for g in _graphs(graph):
        found.update(dict.fromkeys(g.inputs))
        found.update(dict.fromkeys(g.outputs))
        for node in g.nodes:
            found.update((v, None) for v in (*node.inputs, *node.outputs) if v is not None)
    yield from found


def _producers(graph: Graph) -> Iterator[tuple[str, str]]:
    for g in _graphs(graph):
        for node in g.nodes:
            if node.graph is not g:
                yield _where(node), "the node does not know its graph"
            for value in node.outputs:
                if value is not None and value.producer is not node:
                    yield _where(node), f"{value.name} does not name the node as its producer"
        for value in g.inputs:
            if value.producer is not None or value.is_const:
                yield value.name, "a graph input has a producer or a constant"
    for value in _values(graph):
        if value.producer is not None and value.is_const:
            yield value.name, "a constant has a producer"


def _uses(graph: Graph) -> Iterator[tuple[str, str]]:
    expected: dict[Value, set[tuple[Node, int]]] = {v: set() for v in _values(graph)}
    for node in graph.walk():
        for index, value in enumerate(node.inputs):
            if value is not None:
                expected[value].add((node, index))
    for value, uses in expected.items():
        recorded = set(value.uses)
        if len(recorded) != len(value.uses):
            yield value.name, "a use is recorded twice"
        if recorded != uses:
            extra = [node.name for node, _ in recorded - uses]
            missing = [node.name for node, _ in uses - recorded]
            yield value.name, f"recorded uses are wrong: extra {extra}, missing {missing}"


def _outputs(graph: Graph) -> Iterator[tuple[str, str]]:
    counts: dict[tuple[Value, Graph], int] = {}
    for g in _graphs(graph):
        for value in g.outputs:
            counts[value, g] = counts.get((value, g), 0) + 1
    for value in _values(graph):
        for g in set(value.outputs_of):
            if value.outputs_of.count(g) != counts.get((value, g), 0):
                yield value.name, "it is recorded as an output of a graph that does not have it"
    for (value, g), count in counts.items():
        if value.outputs_of.count(g) != count:
            yield value.name, "it is an output of a graph but not recorded as one"


def _order(graph: Graph, outer: frozenset[Value] = frozenset()) -> Iterator[tuple[str, str]]:
    """Definitions come before uses; subgraphs see outer values that are defined by then."""
    visible = set(outer) | set(graph.inputs)
    for node in graph.nodes:
        for value in node.inputs:
            if value is not None and not value.is_const and value not in visible:
                yield _where(node), f"{value.name} is used before it is defined, or not visible"
        for inner in node.subgraphs():
            yield from _order(inner, frozenset(visible))
        visible.update(v for v in node.outputs if v is not None)
    for value in graph.outputs:
        if not value.is_const and value not in visible:
            yield value.name, f"output of {graph.name} that no visible node defines"


def _names(graph: Graph) -> Iterator[tuple[str, str]]:
    values: dict[str, Value] = {}
    for value in _values(graph):
        if not value.name:
            yield "a value", "it has no name"
        elif values.setdefault(value.name, value) is not value:
            yield value.name, "two values have this name"
    nodes: set[str] = set()
    for node in graph.walk():
        if not node.name or node.name in nodes:
            yield _where(node), "two nodes have this name" if node.name else "it has no name"
        nodes.add(node.name)


def _types(graph: Graph) -> Iterator[tuple[str, str]]:
    for value in _values(graph):
        if value.type is None:
            yield value.name, "it has no type"
        elif value.content is not None:
            count = static_product(value.type.shape or ())
            if count is not None and value.type.shape is not None and count != len(value.content):
                yield value.name, f"{len(value.content)} known elements but type {value.type}"


def _constants(graph: Graph) -> Iterator[tuple[str, str]]:
    for value in _values(graph):
        if value.const is None:
            continue
        if value.type != value.const.type:
            yield value.name, f"type {value.type} but the constant is {value.const.type}"
        elif value.const.loaded and _actual(value.const) != (value.type.dtype, value.type.dims):
            yield value.name, f"type {value.type} but the data are {_actual(value.const)}"


def _actual(const: Constant) -> tuple[str, tuple[int, ...]]:
    from burnish.ir.types import from_numpy

    return from_numpy(const.array.dtype), tuple(const.array.shape)


def _opsets(graph: Graph) -> Iterator[tuple[str, str]]:
    for node in graph.walk():
        if node.domain != composites.DOMAIN and node.domain not in graph.opset:
            yield _where(node), f"the graph has no opset for the domain {node.domain!r}"


def _subgraphs(graph: Graph) -> Iterator[tuple[str, str]]:
    for g in _graphs(graph):
        for node in g.nodes:
            for inner in node.subgraphs():
                if inner.parent is not g:
                    yield _where(node), f"the subgraph {inner.name} names another parent"
            if node.op == "If" and not node.domain:
                for inner in node.subgraphs():
                    if len(inner.outputs) != len(node.outputs):
                        yield _where(node), f"branch {inner.name} has another number of outputs"


def _composites(graph: Graph) -> Iterator[tuple[str, str]]:
    for node in graph.walk():
        if node.domain != composites.DOMAIN:
            continue
        if node.op == "Elementwise":
            yield from _elementwise(node)
        elif node.op not in composites.names():
            yield _where(node), f"the composite {node.op} has no definition"
        texts = node.attrs.get("postops", ())
        try:
            wanted = len(postops.operands(postops.parse_postops(texts)))  # type: ignore[arg-type]
        except (TypeError, ValueError) as error:
            yield _where(node), f"bad postops: {error}"
            continue
        if sum(v is not None for v in node.inputs) < wanted + 1:
            yield _where(node), f"its post-ops take {wanted} operands, which are not all there"


def _elementwise(node: Node) -> Iterator[tuple[str, str]]:
    body = node.attrs.get("body")
    if not isinstance(body, Graph) or body.parent is not None:
        yield _where(node), "an Elementwise without a closed body"
        return
    if len(body.inputs) != len(node.inputs) or len(body.outputs) != len(node.outputs):
        yield _where(node), "the body has another number of inputs or outputs than the node"
    for invariant in INVARIANTS:
        for where, problem in invariant.check(body):
            yield _where(node), f"in the body: {invariant.name}: {where}: {problem}"


#: All invariants, those that others build on first.
INVARIANTS: tuple[Invariant, ...] = (
    Invariant("producers are consistent", _producers),
    Invariant("uses are consistent", _uses),
    Invariant("outputs are consistent", _outputs),
    Invariant("definitions precede uses", _order),
    Invariant("names are unique", _names),
    Invariant("every value has a type", _types),
    Invariant("constants have their type", _constants),
    Invariant("every domain has an opset", _opsets),
    Invariant("subgraphs belong to their node", _subgraphs),
    Invariant("composites are defined", _composites),
)
