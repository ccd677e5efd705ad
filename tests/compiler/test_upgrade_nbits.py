"""onnxruntime's tables in 4 and 8 bits: it computes the same, and they stay small."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx.helper as oh
import onnx.numpy_helper
import pytest
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

import burnish
from burnish.errors import ModelError
from burnish.export import to_model
from burnish.importers import load
from tests.support.roundtrip import check_dims, run

RNG = np.random.default_rng(2)
ROWS, BLOCK = 9, 16


def table(dtype: str, bits: int, zero: bool, width: int = 48, **attrs: Any) -> onnx.ModelProto:
    """Rows of a table in 4 or 8 bits."""
    blocks = -(-width // BLOCK)

    def drawn(columns: int) -> np.ndarray:
        if dtype != "uint8":
            low = -8 if dtype == "int4" else 0
            return RNG.integers(low, low + 16, (ROWS, columns)).astype(getattr(ml_dtypes, dtype))
        codes = RNG.integers(0, 2**bits, (ROWS, columns + columns % 2)).astype(np.uint8)
        return codes[:, :columns] if bits == 8 else codes[:, ::2] + 16 * codes[:, 1::2]

    scales = RNG.uniform(0.01, 0.1, (ROWS, blocks)).astype(np.float32)
    constants = {"data": drawn(width), "scales": scales, "zeros": drawn(blocks)}
    names = list(constants)[: 2 + zero]
    inputs = ["data", "indices", *names[1:]]
    attrs = {"block_size": BLOCK, "gather_axis": 0, "quantize_axis": 1} | attrs
    if dtype == "uint8":
        attrs["bits"] = bits
    node = oh.make_node("GatherBlockQuantized", inputs, ["y"], domain="com.microsoft", **attrs)
    graph = oh.make_graph(
        [node],
        "g",
        [oh.make_tensor_value_info("indices", onnx.TensorProto.INT64, ["n", 3])],
        [oh.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(constants[name], name) for name in names],
    )
    opsets = [oh.make_opsetid("", 21), oh.make_opsetid("com.microsoft", 1)]
    return oh.make_model(graph, opset_imports=opsets, ir_version=10)


@pytest.mark.parametrize("zero", [False, True], ids=["", "zeros"])
@pytest.mark.parametrize(
    ("dtype", "bits", "width"),
    [("int4", 4, 48), ("uint4", 4, 48), ("uint8", 4, 48), ("uint8", 4, 40), ("uint8", 8, 40)],
)
def test_rows_of_tables(dtype: str, bits: int, width: int, zero: bool) -> None:
    proto = table(dtype, bits, zero, width)
    feeds = {"indices": RNG.integers(0, ROWS, (2, 3))}
    (want,) = run(proto, feeds)
    graph = load(proto)
    assert {n.domain for n in graph.walk()} == {""}
    check_dims(graph, feeds, {"n": 2})
    np.testing.assert_array_equal(run(to_model(graph), feeds)[0], want)
    assert len(np.unique(want)) > 20


@pytest.mark.parametrize("dtype", ["int4", "uint8"])
def test_rows_are_gathered_as_they_are_stored(dtype: str) -> None:
    proto = table(dtype, 4, zero=True)
    feeds = {"indices": RNG.integers(0, ROWS, (2, 3))}
    compiled = burnish.compile(proto, threads=1)
    np.testing.assert_allclose(compiled.run(None, feeds)[0], run(proto, feeds)[0], rtol=1e-6)
    stored = [n.storage for n in compiled.manifest.nodes if n.op == "Gather"]
    wide = "int8" if dtype == "int4" else "uint8"
    assert sorted(stored) == sorted(["fp32", wide, wide])


def test_a_table_that_the_tool_of_onnxruntime_quantized_stays_small() -> None:
    weights = RNG.standard_normal((200, 64)).astype(np.float32)
    drawn = oh.make_graph(
        [oh.make_node("Gather", ["w", "indices"], ["y"])],
        "g",
        [oh.make_tensor_value_info("indices", onnx.TensorProto.INT64, ["n"])],
        [oh.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 64])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    source = oh.make_model(drawn, opset_imports=[oh.make_opsetid("", 21)], ir_version=10)
    tool = MatMulNBitsQuantizer(
        source, block_size=32, is_symmetric=True, op_types_to_quantize=("Gather",)
    )
    tool.process()
    proto = tool.model.model
    assert [n.op_type for n in proto.graph.node] == ["GatherBlockQuantized"]
    feeds = {"indices": np.array([0, 199, 17, 17])}
    graph = load(proto)
    (found,) = run(to_model(graph), feeds)
    np.testing.assert_array_equal(found, run(proto, feeds)[0])
    assert np.abs(found - weights[feeds["indices"]]).max() < 0.3
    held = {c.const.type.dtype: c.const.nbytes for c in graph.constants() if c.const}
    assert held["int8"] == weights.size


@pytest.mark.parametrize(
    ("proto", "message"),
    [
        (table("uint8", 2, False), "2 bits"),
        (table("int4", 4, False, gather_axis=1), "along its blocks"),
    ],
    ids=["bits", "axis"],
)
def test_tables_without_a_standard_form(proto: onnx.ModelProto, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load(proto)
