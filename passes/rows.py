"""Rows: rewrite rules of one equation, written as one function over a node.

A table of rows is a pass. A row's function gets a node and a builder and returns the value that
replaces the node's first output, or None when the equation does not apply there. Its docstring is
the equation::

    @table.row("Neg")
    def double_negation(node: Node, b: Builder) -> Outcome:
        '''Neg(Neg(x)) = x.'''
        inner = made_by(node.required(0), "Neg")
        return inner.required(0) if inner is not None else None

Other than a pattern, a row may look through a value that others use too: it leaves that alone.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from burnish.ir import Builder, Dim, Node, Value
from burnish.ir.dims import equal
from burnish.ir.types import TensorType, to_numpy
from burnish.passes.base import Numerics
from burnish.passes.patterns import NoMatch, Tracer
from burnish.passes.rewrite import Replacement, Rule


@dataclass(frozen=True)
class Merged:
    """A value that stands for further nodes beside the one that the row started at."""

    value: Value
    nodes: tuple[Node, ...]


Outcome: TypeAlias = "Value | Merged | None"
RowFunction: TypeAlias = "Callable[[Node, Builder], Outcome]"


class Row(Rule):
    """One equation of a table.

    Attributes:
        equation: What equals what, and when: the first line of the function's docstring.
    """

    def __init__(self, ops: tuple[str, ...], numerics: Numerics, function: RowFunction) -> None:
        self.equation = inspect.cleandoc(function.__doc__ or "").splitlines()[0].rstrip(".")
        self.function = function
        self._ops = ops
        self._numerics = numerics

    @property
    def name(self) -> str:  # type: ignore[override]
        """The function's name: ``double-negation``."""
        return self.function.__name__.replace("_", "-")

    @property
    def numerics(self) -> Numerics:  # type: ignore[override]
        """What the row may do to results."""
        return self._numerics

    @property
    def anchors(self) -> tuple[str, ...]:  # type: ignore[override]
        """The operators that the row starts at."""
        return self._ops

    def apply(self, node: Node, b: Builder, tracer: Tracer | None) -> Replacement | NoMatch:
        """Apply the equation at a node."""
        outcome = self.function(node, b)
        if outcome is None:
            return NoMatch(f"not of the form {self.equation}", node)
        nodes: tuple[Node, ...] = (node,)
        if isinstance(outcome, Merged):
            nodes, outcome = (node, *outcome.nodes), outcome.value
        if is_pinned(node, outcome):
            return NoMatch("the graph output needs a node of its own", node)
        return Replacement({node.output: outcome}, nodes)


def is_pinned(node: Node, replacement: Value) -> bool:
    """Whether a node is an Identity that lets a graph output exist beside ``replacement``.

    A graph output that equals a graph input, a constant, or another output needs such a node, and
    so does the output of a branch that is a value of an outer graph.
    """
    if node.op != "Identity" or not node.output.outputs_of:
        return False
    producer = replacement.producer
    return producer is None or replacement.is_output or producer.graph is not node.graph


@dataclass
class RowTable:
    """An ordered table of rows."""

    rows: list[Row] = field(default_factory=list)

    def row(
        self, *ops: str, numerics: Numerics = Numerics.EXACT
    ) -> Callable[[RowFunction], RowFunction]:
        """Add a row that starts at any of ``ops``."""

        def register(function: RowFunction) -> RowFunction:
            self.rows.append(Row(ops, numerics, function))
            return function

        return register

    def at_most(self, numerics: Numerics) -> tuple[Row, ...]:
        """The rows that change results no more than ``numerics`` allows."""
        order = list(Numerics)
        return tuple(r for r in self.rows if order.index(r.numerics) <= order.index(numerics))

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)


def made_by(value: Value | None, *ops: str) -> Node | None:
    """The producer of a value if it is one of ``ops`` and the value is its first output."""
    if value is None or value.producer is None or value.producer.key not in ops:
        return None
    return value.producer if value.producer.outputs[0] is value else None


def only_user(node: Node, *ops: str, index: int = 0) -> Node | None:
    """The producer of an input if it is one of ``ops`` and only ``node`` uses it."""
    inner = made_by(node.input(index), *ops)
    return inner if inner is not None and inner.output.single_user() is node else None


def uniform(value: Value | None) -> float | int | bool | None:
    """The number that every element of a constant equals, or None.

    Only constants of at most 64 KiB are read, so that no weights are loaded for it.
    """
    if value is None or value.const is None or value.dtype == "string":
        return None
    if value.const.nbytes > 1 << 16 or 0 in value.const.type.dims:
        return None
    array = value.array.reshape(-1)
    first = array[0]
    if not bool(np.all(array == first)):
        return None
    number: float | int | bool = first.item()
    return number


def is_uniform(value: Value | None, wanted: float) -> bool:
    """Whether every element of a constant equals ``wanted``."""
    found = uniform(value)
    return found is not None and found == wanted


def has_rank(value: Value | None) -> bool:
    """Whether a value is there and its dtype and rank are known."""
    return value is not None and value.type is not None and value.type.shape is not None


def same_type(a: Value, b: Value) -> bool:
    """Whether two values are known to have the same dtype and shape."""
    return a.dtype == b.dtype and a.t.same_shape(b.t)


def same_shape(a: Sequence[Dim], b: Sequence[Dim]) -> bool:
    """Whether two shapes are known to be equal."""
    return len(a) == len(b) and all(map(equal, a, b))


def is_float(value: Value) -> bool:
    """Whether a value has a floating-point dtype."""
    return to_numpy(value.dtype).kind == "f" or value.dtype == "bfloat16"


def reshape_target(source: Sequence[Dim], target: Sequence[Dim]) -> tuple[int, ...] | None:
    """Constants for Reshape's second input that turn ``source`` into ``target``.

    A number stands for itself, 0 copies the dim of the same index, and one -1 takes the rest.
    Returns None when two dims would need the -1, or a dim is the number 0.
    """
    wanted: list[int] = []
    for index, dim in enumerate(target):
        if isinstance(dim, int):
            if dim == 0:
                return None
            wanted.append(dim)
        elif index < len(source) and equal(source[index], dim):
            wanted.append(0)
        else:
            wanted.append(-1)
    return tuple(wanted) if wanted.count(-1) <= 1 else None


def reshape(b: Builder, value: Value, target: Sequence[Dim]) -> Value | None:
    """A Reshape of ``value`` to ``target`` with a constant shape, or None when there is none."""
    if same_shape(value.shape, target):
        return value
    wanted = reshape_target(value.shape, target)
    if wanted is None:
        return None
    result = b.op("Reshape", value, b.ints(wanted, "shape"))
    # The dims are known even where the -1 leaves inference with a quotient.
    result.type = TensorType(value.dtype, tuple(target))
    return result


def again(b: Builder, node: Node, *inputs: Value | None) -> Value:
    """The same operation on other inputs."""
    return b.node(node.op, inputs, node.attrs).output


def exact_reciprocal(array: np.ndarray) -> np.ndarray | None:
    """``1 / array`` if every element is a power of two whose reciprocal is a normal number."""
    if array.dtype.kind != "f" or not np.all(np.isfinite(array)) or np.any(array == 0):
        return None
    mantissa, _ = np.frexp(np.abs(array.astype(np.float64)))
    result = np.asarray(1 / array, dtype=array.dtype)
    tiny = np.finfo(array.dtype).tiny
    if not np.all(mantissa == 0.5) or not np.all(np.isfinite(result)):
        return None
    return result if np.all(np.abs(result) >= tiny) else None
