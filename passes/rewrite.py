"""Rewrite rules: a pattern written as Python, one function that checks and builds, one driver.

A :class:`PatternRule` describes the nodes it replaces by a method ``pattern(op, x, ...)`` whose
parameters are variables and whose calls ``op.Conv(x, w)`` are nodes; ``rewrite(m, b)`` returns the
replacement or a :class:`NoMatch` with its reason. A plain :class:`Rule` finds its nodes itself.

The matcher guarantees that every matched node but the root is used by matched nodes only and makes
no graph output. The driver guarantees that a replacement has the dtype and shape of what it
replaces, merges the locations of the replaced nodes, and repeats to a bounded fixpoint.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

from burnish.errors import PassError
from burnish.ir import UNKNOWN, Builder, Graph, Location, Node, TensorType, Value
from burnish.ir.dims import is_static
from burnish.ir.types import UnknownTypeError
from burnish.passes.base import Numerics, Pass, PassContext, all_graphs
from burnish.passes.patterns import Either, Match, Matcher, NodePattern, NoMatch, Op, Tracer, Var


@dataclass(frozen=True)
class Replacement:
    """New values for old ones, and the nodes that they stand for."""

    values: Mapping[Value, Value]
    covers: tuple[Node, ...]


class Rule(ABC):
    """A rewrite that starts at one node.

    Attributes:
        name: For provenance, notes and ``--explain``.
        numerics: What it may do to results.
        anchors: Keys of the operators (``Conv``, ``burnish::Conv``) that it starts at.
    """

    name: ClassVar[str]
    numerics: ClassVar[Numerics] = Numerics.EXACT
    anchors: ClassVar[tuple[str, ...]]

    @abstractmethod
    def apply(self, node: Node, b: Builder, tracer: Tracer | None) -> Replacement | NoMatch:
        """Check, and build the replacement with ``b``; what a NoMatch leaves built is dropped."""


Result: TypeAlias = "Value | tuple[Value | None, ...] | NoMatch"


class PatternRule(Rule):
    """A rule whose nodes are described by :meth:`pattern`; its anchor is the pattern's root."""

    _compiled: ClassVar[dict[type, tuple[NodePattern, ...]]] = {}

    @abstractmethod
    def pattern(self, op: Any, *variables: Any) -> NodePattern | Either:
        """The pattern; parameters after ``op`` become variables of the same name."""

    @abstractmethod
    def rewrite(self, m: Match, b: Builder) -> Result:
        """The values that replace the root's outputs, in order."""

    @property
    def patterns(self) -> tuple[NodePattern, ...]:
        """The alternatives of the pattern, built once per class."""
        if type(self) not in self._compiled:
            names = list(inspect.signature(self.pattern).parameters)[1:]
            made = self.pattern(Op(), *map(Var, names))
            options = made.options if isinstance(made, Either) else (made,)
            roots = tuple(o for o in options if isinstance(o, NodePattern))
            self._compiled[type(self)] = roots
        return self._compiled[type(self)]

    @property
    def anchors(self) -> tuple[str, ...]:  # type: ignore[override]
        """Operators of the pattern's roots."""
        return tuple({f"{p.domain}::{p.op}" if p.domain else p.op: None for p in self.patterns})

    def apply(self, node: Node, b: Builder, tracer: Tracer | None) -> Replacement | NoMatch:
        """Try every way in which the pattern matches at ``node``."""
        assert node.graph is not None
        matcher = Matcher(node.graph, tracer)
        failure = NoMatch("the pattern does not match", node)
        for pattern in self.patterns:
            for m in matcher.match(pattern, node):
                result = self.rewrite(m, b)
                if isinstance(result, NoMatch):
                    failure = result
                    if tracer is not None:
                        tracer.add(len(m.nodes) + 100, result.reason, result.at or node)
                    continue
                made = result if isinstance(result, tuple) else (result,)
                pairs = zip(node.outputs, made, strict=False)
                values = {old: new for old, new in pairs if old is not None and new is not None}
                return Replacement(values, m.nodes)
        return failure


