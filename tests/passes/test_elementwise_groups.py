"""Groups of elementwise operators and cheap data movement."""

# ruff: noqa: E501 (graphs are easier to read unbroken)

from __future__ import annotations

import pytest

from burnish.ir import Graph
from burnish.passes.fusion.elementwise import FuseElementwise
from tests.support import golden


def bodies(text: str, *, sizes: dict[str, int] | None = None) -> list[str]:
    """Group a graph, check its results, and return the operators of every node left, in order."""
    graph, reference = golden.parse(text), golden.parse(text)
    golden.apply(FuseElementwise(), graph)
    assert not golden.apply(FuseElementwise(), graph), "not idempotent"
    feeds = golden.random_feeds(reference, sizes)
    golden.assert_equal_results(reference, graph, feeds, FuseElementwise.numerics)
    return [describe(node.attrs.get("body"), node.op) for node in graph.nodes]


def describe(body: object, op: str) -> str:
    return " ".join(n.op for n in body.nodes) if isinstance(body, Graph) else op


X = "g (float[N,4] x) => (float[N,4] y)"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # A chain, a diamond, a single operator.
        (f"{X} {{ a = Exp(x) b = Neg(a) y = Add(b, x) }}", ["Exp Neg Add"]),
        (f"{X} {{ a = Exp(x) b = Neg(a) c = Abs(a) y = Add(b, c) }}", ["Exp Neg Abs Add"]),
        (f"{X} {{ y = Exp(x) }}", ["Exp"]),
        # Reductions and products separate groups.
        (f"{X} <int64[1] k={{1}}> {{ a = Exp(x) b = Neg(a) m = ReduceMax(b, k) c = Sub(b, m) y = Exp(c) }}", ["Exp Neg", "ReduceMax", "Sub Exp"]),
        # A graph output ends a group.
        ("g (float[N,4] x) => (float[N,4] y, float[N,4] z) { a = Exp(x) z = Neg(a) b = Abs(z) y = Add(b, x) }", ["Exp Neg", "Abs Add"]),
        # Movement joins when it is read once; views outside stay outside.
        (f"{X} <int64[1] a={{1}}, int64[1] e={{4}}, int64[1] z={{0}}> {{ p = Slice(x, a, e, a) q = Slice(x, z, a, a) n = Neg(p) c = Concat<axis=1>(n, q) y = Mul(c, x) }}", ["Slice Slice Neg Concat Mul"]),
        ("g (float[N,4,1] x) => (float[N,4] y) <int64[2] s={0,4}> { r = Reshape(x, s) a = Exp(r) y = Neg(a) }", ["Reshape", "Exp Neg"]),
        ("g (float[N,4] x) => (float[N,1,4] y) <int64[3] s={0,1,4}> { a = Exp(x) r = Reshape(a, s) y = Neg(r) }", ["Exp Reshape Neg"]),
        ("g (float[N,3,4] x) => (float[N,12] y) <int64[2] s={0,12}> { a = Exp(x) r = Reshape(a, s) y = Neg(r) }", ["Exp", "Reshape", "Neg"]),
        # A range is copied into both groups that read it.
        ("g (float[2,4] x) => (float[2,4] y, float[2,4] z) <int64 b={0}, int64 e={4}, int64 d={1}> { r = Range(b, e, d) f = Cast<to=1>(r) p = Mul(x, f) y = Exp(p) q = Add(x, f) z = Log(q) }", ["Range Cast Mul Exp", "Range Cast Add Log"]),
        # A part of a Split is read from what is split.
        ("g (float[N,8] x) => (float[N,4] y) { p, q = Split<axis=1, num_outputs=2>(x) a = Exp(p) y = Mul(a, q) }", ["Slice Exp Slice Mul"]),
        # What is dear and broadcast has its own kernel; what is cheap is computed again.
        ("g (float[512,1] x, float[512,4096] w) => (float[512,4096] y) { a = Exp(x) b = Tanh(a) y = Mul(w, b) }", ["Exp Tanh", "Mul"]),
        ("g (float[5,1] x, float[5,7] w) => (float[5,7] y) { a = Exp(x) b = Tanh(a) y = Mul(w, b) }", ["Exp Tanh Mul"]),
        # A dear value that two groups need is computed once.
        ("g (float[512,512] x) => (float[512,512] y, float[512,512] z) { a = Exp(x) b = Neg(a) y = Abs(b) c = Sin(a) z = Abs(c) }", ["Exp", "Neg Abs", "Sin Abs"]),
        # Gathered rows join.
        ("g (int64[2,3] i) => (float[2,3,4] y) <float[9,4] t, float[3,4] p> { a = Gather<axis=0>(t, i) y = Add(a, p) }", ["Gather Add"]),
        # Codes are read and written; several scales are left alone, and what permutes codes.
        ("g (uint8[N,4] x) => (uint8[N,4] y) <float s={0.1}, uint8 z={9}> { a = DequantizeLinear(x, s, z) b = HardSwish(a) y = QuantizeLinear(b, s, z) }", ["DequantizeLinear HardSwish QuantizeLinear"]),
        ("g (int8[N,4] x, float[N,4] w) => (float[N,4] y, float[N,4] v) <float s={0.1}> { a = DequantizeLinear(x, s) b = Sin(a) y = Exp(b) c = Mul(a, w) v = Cos(c) }", ["DequantizeLinear Sin Exp", "DequantizeLinear Mul Cos"]),
        ("g (uint8[N,2] x) => (float[N,2] y) <float[2] s={0.1,0.2}> { a = DequantizeLinear<axis=1>(x, s) y = Exp(a) }", ["DequantizeLinear", "Exp"]),
        ("g (float[N,4] x) => (uint8[4,N] y) <float s={0.1}, uint8 z={9}> { a = QuantizeLinear(x, s, z) y = Transpose<perm=[1,0]>(a) }", ["QuantizeLinear", "Transpose"]),
        # A value that is another node's shape or bounds is no part of a group.
        (f"{X} <int64[1] k={{1}}, int64[1] e={{3}}, int64[2] pads={{0,1}}> {{ b = Add(k, k) a = Slice(x, k, e, k) c = Exp(a) y = Concat<axis=1>(c, x) }}".replace("float[N,4] y", "float[N,6] y"), ["Slice Exp Concat"]),
    ],
)  # fmt: skip
def test_groups(text: str, expected: list[str]) -> None:
    assert sorted(bodies(text)) == sorted(expected)


