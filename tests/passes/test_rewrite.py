"""Patterns, the matcher and the driver of rewrite rules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from burnish.errors import PassError
from burnish.ir import Builder, Node
from burnish.passes.base import PassContext
from burnish.passes.patterns import Match, NoMatch, Tracer, attr, const, either, near, opt
from burnish.passes.rewrite import PatternRule, Replacement, Result, RewritePass, Rule, run_rules
from tests.support import golden
from tests.support.refusals import reasons

X = "g (float[N,4] x) => (float[N,4] y)"


class SquareOfSum(PatternRule):
    """mul(x + c, x + c) => pow(x + c, 2): a shared inner node."""

    name = "square-of-sum"

    def pattern(self, op: Any, x: Any) -> Any:
        total = op.Add(x, const("c"), _as="sum")
        return op.Mul(total, total)

    def rewrite(self, m: Match, b: Builder) -> Result:
        if len(m["c"].shape) > 1:
            return NoMatch("c has too many axes", m["c"])
        total = b.op("Add", m["x"], m["c"])
        return b.op("Relu", b.op("Mul", total, total))


@dataclass(frozen=True)
class SquarePass(RewritePass):
    """A pass of one rule."""

    name = "square"
    rules: ClassVar[tuple[Rule, ...]] = (SquareOfSum(),)


def first_match(rule: PatternRule, text: str) -> Match | NoMatch:
    """What a rule sees at the node that makes the output."""
    seen: list[Match] = []

    class Spy(type(rule)):  # type: ignore[misc]
        def rewrite(self, m: Match, b: Builder) -> Result:
            seen.append(m)
            return NoMatch("spied")

    graph = golden.parse(text)
    node = graph.outputs[0].producer
    assert node is not None
    result = Spy().apply(node, Builder(graph), None)
    assert isinstance(result, NoMatch)
    return seen[0] if seen else result


class Shapes(PatternRule):
    """All kinds of patterns at once."""

    name = "shapes"

    def pattern(self, op: Any, x: Any, w: Any) -> Any:
        scaled = either(op.Mul(x, near(0.7071)), op.Div(x, near(1.41421)))
        product = op.Gemm(scaled, w, opt(const("b")), _as="gemm", alpha=attr("alpha", 1.0))
        return op.Softmax(product, axis=1)

    def rewrite(self, m: Match, b: Builder) -> Result:
        return NoMatch("only matched")


GEMM = (
    "g (float[N,4] x, float[4,4] w) => (float[N,4] y) <float k = {{{k}}}, float[4] b> {{ {body} }}"
)


def test_variables_constants_and_attributes_are_captured() -> None:
    text = GEMM.format(
        k=0.70710678, body="s = Mul(k, x) p = Gemm<alpha=2.0>(s, w, b) y = Softmax<axis=1>(p)"
    )
    m = first_match(Shapes(), text)
    assert isinstance(m, Match)
    assert (m["x"].name, m["w"].name, m["b"].is_const) == ("x", "w", True)
    assert m.attrs["alpha"] == 2.0
    assert m.node("gemm").op == "Gemm"
    assert len(m.nodes) == 3


def test_the_second_alternative_and_an_absent_optional_input() -> None:
    text = GEMM.format(k=1.4142135, body="s = Div(x, k) p = Gemm(s, w) y = Softmax<axis=1>(p)")
    m = first_match(Shapes(), text)
    assert isinstance(m, Match)
    assert m.get("b") is None
    assert not m.has("b")
    assert m.attrs["alpha"] == 1.0


@pytest.mark.parametrize(
    ("k", "body"),
    [
        (0.5, "s = Mul(x, k) p = Gemm(s, w, b) y = Softmax<axis=1>(p)"),  # another number
        (1.4142135, "s = Div(k, x) p = Gemm(s, w, b) y = Softmax<axis=1>(p)"),  # Div has an order
        (0.70710678, "s = Mul(x, k) p = Gemm(s, w, b) y = Softmax<axis=0>(p)"),  # another attribute
        (0.70710678, "s = Mul(x, k) p = Gemm(s, w, x) y = Softmax<axis=1>(p)"),  # b is no constant
    ],
)
def test_no_match(k: float, body: str) -> None:
    text = GEMM.format(k=k, body=body).replace("[N,4] x", "[4,4] x").replace("[N,4] y", "[4,4] y")
    assert isinstance(first_match(Shapes(), text), NoMatch)


def test_a_rule_replaces_and_merges_locations() -> None:
    graph = golden.parse(
        f"{X} <float c = {{2}}> {{ [first] s = Add(x, c) [second] y = Mul(s, s) }}"
    )
    assert run_rules(graph, (SquareOnce(),), PassContext())
    root = graph.outputs[0].producer
    assert root is not None
    assert root.op == "Relu"
    assert root.location.names == ("first", "second")
    assert root.location.via == ("square-once",)
    assert graph.outputs[0].name == "y"


class SquareOnce(SquareOfSum):
    """As its base, but not on its own result."""

    name = "square-once"

    def rewrite(self, m: Match, b: Builder) -> Result:
        user = m.root.output.single_user()
        if user is not None and user.op == "Relu":
            return NoMatch("done already", user)
        return super().rewrite(m, b)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "g (float[N,4] x) => (float[N,4] y, float[N,4] s) <float c = {2}> "
            "{ s = Add(x, c) y = Mul(s, s) }",
            "an inner value is used elsewhere or is a graph output",
        ),
        (
            "g (float[N,4] x) => (float[N,4] y, float[N,4] z) <float c = {2}> "
            "{ s = Add(x, c) y = Mul(s, s) z = Exp(s) }",
            "an inner value is used elsewhere or is a graph output",
        ),
        (f"{X} <float[1,4] c> {{ s = Add(x, c) y = Mul(s, s) }}", "c has too many axes"),
        (f"{X} <float c> {{ s = Sub(x, c) y = Mul(s, s) }}", "expected Add, found Sub"),
        (f"{X} {{ s = Add(x, x) y = Mul(s, s) }}", "c is not a constant"),
        (
            f"{X} <float c> {{ s = Add(x, c) t = Add(s, c) y = Mul(s, t) }}",
            "expected Add, found Add",
        ),
    ],
)
def test_refusals_have_reasons(text: str, reason: str) -> None:
    found = reasons(SquarePass(), "square-of-sum", text)
    if reason == "expected Add, found Add":  # the same pattern node must be the same node
        assert "expected Add, found Add" not in found
    else:
        assert reason in found


def test_conditions_are_nearer_than_patterns() -> None:
    tracer = Tracer("r")
    tracer.add(2, "two nodes matched", None)
    tracer.add(103, "a condition failed", None)
    tracer.add(103, "a condition failed", None)
    assert [m.reason for m in tracer.nearest()] == ["a condition failed", "two nodes matched"]


class Endless(Rule):
    """relu(x) => relu(x), for ever."""

    name = "endless"
    anchors = ("Relu",)

    def apply(self, node: Node, b: Builder, tracer: Tracer | None) -> Replacement | NoMatch:
        return Replacement({node.output: b.op("Relu", node.required(0))}, (node,))


def test_a_fixpoint_is_bounded() -> None:
    graph = golden.parse(f"{X} {{ y = Relu(x) }}")
    with pytest.raises(PassError, match="endless do not settle in 64 rounds"):
        run_rules(graph, (Endless(),), PassContext())


class WrongType(Rule):
    """A replacement of another shape, which the driver must refuse."""

    name = "wrong-type"
    anchors = ("Relu",)

    def apply(self, node: Node, b: Builder, tracer: Tracer | None) -> Replacement | NoMatch:
        other = b.op("Unsqueeze", node.required(0), b.ints([0]))
        return Replacement({node.output: other}, (node,))


def test_a_replacement_of_another_type_is_refused() -> None:
    graph = golden.parse(f"{X} {{ y = Relu(x) }}")
    tracer = Tracer("wrong-type")
    assert not run_rules(graph, (WrongType(),), PassContext(options={"tracer": tracer}))
    assert [n.op for n in graph.nodes] == ["Relu"]
    assert "instead of" in tracer.nearest()[0].reason


def test_rules_reach_into_subgraphs() -> None:
    text = """g (bool c, float[N,4] x) => (float[N,4] y) {
        y = If (c) <
            then_branch = a () => (float[N,4] t) <float k = {2}> { s = Add(x, k) t = Mul(s, s) },
            else_branch = e () => (float[N,4] u) { u = Exp(x) }
        >
    }"""
    graph = golden.parse(text)
    item = SquarePass()
    object.__setattr__(item, "max_rounds", 2)
    with pytest.raises(PassError):  # the rule matches its own result
        item.run(graph, PassContext())
    branch = next(iter(graph.nodes[0].subgraphs()))
    assert "Relu" in [n.op for n in branch.nodes]
