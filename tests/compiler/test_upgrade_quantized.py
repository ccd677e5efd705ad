"""onnxruntime's quantized operators: onnxruntime computes the same from their standard forms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np
import pytest

import burnish
from burnish.errors import ModelError
from burnish.export import to_model
from burnish.importers import load
from burnish.ir import Graph
from tests.support.roundtrip import Feeds, check_dims, model, run

IMPORTS = ', "com.microsoft" : 1'
#: Scales and zero points of an input, another one, and a result.
PARAMETERS = """float xs = {0.05171}, uint8 xz = {120}, float us = {0.03133}, uint8 uz = {100},
 float ys = {0.04077}, uint8 yz = {110}"""


def text(head: str, body: str, constants: str = PARAMETERS) -> str:
    """A graph of 8 bits in ONNX's text syntax."""
    return f"g {head} <{constants}> {{ {body} }}"


def feeds_of(graph: Graph, seed: int = 0) -> dict[str, np.ndarray]:
    """Codes of the whole range, and normal floats."""
    rng = np.random.default_rng(seed)
    made = {}
    for value in graph.inputs:
        shape = tuple(int(str(d)) for d in value.shape)
        if value.dtype in ("uint8", "int8"):
            low, high = (0, 256) if value.dtype == "uint8" else (-128, 128)
            made[value.name] = rng.integers(low, high, shape).astype(value.dtype)
        elif value.dtype == "bool":
            made[value.name] = rng.integers(0, 2, shape).astype(bool)
        else:
            made[value.name] = rng.standard_normal(shape).astype(np.float32)
    return made


def standard(source: str, ties: float = 0.02) -> tuple[Graph, Feeds]:
    """The imported graph: only standard operators, and the results of onnxruntime's own.

    A share of ``ties`` of the codes may be the next ones.
    """
    proto = model(source, 17, imports=IMPORTS)
    graph = load(proto)
    assert {n.domain for n in graph.walk()} == {""}
    feeds = feeds_of(graph)
    for expected, found in zip(run(proto, feeds), run(to_model(graph), feeds), strict=True):
        assert found.dtype == expected.dtype
        assert found.shape == expected.shape
        assert len(np.unique(found)) > 3
        if expected.dtype == np.float32:
            np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)
            continue
        # onnxruntime's kernels round some numbers in the middle of two codes otherwise.
        difference = np.abs(found.astype(np.int64) - expected)
        assert difference.max() <= 1
        assert difference.sum() <= max(1, ties * found.size)
    check_dims(graph, feeds, {})
    return graph, feeds


