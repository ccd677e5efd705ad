"""Concatenations along the last axis whose inputs are written where they end up.

A kernel that can leave gaps between the rows of its result writes it into the concatenation's
tensor: the first such kernel makes the tensor, the others get it as an operand that they write
over. What is left of the inputs is copied when the concatenation is lowered.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from burnish.ir import Dim, Graph, Node, TensorType, Value
from burnish.lowering.context import Lowered


@dataclass
class Join:
    """A concatenation that is being lowered.

    Attributes:
        node: The Concat.
        tensor: Its result, once a kernel has made it.
        written: Inputs that are in it.
    """

    node: Node
    tensor: Lowered | None = None
    written: set[Value] = field(default_factory=set)

    @property
    def total(self) -> int:
        """Size of the last axis of the result."""
        return sum(_last(v) for v in self.node.inputs if v is not None)

    @property
    def dtype(self) -> str:
        """Element type."""
        return self.node.output.dtype

    def offset(self, value: Value) -> int:
        """Where an input begins along the last axis."""
        before = self.node.inputs[: self.node.inputs.index(value)]
        return sum(_last(v) for v in before if v is not None)

    def type(self, rows: tuple[Dim, ...]) -> TensorType:
        """The result's type, with all axes but the last as a kernel sees them."""
        return TensorType(self.dtype, (*rows, self.total))


def _last(value: Value) -> int:
    size = value.shape[-1]
    assert isinstance(size, int)
    return size


def joins_last_axis(node: Node) -> bool:
    """Whether a node is a Concat along the last axis, of sizes that are known there."""
    if node.key != "Concat":
        return False
    rank = len(node.output.shape)
    values = [v for v in node.inputs if v is not None]
    known = all(isinstance(v.shape[-1], int) for v in values)
    return known and node.int_attr("axis") in (rank - 1, -1)


def join_of(graph: Graph, value: Value) -> Node | None:
    """The Concat that a value may be written into: nothing else reads it."""
    user = value.single_user()
    if user is None or user not in graph or not joins_last_axis(user):
        return None
    return user
