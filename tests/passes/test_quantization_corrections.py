"""Bias correction, SmoothQuant and equalization: what they change, and what they keep."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from burnish.calibration import Channels
from burnish.calibration.channels import Moments
from burnish.check.reference import Reference
from burnish.export import to_model
from burnish.ir import Graph
from burnish.passes.base import PassContext
from burnish.passes.manager import PassManager
from burnish.passes.quantization import Equalize, Interval, QuantizeStatic, Selection, SmoothQuant
from burnish.passes.quantization.bias import channel_axis
from burnish.passes.quantization.equalize import equalizable
from burnish.passes.quantization.outliers import Spread, best_factors, expected_error
from burnish.passes.quantization.parameters import quantize_weights
from burnish.passes.quantization.plan import make_plan
from burnish.passes.quantization.smooth import smoothable
from tests.support.golden import parse

Arrays = dict[str, np.ndarray]


def run(graph: Graph, feeds: Arrays, names: list[str]) -> Arrays:
    """Values of a graph by name, on onnxruntime."""
    known = {v.name: v for n in graph.nodes for v in n.outputs if v is not None}
    before = graph.outputs
    graph.set_outputs([*before, *(known[n] for n in names if known[n] not in before)])
    wanted = [v.name for v in graph.outputs]
    with Reference(to_model(graph)) as reference:
        arrays = dict(zip(wanted, reference.run(wanted, feeds), strict=True))
    graph.set_outputs(before)
    return arrays


def values_of(graph: Graph, feeds: Arrays) -> Arrays:
    """All float values."""
    made = [n.output.name for n in graph.nodes if n.output.dtype == "float32"]
    return {**feeds, **run(graph, feeds, made)}


def apply(item: Any, graph: Graph) -> list[str]:
    """Run a pass; returns its notes."""
    (record,) = PassManager([item], verify_ir=True).run(graph, PassContext())
    return list(record.notes)


# --- statistics ----------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [1, -1])
def test_statistics_of_pieces_are_those_of_the_whole(axis: int) -> None:
    array = np.random.default_rng(1).standard_normal((6, 5, 4, 5), dtype=np.float32) + 3
    found = Channels(axis)
    for piece in np.split(array, [1, 4]):
        found.add(piece)
    rows = np.moveaxis(array, axis, -1).reshape(-1, 5)
    np.testing.assert_allclose(found.mean, rows.mean(axis=0), rtol=1e-5)
    np.testing.assert_array_equal(found.largest, np.abs(rows).max(axis=0))
    np.testing.assert_array_equal(found.low, rows.min(axis=0))
    np.testing.assert_array_equal(found.high, rows.max(axis=0))
    np.testing.assert_allclose(found.square, (rows.astype(np.float64) ** 2).mean(axis=0), rtol=1e-5)


# --- bias correction -----------------------------------------------------------------------------

PRODUCTS = {
    "conv": """g (float[8,6,5,5] x) => (float[8,4,5,5] y) <float[4,6,1,1] w, float[4] b> {
        y = Conv(x, w, b) }""",
    "grouped conv without bias": """g (float[99,6,5,5] x) => (float[99,4,3,3] y)
        <float[4,3,3,3] w> {
        y = Conv<group=2>(x, w) }""",
    "gemm": """g (float[40,6] x) => (float[40,4] y) <float[4,6] w, float[4] b> {
        y = Gemm<transB=1>(x, w, b) }""",
    "matmul and sum": """g (float[8,5,6] x) => (float[8,5,4] y) <float[6,4] w, float[4] b> {
        p = MatMul(x, w)
        y = Add(b, p) }""",
    "matmul alone": """g (float[8,5,6] x) => (float[8,5,4] y) <float[6,4] w> {
        y = MatMul(x, w) }""",
    "matmul read twice": """g (float[8,5,6] x) => (float[8,5,4] y) <float[6,4] w> {
        p = MatMul(x, w)
        r = Relu(p)
        y = Add(r, p) }""",
}


def quantized(text: str, feeds: Arrays, *, corrected: bool) -> tuple[Graph, list[str]]:
    """A graph through the static pass."""
    graph = parse(text, seed=3)
    arrays = values_of(graph, feeds)
    ranges = {n: Interval(float(a.min()), float(a.max())) for n, a in arrays.items()}
    means = {}
    for node, data in make_plan(graph, ranges, {}, Selection()).products.items():
        axis = channel_axis(node, data[0])
        if corrected and axis is not None:
            statistics = Channels(axis)
            statistics.add(arrays[node.required(0).name])
            means[node.required(0).name, axis] = statistics.mean
    # One scale for all weights makes their rounding visible.
    return graph, apply(QuantizeStatic(ranges, per_channel=False, means=means), graph)


@pytest.mark.parametrize("text", PRODUCTS.values(), ids=PRODUCTS.keys())
def test_a_corrected_bias_takes_the_mean_shift_away(text: str) -> None:
    rng = np.random.default_rng(5)
    (x,) = parse(text).inputs
    shape = tuple(int(str(d)) for d in x.shape)
    # Numbers that 8 bits represent: nothing but weights is rounded.
    feeds = {"x": (rng.integers(0, 256, shape) / 64).astype(np.float32)}
    feeds["x"].reshape(-1)[:2] = 0, 255 / 64
    wanted = values_of(parse(text, seed=3), feeds)["y"]
    axis = 1 if "Conv" in text else -1
    shifts = []
    for corrected in (False, True):
        graph, notes = quantized(text, feeds, corrected=corrected)
        found = run(graph, feeds, [])["y"]
        assert found.shape == wanted.shape
        error = np.moveaxis(found - wanted, axis, -1).reshape(-1, found.shape[axis])
        shifts.append(np.abs(error.mean(axis=0)).max())
    assert notes[-1] == "bias correction: 1 products corrected, 0 left"
    # A 3x3 convolution without padding sees the inner pixels more often than the outer ones, and
    # a Relu passes a part of what is corrected.
    assert shifts[1] < (0.1 if "group" in text or "Relu" in text else 0.02) * shifts[0]


def test_a_bias_that_cannot_be_corrected_is_counted() -> None:
    text = """g (float[2,6,5,5] x) => (float[2,3,5,5] y) <float[6,3,1,1] w> {
        y = ConvTranspose(x, w) }"""
    feeds = {"x": np.random.default_rng(6).standard_normal((2, 6, 5, 5), dtype=np.float32)}
    means = {("x", 1): np.ones(6)}
    graph = parse(text, seed=3)
    ranges = {"x": Interval(-4.0, 4.0)}
    notes = apply(QuantizeStatic(ranges, means=means), graph)
    assert notes[-1] == "bias correction: 0 products corrected, 1 left"
    assert run(graph, feeds, [])["y"].shape == (2, 3, 5, 5)


# --- SmoothQuant ---------------------------------------------------------------------------------

SHARED = """g (float[3,7,6] x) => (float[3,7,6] y) <float[6] g, float[6] b, float[6,6] v> {
    n = LayerNormalization(x, g, b)
    p = MatMul(n, v)
    y = Add(p, n)
}"""
TWO = """g (float[3,7,6] x) => (float[3,7,4] y, float[3,7,5] z)
<float[6] g, float[6] b, float[6,4] v, float[6,5] w> {
    n = LayerNormalization(x, g, b)
    y = MatMul(n, v)
    z = MatMul(n, w)
}"""
RMS = """g (float[9,6] x) => (float[9,5] y) <float[6] g, float[5,6] w> {
    n = RMSNormalization(x, g)
    y = Gemm<transB=1>(n, w)
}"""
AFFINE = """g (float[9,6] x) => (float[9,5] y) <float[6] g, float[6] b, float[6,5] w> {
    t = Tanh(x)
    m = Mul(g, t)
    n = Add(m, b)
    y = MatMul(n, w)
}"""


def outliers(graph: Graph) -> Arrays:
    """Inputs whose third channel is large."""
    (x,) = graph.inputs
    shape = tuple(int(str(d)) for d in x.shape)
    array = np.random.default_rng(8).standard_normal(shape, dtype=np.float32)
    array[..., 2] *= 50
    return {"x": array}


def spread(array: np.ndarray) -> Spread:
    """What is measured of an activation."""
    found = Channels(-1)
    found.add(array)
    return Spread(found.low, found.high, found.square)


@pytest.mark.parametrize(
    ("text", "note"),
    [
        (TWO, "2 products behind 1 activations smoothed (1 in the normalization, 0 by a Mul)"),
        (RMS, "1 products behind 1 activations smoothed (1 in the normalization, 0 by a Mul)"),
        (AFFINE, "1 products behind 1 activations smoothed (1 in the normalization, 0 by a Mul)"),
        (SHARED, "1 products behind 1 activations smoothed (0 in the normalization, 1 by a Mul)"),
    ],
    ids=["two readers", "rms", "affine", "residual"],
)
@pytest.mark.parametrize("alpha", [0.5, 0.8])
def test_smoothing_moves_outliers_and_keeps_results(text: str, note: str, alpha: float) -> None:
    graph = parse(text, seed=3)
    feeds = outliers(graph)
    before = values_of(graph, feeds)
    readers = smoothable(graph, Selection(), alpha)[0]
    spreads = {v.name: spread(before[v.name]) for v in readers}
    weights = [
        np.abs(n.required(1).array.T if n.op == "Gemm" else n.required(1).array).max(axis=1)
        for nodes in readers.values()
        for n in nodes
    ]
    notes = apply(SmoothQuant(alpha, spreads), graph)
    assert note in notes[0]
    after = run(graph, feeds, [])
    for name in after:
        np.testing.assert_allclose(after[name], before[name], rtol=1e-4, atol=1e-4)
    # Equation 4: channel j of the activation ends at max|x|^(1-alpha) * max|w|^(1-alpha).
    product = next(n for n in graph.nodes if n.op in ("MatMul", "Gemm"))
    smoothed = product.required(0).name
    found = np.abs(run(graph, feeds, [smoothed])[smoothed]).reshape(-1, 6).max(axis=0)
    expected = (next(iter(spreads.values())).largest * np.max(weights, axis=0)) ** (1 - alpha)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_smoothing_says_what_it_leaves() -> None:
    text = """g (float[3,6] x) => (float[3,6] y) <float[6,6] v, float[6,6] w> {
        r = MatMul(x, v)
        a = Relu(r)
        y = MatMul(a, w)
    }"""
    (note,) = apply(SmoothQuant(0.5), parse(text))
    assert "0 products behind 0 activations" in note
    assert "1 x its input comes from the model's input" in note
    assert "1 x its input comes from Relu" in note


def test_channels_of_zeros_stay() -> None:
    graph = parse(RMS, seed=3)
    before = run(graph, outliers(graph), [])
    largest = np.array([0.0, 1, 2, 3, 4, 5])
    apply(SmoothQuant(0.5, {"n": Spread(-largest, largest, largest**2)}), graph)
    after = run(graph, outliers(graph), [])
    np.testing.assert_allclose(after["y"], before["y"], rtol=1e-4, atol=1e-4)


BEHIND_GELU = """g (float[40,48] x) => (float[40,24] y)
<float[48,32] v, float[32] b, float[32,24] w> {
    p = MatMul(x, v)
    a = Add(p, b)
    n = Gelu(a)
    y = MatMul(n, w)
}"""


def eight_bits(array: np.ndarray) -> np.ndarray:
    """An activation rounded to 256 numbers."""
    low, high = min(float(array.min()), 0.0), max(float(array.max()), 0.0)
    step = (high - low) / 255
    rounded: np.ndarray = (np.rint(array / step - np.rint(low / step))) * step
    return rounded + np.rint(low / step) * step


def test_the_expected_error_is_the_one_that_rounding_makes() -> None:
    rng = np.random.default_rng(4)
    x = rng.standard_normal((4000, 32)) * np.exp(rng.standard_normal(32))
    w = rng.standard_normal((32, 64))
    for factor in (np.ones(32), np.sqrt(np.abs(x).max(axis=0))):
        scaled = (w * factor[:, None]).astype(np.float32)
        found = eight_bits(x / factor) @ quantize_weights(scaled, 1).dequantized() - x @ w
        each = (found**2).mean(axis=0) / ((x @ w) ** 2).mean(axis=0)
        whole = (found**2).mean() / ((x @ w) ** 2).mean()
        expected = expected_error(spread(x), [w], factor)
        assert np.sqrt((each.mean() + whole) / 2) == pytest.approx(expected, rel=0.1)


def test_the_best_factors_cut_outliers_and_leave_what_has_none() -> None:
    rng = np.random.default_rng(5)
    x, w = rng.standard_normal((500, 32)), rng.standard_normal((32, 8))
    assert best_factors(spread(x), [w])[1] > 0.8
    x[:, 3] *= 100
    factor, share = best_factors(spread(x), [w])
    assert share < 0.3
    assert factor[3] > 10 * np.delete(factor, 3).max()


@pytest.mark.parametrize("outlier", [1.0, 60.0])
def test_what_an_activation_function_gives_is_smoothed_where_it_pays(outlier: float) -> None:
    graph = parse(BEHIND_GELU, seed=3)
    feeds = {"x": np.random.default_rng(8).standard_normal((40, 48), dtype=np.float32)}
    weights = graph.nodes[0].required(1)
    weights.array[:, 7] *= outlier
    before = values_of(graph, feeds)
    ranges = {n: Interval(float(a.min()), float(a.max())) for n, a in before.items()}

    def error(graph: Graph) -> float:
        now = {k: v for k, v in values_of(graph, feeds).items() if k not in ranges}
        both = ranges | {n: Interval(float(a.min()), float(a.max())) for n, a in now.items()}
        # Only the second product is in question.
        only = Selection(nodes_to_exclude=(graph.nodes[0].name,))
        apply(QuantizeStatic(both, selection=only), graph)
        after = run(graph, feeds, [])["y"]
        return float(np.sqrt(((after - before["y"]) ** 2).mean() / (before["y"] ** 2).mean()))

    plain = parse(BEHIND_GELU, seed=3)
    plain.nodes[0].required(1).array[:, 7] *= outlier
    (note,) = apply(SmoothQuant(None, {"n": spread(before["n"])}), graph)
    np.testing.assert_allclose(run(graph, feeds, [])["y"], before["y"], rtol=1e-4, atol=1e-4)
    if outlier == 1.0:
        assert "1 x its input has no outliers that matter" in note
        assert [n.op for n in graph.nodes] == [n.op for n in plain.nodes]
    else:
        assert "1 products behind 1 activations smoothed (0 in the normalization, 1 by" in note
        assert error(graph) < 0.5 * error(plain)


# --- equalization --------------------------------------------------------------------------------

SEPARABLE = """g (float[2,3,6,6] x) => (float[2,5,6,6] y)
<float[4,3,1,1] w1, float[4] b1, float[4,1,3,3] w2, float[4] b2, float[5,4,1,1] w3> {
    c1 = Conv(x, w1, b1)
    r1 = Relu(c1)
    c2 = Conv<group=4, pads=[1,1,1,1]>(r1, w2, b2)
    r2 = LeakyRelu(c2)
    y = Conv(r2, w3)
}"""
CLIPPED = """g (float[2,3,6,6] x) => (float[2,5,6,6] y)
<float[4,3,1,1] w1, float[4] b1, float[5,4,1,1] w2, float zero = {0}, float six = {6}> {
    c = Conv(x, w1, b1)
    r = Clip(c, zero, six)
    y = Conv(r, w2)
}"""


def uneven(graph: Graph) -> Arrays:
    """Spreads the channels of the first convolution's weights over three decades."""
    first = next(n for n in graph.nodes if n.op == "Conv")
    by = np.array([1.0, 30.0, 0.05, 3.0], np.float32)
    for index in (1, 2):
        value = first.required(index)
        scaled = value.array * by.reshape(-1, *[1] * (value.array.ndim - 1))
        first.set_input(index, graph.constant(scaled.astype(np.float32), value.name))
    return {"x": np.random.default_rng(9).standard_normal((2, 3, 6, 6), dtype=np.float32)}


