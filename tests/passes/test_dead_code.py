"""Dead code elimination."""

# ruff: noqa: E501 (graphs are easier to read unbroken)

from __future__ import annotations

import numpy as np
import pytest

from burnish.ir import Graph
from burnish.passes.dead_code import DeadCode
from tests.support import golden

CASES = {
    "a chain that nothing uses": (
        "g (float[4] x) => (float[4] y) { y = Relu(x)  a = Exp(x)  b = Neg(a) }",
        "g (float[4] x) => (float[4] y) { y = Relu(x) }",
    ),
    "inputs stay": (
        "g (float[4] x, float[4] z) => (float[4] y) { y = Relu(x)  a = Exp(z) }",
        "g (float[4] x, float[4] z) => (float[4] y) { y = Relu(x) }",
    ),
    "a mask that nothing uses": (
        "g (float[4] x) => (float[4] y) { y, m = Dropout(x) }",
        "g (float[4] x) => (float[4] y) { y = Dropout(x) }",
    ),
    "an output of If that nothing uses": (
        "g (bool c, float[4] x) => (float[4] y) { b = Exp(x)  u, y = If(c) "
        "<then_branch = t () => (float[4] p, float[4] r) { p = Neg(b)  r = Sin(x) }, "
        "else_branch = e () => (float[4] q, float[4] s) { q = Cos(b)  s = Tan(x) }> }",
        "g (bool c, float[4] x) => (float[4] y) { y = If(c) "
        "<then_branch = t () => (float[4] r) { r = Sin(x) }, "
        "else_branch = e () => (float[4] s) { s = Tan(x) }> }",
    ),
    "inside a branch": (
        "g (bool c, float[4] x) => (float[4] y) { y = If(c) "
        "<then_branch = t () => (float[4] p) { a = Exp(x)  p = Neg(x) }, "
        "else_branch = e () => (float[4] q) { q = Cos(x) }> }",
        "g (bool c, float[4] x) => (float[4] y) { y = If(c) "
        "<then_branch = t () => (float[4] p) { p = Neg(x) }, "
        "else_branch = e () => (float[4] q) { q = Cos(x) }> }",
    ),
    "an If that nothing uses, with what only it captures": (
        "g (bool c, float[4] x) => (float[4] y) { y = Relu(x)  b = Exp(x)  u = If(c) "
        "<then_branch = t () => (float[4] p) { p = If(c) "
        "<then_branch = i () => (float[4] m) { m = Neg(b) }, "
        "else_branch = j () => (float[4] n) { n = Abs(b) }> }, "
        "else_branch = e () => (float[4] q) { q = Cos(b) }> }",
        "g (bool c, float[4] x) => (float[4] y) { y = Relu(x) }",
    ),
}

KEPT = {
    "an output that is also used": (
        "g (float[4] x) => (float[4] y, float[4] z) { y = Relu(x)  z = Exp(y) }"
    ),
    "outputs before a used one": "g (float[4] x) => (float[2] b) { a, b = Split<num_outputs=2>(x) }",
    "what a branch captures": (
        "g (bool c, float[4] x) => (float[4] y) { b = Exp(x)  y = If(c) "
        "<then_branch = t () => (float[4] p) { p = Neg(b) }, "
        "else_branch = e () => (float[4] q) { q = Cos(x) }> }"
    ),
}


@pytest.mark.parametrize(("before", "after"), CASES.values(), ids=CASES.keys())
def test_golden(before: str, after: str) -> None:
    data = np.array([1, -2, 3, 4], np.float32)
    golden.check(DeadCode(), before, after, feeds={"c": np.array(True), "x": data, "z": data})


@pytest.mark.parametrize("text", KEPT.values(), ids=KEPT.keys())
def test_kept(text: str) -> None:
    data = np.array([1, -2, 3, 4], np.float32)
    golden.check(DeadCode(), text, None, feeds={"c": np.array(False), "x": data})


def test_uses_in_nested_branches_are_released() -> None:
    graph: Graph = golden.parse(CASES["an If that nothing uses, with what only it captures"][0])
    assert golden.apply(DeadCode(), graph)
    (x,) = [v for v in graph.inputs if v.name == "x"]
    assert [node.op for node, _ in x.uses] == ["Relu"]
