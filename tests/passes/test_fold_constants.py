"""Constant folding."""

# ruff: noqa: E501 (graphs are easier to read unbroken)

from __future__ import annotations

import numpy as np
import pytest

from burnish.ir import Builder, Constant, Graph, TensorType
from burnish.passes.base import Pass, PassContext
from burnish.passes.canonicalize import Canonicalize
from burnish.passes.fold_constants import FoldConstants
from tests.support import golden

X = "g (float[batch, 4] x) => (float[batch, 4] y)"

CASES = {
    "a chain, in one step": (
        f"{X} <float[4] c = {{1, 2, 3, 4}}, float[4] d = {{5, 5, 5, 5}}> "
        "{ a = Mul(c, d)  b = Add(a, c)  n = Neg(b)  y = Add(x, n) }",
        f"{X} <float[4] n = {{-6, -12, -18, -24}}> {{ y = Add(x, n) }}",
    ),
    "two users of one piece": (
        f"{X} <float[4] c = {{1, 4, 9, 16}}> {{ a = Sqrt(c)  e = Neg(a)  t = Mul(x, a) y = Add(t, e) }}",
        f"{X} <float[4] a = {{1, 2, 3, 4}}, float[4] e = {{-1, -2, -3, -4}}> "
        "{ t = Mul(x, a) y = Add(t, e) }",
    ),
    "pads that an exporter computes": (
        "g (float[1, 2, 3, 3] x) => (float[1, 2, 4, 5] y) <int64[4] p = {1, 1, 0, 1}, "
        "int64[1] n = {4}, int64[2] r = {-1, 2}, int64[1] s = {-1}, int64[1] e = {-9223372036854775807}, "
        "int64[1] a = {0}, int64[1] f = {-1}> "
        "{ z = ConstantOfShape<value = int64[1] {0}>(n)  c = Concat<axis = 0>(p, z)  m = Reshape(c, r) "
        "v = Slice(m, s, e, a, f)  t = Transpose(v)  u = Reshape(t, s)  q = Cast<to = 7>(u) "
        "y = Pad(x, q) }",
        "g (float[1, 2, 3, 3] x) => (float[1, 2, 4, 5] y) <int64[8] q = {0, 0, 0, 1, 0, 0, 1, 1}> "
        "{ y = Pad(x, q) }",
    ),
    "a transposed weight": (
        f"{X} <float[4, 4] w> {{ t = Transpose(w)  y = MatMul(x, t) }}",
        f"{X} <float[4, 4] t> {{ y = MatMul(x, t) }}",
    ),
    "a weight that is cut and reshaped": (
        f"{X} <float[9, 2, 2] w, int64[1] s = {{2}}, int64[1] e = {{-3}}, int64[1] a = {{0}}, "
        "int64[2] r = {4, 4}> { v = Slice(w, s, e, a)  t = Reshape(v, r)  y = MatMul(x, t) }",
        f"{X} <float[4, 4] t> {{ y = MatMul(x, t) }}",
    ),
    "a result whose size only the data tell": (
        "g (int64[2] x) => (int64[2] y) <float[4] c = {0, 1, 0, 2}, int64[1] a = {0}> "
        "{ n = NonZero(c)  s = Squeeze(n, a)  y = Add(x, s) }",
        "g (int64[2] x) => (int64[2] y) <int64[2] s = {1, 3}> { y = Add(x, s) }",
    ),
    "a branch that is always taken": (
        f"{X} <bool c = {{1}}> {{ n = Neg(x)  y = If(c) <then_branch = t () => (float[batch, 4] p) "
        "{ p = Exp(n) }, else_branch = e () => (float[batch, 4] q) { q = Sin(n) }> }",
        f"{X} {{ n = Neg(x)  y = Exp(n) }}",
    ),
    "a branch that is never taken": (
        f"{X} <bool c = {{0}}> {{ n = Neg(x)  y = If(c) <then_branch = t () => (float[batch, 4] p) "
        "{ p = Exp(n) }, else_branch = e () => (float[batch, 4] q) { q = Sin(n) }> }",
        f"{X} {{ n = Neg(x)  y = Sin(n) }}",
    ),
    "constants inside a branch": (
        "g (bool k, float[4] x) => (float[4] y) <float[4] c = {1, 2, 3, 4}> "
        "{ y = If(k) <then_branch = t () => (float[4] p) { n = Neg(c)  p = Add(x, n) }, "
        "else_branch = e () => (float[4] q) { q = Sin(x) }> }",
        "g (bool k, float[4] x) => (float[4] y) <float[4] c = {-1, -2, -3, -4}> "
        "{ y = If(k) <then_branch = t () => (float[4] p) { p = Add(x, c) }, "
        "else_branch = e () => (float[4] q) { q = Sin(x) }> }",
    ),
}


