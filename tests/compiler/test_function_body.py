"""Operators that ONNX defines by a body: expanded, they compute what the operator computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.reference
import pytest
from onnx import helper

from burnish.export import to_model
from burnish.importers.function_body import expand, expand_all
from burnish.importers.onnx_model import load
from burnish.ir import Graph

RNG = np.random.default_rng(3)


def floats(*shape: int) -> np.ndarray:
    return RNG.uniform(-2, 2, shape).astype("float32")


def ids(*shape: int) -> np.ndarray:
    return RNG.integers(0, 4, shape)


OUTPUTS = ["y0", "y1"]

#: (operator, inputs, attributes, number of outputs, constant inputs)
ROWS: list[tuple[str, list[Any], dict[str, Any], int, tuple[int, ...]]] = [
    ("MeanVarianceNormalization", [floats(2, 3, 4, 5)], {}, 1, ()),
    ("Celu", [floats(3, 4)], {"alpha": 1.5}, 1, ()),
    ("Selu", [floats(3, 4)], {}, 1, ()),
    ("SoftmaxCrossEntropyLoss", [floats(5, 4), ids(5)], {"reduction": "sum"}, 1, ()),
    ("SoftmaxCrossEntropyLoss", [floats(5, 4), ids(5), floats(4)], {}, 2, ()),
    ("NegativeLogLikelihoodLoss", [floats(5, 4), ids(5)], {"ignore_index": 1}, 1, ()),
    ("RMSNormalization", [floats(2, 3, 4), floats(4)], {"epsilon": 1e-3}, 1, ()),
    ("GroupNormalization", [floats(2, 6, 4), floats(6), floats(6)], {"num_groups": 3}, 1, ()),
    ("Attention", [floats(1, 2, 5, 8), floats(1, 2, 6, 8), floats(1, 2, 6, 8)], {}, 1, ()),
    (
        "Attention",
        [floats(1, 5, 16), floats(1, 6, 8), floats(1, 6, 8)],
        {"q_num_heads": 4, "kv_num_heads": 2, "is_causal": 1},
        1,
        (),
    ),
    ("Attention", [floats(1, 2, 5, 8)] * 3, {"qk_matmul_output_mode": 3}, -4, ()),
    ("RotaryEmbedding", [floats(2, 3, 4, 8), floats(2, 4, 4), floats(2, 4, 4)], {}, 1, ()),
    ("CenterCropPad", [floats(9, 6, 5), np.array([6, 9])], {"axes": [0, 1]}, 1, (1,)),
    ("HannWindow", [np.array(7)], {}, 1, (0,)),
]


def model(
    op: str, inputs: list[Any], attrs: dict[str, Any], outputs: int, const: tuple[int, ...]
) -> onnx.ModelProto:
    names = [f"x{i}" for i in range(len(inputs))]
    # A negative number asks for that output alone, besides the first.
    results = ["y0", *[""] * (-outputs - 2), "y1"] if outputs < 0 else OUTPUTS[:outputs]
    kinds = [helper.np_dtype_to_tensor_dtype(a.dtype) for a in inputs]
    graph = helper.make_graph(
        [helper.make_node(op, names, results, "the_node", **attrs)],
        "g",
        [
            helper.make_tensor_value_info(n, k, list(a.shape))
            for i, (n, k, a) in enumerate(zip(names, kinds, inputs, strict=True))
            if i not in const
        ],
        [helper.make_empty_tensor_value_info(n) for n in results if n],
        [onnx.numpy_helper.from_array(np.asarray(inputs[i]), names[i]) for i in const],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 25)], ir_version=11)
    return onnx.shape_inference.infer_shapes(made)


def only(op: str) -> Any:
    return lambda node: node.op == op


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_body_computes_the_operator(row: Any) -> None:
    op, inputs, _, _, const = row
    source = model(*row)
    graph = load(source)
    assert expand_all(graph, only(op)) == 1
    assert all(node.op != op for node in graph.nodes)
    assert {name for node in graph.nodes for name in node.location.names} == {"the_node"}
    assert [v.name for v in graph.outputs] == OUTPUTS[: min(abs(row[3]), 2)]
    feeds = {f"x{i}": a for i, a in enumerate(inputs) if i not in const}
    expected = onnx.reference.ReferenceEvaluator(source).run(None, feeds)
    results = onnx.reference.ReferenceEvaluator(to_model(graph)).run(None, feeds)
    for result, wanted in zip(results, expected, strict=True):
        assert result.shape == wanted.shape
        np.testing.assert_allclose(result, wanted, rtol=1e-5, atol=1e-5)


def test_a_body_with_subgraphs_gets_copies_of_them() -> None:
    source = model("Range", [np.array(v, np.float32) for v in (1, 4, 2)], {}, 1, ())
    graph = load(source)
    assert expand_all(graph, only("Range")) == 1
    (loop,) = (node for node in graph.nodes if node.op == "Loop")
    (body,) = loop.subgraphs()
    assert body.parent is graph
    assert all(node.graph is body for node in body.nodes)
    read = {v for node in body.nodes for v in node.inputs if v is not None and not v.is_const}
    made = {v for node in (*body.nodes, *graph.nodes) for v in node.outputs}
    assert read <= made | set(body.inputs) | set(graph.inputs)
    feeds = {f"x{i}": np.array(v, np.float32) for i, v in enumerate((1, 6, 2))}
    (result,) = onnx.reference.ReferenceEvaluator(to_model(graph)).run(None, feeds)
    np.testing.assert_array_equal(result.reshape(-1), np.arange(1, 6, 2, dtype=np.float32))


FLEX = """<ir_version: 13, opset_import: ["" : 26, "ai.onnx.preview" : 1]>
g (float[1,1,3,4] q, float[1,1,3,4] k, float[1,1,3,4] v, float limit) => (float[1,1,3,4] y) {
    y = ai.onnx.preview.FlexAttention <score_mod = mod (float[B,H,L,S] s) => (float[B,H,L,S] t)
        <float four = {4.0}> { t = Mul (s, SCALE) }> (q, k, v)
}"""


def test_graphs_that_are_parameters_go_into_the_body() -> None:
    source = onnx.parser.parse_model(FLEX.replace("SCALE", "four"))
    graph = load(source)
    assert "FlexAttention" not in {node.op for node in graph.nodes}
    q, k, v = (floats(1, 1, 3, 4) for _ in range(3))
    feeds = {"q": q, "k": k, "v": v, "limit": np.float32(1)}
    (result,) = onnx.reference.ReferenceEvaluator(to_model(graph)).run(None, feeds)
    scores = 4 * np.einsum("bhld,bhsd->bhls", q, k) / 2
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    np.testing.assert_allclose(result, weights / weights.sum(-1, keepdims=True) @ v, rtol=1e-5)


def test_graphs_that_read_outer_values_are_not_put_into_bodies() -> None:
    source = onnx.parser.parse_model(FLEX.replace("SCALE", "limit"))
    assert [node.op for node in load(source).nodes] == ["FlexAttention"]


def test_no_body_is_no_change() -> None:
    graph = load(model("Erf", [floats(2)], {}, 1, ()))
    assert not expand(graph.nodes[0])
    assert expand_all(graph, lambda node: True) == 0
    assert [node.op for node in graph.nodes] == ["Erf"]


def test_symbols_survive() -> None:
    source = model("MeanVarianceNormalization", [floats(2, 3, 4, 5)], {}, 1, ())
    source.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"
    graph: Graph = load(source)
    expand_all(graph, only("MeanVarianceNormalization"))
    assert str(graph.outputs[0].type) == "float32[n,3,4,5]"
