"""Quantization passes: parameters, which values go to 8 bits, and that the results are near."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from burnish.errors import UsageError
from burnish.ir import Graph
from burnish.passes.base import PassContext
from burnish.passes.manager import PassManager
from burnish.passes.quantization import Interval, QuantizeDynamic, QuantizeStatic, Selection
from burnish.passes.quantization.parameters import (
    activation_parameters,
    quantize_bias,
    quantize_weights,
)
from tests.support.golden import parse
from tests.support.quantization import CONV_NET, FEEDS, evaluated, measured

RNG = np.random.default_rng(21)


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("interval", [(-1.0, 3.0), (0.0, 6.0), (-5.0, -1.0), (2.0, 7.0), (0, 0)])
def test_activations_represent_zero_and_both_ends(
    interval: tuple[float, float], symmetric: bool, dtype: str
) -> None:
    found = activation_parameters(Interval(*interval), dtype, symmetric=symmetric)
    limits = np.iinfo(dtype)
    assert limits.min <= found.zero <= limits.max
    if symmetric:
        assert found.zero == (128 if dtype == "uint8" else 0)
    for end in interval:
        level = np.clip(np.rint(end / found.scale) + found.zero, limits.min, limits.max)
        assert (level - found.zero) * found.scale == pytest.approx(end, abs=0.51 * found.scale)


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_weights_are_rounded_to_the_nearest_of_their_channel(axis: int | None) -> None:
    w = RNG.standard_normal((5, 7)) * np.array([1, 10, 1e-3, 5, 0])[:, None]
    found = quantize_weights(w.astype(np.float32), axis)
    scale = found.scale if axis is None else np.expand_dims(found.scale, 1 - axis)
    assert np.abs(found.values).max() == 127
    assert np.all(np.abs(found.values * scale - w) <= 0.5001 * scale)


def test_a_large_bias_widens_the_scale_of_its_channel() -> None:
    w = np.full((2, 3), 1e-6, np.float32)
    bias = np.array([1e3, 1e-5], np.float32)
    found = quantize_weights(w, 0, bias=bias, input_scale=1e-4)
    values, scale = quantize_bias(bias, 1e-4, found.scale)
    np.testing.assert_allclose(values * scale.astype(np.float64), bias, rtol=1e-6, atol=1e-9)
    assert found.scale[0] > found.scale[1]


def quantized(text: str, feeds: dict[str, Any], **options: Any) -> tuple[Graph, PassContext]:
    """A graph through the static pass."""
    graph = parse(text, seed=3)
    ctx = PassContext()
    ranges = measured(graph, feeds)
    PassManager([QuantizeStatic(ranges, **options)], verify_ir=True).run(graph, ctx)
    return graph, ctx


def through_8_bits(graph: Graph) -> set[str]:
    """Names of the values that are quantized."""
    return {n.required(0).name for n in graph.nodes if n.op == "QuantizeLinear"}


@pytest.mark.parametrize(
    "options",
    [{}, {"activation_type": "int8"}, {"symmetric": True}, {"per_channel": False}],
    ids=["uint8", "int8", "symmetric", "per tensor"],
)
def test_a_convolutional_network_stays_in_8_bits(options: dict[str, Any]) -> None:
    graph, ctx = quantized(CONV_NET, FEEDS, **options)
    # Every activation in memory: the second convolution adds r1 to its sums.
    assert through_8_bits(graph) == {"x", "r1", "r2", "p", "a", "f"}
    (expected,) = evaluated(parse(CONV_NET, seed=3), FEEDS)
    (found,) = evaluated(graph, FEEDS)
    scale = np.abs(expected).max()
    assert 0 < np.abs(found - expected).max() < 0.06 * scale
    assert ctx.kept == {}


def test_what_only_moves_shares_its_parameters() -> None:
    graph, _ = quantized(CONV_NET, FEEDS, selection=Selection(quantize_residuals=True))
    scales = {
        n.required(0).name: n.required(1).array for n in graph.nodes if n.op == "QuantizeLinear"
    }
    assert scales["r2"] == scales["p"]
    assert scales["a"] == scales["f"]
    assert scales["c2"] != scales["r1"]


def test_a_concatenation_is_represented_by_one_scale() -> None:
    text = """g (float[1,2,4,4] x, float[1,2,4,4] z) => (float[1,3,4,4] y) <float[3,4,1,1] w> {
        a = Relu(x)
        b = Sigmoid(z)
        c = Concat<axis=1>(a, b)
        y = Conv(c, w)
    }"""
    feeds = {k: RNG.standard_normal((1, 2, 4, 4), dtype=np.float32) for k in "xz"}
    graph, _ = quantized(text, feeds)
    used = [n.required(1).array for n in graph.nodes if n.op == "QuantizeLinear"]
    assert through_8_bits(graph) == {"a", "b", "c"}
    assert len({float(scale) for scale in used}) == 1


@pytest.mark.parametrize(
    ("gate", "stored"),
    [
        ("a = GlobalAveragePool(r) g = Sigmoid(a) y = Mul(g, r)", {"x", "r", "y"}),
        ("g = Sigmoid(r) y = Mul(r, g)", {"x", "y"}),
        ("y = Mul(r, factors)", {"x", "y"}),
    ],
    ids=["by channel", "by element", "constant"],
)
def test_what_is_gated_by_channel_is_read_in_8_bits(gate: str, stored: set[str]) -> None:
    text = f"""g (float[1,4,5,5] x) => (float[1,4,5,5] z)
    <float[4,4,1,1] w, float[1,4,1,1] factors> {{
        c = Conv(x, w)
        r = Relu(c)
        {gate}
        z = Conv(y, w)
    }}"""
    graph, _ = quantized(text, {"x": RNG.standard_normal((1, 4, 5, 5), dtype=np.float32)})
    assert through_8_bits(graph) == stored


def test_other_readers_keep_the_value_as_it_was() -> None:
    text = """g (float[3,4] x) => (float[3,4] y) <float[4,4] w, float[4] s> {
        n = LayerNormalization(x, s)
        m = MatMul(n, w)
        y = Add(m, n)
    }"""
    graph, _ = quantized(text, {"x": RNG.standard_normal((3, 4), dtype=np.float32)})
    add = next(n for n in graph.nodes if n.op == "Add")
    assert add.required(1).name == "n"
    assert through_8_bits(graph) == {"n"}


def test_tied_weights_are_stored_once() -> None:
    text = """g (float[2,4] x) => (float[2,4] y) <float[4,4] w> {
        a = MatMul(x, w)
        r = Relu(a)
        y = MatMul(r, w)
    }"""
    graph, _ = quantized(text, {"x": RNG.standard_normal((2, 4), dtype=np.float32)})
    int8 = [v for v in graph.constants() if v.dtype == "int8" and v.shape == (4, 4)]
    assert len(int8) == 1


def test_reasons_are_given_for_what_is_kept() -> None:
    graph = parse(CONV_NET, seed=3)
    ctx = PassContext()
    ranges = measured(graph, FEEDS)
    del ranges["f"]
    selection = Selection(nodes_to_exclude=("Conv_1",), op_types_to_exclude=("Gemm",))
    names = [n.name for n in graph.nodes if n.op == "Conv"]
    selection = Selection(nodes_to_exclude=(names[1],))
    PassManager([QuantizeStatic(ranges, {"x": "has no finite range"}, selection)]).run(graph, ctx)
    reasons = sorted(ctx.kept.values())
    assert reasons == [f"excluded by {names[1]!r}", "f was not measured", "x has no finite range"]
    assert through_8_bits(graph) == set()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nodes_to_exclude": ("nobody",)}, "no node is called 'nobody'"),
        ({"nodes_to_quantize": ("[",)}, "neither a node's name nor a regular expression"),
        ({"op_types_to_quantize": ("Softmax",)}, "Softmax is no operator that can be quantized"),
    ],
)
def test_bad_selections(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Selection(**options).check(parse(CONV_NET))


DYNAMIC = """g (float[n,6] x) => (float[n,5] y, float[n,4] z) <float[6,5] w, float[6,4] v> {
    a = MatMul(x, w)
    y = Relu(a)
    z = MatMul(x, v)
}"""


@pytest.mark.parametrize("per_channel", [True, False])
def test_dynamic_quantization_reads_an_activation_once(per_channel: bool) -> None:
    feeds = {"x": RNG.standard_normal((7, 6), dtype=np.float32)}
    expected = evaluated(parse(DYNAMIC, seed=4), feeds)
    graph = parse(DYNAMIC, seed=4)
    ctx = PassContext()
    PassManager([QuantizeDynamic(per_channel=per_channel)], verify_ir=True).run(graph, ctx)
    ops = [n.op for n in graph.nodes]
    assert ops.count("DynamicQuantizeLinear") == 1
    assert ops.count("MatMulInteger") == 2
    assert "MatMul" not in ops
    for found, wanted in zip(evaluated(graph, feeds), expected, strict=True):
        assert 0 < np.abs(found - wanted).max() < 0.03 * np.abs(wanted).max()
    assert "y" in [v.name for v in graph.outputs]


def test_dynamic_quantization_keeps_products_of_two_activations() -> None:
    text = "g (float[2,3,4] x, float[2,4,3] z) => (float[2,3,3] y) { y = MatMul(x, z) }"
    graph, ctx = parse(text), PassContext()
    PassManager([QuantizeDynamic()]).run(graph, ctx)
    assert [n.op for n in graph.nodes] == ["MatMul"]
    assert list(ctx.kept.values()) == ["its right operand is not constant"]