@pytest.mark.parametrize(("before", "after"), CASES.values(), ids=CASES.keys())
def test_golden(before: str, after: str) -> None:
    feeds = None
    if before.startswith("g (bool k"):
        feeds = {"k": np.array(True), "x": np.array([1, -2, 3, 4], np.float32)}
    graph = golden.parse(before)
    # Views first, then what is left of a result of unknown size: at most a few rounds.
    while golden.apply(FoldConstants(), graph):
        pass
    golden.assert_same(graph, after)
    given = feeds or golden.random_feeds(graph)
    golden.assert_equal_results(golden.parse(before), graph, given, FoldConstants.numerics)


KEPT = {
    "nothing is constant": f"{X} {{ n = Neg(x)  y = Add(x, n) }}",
    "random numbers": f"{X} {{ r = RandomUniform<shape = [4], seed = 1.0>()  y = Add(x, r) }}",
    "an output that is a constant": (
        "g (float[4] x) => (float[4] y, float[2] z) <float[2] c> { y = Neg(x)  z = Identity(c) }"
    ),
}


@pytest.mark.parametrize("text", KEPT.values(), ids=KEPT.keys())
def test_kept(text: str) -> None:
    golden.check(FoldConstants(), text, None, run="Random" not in text)


def test_growth_is_refused_with_a_note() -> None:
    graph = golden.parse(
        "g (float[512, 512] x) => (float[512, 512] y) <int64[2] s = {512, 512}, float c = {3}> "
        "{ [blow_up] e = Expand(c, s)  [half] h = Mul(e, c)  y = Add(x, h) }"
    )
    ctx = PassContext()
    assert not golden.apply(FoldConstants(max_growth_bytes=1000), graph, ctx)
    assert ctx.notes == [
        "Expand of constants is not folded: its result has 1,048,576 bytes, more than it is made "
        "from (at blow_up)"
    ]
    assert golden.apply(FoldConstants(max_growth_bytes=1 << 20), graph, ctx)
    assert [n.op for n in graph.nodes] == ["Add"]


def test_growth_is_counted_for_the_whole_model() -> None:
    lines = "".join(f"e{i} = Expand(c{i}, s)  t{i + 1} = Add(t{i}, e{i})  " for i in range(4))
    constants = ", ".join(f"float c{i} = {{{i}.5}}" for i in range(4))
    graph = golden.parse(
        f"g (float[100] x) => (float[100] t4) <int64[1] s = {{100}}, {constants}> "
        f"{{ t0 = Neg(x)  {lines} }}"
    )
    ctx = PassContext()
    assert golden.apply(FoldConstants(max_growth_bytes=800), graph, ctx)
    assert [n.op for n in graph.nodes].count("Expand") == 2
    assert len(ctx.notes) == 2
    assert not golden.apply(FoldConstants(max_growth_bytes=800), graph, ctx)


def test_converted_weights_may_grow_and_say_so() -> None:
    text = (
        "g (float[2, 64] x) => (float[2, 64] y) <int8[64, 64] w, float s = {0.5}> "
        "{ f = Cast<to = 1>(w)  [scale] d = Mul(f, s)  y = MatMul(x, d) }"
    )
    graph = golden.parse(text)
    ctx = PassContext()
    assert golden.apply(FoldConstants(max_growth_bytes=1000), graph, ctx)
    assert [n.op for n in graph.nodes] == ["MatMul"]
    assert ctx.notes == [
        "weights stored as int8 are converted to float32: 4,100 bytes become 16,384 (at scale)"
    ]
    feeds = golden.random_feeds(graph)
    golden.assert_equal_results(golden.parse(text), graph, feeds, FoldConstants.numerics)
    kept = golden.parse(text)
    assert not golden.apply(FoldConstants(max_growth_bytes=1000, decompress=False), kept)