def test_equalized_channels_have_equal_ranges_and_the_same_results() -> None:
    graph = parse(SEPARABLE, seed=3)
    feeds = uneven(graph)
    (before,) = run(graph, feeds, []).values()
    (note,) = apply(Equalize(), graph)
    assert note == "equalize: 2 pairs of convolutions"
    (after,) = run(graph, feeds, []).values()
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-4 * np.abs(before).max())
    first, second, third = (n.required(1).array for n in graph.nodes if n.op == "Conv")
    rows = np.abs(first).max(axis=(1, 2, 3))
    taps = np.abs(second).max(axis=(1, 2, 3))
    np.testing.assert_allclose(rows, taps, rtol=0.01)
    np.testing.assert_allclose(taps, np.abs(third).max(axis=(0, 2, 3)), rtol=0.01)


def test_a_clip_clips_what_it_clipped_and_nothing_else() -> None:
    graph = parse(CLIPPED, seed=3)
    feeds = uneven(graph)
    before = values_of(graph, feeds)
    assert before["r"].max() == 6
    assert equalizable(graph)[0][0].clip is not None
    channels = Channels(1)
    channels.add(before["r"])
    was = next(n for n in graph.nodes if n.op == "Conv").required(1).array
    apply(Equalize({"r": channels.largest}), graph)
    now = next(n for n in graph.nodes if n.op == "Conv").required(1).array
    moved = np.abs(now / was - 1).max(axis=(1, 2, 3)) > 1e-3
    np.testing.assert_array_equal(moved, channels.largest < 6)
    assert 0 < moved.sum() < 4
    (after,) = run(graph, feeds, []).values()
    np.testing.assert_allclose(after, before["y"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("old", "new", "cause"),
    [
        ("r1 = Relu(c1)", "r1 = Sigmoid(c1)", None),
        ("r1 = Relu(c1)", "a1 = Add(c1, c1)\nr1 = Relu(a1)", "Relu of Add"),
        ("y = Conv(r2, w3)", "z = Conv(r2, w3)\nk = Conv(r2, w3)\ny = Add(z, k)", "others read"),
    ],
)
def test_pairs_that_cannot_be_equalized(old: str, new: str, cause: str | None) -> None:
    graph = parse(SEPARABLE.replace(old, new), seed=3)
    pairs, kept = equalizable(graph)
    assert len(pairs) == 1
    assert (cause is None) == (not kept)
    assert all(cause is not None and cause in reason for reason in kept)


# --- compensated rounding ------------------------------------------------------------------------

TIED = """g (float[4,6] x) => (float[4,6] y) <float[6,6] w> {
    a = MatMul(x, w)
    r = Relu(a)
    y = MatMul(r, w)
}"""


def together(rows: int, channels: int, seed: int) -> np.ndarray:
    """An activation of few causes, with a little of its own in each channel."""
    causes = np.random.default_rng(0).standard_normal((channels // 4, channels))
    rng = np.random.default_rng(seed)
    noise = 0.2 * rng.standard_normal((rows, channels))
    return (rng.standard_normal((rows, channels // 4)) @ causes + noise).astype(np.float32)


def moments(array: np.ndarray) -> np.ndarray:
    """What is measured of an activation."""
    found = Moments()
    for piece in np.array_split(array, 3):
        found.add(piece)
    np.testing.assert_allclose(found.mean, array.T @ array / len(array), rtol=1e-3, atol=1e-3)
    return found.mean


@pytest.mark.parametrize("op", ["MatMul", "Gemm<transB=1>"])
@pytest.mark.parametrize("per_channel", [True, False])
def test_later_rows_make_up_for_earlier_ones(op: str, per_channel: bool) -> None:
    shape = "40,300" if "transB" in op else "300,40"
    text = f"g (float[N,300] x) => (float[N,40] y) <float[{shape}] w> {{ y = {op}(x, w) }}"
    x, unseen = together(900, 300, 1), together(500, 300, 2)
    w = parse(text, seed=3).nodes[0].required(1).array
    exact = unseen @ (w.T if "transB" in op else w)
    errors = []
    for known in ({}, {"x": moments(x)}):
        graph = parse(text, seed=3)
        ranges = {"x": Interval(float(x.min()), float(x.max()))}
        apply(QuantizeStatic(ranges, per_channel=per_channel, moments=known), graph)
        quantized, scale = (
            graph.nodes[-1].required(1).producer.inputs[i].array.astype(np.float32) for i in (0, 1)
        )
        transposed = "transB" in op
        weights = quantized * (scale[:, None] if transposed and per_channel else scale)
        errors.append(np.square(unseen @ (weights.T if transposed else weights) - exact).mean())
    assert errors[1] < 0.35 * errors[0]


def test_products_that_share_weights_round_them_for_themselves() -> None:
    graph = parse(TIED, seed=3)
    x = np.random.default_rng(1).standard_normal((4, 6), dtype=np.float32)
    arrays = values_of(graph, {"x": x})
    ranges = {n: Interval(float(a.min()), float(a.max())) for n, a in arrays.items()}
    known = {n: moments(np.repeat(arrays[n], 3, axis=0)) for n in ("x", "r")}
    notes = apply(QuantizeStatic(ranges, moments=known), graph)
    assert notes[-1] == "gptq: weights of 2 products compensated, 0 left"
    found = run(graph, {"x": x}, [])["y"]
    assert np.abs(found - arrays["y"]).max() < 0.05 * np.abs(arrays["y"]).max()


def test_channels_that_are_never_there_do_not_hinder() -> None:
    x = together(50, 40, 1)
    x[:, ::3] = 0
    graph = parse("g (float[N,40] x) => (float[N,5] y) <float[40,5] w> { y = MatMul(x, w) }")
    apply(QuantizeStatic({"x": Interval(-9.0, 9.0)}, moments={"x": np.zeros((40, 40))}), graph)
    graph = parse("g (float[N,40] x) => (float[N,5] y) <float[40,5] w> { y = MatMul(x, w) }")
    wanted = run(graph, {"x": x}, [])["y"]
    ranges = {"x": Interval(float(x.min()), float(x.max()))}
    apply(QuantizeStatic(ranges, moments={"x": moments(x)}), graph)
    found = run(graph, {"x": x}, [])["y"]
    assert 0 < np.abs(found - wanted).max() < 0.05 * np.abs(wanted).max()
