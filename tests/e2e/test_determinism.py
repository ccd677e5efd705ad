"""Two compilations of one model give the same bytes, in processes whose addresses differ."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import burnish


def model(layers: int = 6) -> onnx.ModelProto:
    """Dense layers on [batch, sequence, width], padded and sliced to many symbolic sizes."""
    generator = np.random.default_rng(0)
    nodes, weights, value = [], [], "x"
    for i in range(layers):
        weight = generator.standard_normal((24, 24)).astype(np.float32) / 5
        pads = np.array([0, i + 1, 0, 0, 2 * i + 1, 0], np.int64)
        weights += [
            numpy_helper.from_array(weight, f"w{i}"),
            numpy_helper.from_array(pads, f"pads{i}"),
        ]
        nodes += [
            helper.make_node("MatMul", [value, f"w{i}"], [f"m{i}"], name=f"matmul_{i}"),
            helper.make_node("Relu", [f"m{i}"], [f"r{i}"], name=f"relu_{i}"),
            helper.make_node("Pad", [f"r{i}", f"pads{i}"], [f"p{i}"], name=f"pad_{i}"),
        ]
        value = f"p{i}"
    graph = helper.make_graph(
        nodes,
        "layers",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "sequence", 24])],
        [helper.make_tensor_value_info(value, TensorProto.FLOAT, ["batch", "padded", 24])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def test_two_compilations_give_the_same_bytes(tmp_path: Path) -> None:
    saved = [burnish.compile(model()).save(tmp_path / name) for name in ("a", "b")]
    for name in ("model.so", "weights.safetensors", "manifest.json"):
        first, *others = (folder / name for folder in saved)
        assert all(other.read_bytes() == first.read_bytes() for other in others), name
