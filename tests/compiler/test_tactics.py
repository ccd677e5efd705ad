"""Which tactic of a composite is taken, and what a choice depends on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from burnish.backends.cpu.rules import RULES, rules_with
from burnish.ir import Node
from burnish.lowering.context import NodeContext
from burnish.lowering.tactics import ByTactics, CostTable, Problem, Tactic, permitted, problem_of
from tests.support.golden import parse

PROBLEM = Problem("burnish::Conv", "avx512", "float32[1]")


def tactic(name: str, cost: float, library: str = "") -> Tactic:
    """A tactic that is never emitted."""
    return Tactic(name, cost, lambda: None, library)


TACTICS = [tactic("direct", 3e3), tactic("winograd", 2e3), tactic("onednn", 1e3, "onednn")]


@pytest.mark.parametrize(
    ("library", "names", "taken"),
    [
        ("auto", ["direct", "winograd", "onednn"], "onednn"),
        ("none", ["direct", "winograd"], "winograd"),
        ("onednn", ["onednn"], "onednn"),
        ("another", ["direct", "winograd"], "winograd"),
    ],
)
def test_the_library_option_limits_the_choice(library: str, names: list[str], taken: str) -> None:
    assert [t.name for t in permitted(TACTICS, library)] == names
    choice = CostTable(library).choose(PROBLEM, TACTICS)
    assert choice.tactic.name == taken


def test_a_choice_names_the_costs_it_was_made_by() -> None:
    why = CostTable().choose(PROBLEM, TACTICS).why
    assert why == "cost table, in thousands of cycles: onednn 1, winograd 2, direct 3"
    assert CostTable().choose(PROBLEM, TACTICS[:1]).why == "the only tactic"
    assert CostTable("onednn").choose(PROBLEM, TACTICS).why == (
        "the only tactic with --library onednn"
    )


def matmul(text: str) -> Node:
    """The product of a graph in text."""
    return next(n for n in parse(text).nodes if n.key == "burnish::MatMul")


def graph(x: str, size: str = "8,4", attributes: str = "") -> str:
    """A graph of one product."""
    return (
        f"g (float[{x},8] x) => (float[{x},4] y) <float[{size}] w>"
        f" {{ y = burnish.MatMul{attributes}(x, w) }}"
    )


def test_equal_problems_have_equal_keys_whatever_their_symbols_are_called() -> None:
    key = problem_of(matmul(graph("n")), "avx512").key
    assert key == problem_of(matmul(graph("rows")), "avx512").key
    assert "s0" in key
    assert "const float32[8,4]" in key
    assert problem_of(matmul(graph("n")), "avx512").symbolic
    assert not problem_of(matmul(graph("3")), "avx512").symbolic


@pytest.mark.parametrize("other", [graph("3"), graph("n", attributes='<postops=["Relu"]>')])
def test_problems_differ_by_sizes_and_attributes(other: str) -> None:
    assert problem_of(matmul(graph("n")), "avx512") != problem_of(matmul(other), "avx512")
    assert problem_of(matmul(graph("n")), "avx512") != problem_of(matmul(graph("n")), "avx2")


def none(ctx: NodeContext, node: Node) -> Iterator[Tactic]:
    """A source that has nothing."""
    return iter(())


def test_a_backend_adds_tactics_to_the_rules_of_composites_that_have_some() -> None:
    rules = rules_with({"burnish::Conv": (none,)})
    before, after = RULES["burnish::Conv"].emit, rules["burnish::Conv"].emit
    assert isinstance(before, ByTactics)
    assert isinstance(after, ByTactics)
    assert after.sources == (*before.sources, none)
    assert rules["burnish::MatMul"] is RULES["burnish::MatMul"]
    with pytest.raises(TypeError, match="Softmax has no tactics"):
        rules_with({"Softmax": (none,)})
