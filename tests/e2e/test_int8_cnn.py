"""A small convolutional network stays in 8 bits: first layer, groups, depthwise, gates, pools."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

import burnish
from burnish.artifact import NodeInfo, cpu_features
from burnish.backends.registry import resolve_target
from burnish.quantization import quantize_model

RNG = np.random.default_rng(5)
SHAPE = (1, 3, 30, 26)


def conv(nodes: list[Any], constants: list[Any], x: str, oc: int, ic: int, **attrs: Any) -> str:
    """Append a convolution with random weights; the name of its result."""
    number = len(nodes)
    kernel = attrs["kernel_shape"]
    w = RNG.standard_normal((oc, ic, *kernel)) / np.sqrt(ic * np.prod(kernel))
    for name, value in ((f"w{number}", w), (f"b{number}", RNG.standard_normal(oc) / 4)):
        constants.append(numpy_helper.from_array(value.astype(np.float32), name))
    inputs = [x, f"w{number}", f"b{number}"]
    nodes.append(helper.make_node("Conv", inputs, [f"c{number}"], f"conv{number}", **attrs))
    return f"c{number}"


def network() -> onnx.ModelProto:
    """Stem, pools, gated depthwise block, narrow groups, residual, branches joined, mean."""
    nodes: list[Any] = []
    constants: list[Any] = []

    def op(kind: str, *inputs: str, **attrs: Any) -> str:
        nodes.append(helper.make_node(kind, list(inputs), [f"v{len(nodes)}"], **attrs))
        return f"v{len(nodes) - 1}"

    def made(x: str, oc: int, ic: int, size: int = 1, stride: int = 1, group: int = 1) -> str:
        return conv(
            nodes, constants, x, oc, ic // group, kernel_shape=[size, size],
            strides=[stride, stride], pads=[size // 2] * 4, group=group,
        )  # fmt: skip

    x = op("Relu", made("x", 32, 3, 7, 2))
    x = op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    y = op("HardSwish", made(x, 96, 32))
    y = op("HardSwish", made(y, 96, 96, 3, group=96))
    gate = op("HardSigmoid", made(op("GlobalAveragePool", y), 96, 96))
    y = made(op("Mul", y, gate), 32, 96)
    x = op("Add", x, y)
    z = op("Relu", made(x, 48, 32, 3, group=16))
    w = op("Relu", made(op("AveragePool", x, kernel_shape=[3, 3], pads=[1] * 4), 24, 32))
    v = op("MaxPool", x, kernel_shape=[3, 3], strides=[1, 1], pads=[1] * 4)
    x = op("Relu", made(op("Concat", z, w, v, axis=1), 40, 104))
    x = op("Flatten", op("GlobalAveragePool", x))
    constants.append(numpy_helper.from_array(RNG.standard_normal((40, 10)).astype("f4"), "last"))
    nodes.append(helper.make_node("MatMul", [x, "last"], ["y"], "head"))
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "cnn", [value("x", 1, SHAPE)], [value("y", 1, [1, 10])], constants
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network in 8 bits."""
    path = tmp_path_factory.mktemp("cnn") / "cnn_int8.onnx"
    samples = [{"x": RNG.standard_normal(SHAPE).astype(np.float32)} for _ in range(8)]
    quantize_model(network().SerializeToString(), str(path), samples)
    return path


def products(nodes: tuple[NodeInfo, ...]) -> dict[str, str]:
    """The precision of each convolution and product."""
    return {
        node.name: node.precision
        for node in nodes
        if node.kernel and ("Conv" in node.op or "MatMul" in node.op)
    }


@pytest.mark.parametrize(
    "target",
    [
        "x86-64-v4-vnni",
        pytest.param("x86-64-v4", marks=pytest.mark.slow),
        pytest.param("x86-64-v3", marks=pytest.mark.slow),
    ],
)
def test_all_products_are_integers(quantized: Path, target: str) -> None:
    if not set(resolve_target(target).features) <= cpu_features():
        pytest.skip(f"this CPU cannot run {target}")
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(quantized, options, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(9)
    with burnish.compile(quantized, target=target, threads=2) as compiled:
        kinds = products(compiled.manifest.nodes)
        assert set(kinds.values()) == {"int8"}, kinds
        kernels = {node.kernel.rsplit("_", 1)[0] for node in compiled.manifest.nodes}
        assert {"qconv", "qconv_rows", "qdepthwise", "maxpool"} <= kernels
        assert {"qaveragepool", "qglobalaveragepool"} <= kernels
        # All branches write where they are joined; only the gate multiplies in float32, on codes.
        assert not {"scatter", "concat"} & kernels
        wide = [node.op for node in compiled.manifest.nodes if node.precision == "fp32"]
        assert wide == ["burnish::Elementwise"]
        for _ in range(3):
            feeds = {"x": rng.standard_normal(SHAPE).astype(np.float32)}
            (found,), (wanted,) = compiled.run(None, feeds), session.run(None, feeds)
            # A number in the middle of two codes may go to either.
            assert np.abs(found - wanted).max() < 0.03 * np.abs(wanted).max()
            assert wanted.std() > 0.1
