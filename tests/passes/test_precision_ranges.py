"""What stays float32 because of what values hold: measured ranges, arguments, integers, constants."""

# ruff: noqa: E501 (graphs are easier to read unbroken)

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from burnish.ir import Graph, Location, Value
from burnish.passes.base import PassContext
from burnish.passes.precision import Extent, MixedPrecision
from tests.passes.test_precision import HEAD, dtypes, lower, with_weight
from tests.support import golden


def measured(**extents: tuple[float, float]) -> Callable[..., Mapping[str, Extent]]:
    """Measures what it is told to."""

    def measure(graph: Graph, values: Sequence[Value]) -> dict[str, Extent]:
        assert set(extents) <= {value.name for value in values}, "it asks for all that it may need"
        return {name: Extent(*extent) for name, extent in extents.items()}

    return measure


CHAIN = f"{HEAD} {{ a = MatMul(x, w) b = MatMul(a, w) y = MatMul(b, w) }}"


def kept(text: str, dtype: str = "float16", **extents: tuple[float, float]) -> dict[str, str]:
    """Reasons by the value that the node makes."""
    graph, ctx = golden.parse(text), PassContext()
    names = {
        n.location.names[0] if n.location.names else n.name: n.output.name for n in graph.nodes
    }
    golden.apply(MixedPrecision(dtype, measure=measured(**extents)), graph, ctx)
    return {names[name]: why for name, why in ctx.kept.items() if name in names}


def test_nodes_stay_that_the_caller_names() -> None:
    graph = golden.parse(CHAIN)
    (name,) = (n.location.names or (n.name,) for n in graph.nodes if n.output.name == "b")
    ctx = PassContext()
    golden.apply(MixedPrecision(high={name[0]: "I say so"}), graph, ctx)
    assert ctx.kept == {name[0]: "I say so"}
    assert sorted(n.output.dtype for n in graph.nodes if n.op == "MatMul") == [
        "float16",
        "float16",
        "float32",
    ]


def test_what_was_measured_near_the_limit_stays() -> None:
    found = kept(CHAIN, a=(-20000.0, 3.0), b=(-9.0, 9.0))
    assert set(found) == {"a", "b"}, "what makes it and what reads it"
    assert all(
        "near the limit of float16 (a was measured to reach 2e+04)" in why for why in found.values()
    )
    assert not kept(CHAIN, a=(-15000.0, 3.0), b=(-9.0, 9.0)), "a margin of 4"
    assert not kept(CHAIN, "bfloat16", a=(-20000.0, 3.0))
    assert kept(CHAIN, "bfloat16", a=(-1e38, 3.0))


def test_what_was_measured_to_be_tiny_stays() -> None:
    assert "too small for all bits" in kept(CHAIN, b=(-1e-5, 2e-5))["b"]
    assert not kept(CHAIN, "bfloat16", b=(-1e-5, 2e-5))
    assert not kept(CHAIN, b=(0.0, 0.0)), "nothing but zeros has all its bits"


def test_views_do_not_hide_the_reason_of_what_they_show() -> None:
    graph, ctx = (
        golden.parse(f"{HEAD} {{ a = MatMul(x, w) y = Transpose<perm=[1,0]>(a) }}"),
        PassContext(),
    )
    product, view = graph.nodes
    view.location = product.location = Location(("original",))
    golden.apply(MixedPrecision(measure=measured(a=(-9e4, 9e4))), graph, ctx)
    assert "too near the limit" in ctx.kept["original"]


def test_values_that_were_not_measured_are_judged_by_operators() -> None:
    assert not kept(CHAIN)
    assert not kept(CHAIN, a=(math.inf, -math.inf))


BRANCH = """g (float[4,8] x, bool c) => (float[4,8] y) <float[8,8] w> {
    y = If (c) <then_branch = t () => (float[4,8] a) { a = MatMul(x, w) },
                else_branch = e () => (float[4,8] b) { b = Neg(x) }>
}"""


def test_values_of_branches_are_measured_or_the_branch_stays() -> None:
    def reasons(**extents: tuple[float, float]) -> set[str]:
        ctx = PassContext()
        golden.apply(MixedPrecision(measure=measured(**extents)), golden.parse(BRANCH), ctx)
        return {why for why in ctx.kept.values() if "control flow" not in why}

    assert any("a was measured to reach 9e+04" in why for why in reasons(a=(-9e4, 9e4)))
    assert "no calibration sample reached it" in reasons(x=(-1.0, 1.0))
    assert "no calibration sample reached it" not in reasons(a=(-1.0, 1.0))
    assert "no calibration sample reached it" not in reasons(), "nothing was measured at all"


