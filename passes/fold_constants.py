"""Constant folding."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from burnish.ir import Constant, Graph, Location, Node, Value
from burnish.ir.dims import static_product
from burnish.ir.evaluate import can_evaluate, evaluate
from burnish.ir.infer import infer_node
from burnish.ir.infer.common import const_ints
from burnish.ir.types import BY_NAME, TensorType
from burnish.passes.base import Numerics, Pass, PassContext, all_graphs
from burnish.passes.rows import uniform

#: Operators whose result has a size that only its elements tell; at most a few times the input.
_DATA_DEPENDENT = frozenset({"Compress", "NonZero", "Unique", "NonMaxSuppression"})


@dataclass(frozen=True)
class FoldConstants(Pass):
    """Evaluate what depends on constants only.

    Before: `s = Mul(c1, c2); t = Transpose(w); y = MatMul(x, t)`, c1, c2 and w are constants.
    After: `y = MatMul(x, t)`, t is a constant.
    Keeps: random operators, operators with subgraphs; results that are larger than what they are
        computed from by more than `max_growth_bytes` in all (with a note).
    Numerics: exact (onnxruntime evaluates, without optimizations; a Transpose or Reshape of a
        constant is a view of its data, which are not read). An If with a constant condition is
        replaced by its branch.

    Attributes:
        max_growth_bytes: How much larger all folds together may make the model.
        decompress: Whether float weights that are stored in a smaller dtype may be converted,
            whatever their size (with a note).
        dequantize: Whether DequantizeLinear of constants is evaluated; products may want to read
            what is stored.
    """

    name: ClassVar[str] = "fold-constants"
    numerics: ClassVar[Numerics] = Numerics.EXACT
    max_growth_bytes: int = 4 << 20
    decompress: bool = True
    dequantize: bool = True

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        """See :class:`FoldConstants`."""
        changed = _inline_branches(graph)
        for inner in list(all_graphs(graph)):
            changed |= _fold_views(inner)
        for inner in list(all_graphs(graph)):
            changed |= _Round(self, inner, ctx).run()
        return changed


def type_bytes(type: TensorType) -> int | None:
    """Size of a tensor of a type, or None when a dim is no number."""
    if type.shape is None:
        return None
    count = static_product(type.shape)
    return None if count is None else (count * BY_NAME[type.dtype].bits + 7) // 8


# --- If -------------------------------------------------------------------------------------------


def _inline_branches(graph: Graph) -> bool:
    """Replace every If with a constant condition by its branch."""
    changed = False
    for inner in list(all_graphs(graph)):
        for node in inner.nodes:
            condition = uniform(node.input(0)) if node.op == "If" and not node.domain else None
            if condition is not None:
                _inline(node, "then_branch" if condition else "else_branch")
                changed = True
    return changed


def _inline(node: Node, name: str) -> None:
    graph, branch = node.graph, node.attrs[name]
    assert graph is not None
    assert isinstance(branch, Graph)
    results = branch.outputs
    branch.set_outputs([])
    for moved in graph.adopt(branch):
        moved.location = Location.merge([moved.location], via=FoldConstants.name)
    for old, new in zip(node.outputs, results, strict=True):
        if old is not None:
            graph.replace_uses(old, new)
    graph.remove(node)


# --- views ----------------------------------------------------------------------------------------


def _fold_views(graph: Graph) -> bool:
    """Fold what only renames or permutes the elements of one constant, without reading them."""
    changed = False
    for node in graph.nodes:
        source = node.input(0)
        if node.domain or source is None or source.const is None or not _is_static(node):
            continue
        view = _view(node)
        if view is not None:
            const = _lazy(source.const, view, node.output.t)
            graph.replace_uses(node.output, graph.constant(const, node.output.name))
            changed = True
    return changed


def _is_static(node: Node) -> bool:
    first = node.outputs[0]
    return first is not None and first.type is not None and first.type.static


def _lazy(source: Constant, view: Callable[[np.ndarray], np.ndarray], type: TensorType) -> Constant:
    return Constant(lambda: view(source.array), type)


def _view(node: Node) -> Callable[[np.ndarray], np.ndarray] | None:
    """What a node does to its constant, as a function on arrays, if it moves no data."""
    if node.output.is_output or not node.output.uses:
        return None
    shape = tuple(d for d in node.output.shape if isinstance(d, int))
    if node.op in ("Reshape", "Flatten", "Squeeze", "Unsqueeze"):
        return lambda array: array.reshape(shape)
    if node.op == "Transpose":
        perm = node.ints_attr("perm", tuple(reversed(range(len(shape)))))
        return lambda array: array.transpose(perm)
    return _slice_view(node) if node.op == "Slice" else None


def _slice_view(node: Node) -> Callable[[np.ndarray], np.ndarray] | None:
    rank = len(node.required(0).shape)
    starts, ends = const_ints(node.input(1)), const_ints(node.input(2))
    if starts is None or ends is None:
        return None
    axes = const_ints(node.input(3)) if node.input(3) is not None else tuple(range(len(starts)))
    steps = const_ints(node.input(4)) if node.input(4) is not None else (1,) * len(starts)
    if axes is None or steps is None or any(step <= 0 for step in steps):
        return None
    index = [slice(None)] * rank
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        index[axis] = slice(start, end, step)
    return lambda array: array[tuple(index)]


# --- evaluation -----------------------------------------------------------------------------------


@dataclass
class _Round:
    """One evaluation of everything constant in one graph, in one onnxruntime session."""

    options: FoldConstants
    graph: Graph
    ctx: PassContext
    #: Foldable nodes in order, with the constants below each.
    below: dict[Node, frozenset[Value]] = field(default_factory=dict)
    refused: set[Node] = field(default_factory=set)
    growth: int = 0

    def run(self) -> bool:
        """Fold; returns whether anything was folded."""
        while True:
            self.growth = 0
            self._find()
            wanted = list(self._frontier())
            over = [v for v in wanted if not self._affordable(v)]
            if not over:
                break
            self.refused.update(v.producer for v in over if v.producer is not None)
        if not wanted:
            return False
        arrays = self._evaluate(wanted)
        for value, array in arrays.items():
            self._replace(value, array)
        return bool(arrays)

    def _find(self) -> None:
        self.below = {}
        for node in self.graph.nodes:
            leaves = self._leaves(node)
            if leaves is not None and self._fits(node, leaves):
                self.below[node] = leaves

    def _leaves(self, node: Node) -> frozenset[Value] | None:
        """The constants that a node depends on, or None when it depends on anything else."""
        if node in self.refused or not can_evaluate(node) or node.op == "Identity":
            return None
        if node.key == "DequantizeLinear" and not self.options.dequantize:
            return None
        found: set[Value] = set()
        for value in node.inputs:
            if value is None:
                continue
            if value.is_const:
                found.add(value)
            elif value.producer in self.below:
                found |= self.below[value.producer]
            else:
                return None
        return frozenset(found)

    def _fits(self, node: Node, leaves: Iterable[Value]) -> bool:
        """Whether each result of a node is affordable, seen alone."""
        for value in node.outputs:
            if value is None:
                continue
            size = type_bytes(value.t)
            if size is None and node.op not in _DATA_DEPENDENT:
                return False
            allowed = self._stored(leaves, value.dtype) + self.options.max_growth_bytes
            if size is not None and size > allowed:
                self._refuse(value, size)
                return False
        return True

    def _stored(self, leaves: Iterable[Value], dtype: str) -> int:
        """Bytes of constants; those in smaller dtypes count as ``dtype`` if they are weights."""
        total = 0
        for leaf in leaves:
            assert leaf.const is not None
            bits, wide = BY_NAME[leaf.dtype].bits, BY_NAME[dtype].bits
            convert = self.options.decompress and dtype in ("float32", "float16") and bits < wide
            total += leaf.const.nbytes * wide // bits if convert and bits else leaf.const.nbytes
        return total

    def _refuse(self, value: Value, size: int) -> None:
        assert value.producer is not None
        self.ctx.note(
            f"{value.producer.op} of constants is not folded: its result has {size:,} bytes, "
            f"more than it is made from",
            value.producer,
        )

    def _frontier(self) -> Iterator[Value]:
        """Values of foldable nodes that others need."""
        for node in self.below:
            for value in node.outputs:
                if value is None:
                    continue
                if value.is_output or any(user not in self.below for user in value.users()):
                    yield value

    def _affordable(self, value: Value) -> bool:
        """Take a value's growth out of the budget of the whole run."""
        assert value.producer is not None
        size = type_bytes(value.t) or 0
        grown = max(0, size - self._stored(self.below[value.producer], value.dtype))
        if self.ctx.growth + self.growth + grown > self.options.max_growth_bytes:
            self._refuse(value, size)
            return False
        self.growth += grown
        return True

    def _evaluate(self, wanted: list[Value]) -> dict[Value, np.ndarray]:
        try:
            arrays = dict(zip(wanted, evaluate(list(self.below), wanted), strict=True))
            self.ctx.growth += self.growth
            return arrays
        except RuntimeError:
            # Find the culprit: everything else is still folded.
            return self._evaluate_apart(wanted)

    def _evaluate_apart(self, wanted: list[Value]) -> dict[Value, np.ndarray]:
        arrays: dict[Value, np.ndarray] = {}
        for value in wanted:
            try:
                arrays[value] = evaluate(_cone(value, self.below), [value])[0]
            except RuntimeError as error:
                self.ctx.note(f"{value.name} is not folded: {error}", value.producer)
        self.ctx.growth += self.growth
        return arrays

    def _replace(self, value: Value, array: np.ndarray) -> None:
        node = value.producer
        assert node is not None
        size = type_bytes(value.t)
        if size is None and array.nbytes > self._limit(node, value):
            self._refuse(value, array.nbytes)
            return
        self._note_conversion(value, array.nbytes)
        users = value.users()
        self.graph.replace_uses(value, self.graph.constant(array, value.name))
        for user in users:
            # The size of the result may be known only now.
            if not all(v is None or (v.type is not None and v.type.static) for v in user.outputs):
                infer_node(user)

    def _limit(self, node: Node, value: Value) -> int:
        return self._stored(self.below[node], value.dtype) + self.options.max_growth_bytes

    def _note_conversion(self, value: Value, size: int) -> None:
        assert value.producer is not None
        leaves = self.below[value.producer]
        plain = sum(leaf.const.nbytes for leaf in leaves if leaf.const is not None)
        if size > plain + self.options.max_growth_bytes:
            stored = max(leaves, key=lambda v: v.const.nbytes if v.const else 0).dtype
            self.ctx.note(
                f"weights stored as {stored} are converted to {value.dtype}: "
                f"{plain:,} bytes become {size:,}",
                value.producer,
            )


def _cone(value: Value, nodes: Iterable[Node]) -> list[Node]:
    """Those of ``nodes``, in order, that a value depends on."""
    ordered = list(nodes)
    needed: set[Node] = set()
    stack = [value]
    while stack:
        producer = stack.pop().producer
        if producer is not None and producer not in needed:
            needed.add(producer)
            stack += [v for v in producer.inputs if v is not None]
    return [node for node in ordered if node in needed]
