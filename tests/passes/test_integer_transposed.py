"""Transposed convolutions of quantized tensors become integer products that mean the same."""

from __future__ import annotations

import numpy as np
import pytest

from burnish.passes.base import PassContext
from burnish.passes.manager import PassManager
from burnish.passes.pipelines import pipeline
from tests.passes.test_integer_products import coded, keys, optimized, same
from tests.support.golden import parse

RNG = np.random.default_rng(8)
FEEDS = {"x": RNG.integers(0, 255, (2, 5, 4, 3)).astype(np.uint8)}


def upsampled(attributes: str, kernel: str = "2,2", scale: str = "per") -> str:
    """A transposed convolution, bounded and rounded."""
    return coded(f"""g (uint8[2,5,4,3] x) => (uint8[n,c,h,w] y)
    <float s = {{0.1}}, uint8 z = {{7}}, float t = {{0.9}}, uint8 u = {{0}},
     int8[5,3,{kernel}] w, float per = {{0.03}}, float[3] each = {{0.01, 0.04, 0.02}},
     float[3] b = {{1.0, -2.0, 5.0}}> {{
        d = D(x, s, z)
        f = DequantizeLinear<axis=1>(w, {scale})
        c = ConvTranspose<{attributes}>(d, f, b)
        r = Relu(c)
        y = Q(r, t, u)
    }}""")


@pytest.mark.parametrize("scale", ["per", "each"])
@pytest.mark.parametrize("size", [2, 3])
def test_windows_side_by_side_are_a_product(scale: str, size: int) -> None:
    text = upsampled(f"strides=[{size},{size}]", f"{size},{size}", scale)
    graph = optimized(parse(text, seed=2))
    found = keys(graph)
    assert found["burnish::QConv"] == 1
    assert not {"QuantizeLinear", "DequantizeLinear", "burnish::ConvTranspose"} & found.keys()
    (node,) = (n for n in graph.nodes if n.key == "burnish::QConv")
    assert node.strs_attr("postops") == ("Add:channel", "Relu")
    assert node.str_attr("y_dtype") == "uint8"
    same(parse(text, seed=2), graph, FEEDS, step=1.0)


@pytest.mark.parametrize(
    ("attributes", "kernel", "reason"),
    [
        ("strides=[1,1]", "2,2", "the strides are not the kernel's size"),
        ("strides=[2,2], pads=[1,1,1,1]", "2,2", "the result is padded"),
        ("strides=[2,2], output_padding=[1,0]", "2,2", "the result is padded"),
        ("strides=[3,2]", "3,2", "the kernel is not square"),
        ("strides=[2,2], dilations=[2,2]", "2,2", "it is dilated"),
    ],
)
def test_what_overlaps_is_in_floating_point_with_its_reason(
    attributes: str, kernel: str, reason: str
) -> None:
    text = upsampled(attributes, kernel)
    graph, ctx = parse(text, seed=2), PassContext()
    PassManager(pipeline(3, integers=True), verify_ir=True).run(graph, ctx)
    assert keys(graph)["burnish::QConv"] == 0
    wanted = f"no integer kernel for a transposed convolution: {reason}"
    assert wanted in ctx.kept.values()
    same(parse(text, seed=2), graph, FEEDS, step=1.0)
