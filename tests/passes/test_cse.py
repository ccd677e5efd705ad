"""Common subexpression elimination."""

from __future__ import annotations

import numpy as np
import pytest

from burnish.ir import Builder, Constant, Graph, TensorType
from burnish.passes.common_subexpressions import CommonSubexpressions, merge_constants
from tests.support import golden

CASES = {
    "equal nodes": (
        "g (float[4] x) => (float[4] y) { a = Exp(x)  b = Exp(x)  y = Add(a, b) }",
        "g (float[4] x) => (float[4] y) { a = Exp(x)  y = Add(a, a) }",
    ),
    "equal chains": (
        "g (float[4] x) => (float[4] y) "
        "{ a = Exp(x)  b = Exp(x)  c = Neg(a)  d = Neg(b)  y = Add(c, d) }",
        "g (float[4] x) => (float[4] y) { a = Exp(x)  c = Neg(a)  y = Add(c, c) }",
    ),
    "equal constants": (
        "g (float[4] x) => (float[4] y) <float[4] c = {1, 2, 3, 4}, float[4] d = {1, 2, 3, 4}> "
        "{ a = Mul(x, c)  b = Mul(x, d)  y = Add(a, b) }",
        "g (float[4] x) => (float[4] y) <float[4] c = {1, 2, 3, 4}> "
        "{ a = Mul(x, c)  y = Add(a, a) }",
    ),
    "two outputs with one value": (
        "g (float[4] x) => (float[4] y, float[4] z) { y = Exp(x)  z = Exp(x) }",
        "g (float[4] x) => (float[4] y, float[4] z) { y = Exp(x)  z = Identity(y) }",
    ),
    "a branch uses what is computed before it": (
        "g (bool c, float[4] x) => (float[4] y) { a = Exp(x)  b = Neg(a)  y = If(c) "
        "<then_branch = t () => (float[4] p) { d = Exp(x)  p = Add(d, b) }, "
        "else_branch = e () => (float[4] q) { q = Sin(b) }> }",
        "g (bool c, float[4] x) => (float[4] y) { a = Exp(x)  b = Neg(a)  y = If(c) "
        "<then_branch = t () => (float[4] p) { p = Add(a, b) }, "
        "else_branch = e () => (float[4] q) { q = Sin(b) }> }",
    ),
    "operators with several outputs": (
        "g (float[4] x) => (float[2] y) { a, b = Split<num_outputs=2>(x) "
        "c, d = Split<num_outputs=2>(x)  s = Add(a, d)  t = Add(b, c)  y = Mul(s, t) }",
        "g (float[4] x) => (float[2] y) { a, b = Split<num_outputs=2>(x) "
        "s = Add(a, b)  t = Add(b, a)  y = Mul(s, t) }",
    ),
}

KEPT = {
    "other attributes": (
        "g (float[4, 4] x) => (float[4, 4] y) "
        "{ a = Softmax<axis=0>(x)  b = Softmax<axis=1>(x)  y = Add(a, b) }"
    ),
    "the other order of operands": (
        "g (float[4] x, float[4] z) => (float[4] y) { a = Sub(x, z)  b = Sub(z, x)  y = Add(a, b) }"
    ),
    "random numbers": (
        "g (float[4] x) => (float[4] y) { a = RandomUniformLike(x)  b = RandomUniformLike(x) "
        "y = Sub(a, b) }"
    ),
    "what two branches compute": (
        "g (bool c, float[4] x) => (float[4] y) { y = If(c) "
        "<then_branch = t () => (float[4] p) { d = Exp(x)  p = Neg(d) }, "
        "else_branch = e () => (float[4] q) { f = Exp(x)  q = Sin(f) }> }"
    ),
    "zeros of both signs": (
        "g (float[1] x) => (float[1] y) <float[1] c = {0.0}, float[1] d = {-0.0}> "
        "{ a = Div(x, c)  b = Div(x, d)  y = Max(a, b) }"
    ),
    "equal numbers of other dtypes": (
        "g (float[1] x) => (float[1] y, double[1] z) <float[1] c = {2}, double[1] d = {2}> "
        "{ y = Mul(x, c)  e = Cast<to=11>(x)  z = Mul(e, d) }"
    ),
}


@pytest.mark.parametrize(("before", "after"), CASES.values(), ids=CASES.keys())
def test_golden(before: str, after: str) -> None:
    feeds = {"c": np.array(True), "x": np.array([1, -2, 3, 4], np.float32)}
    golden.check(CommonSubexpressions(), before, after, feeds=feeds)


@pytest.mark.parametrize("text", KEPT.values(), ids=KEPT.keys())
def test_kept(text: str) -> None:
    golden.check(CommonSubexpressions(), text, None, run=False)


def test_large_constants_that_nobody_has_read_are_not_read() -> None:
    graph = Graph("g")
    b = Builder(graph)
    x = graph.value("x", TensorType("float32", (1024,)))
    graph.inputs.append(x)
    type = TensorType("float32", (1024, 1024))

    def read() -> np.ndarray:
        raise AssertionError("read")

    shared = Constant(read, type)
    weights = [b.constant(c) for c in (shared, Constant(read, type), shared)]
    for w in weights:
        x = b.op("MatMul", x, w)
    graph.set_outputs([x])
    assert merge_constants(graph)
    used = [n.required(1) for n in graph.nodes]
    assert used[0] is used[2]
    assert used[1] is not used[0]
    assert not merge_constants(graph)


def test_constants_that_differ_in_one_element_stay_apart() -> None:
    data = np.random.default_rng(0).standard_normal((100, 100)).astype(np.float32)
    other = data.copy()
    other[37, 41] += 1
    graph = Graph("g")
    b = Builder(graph)
    x = graph.value("x", TensorType("float32", (100, 100)))
    graph.inputs.append(x)
    for array in (data, other, data.copy(), np.asfortranarray(data)):
        x = b.op("MatMul", x, b.constant(array))
    graph.set_outputs([x])
    assert merge_constants(graph)
    used = [n.required(1) for n in graph.nodes]
    assert used[0] is used[2] is used[3]
    assert used[1] is not used[0]