def compatible(old: TensorType | None, new: TensorType | None) -> bool:
    """Whether a value of type ``new`` may stand for one of type ``old``."""
    if old is None or new is None or old.dtype != new.dtype:
        return old is None
    if old.shape is None or new.shape is None:
        return old.shape is None
    return len(old.shape) == len(new.shape) and all(
        a == b for a, b in zip(old.shape, new.shape, strict=True) if is_static(a) and is_static(b)
    )


def remove_dead(graph: Graph, seeds: Iterable[Node]) -> None:
    """Remove those of ``seeds`` that nobody uses, and what only they used."""
    work = list(seeds)
    while work:
        node = work.pop()
        unused = all(v is None or not (v.uses or v.outputs_of) for v in node.outputs)
        if node.graph is graph and unused:
            work += [v.producer for v in node.inputs if v is not None and v.producer is not None]
            graph.remove(node)


def apply_rule(rule: Rule, node: Node, tracer: Tracer | None = None) -> NoMatch | None:
    """Apply a rule at a node; None when the graph was rewritten."""
    graph = node.graph
    assert graph is not None
    before = len(graph)
    result: Replacement | NoMatch
    try:
        result = rule.apply(node, Builder(graph), tracer)
    except UnknownTypeError as error:
        result = NoMatch(str(error), node)
    made = graph.nodes[before:] if len(graph) != before else []
    if isinstance(result, Replacement):
        wrong = next((o for o, n in result.values.items() if not compatible(o.type, n.type)), None)
        if wrong is not None:
            news = result.values[wrong]
            result = NoMatch(f"the result would be {news.type} instead of {wrong.type}", wrong)
    if isinstance(result, NoMatch):
        remove_dead(graph, reversed(made))
        return result
    order = {n: i for i, n in enumerate(graph.nodes)}
    covered = sorted(result.covers, key=lambda n: order.get(n, 0))
    location = Location.merge((n.location for n in covered), via=rule.name)
    for new_node in made:
        new_node.location = location
    for old, new in result.values.items():
        if new.producer is not None and old.type is not None and new.type is not None:
            new.type = _refine(new.type, old.type)
            new.content = new.content if new.content is not None else old.content
        graph.replace_uses(old, new)
    remove_dead(graph, (*result.covers, *made))
    return None


def _refine(new: TensorType, old: TensorType) -> TensorType:
    if new.shape is None or old.shape is None:
        return old if new.shape is None else new
    pairs = zip(new.shape, old.shape, strict=True)
    return TensorType(new.dtype, tuple(o if n is UNKNOWN else n for n, o in pairs))


@dataclass(frozen=True)
class RewritePass(Pass):
    """A pass made of rules, applied to a bounded fixpoint, subgraphs included."""

    rules: ClassVar[tuple[Rule, ...]] = ()
    max_rounds: int = 64

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        """Apply the rules everywhere until none matches."""
        results = [run_rules(g, self.rules, ctx, self.max_rounds) for g in all_graphs(graph)]
        return any(results)


def run_rules(graph: Graph, rules: Sequence[Rule], ctx: PassContext, max_rounds: int = 64) -> bool:
    """Apply rules to a graph until none matches.

    Raises:
        PassError: The rules still match after ``max_rounds`` rounds.
    """
    table: dict[str, list[Rule]] = {}
    for rule in rules:
        for key in rule.anchors:
            table.setdefault(key, []).append(rule)
    found = ctx.options.get("tracer")
    wanted = found if isinstance(found, Tracer) else None
    changed = False
    for _ in range(max_rounds):
        progress = False
        graph.sort()
        for node in graph.nodes:
            for rule in table.get(node.key, ()):
                if node not in graph:
                    break
                with ctx.visiting(node):
                    tracer = wanted if wanted is not None and wanted.rule == rule.name else None
                    refused = apply_rule(rule, node, tracer)
                if refused is None:
                    progress = changed = True
                elif tracer is not None and not isinstance(rule, PatternRule):
                    tracer.add(100, refused.reason, refused.at or node)
        if not progress:
            return changed
    raise PassError(
        f"rules {', '.join(r.name for r in rules)} do not settle in {max_rounds} rounds",
        hint="two rules undo each other; please report the model",
    )
