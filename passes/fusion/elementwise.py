"""The last fusion: what is left of elementwise work becomes few kernels.

A *group* is grown backwards from its root: an operator joins when all its uses are inside, so a
group has one output and no path leaves it and comes back. Cheap data movement (Slice, Transpose,
Gather, ...), views and ranges join in the same way, as index maps. An operator whose result is
broadcast in the group is computed again for every element, so it joins only when that costs less
than a kernel of its own. Ranges and views are copied into every group that reads them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from burnish.ir import UNKNOWN, Builder, Dim, Graph, Location, Node, Value
from burnish.ir.opinfo import Kind, OpInfo, attribute_inputs, info
from burnish.passes.axes import aligned_blocks, elements_of, permutation_of
from burnish.passes.base import Pass, PassContext, all_graphs
from burnish.passes.rewrite import remove_dead
from burnish.passes.rows import has_rank

VIA = "fuse-elementwise"
#: Conversions to and from codes by one scale.
_CONVERSION = OpInfo(Kind.ELEMENTWISE, 4)
_PERMUTATIONS = frozenset({"Transpose", "DepthToSpace", "SpaceToDepth"})


@dataclass(eq=False)
class Group:
    """Nodes of one kernel, the root first and producers after their users.

    ``evaluations`` counts how often an element of a node's output is computed, all in all.
    """

    root: Node
    nodes: dict[Node, None] = field(default_factory=dict)
    evaluations: dict[Node, int] = field(default_factory=dict)

    def add(self, node: Node) -> None:
        """Let a node join."""
        self.evaluations[node] = self.evaluations_of(node)
        self.nodes[node] = None

    def evaluations_of(self, node: Node) -> int:
        """How many elements of a producer would be computed."""
        own = elements_of(node.output)
        return max([own] + [n for u in node.output.users() if (n := self.evaluations.get(u))])


@dataclass(frozen=True)
class FuseElementwise(Pass):
    """Group elementwise operators and cheap data movement into kernels.

    Before: Cast -> Sub -> Mul (a mask); Slice, Neg, Concat, Mul, Add (rotary embedding).
    After: one burnish::Elementwise each, with the operators in its body.
    Keeps: single operators, reductions, values that several groups need and that are dear.
    Numerics: exact.

    Attributes:
        max_recompute: How many scalar operations of a node may be repeated to save a kernel.
        max_inputs: Groups do not grow beyond as many tensors.
    """

    name = "fuse-elementwise"
    max_recompute: int = 65536
    max_inputs: int = 16

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        """Form the groups of every graph."""
        changed = False
        for g in all_graphs(graph):
            g.sort()
            for group in self.groups(g):
                with ctx.visiting(group.root):
                    changed |= build(g, group)
        return changed

    def groups(self, graph: Graph) -> list[Group]:
        """The groups of a graph, users first."""
        owners: dict[Node, list[Group]] = {}
        found: list[Group] = []
        for node in reversed(graph.nodes):
            if not groupable(node):
                continue
            joined = self._joins(node, owners)
            if not joined:
                if work_of(node).kind in (Kind.VIEW, Kind.GENERATOR):
                    continue
                joined = [Group(node)]
                found += joined
            for group in joined:
                group.add(node)
            owners[node] = joined
        for group in found:
            _trim(group)
        return [g for g in found if _worth_it(g)]

    def _joins(self, node: Node, owners: dict[Node, list[Group]]) -> list[Group]:
        """The groups that a node joins as a producer; several get a copy each, if it is cheap."""
        users = node.output.users()
        if not users or node.output.is_output or any(u not in owners for u in users):
            return []
        if any(index in attribute_inputs(user) for user, index in node.output.uses):
            return []
        if work_of(node) is _CONVERSION and any(u.op in _PERMUTATIONS for u in users):
            return []  # what permutes codes has kernels of its own, and moves fewer bytes
        groups = list(dict.fromkeys(g for u in users for g in owners[u]))
        cost = work_of(node).cost
        for group in groups:
            own = elements_of(node.output)
            repeated = group.evaluations_of(node) - own
            # A kernel of its own would write and read each element once.
            if repeated * cost > max(self.max_recompute, 4 * own) or not _good_producer(node):
                return []
            if len(_tensors(group)) + len(node.inputs) > self.max_inputs:
                return []
        dear = elements_of(node.output) * max(cost, 1) > self.max_recompute
        return [] if len(groups) > 1 and dear and cost else groups


def work_of(node: Node) -> OpInfo:
    """What kind of work a node is in a group, where 8 bits are read and written as well."""
    if node.key not in ("QuantizeLinear", "DequantizeLinear") or node.required(0).is_const:
        return info(node)
    parameters = node.inputs[1:]
    scalar = all(v is None or (v.is_const and v.array.size == 1) for v in parameters)
    return _CONVERSION if scalar else info(node)


def groupable(node: Node) -> bool:
    """Whether a node may be part of a group at all."""
    kind = work_of(node).kind
    if kind is Kind.OTHER or len(node.outputs) != 1 or not has_rank(node.output):
        return False
    if any(v is not None and (not has_rank(v) or v.dtype == "string") for v in node.inputs):
        return False
    known = all(
        v is None or v.is_const or v.content is not None
        for i, v in enumerate(node.inputs)
        if i in attribute_inputs(node)
    )
    if not known:
        return False
    if node.op == "Resize":
        return node.str_attr("mode", "nearest") == "nearest"
    return _is_simple_view(node) if kind is Kind.VIEW else node.op not in ("Tile", "EyeLike")


def _is_simple_view(node: Node) -> bool:
    """Whether a view only adds or drops axes of size 1, or splits axes into static parts."""
    before, after = node.required(0).shape, node.output.shape
    if _without_ones(before) == _without_ones(after):
        return all(d is not UNKNOWN for d in before)
    blocks = aligned_blocks(before, after)
    return blocks is not None and all(
        len([a for a in left if before[a] != 1]) <= 1
        and all(isinstance(after[a], int) for a in right[1:])
        for left, right in blocks
    )


def _without_ones(shape: tuple[Dim, ...]) -> list[Dim]:
    return [d for d in shape if not (isinstance(d, int) and d == 1)]


def _good_producer(node: Node) -> bool:
    """Whether reading through an index map is as good as reading the moved tensor."""
    if node.op == "Transpose":
        if all(user.op == "DepthToSpace" for user in node.output.users()):
            return True  # the channels of a block stay together
        perm = permutation_of(node)
        return perm[-1] == len(perm) - 1 or elements_of(node.output) <= 65536
    if node.op in ("Gather", "GatherElements", "GatherND"):
        return node.op != "Gather" or _gathers_rows(node) or elements_of(node.output) <= 65536
    return True


def _gathers_rows(node: Node) -> bool:
    rank = len(node.required(0).shape)
    return node.int_attr("axis") % rank != rank - 1


def _tensors(group: Group) -> set[Value]:
    """What the group reads, scalar constants left out."""
    return {
        v
        for node in group.nodes
        for v in node.inputs
        if v is not None and v.producer not in group.nodes and not _inner_constant(v)
    }


def _inner_constant(value: Value) -> bool:
    return value.is_const and value.array.size == 1


def _trim(group: Group) -> None:
    """Leave views of what comes from outside to the outside: there they cost nothing."""
    for node in reversed(list(group.nodes)):
        source = node.inputs[0] if node.inputs else None
        if work_of(node).kind is not Kind.VIEW or source is None:
            continue
        if source.producer not in group.nodes and _slice_of_split(source) is None:
            del group.nodes[node]


def _worth_it(group: Group) -> bool:
    """Whether a kernel is saved: more than one operator that computes or moves."""
    work = [n for n in group.nodes if work_of(n).kind in (Kind.ELEMENTWISE, Kind.MOVEMENT)]
    ranges = [n for n in group.nodes if work_of(n).kind is Kind.GENERATOR]
    useful = any(work_of(n).kind is Kind.ELEMENTWISE for n in work) or all(
        n.op in _PERMUTATIONS for n in work
    )
    return group.root in group.nodes and useful and len(work) + len(ranges) > 1


def _slice_of_split(value: Value) -> tuple[Value, int, int, int] | None:
    """Data, axis, start and end if a value is a part of a Split with constant sizes."""
    node = value.producer
    if node is None or node.key != "Split":
        return None
    axis = node.int_attr("axis")
    bounds = [0]
    for part in node.outputs:
        size = part.shape[axis] if part is not None else None
        if not isinstance(size, int):
            return None
        bounds.append(bounds[-1] + size)
    index = node.outputs.index(value)
    return node.required(0), axis, bounds[index], bounds[index + 1]


def _is_free(value: Value) -> bool:
    """Whether a value is a range or a view of one."""
    node = value.producer
    if node is None or not groupable(node):
        return False
    kind = work_of(node).kind
    return kind is Kind.GENERATOR or (kind is Kind.VIEW and _is_free(node.required(0)))


class _Body:
    """Builds the body of a group."""

    def __init__(self, group: Group) -> None:
        self.group = group
        self.graph = Graph("elementwise")
        self.inputs: dict[Value, Value] = {}
        self.mapping: dict[Value, Value] = {}
        self.b = Builder(self.graph)

    def read(self, value: Value, *, attribute: bool) -> Value:
        """What stands for ``value`` in the body."""
        if value in self.mapping:
            return self.mapping[value]
        if value.const is not None and (attribute or value.array.size == 1):
            inner = self.b.constant(value.const, value.name)
        elif (copied := self._copied(value)) is not None:
            inner = copied
        else:
            inner = self.graph.value(f"in{len(self.inputs)}", value.type)
            inner.content = value.content
            self.graph.inputs.append(inner)
            self.inputs[value] = inner
        self.mapping[value] = inner
        return inner

    def _copied(self, value: Value) -> Value | None:
        """A part of a Split, or a range: cheaper to find again than to read."""
        part = _slice_of_split(value)
        if part is not None:
            data, axis, start, end = part
            source = self.read(data, attribute=False)
            bounds = [self.b.ints([n]) for n in (start, end, axis)]
            return self.b.op("Slice", source, *bounds)
        return self.add(value.producer) if value.producer and _is_free(value) else None

    def add(self, node: Node) -> Value:
        """Copy a node into the body."""
        positions = attribute_inputs(node)
        inputs = [
            None if v is None else self.read(v, attribute=i in positions)
            for i, v in enumerate(node.inputs)
        ]
        made = self.b.node(node.op, inputs, node.attrs).output
        self.mapping[node.output] = made
        return made


def _users_last(group: Group) -> Iterator[Node]:
    yield from reversed(list(group.nodes))


def build(graph: Graph, group: Group) -> bool:
    """Replace a group by one node."""
    if group.root.graph is not graph:  # every user took a copy
        return False
    body = _Body(group)
    for node in _users_last(group):
        body.add(node)
    result = group.root.output
    body.graph.set_outputs([body.mapping[result]])
    body.graph.opset = dict(graph.opset)
    location = Location.merge((n.location for n in _users_last(group)), via=VIA)
    made = Builder(graph, location).node(
        "Elementwise", list(body.inputs), {"body": body.graph}, domain="burnish"
    )
    assert made.output.t.dtype == result.dtype
    made.output.type = result.type
    made.output.content = result.content
    graph.replace_uses(result, made.output)
    remove_dead(graph, group.nodes)
    return True
