"""Which nodes and values go to 8 bits: decided on the whole graph, before anything is changed.

Products (convolutions, matrix products) read 8 bits. A value that they read is quantized; so is
what it was moved from (pooled, reshaped, concatenated), with the same scale on both sides, so that
moving it costs no rounding; and so are the term of a residual sum that does not come from a product
right before it, the input of an average, and what is gated by channel, whose results are read in 8
bits: a convolutional network stays in 8 bits from end to end. All else reads the value as it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from burnish.ir import Graph, Node, Value
from burnish.ir.dims import equal
from burnish.passes.patterns import scalar
from burnish.passes.quantization.parameters import Interval
from burnish.passes.quantization.selection import (
    PRODUCTS,
    QUANTIZED_ALREADY,
    Selection,
    comes_quantized,
)

#: Operators whose result has elements of their data inputs only, by the inputs; None for all.
MOVES: dict[str, tuple[int, ...] | None] = {
    "Concat": None,
    **dict.fromkeys(("DepthToSpace", "Expand", "Flatten", "Gather", "GatherND"), (0,)),
    **dict.fromkeys(("Identity", "MaxPool", "GlobalMaxPool", "Pad", "ReduceMax"), (0,)),
    **dict.fromkeys(("Reshape", "Slice", "SpaceToDepth", "Split", "Squeeze"), (0,)),
    **dict.fromkeys(("Tile", "Transpose", "Unsqueeze"), (0,)),
}
#: Operators whose input is stored in 8 bits where their result is: averages.
_AVERAGES = frozenset({"AveragePool", "GlobalAveragePool", "ReduceMean", "Resize"})
#: Operators that are applied where a result is made, before it is stored.
ACTIVATIONS = frozenset(
    {
        *("Clip", "Elu", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish"),
        *("PRelu", "Relu", "Sigmoid", "Softplus", "Swish", "Tanh"),
    }
)

#: A use: a node and the position of an input.
Use = tuple[Node, int]


@dataclass
class Plan:
    """What the pass will do.

    Attributes:
        products: Products in 8 bits, with the positions of their activations.
        reads: Uses that read 8 bits.
        intervals: What each value that is stored in 8 bits represents.
        kept: Why products stay in floating point.
    """

    products: dict[Node, tuple[int, ...]] = field(default_factory=dict)
    reads: dict[Use, None] = field(default_factory=dict)
    intervals: dict[Value, Interval] = field(default_factory=dict)
    kept: dict[Node, str] = field(default_factory=dict)


def make_plan(
    graph: Graph,
    ranges: Mapping[str, Interval],
    refused: Mapping[str, str],
    selection: Selection,
) -> Plan:
    """Decide for every node of a graph and its subgraphs.

    Args:
        graph: Plain ONNX operators.
        ranges: What was measured, by name of the value.
        refused: Why values cannot be quantized, by name.
        selection: What the user wants.
    """
    return _Planner(graph, ranges, refused, selection).run()


def weight_axis(node: Node, index: int) -> int | None:
    """The axis of output channels of a product's constant operand; None if there is none."""
    rank = len(node.required(index).shape)
    if node.op == "Conv":
        return 0
    if node.op == "ConvTranspose":
        return 1 if node.int_attr("group", 1) == 1 else None
    if index == 0 or rank < 2:
        return None
    if node.op == "Gemm":
        return 0 if node.int_attr("transB") else 1
    return rank - 1


