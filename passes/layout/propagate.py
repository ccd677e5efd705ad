"""Where transposes go: regions of layout-agnostic operators choose how their tensors are stored.

A *region* is a connected set of layout-agnostic operators. All its tensors are stored under one
permutation q, and transposes stand only where a tensor enters or leaves the region. The region
takes the q that moves the fewest bytes at its border; a transpose that moves only axes of size 1
is free. Since the total of moved bytes falls with every change, the pass ends.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from burnish.ir import Builder, Graph, Location, Node, Value
from burnish.passes.axes import (
    Perm,
    bytes_of,
    compose,
    inverse,
    is_identity,
    is_view,
    permutation_of,
    transpose_cost,
    transposed,
)
from burnish.passes.layout.agnostic import Form, Rebuild, form_of
from burnish.passes.rewrite import remove_dead

VIA = "propagate-layout"


@dataclass
class Region:
    """Connected layout-agnostic nodes and the tensors that they share."""

    rank: int
    nodes: dict[Node, Form] = field(default_factory=dict)
    values: dict[Value, None] = field(default_factory=dict)

    @property
    def made(self) -> set[Value]:
        """Members that the region itself computes."""
        return {v for node, form in self.nodes.items() for v in form.outputs(node)}

    def entering(self) -> list[Value]:
        """Members that come from outside."""
        made = self.made
        return [v for v in self.values if v not in made]

    def leaving(self) -> dict[Value, tuple[list[Node], bool]]:
        """Own members used outside: the Transposes that read them, and whether others do."""
        found = {}
        for value in self.made:
            turns, others = [], value.is_output
            for node, _ in value.uses:
                form = self.nodes.get(node)
                if form is not None and value in (form.inputs(node) or ()):
                    continue
                if node.key == "Transpose" and form is None:
                    turns.append(node)
                else:
                    others = True
            if turns or others:
                found[value] = (turns, others)
        return found


def regions(graph: Graph, *, rows: bool = False) -> list[Region]:
    """The regions of a graph; ``rows`` as for :func:`form_of`."""
    of: dict[Value, Region] = {}
    found: dict[int, Region] = {}
    for node in graph.nodes:
        form = form_of(node, rows=rows)
        if form is None:
            continue
        members = [*(form.inputs(node) or ()), *form.outputs(node)]
        touched = {id(of[v]): of[v] for v in members if v in of}
        region = next(iter(touched.values()), None) or Region(len(members[0].shape))
        found[id(region)] = region
        for other in touched.values():
            if other is not region:
                region.nodes |= other.nodes
                region.values |= other.values
                of.update(dict.fromkeys(other.values, region))
                del found[id(other)]
        region.nodes[node] = form
        for value in members:
            region.values[value] = None
            of[value] = region
    return list(found.values())


def cost(region: Region, q: Perm) -> int:
    """Bytes that transposes move at the border of a region stored under ``q``."""
    total = sum(form.extra_cost(node, q) for node, form in region.nodes.items())
    identity = is_identity(q)
    leaving = region.leaving()
    for value in region.entering():
        turn = value.producer
        if turn is not None and turn.key == "Transpose":
            perm = compose(permutation_of(turn), q)
            total += 0 if is_identity(perm) else transpose_cost(turn.required(0), perm)
        elif not identity:
            total += transpose_cost(value, q)
    for value, (turns, others) in leaving.items():
        back = inverse(q)
        perms = {compose(back, permutation_of(t)) for t in turns}
        if others and not identity:
            perms.add(back)
        shape = [value.shape[i] for i in q]
        total += sum(0 if is_view(shape, perm) else bytes_of(value) for perm in perms)
    return total


def candidates(region: Region) -> Iterable[Perm]:
    """Permutations that would cancel a transpose at the border and that every node accepts."""
    found: dict[Perm, None] = {}
    for value in region.entering():
        if value.producer is not None and value.producer.key == "Transpose":
            found[inverse(permutation_of(value.producer))] = None
    for turns, _ in region.leaving().values():
        for turn in turns:
            found[permutation_of(turn)] = None
    accepted = [q for q in found if all(form.accepts(q) for form in region.nodes.values())]
    return [q for q in accepted if not is_identity(q)]


def store(graph: Graph, region: Region, q: Perm) -> None:
    """Rewrite a region so that its tensors are stored under ``q``."""
    leaving, entering = region.leaving(), region.entering()
    before = len(graph)
    b = Builder(graph)
    stored = {value: transposed(b, value, q) for value in entering}
    _locate(graph, before, (v.producer for v in entering))
    for node, form in region.nodes.items():
        start = len(graph)
        outputs = form.rebuild(Rebuild(node, b, stored, q))
        _locate(graph, start, (node,))
        members = form.outputs(node)
        for old, new in zip(node.outputs, outputs, strict=True):
            if old is None or new is None:
                continue
            if old in members:
                stored[old] = new
            else:
                graph.replace_uses(old, new)
    back = inverse(q)
    for value, (turns, others) in leaving.items():
        start = len(graph)
        for turn in turns:
            turned = transposed(b, stored[value], compose(back, permutation_of(turn)))
            graph.replace_uses(turn.output, turned)
        if others:
            graph.replace_uses(value, transposed(b, stored[value], back))
        _locate(graph, start, (value.producer,))
    remove_dead(graph, graph.nodes[::-1])


def _locate(graph: Graph, start: int, sources: Iterable[Node | None]) -> None:
    """Give new nodes the location of what they stand for."""
    if len(graph) > start:
        location = Location.merge((s.location for s in sources if s is not None), via=VIA)
        for node in graph.nodes[start:]:
            node.location = location


def propagate(graph: Graph) -> bool:
    """Let every region take its best layout; returns whether the graph changed.

    Regions with operators on rows come second: they accept fewer layouts.
    """
    changed = _propagate(graph, rows=False)
    return _propagate(graph, rows=True) or changed


def _propagate(graph: Graph, *, rows: bool) -> bool:
    changed = False
    progress = True
    # Far more than the nodes could be moved in any sensible order.
    left = 16 * len(graph) + 64
    while progress:
        if left == 0:
            raise RuntimeError("layouts do not settle: the costs of two of them contradict")
        left -= 1
        progress = False
        graph.sort()
        for region in regions(graph, rows=rows):
            costs = {q: cost(region, q) for q in candidates(region)}
            best = min(costs, key=lambda q: costs[q], default=None)
            if best is not None and costs[best] < cost(region, tuple(range(region.rank))):
                store(graph, region, best)
                progress = changed = True
                break
    return changed
