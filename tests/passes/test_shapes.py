"""Shape elimination."""

# ruff: noqa: E501 (graphs are easier to read unbroken)

from __future__ import annotations

import numpy as np
import pytest

from burnish.ir import Graph
from burnish.passes.manager import PassManager
from burnish.passes.pipelines import pipeline
from burnish.passes.shapes import EliminateShapes
from tests.support import golden

CASES = {
    "Reshape that keeps a dim": (
        "g (float[b, 768] x) => (float[b, 12, 64] y) <int64 i = {0}, int64[1] z = {0}, "
        "int64[2] t = {12, 64}> "
        "{ s = Shape(x)  n = Gather(s, i)  u = Unsqueeze(n, z)  w = Concat<axis=0>(u, t) "
        "y = Reshape(x, w) }",
        "g (float[b, 768] x) => (float[b, 12, 64] y) <int64[3] t = {0, 12, 64}> "
        "{ y = Reshape(x, t) }",
    ),
    "Reshape with one moved dim": (
        "g (float[b, s, 8] x) => (float[s, m] y) <int64[1] z = {-1}> "
        "{ n = Shape<start = 1, end = 2>(x)  w = Concat<axis=0>(n, z)  y = Reshape(x, w) }",
        "g (float[b, s, 8] x) => (float[s, m] y) <int64[1] z = {-1}> "
        "{ n = Shape<start = 1, end = 2>(x)  w = Concat<axis=0>(n, z)  y = Reshape(x, w) }",
    ),
    "Reshape to a product": (
        "g (float[b, s, 8] x) => (float[m, 8] y) <int64 i = {0}, int64 j = {1}, int64[1] z = {0}, "
        "int64[1] e = {8}> "
        "{ s1 = Shape(x)  p = Gather(s1, i)  q = Gather(s1, j)  r = Mul(p, q)  u = Unsqueeze(r, z) "
        "w = Concat<axis=0>(u, e)  y = Reshape(x, w) }",
        "g (float[b, s, 8] x) => (float[m, 8] y) <int64[2] t = {-1, 8}> { y = Reshape(x, t) }",
    ),
    "Expand by a number": (
        "g (float[b, 1, 8] x) => (float[b, 4, 8] y) <int64[2] t = {4, 8}> "
        "{ n = Shape<end = 1>(x)  w = Concat<axis=0>(n, t)  y = Expand(x, w) }",
        "g (float[b, 1, 8] x) => (float[b, 4, 8] y) <int64[3] t = {1, 4, 1}> { y = Expand(x, t) }",
    ),
    "Slice to the end": (
        "g (float[b, s] x) => (float[b, t] y) <int64[1] o = {1}> "
        "{ n = Shape<start = 1>(x)  y = Slice(x, o, n, o) }",
        "g (float[b, s] x) => (float[b, t] y) <int64[1] o = {1}, int64[1] e = {9223372036854775807}> "
        "{ y = Slice(x, o, e, o) }",
    ),
    "sizes that are numbers": (
        "g (float[b, 768] x) => (float[b, 768] y) <int64 i = {1}> "
        "{ s = Shape(x)  n = Gather(s, i)  f = Cast<to=1>(n)  y = Div(x, f) }",
        "g (float[b, 768] x) => (float[b, 768] y) <int64 n = {768}> "
        "{ f = Cast<to=1>(n)  y = Div(x, f) }",
    ),
    "sizes of inner values come from the inputs": (
        "g (float[b, s] x) => (int64[s] y) <int64 o = {0}, int64 i = {1}, float[8] w> "
        "{ z = Shape<end = 2>(x)  u = Exp(x)  v = Transpose(u)  k = Shape(v)  n = Gather(k, o) "
        "y = Range(o, n, i) }",
        "g (float[b, s] x) => (int64[s] y) <int64 o = {0}, int64 i = {1}, int64[0] e = {}> "
        "{ m = Shape<start = 1, end = 2>(x)  n = Reshape(m, e)  y = Range(o, n, i) }",
    ),
    "equal sizes are computed once": (
        "g (float[b, s] x, float[1] v) => (float[r] y, float[r] z) <int64 i = {0}, int64[1] a = {0}> "
        "{ p = Shape<start = 0, end = 1>(x)  q = Shape(x)  h = Gather(q, i)  k = Unsqueeze(h, a) "
        "c = Add(p, p)  d = Add(k, k)  y = Expand(v, c)  z = Expand(v, d) }",
        "g (float[b, s] x, float[1] v) => (float[r] y, float[r] z) "
        "{ p = Shape<start = 0, end = 1>(x)  c = Add(p, p)  y = Expand(v, c)  z = Expand(v, c) }",
    ),
}


