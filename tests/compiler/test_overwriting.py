"""Results written over an operand that nobody reads any more, and only over such."""

from __future__ import annotations

import pytest

from burnish.backends.registry import resolve_target
from burnish.lowering.module import ModuleLowering
from tests.support.bundle import Bundle, Case
from tests.support.golden import parse

ATTRIBUTES = 'data_format="NHWC", dilations=[1,1], group=1, pads=[0,0,0,0], strides=[1,1]'


def conv(result: str, x: str, *added: str, postops: str = '"Add:full"', last: str = "") -> str:
    """A pointwise convolution as the passes leave it, plus what is ``added``."""
    steps = ", ".join(['"Relu"', *(postops for _ in added), *([f'"{last}"'] if last else [])])
    operands = ", ".join([x, "w", *added])
    return f"{result} = burnish.Conv<{ATTRIBUTES}, postops=[{steps}]>({operands}) "


A = conv("a", "x")
# What is computed, and how often a result is written over an operand.
GRAPHS = {
    "dead": (A + conv("b", "x", "a") + conv("y", "b"), 1),
    "chain": (A + conv("b", "x", "a") + conv("c", "x", "b") + conv("y", "c"), 2),
    "before_a_long_step": (A + conv("b", "x", "a", last="Sigmoid") + conv("y", "b"), 1),
    "behind_a_long_step": (
        A + conv("b", "x", "a", postops='"Sigmoid", "Add:full"') + conv("y", "b"), 0,
    ),
    "read_later": (A + conv("b", "x", "a") + conv("c", "b") + "y = Mul(c, a)", 0),
    "a_view_read_later": (A + "v = Reshape(a, s) " + conv("b", "x", "a") + conv("c", "b")
                          + "t = Tanh(v) u = Reshape(t, r) y = Mul(c, u)", 0),
    "a_view_read_before": (A + "v = Reshape(a, s) t = Tanh(v) u = Reshape(t, r) "
                           + conv("b", "u", "a") + conv("y", "b"), 1),
    "a_part_read_later": (A + conv("b", "x", "a") + "f, g = Split<axis=3, num_outputs=2>(a) "
                          + "h = Mul(f, g) k = Concat<axis=3>(h, g) " + conv("c", "k")
                          + "y = Mul(b, c)", 0),
    "its_own_input": (A + conv("b", "a", "a") + conv("y", "b"), 0),
    "twice": (A + conv("b", "x", "a", "a") + conv("y", "b"), 0),
    "an_input": (conv("b", "x", "x") + conv("y", "b"), 0),
    "gives_an_output": (A + conv("y", "x", "a"), 0),
}  # fmt: skip


@pytest.mark.parametrize("name", GRAPHS)
def test_only_dead_operands_are_written_over(name: str) -> None:
    nodes, times = GRAPHS[name]
    graph = parse(
        "g (float[1,6,10,16] x) => (float[1,6,10,16] y) <float[16,16,1,1] w, "
        f"int64[2] s = {{6, 160}}, int64[4] r = {{1, 6, 10, 16}}> {{ {nodes} }}"
    )
    text = ModuleLowering(graph, resolve_target("x86")).run()["main"].script()
    assert text.count("call_tir_inplace(") == times


def test_an_operand_that_is_an_output_is_kept() -> None:
    graph = parse(
        "g (float[1,6,10,16] x) => (float[1,6,10,16] y, float[1,6,10,16] a) <float[16,16,1,1] w> "
        f"{{ {A}{conv('b', 'x', 'a')}{conv('y', 'b')} }}"
    )
    text = ModuleLowering(graph, resolve_target("x86")).run()["main"].script()
    assert "call_tir_inplace(" not in text


BODY = "(float[n,16,6,10] x) => (float[n,16,6,10] y) <float[16,16,1,1] w, {weights}> {{ {nodes} }}"
CASES = {
    name: Case(BODY.format(nodes=f"a = Conv(x, w) {nodes}", weights=weights), sizes={"n": 2})
    for name, weights, nodes in (
        ("pointwise", "float[16,16,1,1] v", "b = Conv(x, v) c = Add(b, a) y = Conv(c, w)"),
        (
            "direct",
            "float[16,16,5,5] v",
            "b = Conv<pads=[2,2,2,2]>(x, v) c = Add(b, a) d = Relu(c) y = Conv(d, w)",
        ),
        (
            "depthwise",
            "float[16,1,5,5] v",
            "b = Conv<pads=[2,2,2,2], group=16>(x, v) c = Add(b, a) s = Sigmoid(c) y = Conv(s, w)",
        ),
        (
            "few_filters",
            "float[3,16,5,5] v, float[3,16,1,1] f, float[16,3,1,1] g",
            "d = Conv(a, f) b = Conv<pads=[2,2,2,2]>(x, v) c = Add(b, d) y = Conv(c, g)",
        ),
        (
            "read_later",
            "float[16,16,1,1] v",
            "b = Conv(x, v) c = Add(b, a) d = Conv(c, w) e = Conv(d, v) y = Mul(e, a)",
        ),
    )
}


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle(CASES, library="none")


@pytest.mark.parametrize("name", CASES)
def test_computes_the_same(name: str, bundle: Bundle) -> None:
    bundle.check(name)
