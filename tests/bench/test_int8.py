"""The int8 benchmark's own arithmetic, and the network that it balances."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from tests.bench.balance import balance
from tests.bench.int8 import Row, table


def row(model: str, ratio: float) -> Row:
    return Row(model, {"burnish": 1.0, "onnxruntime": 3.0, "openvino": ratio}, ratio, 0.5, 1.0, 1.0)


def test_table_names_what_is_beyond_a_limit() -> None:
    text = table([row("a", 2.0), row("b", 1.0)], 1)
    assert "| a | 1.000 | 3.000 | 2.000 | 2.00 | 50.0% |" in text
    assert "**1.41**" in text
    assert text.endswith("Beyond a limit: b 1.00x (limit 1.05x).")
    assert table([row("a", 2.0)], 1).endswith("nothing.")
    assert "geometric mean 1.10x" in table([row("a", 1.1)], 1)


def test_balanced_results_have_unit_deviation(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    shapes = {"w0": (6, 3, 3, 3), "b0": (6,), "w1": (4, 6, 1, 1)}
    constants = [
        numpy_helper.from_array((rng.standard_normal(s) * 1e-3).astype("f4"), n)
        for n, s in shapes.items()
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w0", "b0"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Conv", ["r", "w1"], ["y"]),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g", [value("x", 1, [1, 3, 8, 8])], [value("y", 1, [1, 4, 6, 6])], constants
    )
    onnx.save(
        helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 17)]),
        tmp_path / "m.onnx",
    )
    feeds = {"x": rng.standard_normal((1, 3, 8, 8)).astype("f4")}
    balance(tmp_path / "m.onnx", tmp_path / "b.onnx", feeds)
    session = ort.InferenceSession(tmp_path / "b.onnx", providers=["CPUExecutionProvider"])
    assert session.run(None, feeds)[0].std() == pytest.approx(1.0, abs=1e-4)