ONE = "(uint8[1,6,4,5] x) => (uint8[1,6,4,5] y)"
BETWEEN = {
    "sigmoid": (ONE, "y = com.microsoft.QLinearSigmoid(x, xs, xz, ys, yz)", "Sigmoid"),
    "leaky-relu": (
        ONE,
        "y = com.microsoft.QLinearLeakyRelu<alpha=0.2>(x, xs, xz, ys, yz)",
        "LeakyRelu",
    ),
    "softmax": (
        ONE,
        "y = com.microsoft.QLinearSoftmax<opset=13,axis=1>(x, xs, xz, us, uz)",
        "Softmax",
    ),
    "softmax-flat": (
        ONE,
        "y = com.microsoft.QLinearSoftmax<opset=12,axis=2>(x, xs, xz, us, uz)",
        "Softmax",
    ),
    "global-average-pool": (
        "(uint8[1,6,4,5] x) => (uint8[1,6,1,1] y)",
        "y = com.microsoft.QLinearGlobalAveragePool(x, xs, xz, ys, yz)",
        "GlobalAveragePool",
    ),
    "global-average-pool-last": (
        "(uint8[1,4,5,6] x) => (uint8[1,1,1,6] y)",
        "y = com.microsoft.QLinearGlobalAveragePool<channels_last=1>(x, xs, xz, ys, yz)",
        "GlobalAveragePool",
    ),
    "average-pool": (
        "(uint8[1,6,4,5] x) => (uint8[1,6,4,5] y)",
        """y = com.microsoft.QLinearAveragePool<kernel_shape=[3,3],pads=[1,1,1,1]>
            (x, xs, xz, ys, yz)""",
        "AveragePool",
    ),
    "max-pool-last": (
        "(uint8[1,4,5,6] x) => (uint8[1,2,3,6] y)",
        "y = com.microsoft.NhwcMaxPool<kernel_shape=[3,3]>(x)",
        "MaxPool",
    ),
    "add": (
        "(uint8[2,3,4] x, uint8[3,4] u) => (uint8[2,3,4] y)",
        "y = com.microsoft.QLinearAdd(x, xs, xz, u, us, uz, ys, yz)",
        "Add",
    ),
    "mul": (
        "(uint8[2,3,4] x, uint8[2,3,4] u) => (uint8[2,3,4] y)",
        "y = com.microsoft.QLinearMul(x, xs, xz, u, us, uz, ys, yz)",
        "Mul",
    ),
    "where": (
        "(bool[2,3,4] c, uint8[2,3,4] x, uint8[2,3,4] u) => (uint8[2,3,4] y)",
        "y = com.microsoft.QLinearWhere(c, x, xs, xz, u, us, uz, ys, yz)",
        "Where",
    ),
    "concat": (
        "(uint8[2,3,4] x, uint8[2,5,4] u) => (uint8[2,8,4] y)",
        "y = com.microsoft.QLinearConcat<axis=1>(ys, yz, x, xs, xz, u, us, uz)",
        "Concat",
    ),
}


@pytest.mark.parametrize("name", BETWEEN)
def test_operators_of_8_bits(name: str) -> None:
    head, body, op = BETWEEN[name]
    # onnxruntime's Softmax divides whole numbers of a table.
    graph, _ = standard(text(head, body), 0.2 if op == "Softmax" else 0.02)
    assert op in {n.op for n in graph.walk()}


GEMM_CONSTANTS = """float xs = {0.05}, uint8 xz = {120},
 int8[4,5] w = {1,-2,3,-4,5,60,-70,80,-90,100,11,-12,13,-14,15,127,-128,3,4,5},
 float[5] ws = {0.01,0.02,0.03,0.04,0.05}, int8[5] wz = {0,0,0,0,0},
 int32[5] c = {100,-200,300,-400,500}, float ys = {0.3}, uint8 yz = {99},
 float[1] us = {0.02}, int8[1] uz = {3}"""


@pytest.mark.parametrize(
    ("output", "body"),
    [
        ("float[3,5]", "y = com.microsoft.QGemm(x, xs, xz, w, ws, wz, c)"),
        ("float[3,5]", "y = com.microsoft.QGemm<alpha=0.5>(x, xs, xz, w, ws, wz, c)"),
        ("uint8[3,5]", "y = com.microsoft.QGemm(x, xs, xz, w, ws, wz, c, ys, yz)"),
        ("uint8[3,5]", "y = com.microsoft.QGemm(x, xs, xz, w, us, uz, , ys, yz)"),
    ],
    ids=["float", "alpha", "codes", "one-scale"],
)
def test_qgemm(output: str, body: str) -> None:
    graph, _ = standard(text(f"(uint8[3,4] x) => ({output} y)", body, GEMM_CONSTANTS))
    assert Counter(n.op for n in graph.walk())["Gemm"] == 1