def test_views_do_not_read_the_weights() -> None:
    graph = Graph("g")
    graph.opset = {"": 25}
    b = Builder(graph)
    x = graph.value("x", TensorType("float32", (2, 6)))
    graph.inputs.append(x)
    reads = 0

    def read() -> np.ndarray:
        nonlocal reads
        reads += 1
        return np.arange(24, dtype=np.float32).reshape(4, 6)

    w = b.constant(Constant(read, TensorType("float32", (4, 6))))
    half = b.op("Slice", w, b.ints([1]), b.ints([3]), b.ints([0]))
    graph.set_outputs([b.op("MatMul", x, b.op("Transpose", half, perm=(1, 0)))])
    while golden.apply(FoldConstants(), graph):
        pass
    assert reads == 0
    (node,) = graph.nodes
    np.testing.assert_array_equal(
        node.required(1).array, np.arange(24, dtype=np.float32).reshape(4, 6)[1:3].T
    )
    assert reads == 1


def test_an_operator_that_onnxruntime_lacks_stays_and_the_rest_folds() -> None:
    # onnxruntime has no kernel for Relu of int16 on the CPU.
    graph = golden.parse(
        "g (float[4] x, int16[2] u) => (float[4] y, int16[2] z) <float[4] c = {1, 2, 3, 4}, "
        "int16[2] d = {7, 9}> { n = Neg(c)  y = Add(x, n)  [odd] m = Relu(d)  z = Max(u, m) }"
    )
    ctx = PassContext()
    assert golden.apply(FoldConstants(), graph, ctx)
    assert sorted(n.op for n in graph.nodes) == ["Add", "Max", "Relu"]
    assert len(ctx.notes) == 1
    assert "is not folded: onnxruntime:" in ctx.notes[0]
    assert "NOT_IMPLEMENTED" in ctx.notes[0]
    assert ctx.notes[0].endswith("(at odd)")
    assert not golden.apply(FoldConstants(), graph, ctx)


def test_strings_and_foreign_operators_are_left_alone() -> None:
    text = (
        "g (float[4] x) => (float[4] y) <float[4] c = {1, 2, 3, 4}> "
        "{ f = com.microsoft.Unknown(c)  y = Add(x, f) }"
    )
    graph = golden._read(text, np.random.default_rng(0))
    from burnish.ir.infer import infer_graph

    graph.nodes[0].output.type = TensorType("float32", (4,))
    infer_graph(graph)
    assert not FoldConstants().run(graph, PassContext())


@pytest.mark.parametrize("item", [Canonicalize(), FoldConstants()], ids=lambda p: p.name)
@pytest.mark.parametrize("choice", [True, False])
def test_a_branch_may_give_an_outer_value_or_a_constant(item: Pass, choice: bool) -> None:
    text = (
        "g (bool k, float[4] x) => (float[4] y) <float[4] c = {1, 2, 3, 4}> "
        "{ y = If(k) <then_branch = t () => (float[4] p) { p = Cast<to = 1>(x) }, "
        "else_branch = e () => (float[4] q) { q = Neg(c) }> }"
    )
    graph = golden.parse(text)
    assert golden.apply(item, graph)
    assert any(not inner.nodes for inner in graph.nodes[0].subgraphs())
    feeds = {"k": np.array(choice), "x": np.array([5, -6, 7, 8], np.float32)}
    golden.assert_equal_results(golden.parse(text), graph, feeds, item.numerics)


def test_a_constant_output_keeps_its_name() -> None:
    text = "g (float[4] x) => (float[4] y, float[4] z) <float[4] c> { z = Neg(c)  y = Relu(x) }"
    graph = golden.parse(text)
    assert golden.apply(FoldConstants(), graph)
    assert [v.name for v in graph.outputs] == ["y", "z"]
    assert [n.op for n in graph.nodes] == ["Relu", "Identity"]
    assert not golden.apply(FoldConstants(), graph)
    feeds = golden.random_feeds(graph)
    golden.assert_equal_results(golden.parse(text), graph, feeds, FoldConstants.numerics)