class _Planner:
    def __init__(
        self,
        graph: Graph,
        ranges: Mapping[str, Interval],
        refused: Mapping[str, str],
        selection: Selection,
    ) -> None:
        self.graph, self.ranges, self.refused = graph, ranges, refused
        self.selection = selection
        self.plan = Plan()
        self._tied: dict[Value, Value] = {}

    def run(self) -> Plan:
        for node in self.graph.walk():
            if node.key in PRODUCTS:
                self._product(node)
        queue = [value for value, _ in self._operands()]
        seen: dict[Value, None] = {}
        while queue:
            value = queue.pop()
            if value in seen:
                continue
            seen[value] = None
            queue += self._upstream(value)
        for value in seen:
            root, interval = self._root(value), self.ranges[value.name]
            known = self.plan.intervals.get(root)
            self.plan.intervals[root] = interval if known is None else known.union(interval)
        self.plan.intervals = {v: self.plan.intervals[self._root(v)] for v in seen}
        return self.plan

    # --- products ------------------------------------------------------------------------------

    def _product(self, node: Node) -> None:
        data = [i for i in (0, 1) if not node.required(i).is_const]
        reason = self.selection.refuses(node) or self._unfit(node, data)
        if reason:
            self.plan.kept[node] = reason
            return
        self.plan.products[node] = tuple(data)
        for index in data:
            self.plan.reads[node, index] = None

    def _unfit(self, node: Node, data: list[int]) -> str:
        if comes_quantized(node):
            return QUANTIZED_ALREADY
        if any(v is not None and v.dtype != "float32" for v in node.inputs):
            return f"it computes in {node.output.dtype}"
        if not data:
            return "all of its operands are constant"
        if 1 in data and node.op != "MatMul":
            return "its weights are not constant"
        if len(data) == 2 and self.selection.matmul_const_b_only:
            return "both of its operands are activations"
        for index in data:
            if why := self._unmeasured(node.required(index)):
                return why
        return ""

    def _unmeasured(self, value: Value) -> str:
        if value.name in self.refused:
            return f"{value.name} {self.refused[value.name]}"
        return "" if value.name in self.ranges else f"{value.name} was not measured"

    def _operands(self) -> list[tuple[Value, Use]]:
        return [(node.required(i), (node, i)) for node, i in self.plan.reads]

    # --- what else is stored in 8 bits ---------------------------------------------------------

    def _upstream(self, value: Value) -> list[Value]:
        """Values that are stored in 8 bits because ``value`` is."""
        node = value.producer
        if node is None or node.domain:
            return []
        if node.op in MOVES and self._moves_exactly(node):
            indices = MOVES[node.op] or tuple(range(len(node.inputs)))
            return self._take(node, indices, tied=value)
        if node.op in _AVERAGES:
            return self._take(node, (0,))
        if node.op in ACTIVATIONS:
            before = node.required(0)
            node = before.producer if before.single_user() is not None else None
        if node is None or node.domain or node.op not in ("Add", "Mul"):
            return []
        if node.op == "Mul":
            return self._take(node, self._gated(node))
        return self._take(node, self._stored_terms(node)) if self._is_residual(node) else []

    def _stored_terms(self, node: Node) -> tuple[int, ...]:
        """The terms of a sum that lie in memory: the other is added to where it is computed."""
        if self.selection.quantize_residuals:
            return (0, 1)
        for index in (0, 1):
            value = node.required(index)
            if value.producer in self.plan.products and value.single_user() is node:
                return (1 - index,)
        return (0, 1)

    def _take(self, node: Node, indices: tuple[int, ...], tied: Value | None = None) -> list[Value]:
        """Let a node read inputs in 8 bits, if all of them can be."""
        values = [node.required(i) for i in indices]
        if any(v.is_const or v.dtype != "float32" or self._unmeasured(v) for v in values):
            return []
        if tied is not None:
            # All of a Split's parts represent the same numbers as what they are parts of.
            parts = [v for v in node.outputs if v is not None and v.name in self.ranges]
            for value in (*values, *parts):
                self._tie(value, tied)
        for index in indices:
            self.plan.reads[node, index] = None
        return values

    def _moves_exactly(self, node: Node) -> bool:
        """Whether the elements that a node adds are representable: zeros of a padding are."""
        if node.op != "Pad" or node.str_attr("mode", "constant") != "constant":
            return True
        fill = node.input(2)
        return fill is None or scalar(fill) == 0.0

    def _is_residual(self, node: Node) -> bool:
        """Whether a sum adds two activations of one shape."""
        a, b = node.inputs[:2]
        return a is not None and b is not None and a is not b and a.t.same_shape(b.t)

    def _gated(self, node: Node) -> tuple[int, ...]:
        """The factor that has the result's shape, if the other one is a gate by channel."""
        rank = node.output.t.rank
        full = [v is not None and v.t.same_shape(node.output.t) for v in node.inputs]
        if rank not in (3, 4) or sorted(full) != [False, True]:
            return ()
        gate = node.required(full.index(False))
        spatial = () if gate.is_const or gate.t.rank != rank else gate.shape[2:]
        return (full.index(True),) if spatial and all(equal(d, 1) for d in spatial) else ()

    # --- values that share their parameters ----------------------------------------------------

    def _root(self, value: Value) -> Value:
        while value in self._tied:
            value = self._tied[value]
        return value

    def _tie(self, a: Value, b: Value) -> None:
        a, b = self._root(a), self._root(b)
        if a is not b:
            self._tied[a] = b