@pytest.mark.parametrize(("before", "after"), CASES.values(), ids=CASES.keys())
def test_golden(before: str, after: str) -> None:
    for sizes in ({"b": 2, "s": 3}, {"b": 1, "s": 7}):
        golden.check(EliminateShapes(), before, after if after != before else None, sizes=sizes)


# A form that the pass makes has to be one that it keeps, whoever else comes in between.
STABLE = {
    "a roundabout size beside a direct one": (
        "g (float[b, s] x, float[1, 1, 4] v, float[1, 1] w) => (float[b, 1, 4] y, float[b, s] z) "
        "<int64 i = {0}, int64[1] a = {0}, int64[2] t = {1, 1}, int64[1] o = {1}> "
        "{ u = Exp(x)  q = Shape(u)  h = Gather(q, i)  k = Unsqueeze(h, a) "
        "c = Concat<axis=0>(k, t)  y = Expand(v, c)  r = Concat<axis=0>(k, o) "
        "e = Expand(w, r)  z = Mul(e, x) }"
    ),
    "a shape that is an output": "g (float[3, 4] x) => (int64[2] y) { y = Shape(x) }",
    "a size that is an output": "g (float[3, 4] x) => (int64 y) { y = Size(x) }",
    "part of a shape that is an output": (
        "g (float[3, s, 4] x) => (int64[2] y, int64[1] z) "
        "{ y = Shape<start = 1>(x)  z = Shape<end = 1>(x) }"
    ),
}


@pytest.mark.parametrize("text", STABLE.values(), ids=STABLE.keys())
def test_clean_up_settles(text: str) -> None:
    graph = golden.parse(text)
    PassManager(pipeline(3), verify_ir=True).run(graph)
    feeds = golden.random_feeds(graph)
    golden.assert_equal_results(golden.parse(text), graph, feeds, EliminateShapes.numerics)


KEPT = {
    "an operand that the model computes from data": (
        "g (float[b, 4] x, int64[2] s) => (float[m, n] y) { y = Reshape(x, s) }"
    ),
    "an Expand to a size of another input": (
        "g (float[1, 4] x, float[b] z) => (float[b, 4] y) <int64[1] f = {4}> "
        "{ n = Shape<start = 0, end = 1>(z)  s = Concat<axis=0>(n, f)  y = Expand(x, s) }"
    ),
    "sizes that are an output": ("g (float[b, s] x) => (int64[2] y) { y = Shape(x) }"),
}


@pytest.mark.parametrize("text", KEPT.values(), ids=KEPT.keys())
def test_kept(text: str) -> None:
    golden.check(EliminateShapes(), text, None, run="int64[2] s)" not in text)


def test_a_known_shape_that_is_an_output_becomes_a_constant() -> None:
    before = "g (float[3, 4] x) => (int64[2] y, float[3, 4] z) { y = Shape(x)  z = Exp(x) }"
    graph = golden.parse(before)
    assert golden.apply(EliminateShapes(), graph)
    assert [n.op for n in graph.nodes] == ["Exp", "Identity"]
    feeds = golden.random_feeds(graph)
    golden.assert_equal_results(golden.parse(before), graph, feeds, EliminateShapes.numerics)


def test_sizes_in_a_branch_come_from_the_outer_inputs() -> None:
    before = (
        "g (bool c, float[b, s] x) => (float[b, s] y) <float[1, 1] one = {1}> "
        "{ u = Exp(x)  y = If(c) <then_branch = t () => (float[b, s] p) "
        "{ k = Shape(u) p = Expand(one, k) }, "
        "else_branch = e () => (float[b, s] q) { q = Neg(u) }> }"
    )
    graph = golden.parse(before)
    assert golden.apply(EliminateShapes(), graph)
    then = graph.nodes[-1].attrs["then_branch"]
    assert isinstance(then, Graph)
    assert [n.op for n in then.nodes] == ["Shape", "Expand"]
    assert then.nodes[0].required(0).name == "x"
    feeds = golden.random_feeds(graph)
    for choice in (True, False):
        feeds["c"] = np.array(choice)
        golden.assert_equal_results(golden.parse(before), graph, feeds, EliminateShapes.numerics)
