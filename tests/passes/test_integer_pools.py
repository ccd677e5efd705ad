"""Averages of quantized tensors become integer composites that mean the same."""

from __future__ import annotations

import numpy as np
import pytest

from burnish.ir import Graph
from tests.support.golden import parse
from tests.support.quantization import coded, keys, optimized, same

RNG = np.random.default_rng(3)
FEEDS = {"x": RNG.integers(0, 255, (2, 5, 7, 6)).astype(np.uint8)}


def averaged(step: str, result: str = "uint8[n,c,h,w]") -> str:
    """An image of 8 bits through ``step`` between both conversions."""
    return coded(f"""g (uint8[2,5,7,6] x) => ({result} y)
    <float s = {{0.1}}, uint8 z = {{7}}, float t = {{0.03}}, uint8 u = {{99}},
     int64[2] spatial = {{2, 3}}, int64[2] inner = {{1, 2}}, int64[2] mixed = {{1, 3}}> {{
        d = D(x, s, z)
        {step}
    }}""")


def check(text: str) -> Graph:
    """The graph in integers, which computes the same."""
    graph = optimized(parse(text))
    same(parse(text), graph, FEEDS, step=1.0)
    return graph


@pytest.mark.parametrize(
    ("step", "key"),
    [
        ("a = GlobalAveragePool(d)", "burnish::QGlobalAveragePool"),
        ("a = ReduceMean(d, spatial)", "burnish::QGlobalAveragePool"),
        ("a = ReduceMean(d, inner)", "burnish::QGlobalAveragePool"),
        (
            "a = AveragePool<kernel_shape=[3,2], strides=[2,1], pads=[1,0,1,1], "
            "count_include_pad=1>(d)",
            "burnish::QAveragePool",
        ),
        (
            "a = AveragePool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1], ceil_mode=1>(d)",
            "burnish::QAveragePool",
        ),
    ],
    ids=["global", "spatial", "inner", "counted padding", "ceil"],
)
def test_averages_read_and_write_codes(step: str, key: str) -> None:
    graph = check(averaged(f"{step} y = Q(a, t, u)"))
    found = keys(graph)
    assert found[key] == 1
    assert found.keys() <= {key, "Transpose", "Reshape", "Squeeze"}
    (node,) = (n for n in graph.nodes if n.key == key)
    assert node.str_attr("data_format") == "NHWC"
    assert (node.str_attr("y_dtype"), node.int_attr("y_zero_point")) == ("uint8", 99)


def test_a_result_in_float32_is_an_average_of_codes() -> None:
    text = averaged("y = GlobalAveragePool(d)", "float[n,c,h,w]")
    graph = optimized(parse(text))
    assert keys(graph)["burnish::QGlobalAveragePool"] == 1
    assert keys(graph)["DequantizeLinear"] == 0
    same(parse(text), graph, FEEDS)


@pytest.mark.parametrize("move", ["Flatten(a)", "Transpose<perm=[1,0,2,3]>(a)"])
def test_rounding_comes_before_what_moves(move: str) -> None:
    result = "uint8[2,5]" if "Flatten" in move else "uint8[5,2,1,1]"
    graph = check(averaged(f"a = GlobalAveragePool(d) m = {move} y = Q(m, t, u)", result))
    (node,) = (n for n in graph.nodes if n.key == "burnish::QGlobalAveragePool")
    assert node.str_attr("y_dtype") == "uint8"
    assert keys(graph)["QuantizeLinear"] == 0


def test_dropped_axes_are_dropped_from_codes() -> None:
    step = "a = ReduceMean<keepdims=0>(d, spatial) y = Q(a, t, u)"
    graph = check(averaged(step, "uint8[2,5]"))
    assert keys(graph)["burnish::QGlobalAveragePool"] == 1
    assert keys(graph)["QuantizeLinear"] == 0


@pytest.mark.parametrize(
    "step",
    [
        "a = ReduceMean(d, mixed)",
        'a = AveragePool<kernel_shape=[3,3], strides=[2,2], auto_pad="SAME_LOWER">(d)',
    ],
    ids=["mixed axes", "padding by size"],
)
def test_other_averages_are_in_float32(step: str) -> None:
    text = averaged(f"{step} y = Q(a, t, u)").replace("uint8[2,5,7,6] x", "uint8[2,5,h,w] x")
    assert not any(key.startswith("burnish::Q") for key in keys(check(text)))


def test_a_result_that_is_read_elsewhere_is_not_rounded_first() -> None:
    step = "a = GlobalAveragePool(d) f = Flatten(a) q = Q(f, t, u) g = D(q, t, u) y = Sub(f, g)"
    text = averaged(step, "float[2,5]")
    graph = optimized(parse(text))
    (node,) = (n for n in graph.nodes if n.key == "burnish::QGlobalAveragePool")
    assert node.str_attr("y_dtype") == "float32"
    same(parse(text), graph, FEEDS, step=0.03)
