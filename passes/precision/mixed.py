"""The pass that stores tensors in 16 bits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from burnish.ir import Builder, Constant, Graph, Location, Node, TensorType, Value
from burnish.ir.types import BY_NAME, to_numpy
from burnish.passes.base import Numerics, Pass, PassContext, all_graphs, counted, defined, homes
from burnish.passes.precision.facts import WIDE, is_wide
from burnish.passes.precision.formats import Format, format_of
from burnish.passes.precision.plan import Plan, carries, make_plan
from burnish.passes.precision.ranges import Measure
from burnish.passes.precision.roles import row_of

VIA = "mixed-precision"


@dataclass(frozen=True)
class MixedPrecision(Pass):
    """Store tensors in float16 or bfloat16; sums and functions are computed in float32.

    Before: MatMul -> Add -> LayerNormalization on float32.
    After: Cast -> MatMul (float16) -> Cast -> Add -> Cast -> LayerNormalization (float16) -> Cast;
        the Casts around elementwise operators fuse into their kernels.
    Keeps: inputs and outputs of the model; operators whose results leave the range of float16 or
        need more bits than bfloat16 has, constants out of range, recurrent layers, control flow,
        each with its reason.
    Numerics: narrows: every stored tensor is rounded to the 11 significant bits of float16 or the
        8 of bfloat16.

    Attributes:
        dtype: The 16-bit type, ``float16`` or ``bfloat16``.
        high: Original names of nodes that have to stay in float32, each with the reason.
        explicit: Let norms, softmax and averages compute on float32 between Casts, for runtimes
            that would compute them in the types of their operands; burnish's kernels do not.
        measure: Measures values on calibration data; None decides by the operators alone.
    """

    name = "mixed-precision"
    numerics = Numerics.NARROWS
    dtype: str = "float16"
    high: Mapping[str, str] = field(default_factory=dict)
    explicit: bool = False
    measure: Measure | None = None

    @property
    def spec(self) -> str:
        """The name with the type, not with all nodes."""
        chosen = [f"dtype={self.dtype}"] if self.dtype != "float16" else []
        chosen += ["explicit=True"] if self.explicit else []
        return f"{self.name}{{{','.join(chosen)}}}" if chosen else self.name

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        """Decide, then change types and put Casts between."""
        stored = format_of(self.dtype)
        extents = self.measure(graph, _measurable(graph)) if self.measure is not None else {}
        plan = make_plan(graph, stored, high=self.high, extents=extents, explicit=self.explicit)
        # Causes last: a view of what an original node makes must not hide the node's own reason.
        for node in sorted(plan.kept, key=lambda node: node not in plan.consequences):
            ctx.keep(node, plan.kept[node])
        if not plan.narrow:
            ctx.note("no operator can be stored in 16 bits")
            return False
        both = _Rewriter(graph, plan, stored, ctx).run()
        _report(plan, stored, ctx)
        if both:
            ctx.note(f"constants stored in both precisions: {', '.join(sorted(both))}")
        return True


def _measurable(graph: Graph) -> list[Value]:
    """The float32 values that a graph and its subgraphs make, or are given."""
    return [v for g in all_graphs(graph) for v in defined(g) if is_wide(v)]


def _report(plan: Plan, stored: Format, ctx: PassContext) -> None:
    short = stored.precision
    causes = Counter(
        # The report counts causes; each node's own reason has the numbers.
        f"{node.key}: {reason.partition(' (')[0]}"
        for node, reason in plan.kept.items()
        if node not in plan.consequences
    )
    line = f"{short}: {len(plan.narrow)} nodes stored in {short}, {len(plan.kept)} kept in fp32"
    if causes:
        line += f"; {counted(causes)}"
    ctx.note(line)
    if plan.saturated:
        ctx.note(
            f"masks are limited to the range of {short}: numbers below it only have to be low "
            f"({len(plan.saturated)} tensors)"
        )


class _Rewriter:
    """Carries a plan out."""

    def __init__(self, graph: Graph, plan: Plan, stored: Format, ctx: PassContext) -> None:
        self.graph = graph
        self.plan = plan
        self.stored = stored
        self.dtype = stored.dtype
        self.ctx = ctx
        self.home = homes(graph)
        self._down: dict[Value, Value] = {}
        self._up: dict[Value, Value] = {}
        self._constants: dict[Constant, Value] = {}

    def run(self) -> list[str]:
        """Rewrite the graph; returns the names of constants that are needed in both types."""
        # What reads 16 bits, before anything changes.
        reads = {
            (node, index)
            for node in self.plan.narrow
            for index in range(len(node.inputs))
            if carries(row_of(node), node, index)
        }
        walked = list(self.graph.walk())
        for node in walked:
            with self.ctx.visiting(node):
                for index in range(len(node.inputs)):
                    if (node, index) in reads:
                        self._narrow_input(node, index)
        for node in walked:
            with self.ctx.visiting(node):
                for value in node.outputs:
                    if value is not None and self.plan.is_low(value):
                        self._widen_uses(value, reads, narrow=node in self.plan.narrow)
        wide = {value.const: value.name for value in self.graph.constants()}
        return [wide[const] for const in self._constants if const in wide]

    # --- what narrow nodes read ----------------------------------------------------------------

    def _narrow_input(self, node: Node, index: int) -> None:
        value = node.required(index)
        if value.const is not None:
            node.set_input(index, self._constant(value))
        elif not (value.producer is not None and value.producer in self.plan.narrow):
            node.set_input(index, self._cast_down(value, node))

    def _constant(self, value: Value) -> Value:
        """The constant in 16 bits, shared by all nodes that read it."""
        const = value.const
        assert const is not None
        if const not in self._constants:
            wide, dtype = const, to_numpy(self.dtype)
            narrow = Constant(
                lambda: wide.array.astype(dtype), TensorType(self.dtype, const.type.shape)
            )
            self._constants[const] = self.graph.constant(narrow, value.name)
        return self._constants[const]

    def _cast_down(self, value: Value, user: Node) -> Value:
        if value not in self._down:
            producer = value.producer
            names = (producer or user).location.names
            b = Builder(self.home[value], Location(names, (VIA,)))
            source = value
            if value in self.plan.saturated:
                source = _limited(b, value, self.stored.largest)
            self._down[value] = b.op("Cast", source, to=BY_NAME[self.dtype].onnx)
        return self._down[value]

    # --- what everything else reads ------------------------------------------------------------

    def _widen_uses(self, value: Value, reads: set[tuple[Node, int]], *, narrow: bool) -> None:
        """Let what computes in float32 read a 16-bit value through a Cast."""
        graph = self.home[value]
        low = value if narrow else self._down[value]
        if narrow:
            value.type = TensorType(self.dtype, value.t.shape)
        users = [use for use in value.uses if use not in reads and use[0] is not low.producer]
        if not narrow:
            # A value that was limited on its way to 16 bits is what it was for all others.
            users = [] if value in self.plan.saturated else users
        if not users and not (narrow and value.is_output):
            return
        assert value.producer is not None
        b = Builder(graph, Location(value.producer.location.names, (VIA,)))
        wide = b.op("Cast", low, to=BY_NAME[WIDE].onnx)
        for user, index in users:
            user.set_input(index, wide)
        if narrow and value.is_output:
            _replace_output(graph, value, wide)


def _replace_output(graph: Graph, old: Value, new: Value) -> None:
    """Make ``new`` the graph output that ``old`` is; a model's output keeps its name."""
    uses = list(old.uses)
    graph.replace_uses(old, new)
    for node, index in uses:
        node.set_input(index, old)


def _limited(b: Builder, value: Value, largest: float) -> Value:
    """The value within a range, infinities as they are."""
    low, high = (b.constant(np.asarray(x, np.float32)) for x in (-largest, largest))
    return b.op("Where", b.op("IsInf", value), value, b.op("Clip", value, low, high))