def test_constants_are_inside_when_they_are_scalars() -> None:
    graph = golden.parse(f"{X} <float h={{0.5}}, float[4] k> {{ a = Mul(x, h) y = Add(a, k) }}")
    golden.apply(FuseElementwise(), graph)
    (node,) = graph.nodes
    assert [v.name for v in node.inputs if v is not None] == ["x", "k"]
    body = node.attrs["body"]
    assert isinstance(body, Graph)
    assert body.parent is None
    assert [str(v.type) for v in body.inputs] == ["float32[N,4]", "float32[4]"]


def test_provenance_and_names() -> None:
    graph = golden.parse(f"{X} {{ [one] a = Exp(x) [two] y = Neg(a) }}")
    golden.apply(FuseElementwise(), graph)
    (node,) = graph.nodes
    assert node.location.names == ("one", "two")
    assert node.location.via == ("fuse-elementwise",)
    assert graph.outputs[0].name == "y"


def test_known_shapes_stay_operands_of_the_group() -> None:
    text = (
        "g (float[N,1] x, int64[2] s) => (float[A,B] y) <int64[1] one={1}> "
        "{ d = Shape<start=0, end=1>(x) t = Concat<axis=0>(d, one) e = Expand(x, t) f = Exp(e) y = Neg(f) }"
    )
    found = bodies(text)
    assert "Expand Exp Neg" in found


def test_groups_in_branches() -> None:
    text = """g (bool c, float[N,4] x) => (float[N,4] y) {
        y = If (c) <
            then_branch = a () => (float[N,4] t) { s = Exp(x) t = Neg(s) },
            else_branch = e () => (float[N,4] u) { u = Exp(x) }
        >
    }"""
    graph, reference = golden.parse(text), golden.parse(text)
    golden.apply(FuseElementwise(), graph)
    then_branch, else_branch = graph.nodes[0].subgraphs()
    assert [n.key for n in then_branch.nodes] == ["burnish::Elementwise"]
    assert [n.key for n in else_branch.nodes] == ["Exp"]
    feeds = golden.random_feeds(reference)
    golden.assert_equal_results(reference, graph, feeds, FuseElementwise.numerics)