PRODUCTS = {
    "dynamic": "y = com.microsoft.DynamicQuantizeMatMul(x, w, ws, wz, b)",
    "dynamic-plain": "y = com.microsoft.DynamicQuantizeMatMul(x, w, us)",
    "to-float": """q, s, z = DynamicQuantizeLinear(x)
        y = com.microsoft.MatMulIntegerToFloat(q, w, s, ws, z, wz, b)""",
    "to-float-plain": """q, s, z = DynamicQuantizeLinear(x)
        y = com.microsoft.MatMulIntegerToFloat(q, w, s, us, z)""",
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_with_scales_of_each_call(name: str) -> None:
    constants = GEMM_CONSTANTS + ", float[5] b = {1.0,-2.0,3.0,-4.0,5.0}"
    graph, _ = standard(text("(float[3,4] x) => (float[3,5] y)", PRODUCTS[name], constants))
    found = Counter(n.op for n in graph.walk())
    assert found["DynamicQuantizeLinear"] == found["MatMulInteger"] == found["Cast"] == 1
    assert found["Add"] == ("plain" not in name)


def test_channels_last_convolution_is_transposed() -> None:
    constants = """float xs = {0.05}, uint8 xz = {120}, int8[2,3,1,1] w = {1,-2,3,60,-70,127},
        float[2] ws = {0.01,0.02}, int8[2] wz = {0,0}, float ys = {0.1}, uint8 yz = {99}"""
    body = "y = com.microsoft.QLinearConv<channels_last=1>(x, xs, xz, w, ws, wz, ys, yz)"
    graph, _ = standard(text("(uint8[1,4,5,3] x) => (uint8[1,4,5,2] y)", body, constants))
    assert [n.op for n in graph.walk()] == ["Transpose", "QLinearConv", "Transpose"]


def lstm(weights: str = "constant", directions: int = 1, scales: int = 1) -> str:
    """A quantized LSTM of 4 inputs and 3 states; ``weights`` are inputs or constants."""
    d, kind = directions, "bidirectional" if directions == 2 else "forward"
    inputs = "float[2,1,4] x" + (f", int8[{d},4,12] w" if weights == "input" else "")
    constants = "" if weights == "input" else f"int8[{d},4,12] w = {_numbers(48 * d)}, "
    constants += (
        f"int8[{d},3,12] r = {_numbers(36 * d)}, float[{d},24] b = {_list(['0.1'] * 24 * d)}"
    )
    count = scales * d
    shape = f"[{d},{scales}]" if scales > 1 else f"[{d}]"
    for name, unit in (("w", 0.01), ("r", 0.02)):
        steps = (f"{unit * (1 + 0.3 * i / count):.6f}" for i in range(count))
        constants += f", float{shape} {name}s = {_list(steps)}"
        constants += f", int8{shape} {name}z = {_list(['0'] * count)}"
    body = f"""y, h, c = com.microsoft.DynamicQuantizeLSTM<hidden_size=3, direction="{kind}">
        (x, w, r, b, , , , , ws, wz, rs, rz)"""
    return f"g ({inputs}) => (float[2,{d},1,3] y) <{constants}> {{ {body} }}"


def _numbers(count: int) -> str:
    drawn = np.random.default_rng(3).integers(-127, 128, count)
    return _list(map(str, drawn))


def _list(numbers: Iterable[str]) -> str:
    return f"{{{','.join(numbers)}}}"


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("scales", [1, 12])
def test_lstm_computes_on_float_weights_and_says_so(directions: int, scales: int) -> None:
    proto = model(lstm(directions=directions, scales=scales), 17, imports=IMPORTS)
    graph = load(proto)
    found = Counter(n.op for n in graph.walk())
    assert found["LSTM"] == 1
    assert found["DequantizeLinear"] == 2 * directions
    feeds = feeds_of(graph)
    compiled = burnish.compile(proto, threads=1)
    (expected,) = run(proto, feeds)
    for result in (run(to_model(graph), feeds)[0], compiled.run(None, feeds)[0]):
        # onnxruntime quantizes inputs and states to 8 bits at each step.
        np.testing.assert_allclose(result, expected, atol=0.02)
    assert np.abs(expected).max() > 0.1
    (node,) = (n for n in compiled.manifest.nodes if n.op.endswith("LSTM"))
    assert node.precision == "fp32"
    assert node.reason == "recurrent operators have no integer kernel"


def test_lstm_with_weights_that_are_not_constant_is_refused() -> None:
    with pytest.raises(ModelError, match="weights that are not constant"):
        load(model(lstm("input"), 17, imports=IMPORTS))
