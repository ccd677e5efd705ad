"""Shapes that depend on data: a graph is rewritten so that every size has a name.

Inference leaves a dim unknown where the data decide it. Here, just before the graph is lowered, a
node with such an output is replaced: a kernel computes the sizes (or an operand has them as its
elements), ``Bind`` reads them on the host and names them, and the node's output has these names as
its dims. All that follows is inferred anew, so that it is ordinary symbolic code.

The outputs of If and Loop get names for their unknown dims directly: the virtual machine binds them
when it gets the tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

from burnish.errors import LoweringError
from burnish.ir import UNKNOWN, Builder, Dim, Graph, Node, TensorType, Value, sym
from burnish.ir.dims import symbols
from burnish.ir.infer import infer_graph, infer_node
from burnish.ir.infer.common import elements
from burnish.ir.infer.control import merge_branches
from burnish.ir.infer.run_time import DOMAIN
from burnish.lowering.loops import complete, scan_to_loop

#: Replaces a node; returns the values of its outputs, or None to leave it as it is.
Rewrite: TypeAlias = "Callable[[Namer, Builder, Node], list[Value | None] | None]"

#: Rewrites that make nodes that are rewritten themselves end after so many rounds.
_MAX_ROUNDS: Final = 8


class Namer:
    """Names the sizes of a graph that depend on data.

    Args:
        root: The graph, typed. It is changed in place.
    """

    def __init__(self, root: Graph) -> None:
        self.root = root
        self._taken = {name for graph in _graphs(root) for name in _symbols_of(graph)}
        self._taken |= set(root.dim_bounds) | set(root.dim_names)
        self._bound: dict[tuple[Graph, Value], Value] = {}
        self._settled: set[Node] = set()

    def run(self) -> bool:
        """Rewrite the graph; returns whether anything changed.

        Raises:
            LoweringError: A rewrite goes on for ever.
        """
        for round in range(_MAX_ROUNDS):
            if not self._graph(self.root):
                return round > 0
        raise LoweringError(f"sizes that depend on data have no end after {_MAX_ROUNDS} rounds")

    # --- names ---------------------------------------------------------------------------------

    def fresh(self, stem: str) -> Dim:
        """A new symbol."""
        count = 0
        while (name := f"{stem.lower()}_{count}") in self._taken:
            count += 1
        self._taken.add(name)
        return sym(name)

    def bind(self, b: Builder, sizes: Value, stem: str) -> Value:
        """Read an int64 tensor on the host; elements that are not known yet get names."""
        known = elements(sizes)
        count = sizes.t.dims[0] if sizes.t.rank else 1
        assert isinstance(count, int)
        dims = known if known is not None else (UNKNOWN,) * count
        if all(d is not UNKNOWN for d in dims):
            return sizes
        key = (b.graph, sizes)
        if key not in self._bound:
            named = tuple(str(self.fresh(stem) if d is UNKNOWN else d) for d in dims)
            self._bound[key] = b.node("Bind", [sizes], {"dims": named}, domain=DOMAIN).output
        return self._bound[key]

    def named(self, type: TensorType, stem: str) -> TensorType:
        """A type with names for its unknown dims."""
        if type.shape is None:
            return type
        dims = tuple(self.fresh(stem) if d is UNKNOWN else d for d in type.shape)
        return TensorType(type.dtype, dims)

    # --- the sweep -----------------------------------------------------------------------------

    def _graph(self, graph: Graph) -> bool:
        """One sweep over a graph in topological order; inner graphs are swept with their node."""
        graph.sort()
        changed = False
        for node in graph.nodes:
            if node.graph is not graph:
                continue
            if any(True for _ in node.subgraphs()):
                changed |= self._control(node)
                continue
            _infer_again(node)
            changed |= self._rewrite(node)
        return changed

    def _rewrite(self, node: Node) -> bool:
        from burnish.lowering.dynamic_rules import RULES

        rule = RULES.get(node.key)
        graph = node.graph
        if (
            rule is None
            or graph is None
            or any(v is None or v.type is None for v in _present(node))
        ):
            return False
        results = rule(self, Builder(graph, node.location), node)
        if results is None:
            return False
        for old, new in zip(node.outputs, results, strict=False):
            if old is not None and new is not None:
                graph.replace_uses(old, new)
        graph.remove(node)
        return True

    def _control(self, node: Node) -> bool:
        if node.key == "Scan":
            scan_to_loop(node)
            return True
        if node.key == "Loop" and node not in self._settled:
            complete(node)
            # Inferring a body again would forget the names in it.
            infer_node(node)
            body = next(node.subgraphs())
            for carried in body.inputs:
                if carried.type is not None:
                    carried.type = self.named(carried.type, "loop")
        elif node.key == "If" and node not in self._settled:
            for graph in node.subgraphs():
                infer_graph(graph)
        changed = False
        for graph in node.subgraphs():
            changed |= self._graph(graph)
        if node.key == "If":
            _set_types(node, merge_branches(node))
        self._settled.add(node)
        for value in node.outputs:
            if value is not None and value.type is not None and _has_unknown(value):
                value.type = self.named(value.type, node.op)
                changed = True
        return changed


def has_run_time_sizes(graph: Graph) -> bool:
    """Whether the sizes of some value depend on data, or a loop may have such sizes."""
    return any(
        node.key in ("Loop", "Scan")
        or any(v is not None and v.type is not None and _has_unknown(v) for v in node.outputs)
        for node in graph.walk()
    )


def _has_unknown(value: Value) -> bool:
    return value.t.shape is not None and any(d is UNKNOWN for d in value.t.shape)


def _present(node: Node) -> list[Value]:
    return [v for v in node.inputs if v is not None]


def _graphs(graph: Graph) -> Iterator[Graph]:
    yield graph
    for node in graph.nodes:
        for inner in node.subgraphs():
            yield from _graphs(inner)


def _symbols_of(graph: Graph) -> Iterator[str]:
    values = [*graph.inputs, *(v for n in graph.nodes for v in n.outputs if v is not None)]
    for value in values:
        if value.type is not None:
            for dim in (*(value.type.shape or ()), *(value.content or ())):
                yield from symbols(dim)


def _infer_again(node: Node) -> None:
    """Infer a node; what was known, and does not follow from its operands, stays known."""
    before = [(v.type, v.content) if v is not None else None for v in node.outputs]
    infer_node(node)
    for value, old in zip(node.outputs, before, strict=True):
        if value is None or old is None:
            continue
        _keep(value, *old)


def _keep(value: Value, type: TensorType | None, content: tuple[Dim, ...] | None) -> None:
    now = value.type
    if type is None or type.shape is None or now is None:
        return
    if now.shape is None:
        value.type = type
    elif len(now.shape) == len(type.shape):
        pairs = zip(now.shape, type.shape, strict=True)
        value.type = TensorType(
            now.dtype, tuple(old if new is UNKNOWN else new for new, old in pairs)
        )
    if value.content is None:
        value.content = content


def _set_types(node: Node, types: list[TensorType | None]) -> None:
    for value, type in zip(node.outputs, types, strict=True):
        if value is not None and type is not None:
            old = value.type
            value.type, value.content = type, None
            _keep(value, old, None)
