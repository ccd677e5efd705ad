"""What tests of quantization passes share: a network, its ranges, and what graphs compute."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from burnish.check.reference import Reference
from burnish.export import to_model
from burnish.ir import Graph
from burnish.passes.manager import PassManager
from burnish.passes.pipelines import pipeline
from burnish.passes.quantization import Interval

#: A convolution and a matrix product.
SMALL_NET = """g (float[1,3,12,12] x) => (float[1,6] y)
<float[8,3,3,3] w, float[8] b, float[8,6] v> {
    c = Conv<pads=[1,1,1,1]>(x, w, b)
    r = Relu(c)
    a = GlobalAveragePool(r)
    f = Flatten(a)
    y = MatMul(f, v)
}"""
#: Convolutions, a residual, pools, and a matrix product.
CONV_NET = """g (float[1,3,8,8] x) => (float[1,10] y)
<float[4,3,3,3] w1, float[4] b1, float[4,4,3,3] w2, float[4,10] w3> {
    c1 = Conv<pads=[1,1,1,1]>(x, w1, b1)
    r1 = Relu(c1)
    c2 = Conv<pads=[1,1,1,1]>(r1, w2)
    sum = Add(c2, r1)
    r2 = Relu(sum)
    p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r2)
    a = GlobalAveragePool(p)
    f = Flatten(a)
    y = MatMul(f, w3)
}"""
FEEDS = {"x": np.random.default_rng(21).standard_normal((1, 3, 8, 8), dtype=np.float32)}


def evaluated(graph: Graph, feeds: dict[str, Any], names: list[str] | None = None) -> list[Any]:
    """Results of a graph on onnxruntime."""
    with Reference(to_model(graph)) as reference:
        return reference.run(names, feeds)


def measured(graph: Graph, feeds: dict[str, Any]) -> dict[str, Interval]:
    """Ranges of all float values of a graph on one input."""
    outputs = graph.outputs
    values = [n.output for n in graph.nodes if n.output.dtype == "float32"]
    graph.set_outputs([*outputs, *(v for v in values if v not in outputs)])
    names = [v.name for v in graph.outputs]
    arrays = dict(zip(names, evaluated(graph, feeds), strict=True))
    graph.set_outputs(outputs)
    arrays |= {k: v for k, v in feeds.items() if v.dtype == np.float32}
    return {name: Interval(float(a.min()), float(a.max())) for name, a in arrays.items()}


def optimized(graph: Graph) -> Graph:
    """A graph through the whole pipeline."""
    PassManager(pipeline(3, integers=True), verify_ir=True).run(graph)
    return graph


def keys(graph: Graph) -> Counter[str]:
    """Operators of a graph."""
    return Counter(n.key for n in graph.walk())


def same(before: Graph, after: Graph, feeds: dict[str, Any], step: float = 0.0) -> None:
    """Both graphs compute the same, but for ``step`` where a rounding fell the other way."""
    with Reference(to_model(before)) as reference:
        wanted = reference.run(None, feeds)
    for found, expected in zip(evaluated(after, feeds), wanted, strict=True):
        scale = np.abs(expected).max()
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=step + 1e-5 * scale)


def coded(text: str) -> str:
    """A graph with the constants of quantization in short."""
    return text.replace("Q(", "QuantizeLinear(").replace("D(", "DequantizeLinear(")
