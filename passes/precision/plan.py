"""Which nodes and values go to 16 bits: decided on the whole graph, before anything is changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from burnish.ir import Graph, Node, Value
from burnish.passes.precision.facts import Facts, is_wide
from burnish.passes.precision.formats import Format
from burnish.passes.precision.ranges import Extent, Ranges
from burnish.passes.precision.roles import Role, Row, row_of, sensitive


@dataclass
class Plan:
    """What the pass will do.

    Attributes:
        narrow: Nodes whose data inputs and outputs become 16 bits.
        stored: Glue results that are stored in 16 bits, behind a Cast.
        saturated: Values that are limited to the range before they are cast.
        kept: Why nodes stay in float32, all of those that are no narrow nodes and neither read nor
            write 16 bits.
        consequences: Those among them that stay because of others around them.
    """

    narrow: set[Node] = field(default_factory=set)
    stored: set[Value] = field(default_factory=set)
    saturated: set[Value] = field(default_factory=set)
    kept: dict[Node, str] = field(default_factory=dict)
    consequences: set[Node] = field(default_factory=set)

    def is_low(self, value: Value) -> bool:
        """Whether the data of a value will lie in 16 bits."""
        return value in self.stored or (
            value.producer is not None and value.producer in self.narrow
        )


def carries(row: Row, node: Node, index: int) -> bool:
    """Whether an input of a node is float32 data."""
    value = node.input(index)
    return value is not None and is_wide(value) and row.carries(index)


def make_plan(
    graph: Graph,
    stored: Format,
    *,
    high: Mapping[str, str],
    extents: Mapping[str, Extent],
    explicit: bool,
) -> Plan:
    """Decide for every node of a graph and its subgraphs.

    Args:
        graph: It stays as it is.
        stored: The 16-bit type.
        high: Original names of nodes that have to stay in float32, each with the reason.
        extents: What was measured, by name of the value.
        explicit: Whether Casts have to say what computes in float32.
    """
    return _Planner(graph, Ranges(stored, extents), high, explicit).run()


class _Planner:
    def __init__(
        self, graph: Graph, ranges: Ranges, high: Mapping[str, str], explicit: bool
    ) -> None:
        self.graph = graph
        self.stored = ranges.stored
        self.high = high
        self.nodes = list(graph.walk())
        self.rows = {node: row_of(node, explicit=explicit) for node in self.nodes}
        self.facts = Facts(self.rows, ranges)
        self.plan = Plan()
        self._wanted: dict[Value, bool] = {}
        self._landing: dict[Value, bool] = {}

    def run(self) -> Plan:
        for node in self.nodes:
            if self.rows[node].role is Role.COMPUTE:
                self._compute(node)
        for node in reversed(self.nodes):
            for value in filter(None, node.outputs):
                # Users first: a chain of moves may be longer than Python recurses.
                self._lands(value)
                self._wants(value)
        # Walking is in topological order within a graph, so producers are decided first.
        for node in self.nodes:
            role = self.rows[node].role
            if role is Role.MOVE and self._moves_narrow(node):
                self.plan.narrow.add(node)
            elif role is Role.GLUE and self._lands(node.output) and not self._sensitive(node):
                self.plan.stored.add(node.output)
        for value in list(self.plan.stored):
            if not any(self._reads_narrow(user, index) for user, index in value.uses):
                self.plan.stored.remove(value)
        for node in self.nodes:
            self._saturate(node)
            self._reason(node)
        return self.plan

    # --- decisions -----------------------------------------------------------------------------

    def _compute(self, node: Node) -> None:
        """A compute node is narrow if its types and constants allow it."""
        row = self.rows[node]
        data = [i for i in range(len(node.inputs)) if carries(row, node, i)]
        if not data:
            return
        if why := self._wanted_high(node) or self._unreached(node) or self._too_precise(node, data):
            self.plan.kept[node] = why
        elif any(v is not None and not is_wide(v) for v in node.outputs[:1]):
            self.plan.kept[node] = f"its result is {node.output.dtype}"
        elif any(v is not None and is_wide(v) for v in node.outputs[1:]) and not node.domain:
            self.plan.kept[node] = "its statistics are float32 outputs"
        else:
            self.plan.narrow.add(node)

    def _unreached(self, node: Node) -> str:
        """Why nothing is known of a node in a subgraph although its graph was measured."""
        if node.graph is self.graph or not self.facts.ranges.extents:
            return ""
        known = node.output.name in self.facts.ranges.extents
        return "" if known else "no calibration sample reached it"

    def _too_precise(self, node: Node, data: Sequence[int]) -> str:
        """Why 16 bits cannot hold what a compute node reads or makes; empty if they can."""
        read, facts = [node.required(index) for index in data], self.facts
        reasons = (
            *map(facts.unfit, read),
            *map(facts.inexact_count, read),
            facts.unfit(node.output),
            *(facts.blurred(node, index) for index in data),
            facts.blurs(node.output),
        )
        if why := next(filter(None, reasons), ""):
            return why
        if facts.before_log(node.output):
            return "a logarithm follows, to which small results matter like large"
        return ""

    def _moves_narrow(self, node: Node) -> bool:
        """A move is narrow if what it moves is, or goes to narrow nodes only.

        What moves constants (an embedding) is narrow as soon as one narrow node depends on it.
        """
        row = self.rows[node]
        if node.str_attr("reduction", "none") != "none" or not is_wide(node.output):
            return False
        data = [node.required(i) for i in range(len(node.inputs)) if carries(row, node, i)]
        if node.op in self.stored.lacking:
            self.plan.kept[node] = f"ONNX has no {node.op} of {self.stored.dtype}"
            return False
        if self._wanted_high(node) or any(map(self.facts.unfit, (*data, node.output))):
            return False
        moved = data if node.key == "Concat" else data[:1]
        if any(self.plan.is_low(v) for v in moved):
            return True
        outputs = [v for v in node.outputs if v is not None]
        if all(v.is_const for v in moved):
            return any(map(self._wants, outputs))
        return all(map(self._only_lands, outputs))

    def _only_lands(self, value: Value) -> bool:
        """Whether nothing but compute nodes in 16 bits read a value."""
        return not value.is_output and all(self._reads_narrow(*use) for use in value.uses)

    def _reads_narrow(self, node: Node, index: int) -> bool:
        return node in self.plan.narrow and self.rows[node].carries(index)

    def _lands(self, value: Value) -> bool:
        """Whether a narrow node reads a value, perhaps after it was moved."""
        return is_wide(value) and self._reaches(
            value, self._has_role(Role.MOVE), self._landing, self._reads_narrow
        )

    def _wants(self, value: Value) -> bool:
        """Whether a value reaches a narrow node through moves and glue."""
        return self._reaches(
            value, self._has_role(Role.MOVE, Role.GLUE), self._wanted, self._reads_narrow
        )

    def _wanted_high(self, node: Node) -> str:
        """Why a node was asked to stay in float32; empty if it was not."""
        names = node.location.names or (node.name,)
        return next((self.high[name] for name in names if name in self.high), "")

    def _sensitive(self, node: Node) -> str:
        """Why the result of a glue node is not stored in 16 bits; empty if it may be."""
        why = self._wanted_high(node) or sensitive(node, self.stored)
        return why or (self.facts.unfit(node.output) if is_wide(node.output) else "")

    def _reaches(
        self,
        value: Value,
        through: Callable[[Node], bool],
        known: dict[Value, bool],
        found: Callable[[Node, int], bool],
    ) -> bool:
        """Whether a use that ``found`` accepts is reached through the data of some nodes."""
        if value not in known:
            known[value] = any(
                found(user, index)
                or (
                    self.rows[user].carries(index)
                    and through(user)
                    and any(
                        self._reaches(v, through, known, found)
                        for v in user.outputs
                        if v is not None
                    )
                )
                for user, index in value.uses
            )
        return known[value]

    def _has_role(self, *roles: Role) -> Callable[[Node], bool]:
        return lambda node: self.rows[node].role in roles

    # --- masks ---------------------------------------------------------------------------------

    def _saturate(self, node: Node) -> None:
        """Limit what a narrow node reads where it may be a mask out of the range of the format."""
        if node not in self.plan.narrow:
            return
        row = self.rows[node]
        for index, value in enumerate(node.inputs):
            if value is None or not carries(row, node, index) or value.is_const:
                continue
            if value.producer is not None and value.producer in self.plan.narrow:
                continue
            if self.facts.is_wild(value):
                self.plan.saturated.add(value)

    # --- reasons -------------------------------------------------------------------------------

    def _reason(self, node: Node) -> None:
        plan = self.plan
        touched = [v for v in (*node.inputs, *node.outputs) if v is not None and is_wide(v)]
        if node in plan.narrow or node in plan.kept or not touched:
            return
        row = self.rows[node]
        if row.role is Role.KEEP:
            plan.kept[node] = row.why(self.stored)
        elif why := self._sensitive(node):
            plan.kept[node] = why
        elif row.reason:
            plan.kept[node] = row.reason
        elif row.role is Role.MOVE or not any(map(plan.is_low, touched)):
            plan.consequences.add(node)
            moves = row.role is Role.MOVE
            plan.kept[node] = "it moves float32 data" if moves else "between float32 tensors"
