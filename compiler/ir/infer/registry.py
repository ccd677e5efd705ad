"""The registry of inference rules and the driver that applies them.

A rule sees one node whose inputs are typed. The driver deals with all the rest: foreign operators,
inputs of unknown rank, composites, and operators that only ONNX's own inference knows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal, TypeAlias

from burnish.errors import ShapeError
from burnish.ir.dims import Dim, Expr, evaluate
from burnish.ir.graph import Graph, Node, Value
from burnish.ir.types import TensorType

#: The context of a rule is the node itself: its inputs carry types, constants and contents.
InferContext: TypeAlias = Node

#: The type of an output, or (type, content) from a rule that knows the content; None: unknown.
Result: TypeAlias = "TensorType | tuple[TensorType, tuple[Dim, ...] | None] | None"
Rule: TypeAlias = "Callable[[Node], Sequence[Result]]"

_RULES: dict[tuple[str, str], Rule] = {}


GuardKind: TypeAlias = Literal["equal", "broadcast", "at_least"]


class UnknownRankError(Exception):
    """Raised inside rules: an input's rank is unknown, so the rule says nothing."""


@dataclass(frozen=True)
class Guard:
    """A condition on sizes that ONNX demands and that only the run-time sizes can decide.

    Attributes:
        kind: ``equal``; ``broadcast``: equal, or one of the two is 1; ``at_least``: a >= b.
        a: One size.
        b: The other.
        node: Original name of the node that demands it.
    """

    kind: GuardKind
    a: int | Expr
    b: int | Expr
    node: str

    def holds(self, sizes: Mapping[str, int]) -> bool:
        """Whether the condition is true for these sizes of the symbols."""
        a, b = evaluate(self.a, sizes), evaluate(self.b, sizes)
        if self.kind == "at_least":
            return a >= b
        return a == b or (self.kind == "broadcast" and 1 in (a, b))

    def __str__(self) -> str:
        if self.kind == "at_least":
            return f"{self.a} >= {self.b}"
        alternative = " (or one of them 1)" if self.kind == "broadcast" else ""
        return f"{self.a} == {self.b}{alternative}"


_Record: TypeAlias = "dict[tuple[GuardKind, int | Expr, int | Expr], None]"
_RECORDER: ContextVar[_Record | None] = ContextVar("guards", default=None)


def demand(kind: GuardKind, a: Dim, b: Dim) -> None:
    """Note a condition between two dims that cannot be decided now."""
    record = _RECORDER.get()
    if record is not None and isinstance(a, (int, Expr)) and isinstance(b, (int, Expr)):
        record[kind, a, b] = None


def infer(*ops: str, domain: str = "") -> Callable[[Rule], Rule]:
    """Register a rule for operators of a domain."""

    def register(rule: Rule) -> Rule:
        for op in ops:
            if (domain, op) in _RULES:
                raise ValueError(f"two inference rules for {domain}::{op}")
            _RULES[domain, op] = rule
        return rule

    return register


def has_rule(domain: str, op: str) -> bool:
    """Whether an operator has an own inference rule."""
    return (domain, op) in _RULES


def infer_node(node: Node) -> None:
    """Set types and contents of a node's outputs.

    Outputs of which nothing can be said (those of foreign operators, or of operators that read
    them) keep the type that they have, for instance the one that the model declares.

    Raises:
        ShapeError: The inputs contradict the operator.
    """
    results = _results(node)
    for value, result in zip(node.outputs, results, strict=False):
        if value is None or result is None:
            continue
        if isinstance(result, tuple):
            value.type, value.content = result
        else:
            value.type, value.content = result, None


def _results(node: Node) -> Sequence[Result]:
    if any(v is not None and v.type is None for v in node.inputs):
        return ()
    rule = _RULES.get((node.domain, node.op))
    try:
        if node.domain == "burnish":
            from burnish.ir.infer.composite import infer_composite

            return infer_composite(node)
        if rule is not None:
            try:
                return rule(node)
            except UnknownRankError:
                pass
        if node.domain == "":
            from burnish.ir.infer.fallback import infer_by_onnx

            return infer_by_onnx(node)
    except ShapeError as error:
        if error.at is not None:
            raise
        given = ", ".join(str(v.type) if v is not None else "-" for v in node.inputs)
        raise ShapeError(
            f"{node.key}: {error.message} (inputs: {given})", at=_where(node), hint=error.hint
        ) from None
    return ()


def _where(node: Node) -> str:
    return str(node.location) or node.name


def infer_graph(graph: Graph) -> None:
    """Infer every node of a graph in topological order; rules infer the subgraphs of their node.

    Raises:
        ShapeError: The inputs of a node contradict its operator.
    """
    graph.sort()
    for node in graph.nodes:
        infer_node(node)


@contextmanager
def _recording() -> Iterator[_Record]:
    record: _Record = {}
    token = _RECORDER.set(record)
    try:
        yield record
    finally:
        _RECORDER.reset(token)


def unrecorded(graph: Graph) -> None:
    """Infer a branch that may not run: its conditions are no conditions of the model."""
    with _recording():
        infer_graph(graph)


def guards(graph: Graph) -> tuple[Guard, ...]:
    """What the run-time sizes must satisfy so that every node of the graph is valid.

    Inference takes two different symbolic dims that meet in an operator to be compatible; these
    are all such cases. A runtime that checks them on the sizes of the inputs never computes on
    sizes that ONNX forbids.
    """
    found: dict[tuple[GuardKind, int | Expr, int | Expr], Guard] = {}
    for node in graph.nodes:
        for guard in node_guards(node):
            found.setdefault((guard.kind, guard.a, guard.b), guard)
    return tuple(found.values())


def node_guards(node: Node) -> tuple[Guard, ...]:
    """What the run-time sizes must satisfy so that one node is valid."""
    with _recording() as record:
        _results(node)
    return tuple(Guard(kind, a, b, _where(node)) for kind, a, b in record)


def untyped(graph: Graph) -> list[Value]:
    """Values without a type, in graph order."""
    return [v for n in graph.walk() for v in n.outputs if v is not None and v.type is None]
