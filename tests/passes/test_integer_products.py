"""Products of quantized tensors become integer composites that mean the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from burnish.ir import Graph
from burnish.passes.manager import PassManager
from burnish.passes.pipelines import pipeline
from burnish.passes.quantization import QuantizeStatic
from tests.support.golden import parse
from tests.support.quantization import (
    CONV_NET,
    FEEDS,
    coded,
    keys,
    measured,
    optimized,
    same,
)

RNG = np.random.default_rng(31)


def quantized_net(**options: Any) -> Graph:
    """The convolutional network of the quantization tests, quantized."""
    graph = parse(CONV_NET, seed=3)
    PassManager([QuantizeStatic(measured(graph, FEEDS), **options)]).run(graph)
    return graph


@pytest.mark.parametrize("activation_type", ["uint8", "int8"])
@pytest.mark.parametrize("per_channel", [True, False])
def test_a_convolutional_network_computes_in_integers(
    activation_type: str, per_channel: bool
) -> None:
    options = {"activation_type": activation_type, "per_channel": per_channel}
    graph = optimized(quantized_net(**options))
    found = keys(graph)
    assert found["burnish::QConv"] == 2
    assert found["burnish::QMatMul"] == 1
    assert found["burnish::Conv"] == found["burnish::MatMul"] == 0
    convs = [n for n in graph.nodes if n.key == "burnish::QConv"]
    assert [n.str_attr("y_dtype") for n in convs] == [activation_type] * 2
    assert [n.str_attr("data_format") for n in convs] == ["NHWC"] * 2
    (pool,) = (n for n in graph.nodes if n.key == "burnish::MaxPool")
    assert pool.output.dtype == activation_type
    residual = convs[1].strs_attr("postops")
    assert residual[0].startswith("Add:quantized:")
    assert residual[-1] == "Relu"
    same(quantized_net(**options), graph, FEEDS, step=0.02)


GEMM = coded("""g (uint8[3,4] x) => (float[3,5] y)
<float s = {0.1}, uint8 z = {7}, int8[5,4] w, float[5] ws = {0.1, 0.2, 0.3, 0.4, 0.5}, float[5] c> {
    xd = D(x, s, z)
    wd = DequantizeLinear<axis=0>(w, ws)
    y = Gemm<transB=1>(xd, wd, c)
}""")


def test_gemm_becomes_a_product_with_a_bias() -> None:
    feeds = {"x": RNG.integers(0, 255, (3, 4)).astype(np.uint8)}
    graph = optimized(parse(GEMM, seed=1))
    assert keys(graph) == {"burnish::QMatMul": 1}
    (node,) = graph.nodes
    assert node.strs_attr("postops") == ("Add:channel",)
    assert node.required(1).shape == (4, 5)
    same(parse(GEMM, seed=1), graph, feeds)


UNSIGNED = coded("""g (uint8[2,3] x) => (float[2,2] y)
<float s = {0.1}, uint8 z = {3}, uint8[3,2] w = {1, 255, 128, 3, 90, 200}, float ws = {0.05},
 uint8 wz = {ZERO}> {
    xd = D(x, s, z)
    wd = D(w, ws, wz)
    y = MatMul(xd, wd)
}""")


def test_unsigned_weights_are_shifted_if_they_fit() -> None:
    feeds = {"x": RNG.integers(0, 255, (2, 3)).astype(np.uint8)}
    text = UNSIGNED.replace("ZERO", "128")
    graph = optimized(parse(text))
    assert keys(graph) == {"burnish::QMatMul": 1}
    assert graph.nodes[0].required(1).dtype == "int8"
    same(parse(text), graph, feeds)


def test_weights_that_need_nine_bits_take_two_products() -> None:
    feeds = {"x": RNG.integers(0, 255, (2, 3)).astype(np.uint8)}
    text = UNSIGNED.replace("ZERO", "20")
    graph = optimized(parse(text))
    assert keys(graph)["burnish::QMatMul"] == 2
    assert keys(graph)["burnish::MatMul"] == 0
    same(parse(text), graph, feeds)


MOVES = coded("""g (uint8[1,2,4,4] a, uint8[1,2,4,4] b) => (uint8[1,4,9] y)
<float s = {0.1}, uint8 z = {7}, int64[8] pads = {0,0,1,1,0,0,1,1}, int64[3] shape = {1,4,9}> {
    ad = D(a, s, z)
    bd = D(b, s, z)
    c = Concat<axis=1>(ad, bd)
    p = Pad(c, pads)
    m = MaxPool<kernel_shape=[2,2], strides=[2,2]>(p)
    f = Reshape(m, shape)
    y = Q(f, s, z)
}""")


def test_what_only_moves_works_on_what_is_stored() -> None:
    feeds = {k: RNG.integers(0, 255, (1, 2, 4, 4)).astype(np.uint8) for k in "ab"}
    graph = optimized(parse(MOVES))
    found = keys(graph)
    assert found["DequantizeLinear"] == found["QuantizeLinear"] == 0
    same(parse(MOVES), graph, feeds)


def test_parts_are_cut_from_what_is_stored() -> None:
    text = coded("""g (uint8[2,6] x) => (uint8[2,2] y, uint8[4,2] u)
    <float s = {0.1}, uint8 z = {7}, int64[2] sizes = {2, 4}, int64[2] shape = {4, 2}> {
        d = D(x, s, z)
        p, q = Split<axis=1>(d, sizes)
        y = Q(p, s, z)
        r = Reshape(q, shape)
        u = Q(r, s, z)
    }""")
    graph = optimized(parse(text))
    found = keys(graph)
    assert found["Split"] == 1
    assert found["DequantizeLinear"] == found["QuantizeLinear"] == 0
    same(parse(text), graph, {"x": RNG.integers(0, 255, (2, 6)).astype(np.uint8)})


def test_two_scales_do_not_cancel() -> None:
    text = coded("""g (uint8[4] x) => (uint8[4] y)
    <float s = {0.1}, float t = {0.2}, uint8 z = {7}> {
        d = D(x, s, z)
        y = Q(d, t, z)
    }""")
    graph = optimized(parse(text))
    (group,) = graph.nodes
    body = group.attrs["body"]
    assert isinstance(body, Graph)
    assert [node.op for node in body.nodes] == ["DequantizeLinear", "QuantizeLinear"]


DYNAMIC = """g (float[b,3] x) => (float[b,2] y, float[b,2] u)
<DTYPE[3,2] w = {1, 3, 100, 5, 90, 60}, DTYPE wz = {ZERO}, float[2] ws = {0.1, 0.2}, float half = {0.5}> {
    q, s, z = DynamicQuantizeLinear(x)
    p = MatMulInteger(q, w, z, wz)
    f = Cast<to=1>(p)
    t = Mul(ws, s)
    y = Mul(f, t)
    p1 = MatMulInteger(q, w, z, wz)
    f1 = Cast<to=1>(p1)
    v = Mul(f1, s)
    u = Mul(half, v)
}"""  # noqa: E501


@pytest.mark.parametrize(("dtype", "zero"), [("int8", 0), ("int8", -20), ("uint8", 100)])
def test_dynamic_products_keep_the_scale_of_the_call(dtype: str, zero: int) -> None:
    text = DYNAMIC.replace("DTYPE", dtype).replace("ZERO", str(zero))
    graph = optimized(parse(text))
    found = keys(graph)
    assert found["burnish::QMatMul"] == 2
    assert found["DynamicQuantizeLinear"] == 1
    assert found["MatMulInteger"] == found["Cast"] == 0
    same(parse(text), graph, {"x": RNG.standard_normal((4, 3)).astype(np.float32)})


def test_dynamic_products_whose_weights_need_nine_bits_take_two_products() -> None:
    text = DYNAMIC.replace("DTYPE", "uint8").replace("ZERO", "250")
    graph = optimized(parse(text))
    # Both results are made of the same two, which differ by constant scales.
    products = [n for n in graph.nodes if n.op == "QMatMul"]
    assert [n.str_attr("y_dtype") for n in products] == ["float32"] * 2
    same(parse(text), graph, {"x": RNG.standard_normal((4, 3)).astype(np.float32)})


def test_sums_that_are_used_elsewhere_are_stored() -> None:
    text = DYNAMIC.replace("DTYPE", "int8").replace("ZERO", "0")
    text = text.replace("float[b,2] u)", "float[b,2] u, int32[b,2] p)")
    graph = optimized(parse(text))
    products = [n for n in graph.nodes if n.op == "QMatMul"]
    assert sorted(n.str_attr("y_dtype") for n in products) == ["float32", "int32"]
    same(parse(text), graph, {"x": RNG.standard_normal((4, 3)).astype(np.float32)})


def test_without_integers_nothing_changes() -> None:
    graph = quantized_net()
    PassManager(pipeline(3)).run(graph)
    assert not any(key.startswith("burnish::Q") for key in keys(graph))


NORM = coded("""g (uint8[3,64] x, float[3,64] r) => (float[3,64] y)
<float s = {0.1}, uint8 z = {7}, int8[64,64] w, int8[64,64] v, float ws = {0.01},
 float[64] a, float[64] b, float t = {0.02}> {
    xd = D(x, s, z)
    wd = D(w, ws)
    p = MatMul(xd, wd)
    c = Add(p, r)
    n = LayerNormalization(c, a, b)
    nq = Q(n, t, z)
    nd = D(nq, t, z)
    vd = D(v, ws)
    m = MatMul(nd, vd)
    y = Add(m, RESIDUAL)
}""")


@pytest.mark.parametrize(("residual", "outputs"), [("n", "cy-"), ("c", "c-s"), ("r", "c--")])
def test_a_normalization_stores_codes_beside_what_is_used(residual: str, outputs: str) -> None:
    text = NORM.replace("RESIDUAL", residual)
    feeds = {
        "x": RNG.integers(0, 255, (3, 64)).astype(np.uint8),
        "r": RNG.standard_normal((3, 64)).astype(np.float32),
    }
    graph = optimized(parse(text, seed=1))
    found = keys(graph)
    assert found["burnish::QAddLayerNorm"] == 1
    assert found["QuantizeLinear"] == found["burnish::AddLayerNorm"] == 0
    (node,) = (n for n in graph.nodes if n.key == "burnish::QAddLayerNorm")
    kept = [*node.outputs, None, None][:3]
    assert "".join(c if v is not None else "-" for c, v in zip("cys", kept, strict=True)) == outputs
    assert node.output.dtype == "uint8"
    same(parse(text, seed=1), graph, feeds, step=0.05)
