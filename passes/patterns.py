"""Graph patterns written as Python, and the matcher that finds them.

``op.Conv(x, w, opt(b), _as="conv", group=1)`` is a node pattern: positional arguments are input
patterns (variables, numbers, nodes, alternatives), keywords are wanted attributes. Operators that
commute are tried in both orders. A failed match leaves its reason in a :class:`Tracer`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, Union

import numpy as np

from burnish.ir import Attr, Graph, Node, Value

COMMUTATIVE = frozenset({"Add", "Mul", "Max", "Min", "And", "Or", "Xor", "Equal", "Sum"})


@dataclass(frozen=True)
class NoMatch:
    """Why a rule does not apply.

    Attributes:
        reason: One sentence.
        at: The node or value that is to blame.
    """

    reason: str
    at: Node | Value | None = None


@dataclass(frozen=True)
class NearMiss:
    """A place where a rule almost applied: more matched nodes are nearer, conditions nearest."""

    rule: str
    matched: int
    reason: str
    at: str


@dataclass
class Tracer:
    """Collects the nearest misses of one rule; put into ``PassContext.options["tracer"]``."""

    rule: str
    misses: list[NearMiss] = field(default_factory=list)

    def add(self, matched: int, reason: str, at: Node | Value | None) -> None:
        """Record a miss."""
        where = str(at.location) if isinstance(at, Node) else at.name if at is not None else ""
        self.misses.append(NearMiss(self.rule, matched, reason, where))

    def nearest(self, limit: int = 5) -> list[NearMiss]:
        """The best misses, each once."""
        unique = list(dict.fromkeys(self.misses))
        return sorted(unique, key=lambda miss: -miss.matched)[:limit]


@dataclass(frozen=True)
class Var:
    """Any value; the same name means the same value. ``const``: it must be a constant."""

    name: str
    const: bool = False
    optional: bool = False


@dataclass(frozen=True)
class Literal:
    """A constant with one element close to ``value``."""

    value: float
    rel: float = 1e-6


@dataclass(frozen=True)
class AttrVar:
    """An attribute that is captured by name; ``default`` stands for an absent one."""

    name: str
    default: Attr | None = None


@dataclass(frozen=True, eq=False)
class NodePattern:
    """A node: operator, inputs, wanted attributes; ``name`` gives access to it in the match."""

    op: str
    domain: str
    inputs: tuple[Pattern, ...]
    attrs: Mapping[str, Any]
    name: str
    output: int


@dataclass(frozen=True, eq=False)
class Either:
    """The first alternative that matches."""

    options: tuple[Pattern, ...]


Pattern: TypeAlias = Union[Var, Literal, NodePattern, Either]  # noqa: UP007
PatternLike: TypeAlias = Union[Pattern, float]  # noqa: UP007


def const(name: str) -> Var:
    """A constant input."""
    return Var(name, const=True)


def opt(var: Var) -> Var:
    """An input that may be absent."""
    return Var(var.name, var.const, optional=True)


def near(value: float, rel: float = 5e-5) -> Literal:
    """A constant with one element, close to ``value``: exporters round irrational numbers."""
    return Literal(value, rel)


def either(*options: PatternLike) -> Either:
    """Alternatives, tried in order."""
    return Either(tuple(_pattern(o) for o in options))


def attr(name: str, default: Attr | None = None) -> AttrVar:
    """An attribute whose value is captured as ``name``."""
    return AttrVar(name, default)


def _pattern(item: PatternLike) -> Pattern:
    return Literal(float(item)) if isinstance(item, (int, float)) else item


class Op:
    """Makes node patterns: ``op.Conv(x, w, _as="conv", group=1)``."""

    def __getattr__(self, op: str) -> Any:
        def make(
            *inputs: PatternLike, _as: str = "", _domain: str = "", _output: int = 0, **attrs: Any
        ) -> NodePattern:
            return NodePattern(op, _domain, tuple(map(_pattern, inputs)), attrs, _as, _output)

        return make


@dataclass
class Match:
    """The nodes and values that a pattern stands for."""

    root: Node
    values: dict[str, Value | None]
    named: dict[str, Node]
    attrs: dict[str, Any]
    nodes: tuple[Node, ...]

    def __getitem__(self, name: str) -> Value:
        value = self.values[name]
        if value is None:
            raise KeyError(name)
        return value

    def get(self, name: str) -> Value | None:
        """A value, or None when the optional input is absent."""
        return self.values.get(name)

    def has(self, name: str) -> bool:
        """Whether the alternative that matched has the variable."""
        return self.values.get(name) is not None

    def node(self, name: str) -> Node:
        """The node that the pattern named with ``_as``."""
        return self.named[name]


@dataclass(frozen=True)
class _State:
    values: Mapping[str, Value | None]
    nodes: Mapping[NodePattern, Node]
    attrs: Mapping[str, Any]


class Matcher:
    """Finds the matches of patterns in one graph."""

    def __init__(self, graph: Graph, tracer: Tracer | None) -> None:
        self.graph = graph
        self.tracer = tracer

    def fail(self, state: _State, reason: str, at: Node | Value | None) -> None:
        """Tell the tracer why a match stopped."""
        if self.tracer is not None and state.nodes:
            self.tracer.add(len(state.nodes), reason, at)

    def value(self, pattern: Pattern, value: Value | None, state: _State) -> Iterator[_State]:
        """Match a value."""
        if isinstance(pattern, Either):
            for option in pattern.options:
                yield from self.value(option, value, state)
        elif isinstance(pattern, Var):
            yield from self.variable(pattern, value, state)
        elif value is None:
            self.fail(state, "an input is absent", None)
        elif isinstance(pattern, Literal):
            if is_scalar(value, pattern.value, pattern.rel):
                yield state
            else:
                self.fail(state, f"the value is not the constant {pattern.value:g}", value)
        elif value.producer is None or value.producer.graph is not self.graph:
            self.fail(state, f"the value is not made by {pattern.op}", value)
        elif value.producer.outputs[pattern.output : pattern.output + 1] != [value]:
            self.fail(state, f"the value is not output {pattern.output} of {pattern.op}", value)
        else:
            yield from self.node(pattern, value.producer, state)

    def variable(self, var: Var, value: Value | None, state: _State) -> Iterator[_State]:
        """Match a variable."""
        if value is None and not var.optional:
            self.fail(state, f"input {var.name} is absent", None)
        elif var.const and value is not None and not value.is_const:
            self.fail(state, f"{var.name} is not a constant", value)
        elif var.name not in state.values:
            yield _State({**state.values, var.name: value}, state.nodes, state.attrs)
        elif state.values[var.name] is value or _same_constant(state.values[var.name], value):
            yield state
        else:
            self.fail(state, f"{var.name} is used with two different values", value)

    def node(self, pattern: NodePattern, node: Node, state: _State) -> Iterator[_State]:
        """Match a node."""
        if pattern in state.nodes:
            if state.nodes[pattern] is node:
                yield state
            return
        if node.op != pattern.op or node.domain != pattern.domain:
            self.fail(state, f"expected {pattern.op}, found {node.key}", node)
            return
        attrs = dict(state.attrs)
        for key, wanted in pattern.attrs.items():
            found = node.attrs.get(key, wanted.default if isinstance(wanted, AttrVar) else None)
            if isinstance(wanted, AttrVar):
                attrs[wanted.name] = found
            elif found != wanted:
                self.fail(state, f"attribute {key} is {found!r}, not {wanted!r}", node)
                return
        entered = _State(state.values, {**state.nodes, pattern: node}, attrs)
        inputs = list(node.inputs)
        while len(inputs) > len(pattern.inputs) and inputs[-1] is None:
            inputs.pop()
        if len(inputs) > len(pattern.inputs):
            self.fail(entered, f"it has {len(inputs)} inputs, not {len(pattern.inputs)}", node)
            return
        inputs += [None] * (len(pattern.inputs) - len(inputs))
        yield from self.inputs(pattern.inputs, inputs, entered)
        if node.op in COMMUTATIVE and len(inputs) == 2 and not node.domain:
            yield from self.inputs(pattern.inputs, inputs[::-1], entered)

    def inputs(
        self, patterns: Sequence[Pattern], values: Sequence[Value | None], state: _State
    ) -> Iterator[_State]:
        """Match inputs in the order given."""
        if not patterns:
            yield state
            return
        for after in self.value(patterns[0], values[0], state):
            yield from self.inputs(patterns[1:], values[1:], after)

    def match(self, pattern: NodePattern, root: Node) -> Iterator[Match]:
        """All matches whose inner nodes are used by matched nodes only."""
        for state in self.node(pattern, root, _State({}, {}, {})):
            nodes = set(state.nodes.values())
            shared = next((n for n in nodes if n is not root and escapes(n, nodes)), None)
            if shared is not None:
                self.fail(state, "an inner value is used elsewhere or is a graph output", shared)
                continue
            named = {p.name: n for p, n in state.nodes.items() if p.name}
            yield Match(root, dict(state.values), named, dict(state.attrs), tuple(nodes))


def escapes(node: Node, inside: Iterable[Node]) -> bool:
    """Whether an output of ``node`` is used by a node that is not ``inside``, or by the graph."""
    members = set(inside)
    return any(
        value is not None
        and (value.is_output or any(user not in members for user in value.users()))
        for value in node.outputs
    )


def scalar(value: Value | None) -> float | None:
    """The number in a numeric constant with one element, else None."""
    if value is None or value.const is None or any(d != 1 for d in value.const.type.dims):
        return None
    if value.dtype in ("string", "bool"):
        return None
    return float(value.array.reshape(()))


def is_scalar(value: Value | None, wanted: float, rel: float = 1e-6) -> bool:
    """Whether a value is a constant with one element close to ``wanted``."""
    number = scalar(value)
    return number is not None and math.isclose(number, wanted, rel_tol=rel, abs_tol=1e-12)


def _same_constant(a: Value | None, b: Value | None) -> bool:
    if a is None or b is None or a.const is None or b.const is None:
        return False
    if a.const is b.const:
        return True
    small = a.const.nbytes <= 4096 and a.const.type == b.const.type
    return small and np.array_equal(a.array, b.array)
