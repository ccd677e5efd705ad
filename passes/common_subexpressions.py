"""Common subexpression elimination."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import numpy as np

from burnish.ir import Attr, Constant, Graph, Node, Value
from burnish.ir.evaluate import RANDOM
from burnish.passes.base import Numerics, Pass, PassContext

#: Elements that are compared before whole constants are.
_SAMPLES = 64
#: Larger constants that nobody has read yet are not read for this.
_MAX_UNREAD = 1 << 20

_Key: TypeAlias = "tuple[Hashable, ...]"


@dataclass(frozen=True)
class CommonSubexpressions(Pass):
    """Compute equal things once.

    Before: `a = Shape(x); b = Shape(x); y = Concat(a, b)`, or two constants with equal data.
    After: `a = Shape(x); y = Concat(a, a)`.
    Keeps: random operators, operators with subgraphs, constants that differ in a bit.
    Numerics: exact.
    """

    name: ClassVar[str] = "common-subexpressions"
    numerics: ClassVar[Numerics] = Numerics.EXACT

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        """See :class:`CommonSubexpressions`."""
        changed = merge_constants(graph)
        graph.sort()
        return _merge_nodes(graph, {}) or changed


def _merge_nodes(graph: Graph, outer: dict[_Key, Node]) -> bool:
    """Merge nodes in topological order; ``outer`` holds what surrounding graphs compute already."""
    found = dict(outer)
    changed = False
    graph.sort()
    for node in graph.nodes:
        for inner in node.subgraphs():
            changed |= _merge_nodes(inner, found)
        key = _node_key(node)
        if key is None:
            continue
        first = found.setdefault(key, node)
        if first is node:
            continue
        for old, new in zip(node.outputs, first.outputs, strict=True):
            if old is not None and new is not None:
                graph.replace_uses(old, new)
        graph.remove(node)
        changed = True
    return changed


def _node_key(node: Node) -> _Key | None:
    """What makes two nodes compute the same; None when a node is never merged."""
    # An Identity stays only where a graph output needs a value of its own.
    if node.op == "Identity" or (not node.domain and node.op in RANDOM):
        return None
    if node.op == "Dropout" and node.input(2) is not None:
        return None
    attrs: list[tuple[str, Hashable]] = []
    for name, attr in sorted(node.attrs.items()):
        if isinstance(attr, Graph):
            return None
        attrs.append((name, _attr_key(attr)))
    outputs = tuple(v is not None for v in node.outputs)
    return (node.op, node.domain, node.inputs, tuple(attrs), outputs)


def _attr_key(attr: Attr) -> Hashable:
    if isinstance(attr, Constant):
        return (str(attr.type), attr.array.tobytes())
    assert not isinstance(attr, Graph)
    # 1 and 1.0 hash alike but are different attributes.
    return (type(attr).__name__, attr)


def merge_constants(graph: Graph) -> bool:
    """Let values with bit-identical constants be one value; returns whether any were."""
    first: dict[_Key, list[Value]] = {}
    changed = False
    for value in graph.constants():
        assert value.const is not None
        if value.dtype == "string":
            continue
        candidates = first.setdefault(_sample(value.const), [])
        for other in candidates:
            assert other.const is not None
            if _identical(value.const, other.const):
                _replace_constant(graph, value, other)
                changed = True
                break
        else:
            candidates.append(value)
    return changed


def _replace_constant(graph: Graph, old: Value, new: Value) -> None:
    for node, index in list(old.uses):
        node.set_input(index, new)
    for owner in list(dict.fromkeys(old.outputs_of)):
        # An output of the model keeps its own constant and name.
        if owner.parent is not None:
            owner.set_outputs([new if v is old else v for v in owner.outputs])


def _sample(const: Constant) -> _Key:
    """Type and some elements of a constant: unequal for most constants that differ."""
    if not const.loaded and const.nbytes > _MAX_UNREAD:
        return (str(const.type), id(const))
    size = int(np.prod([d for d in const.type.dims if isinstance(d, int)], dtype=np.int64))
    if size == 0:
        return (str(const.type),)
    picked = np.unique(np.linspace(0, size - 1, _SAMPLES, dtype=np.int64))
    return (str(const.type), const.array.flat[picked].tobytes())


def _identical(a: Constant, b: Constant) -> bool:
    """Whether two constants of one type agree in every bit."""
    if a is b:
        return True
    x, y = a.array, b.array
    if x.__array_interface__ == y.__array_interface__:
        return True
    return np.array_equal(_bits(x), _bits(y))


def _bits(array: np.ndarray) -> np.ndarray:
    """The array's elements as integers, so that NaN equals NaN and 0.0 differs from -0.0."""
    kind = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}.get(array.dtype.itemsize)
    return array.view(kind) if kind is not None else np.frombuffer(array.tobytes(), np.uint8)
