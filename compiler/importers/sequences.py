"""Sequences whose members are known: what reads them reads the members.

ONNX's sequences are lists of tensors. Where a list is built and read in one graph, at positions
that are constants, no list is needed at run time. What is left of sequences is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from burnish.errors import ShapeError
from burnish.ir.builder import Builder
from burnish.ir.dims import ceildiv
from burnish.ir.graph import Graph, Node, Value
from burnish.ir.infer.common import axis_of, length, scalar_int

#: A sequence of more parts is left alone.
_MAX_PARTS: Final = 4096


def resolve(b: Builder, node: Node) -> bool:
    """Replace a node that reads a known sequence, or splits a tensor into one.

    Args:
        b: Builder of the node's graph.
        node: A node on sequences; its tensors are typed.

    Returns:
        Whether the node was replaced.

    Raises:
        ShapeError: A position lies outside of the sequence.
    """
    row = _READERS.get(node.op)
    result = row(b, node) if row is not None else None
    if result is None:
        return False
    b.graph.replace_uses(node.output, result)
    b.graph.remove(node)
    return True


def remove_unused(graph: Graph, operators: frozenset[str]) -> None:
    """Remove nodes on sequences that nobody reads any more, in subgraphs too."""
    for node in reversed(graph.nodes):
        for inner in node.subgraphs():
            remove_unused(inner, operators)
        read = any(v is not None and (v.uses or v.outputs_of) for v in node.outputs)
        if not node.domain and node.op in operators and not read:
            graph.remove(node)


def members(value: Value | None) -> list[Value] | None:
    """The members of a sequence, if they are known."""
    node = value.producer if value is not None else None
    if node is None or node.domain:
        return None
    if node.op == "SequenceEmpty":
        return []
    if node.op == "SequenceConstruct":
        return [v for v in node.inputs if v is not None]
    if node.op == "Identity":
        return members(node.input(0))
    if node.op not in ("SequenceInsert", "SequenceErase"):
        return None
    found = members(node.input(0))
    inserts = node.op == "SequenceInsert"
    position = node.input(2 if inserts else 1)
    if found is None:
        return None
    default = len(found) if inserts else len(found) - 1
    at = default if position is None else scalar_int(position)
    if at is None:
        return None
    at = _position(at, len(found), len(found) + inserts)
    return [*found[:at], node.required(1), *found[at:]] if inserts else found[:at] + found[at + 1 :]


def _position(at: int, count: int, end: int) -> int:
    """A position in ``[0, end)``; negative ones count from the end of ``count`` members."""
    found = at + count if at < 0 else at
    if not 0 <= found < end:
        raise ShapeError(f"position {at} is outside of a sequence of {count}")
    return found


def _at(b: Builder, node: Node) -> Value | None:
    found, at = members(node.input(0)), scalar_int(node.input(1))
    if found is None or at is None:
        return None
    return found[_position(at, len(found), len(found))]


def _length(b: Builder, node: Node) -> Value | None:
    found = members(node.input(0))
    return None if found is None else b.ints(len(found), "length")


def _concat(b: Builder, node: Node) -> Value | None:
    found = members(node.input(0))
    if not found:
        return None
    axis = node.int_attr("axis")
    if node.int_attr("new_axis"):
        found = [b.op("Unsqueeze", value, b.ints([axis], "axes")) for value in found]
    return b.op("Concat", *found, axis=axis)


def _split(b: Builder, node: Node) -> Value | None:
    """Split, and a sequence of its outputs."""
    x, sizes = node.required(0), node.input(1)
    if x.t.rank is None:
        return None
    axis = axis_of(node.int_attr("axis", 0), x.t.rank)
    parts = _parts(b, x, sizes, axis)
    if parts is None:
        return None
    if sizes is None and not node.int_attr("keepdims", 1):
        parts = [b.op("Squeeze", part, b.ints([axis], "axes")) for part in parts]
    return b.node("SequenceConstruct", parts).output


def _parts(b: Builder, x: Value, sizes: Value | None, axis: int) -> Sequence[Value] | None:
    whole = x.shape[axis]
    operand: Value
    if sizes is not None and sizes.t.rank == 1:
        count = length(sizes)
        operand = sizes if sizes.dtype == "int64" else b.op("Cast", sizes, to=7)
    else:
        step = 1 if sizes is None else scalar_int(sizes)
        if step is None or step <= 0 or not isinstance(whole, int):
            return None
        count = ceildiv(whole, step)  # type: ignore[assignment]
        assert count is not None
        if count > _MAX_PARTS:
            return None
        operand = b.constant(np.array([min(step, whole - i * step) for i in range(count)]))
    if not count or count > _MAX_PARTS:
        return None
    outputs = b.node("Split", [x, operand], {"axis": axis}, outputs=count).outputs
    return [v for v in outputs if v is not None]


def _element(b: Builder, node: Node) -> Value | None:
    """What an optional has in it: a tensor is its own element."""
    x = node.input(0)
    if x is None:
        return None
    if x.producer is not None and x.producer.op == "Optional":
        return x.producer.input(0)
    return x if x.type is not None else None


_READERS: dict[str, Callable[[Builder, Node], Value | None]] = {
    "ConcatFromSequence": _concat,
    "OptionalGetElement": _element,
    "SequenceAt": _at,
    "SequenceLength": _length,
    "SplitToSequence": _split,
}