def test_arguments_of_functions_keep_their_bits() -> None:
    text = f"{HEAD} {{ a = MatMul(x, w) b = Mul(a, a) c = Neg(b) d = Exp(c) y = MatMul(d, w) }}"
    assert "(it reads numbers up to 40)" in kept(text, "bfloat16", c=(-40.0, 0.0))["a"]
    assert "a" not in kept(text, "float16", c=(-40.0, 0.0)), "float16 has the bits"
    assert "a" not in kept(text, "bfloat16", c=(-4.0, 0.0))
    soft = f"{HEAD} {{ a = MatMul(x, w) y = Softmax(a) }}"
    assert set(kept(soft, "bfloat16", a=(-40.0, 40.0))) == {"a", "y"}
    assert not kept(soft, "bfloat16", a=(-10.0, 10.0))


def test_masked_scores_are_judged_by_what_is_not_masked() -> None:
    text = "g (float[4,8] x, bool[4,4] keep) => (float[4,4] y) <float[8,4] w, float low = {-1e9}> { s = MatMul(x, w) m = Where(keep, s, low) y = Softmax(m) }"
    assert not kept(text, s=(-9.0, 9.0), m=(-1e9, 9.0))
    assert kept(text, s=(-9e4, 9e4), m=(-1e9, 9e4))


POSITIONS = (
    "g (int64[N] p) => (float[N,8] y) <float[8,8] w, float[1,8] f, int64[1] ax = {1}> "
    "{ a = Cast<to=1>(p) b = Unsqueeze(a, ax) c = MatMul(b, f) d = Sin(c) y = MatMul(d, w) }"
)


def test_integers_as_numbers_are_not_rounded() -> None:
    for dtype, bound in (("float16", 2048), ("bfloat16", 256)):
        found = kept(POSITIONS, dtype)
        assert f"{dtype} holds up to {bound}" in found["c"]
        assert "y" not in found, "what a function makes of them is a number like others"
        assert "c" not in kept(POSITIONS, dtype, b=(0.0, bound))
        assert "c" in kept(POSITIONS, dtype, b=(0.0, bound + 1.0))


def test_bytes_are_exact() -> None:
    pixels = (
        "g (uint8[N,8] x) => (float[N,8] y) <float[8,8] w> { a = Cast<to=1>(x) y = MatMul(a, w) }"
    )
    assert not kept(pixels, "bfloat16")
    assert "integers" in kept(pixels.replace("uint8", "int16"), "bfloat16")["y"]


def test_a_constant_too_small_for_float16_stays() -> None:
    tiny = np.full((8, 8), 2e-6)
    text = f"{HEAD} {{ a = MatMul(x, w) y = Softmax(a) }}"
    _, ctx = with_weight(text, "w", tiny)
    assert any("too small for float16" in why for why in ctx.kept.values())


def test_tied_weights_are_stored_once() -> None:
    graph, _ = lower(
        "g (int64[N] ids) => (float[N,100] y) <float[100,8] table, float[8,8] w> { e = Gather(table, ids) h = MatMul(e, w) t = Transpose<perm=[1,0]>(table) y = MatMul(h, t) }"
    )
    tables = [v for v in graph.constants() if v.shape == (100, 8)]
    assert [v.dtype for v in tables] == ["float16"]


def test_extents_ignore_what_is_not_finite() -> None:
    extent = Extent()
    extent.add(np.array([], np.float32))
    assert extent.largest == 0
    extent.add(np.array([1.0, -np.inf, np.nan], np.float32))
    extent.add(np.array([[-3.0, 2.0]], np.float32))
    assert (extent.low, extent.high, extent.largest) == (-3.0, 2.0, 3.0)


def test_deep_graphs_are_walked_without_recursion() -> None:
    glue = " ".join(f"g{i + 1} = Abs(g{i}) h{i + 1} = MatMul(h{i}, w)" for i in range(600))
    text = f"g (float[2,8] x) => (float[2,8] y) <float[8,8] w> {{ g0 = MatMul(x, w) h0 = MatMul(x, w) {glue} s = Add(g600, h600) y = MatMul(s, w) }}"
    graph, _ = lower(text)
    assert dtypes(graph, "MatMul") == {"float16"}
