"""The operator table: its rows against ONNX's schemas, and the list of what it cannot lower."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import defs, helper

from burnish.errors import UnsupportedOpError
from burnish.importers.upgrade import CANONICAL_OPSET
from burnish.ir import Graph, Location, Node, TensorType, Value
from burnish.ir.dims import UNKNOWN
from burnish.lowering import registry

ROWS = {key: row for key, row in registry.rules().items() if key[0] == ""}
OPTION = defs.OpSchema.FormalParameterOption


def default_of(attribute: Any) -> Any:
    if attribute.required:
        return registry.REQUIRED
    if not attribute.default_value.type:
        return None
    value = helper.get_attribute_value(attribute.default_value)
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, list):
        return tuple(v.decode() if isinstance(v, bytes) else v for v in value)
    return value


@pytest.mark.parametrize("op", [op for _, op in ROWS])
def test_signature_is_the_schema(op: str) -> None:
    row, schema = ROWS["", op], defs.get_schema(op, CANONICAL_OPSET, "")
    variadic = bool(schema.inputs) and schema.inputs[-1].option == OPTION.Variadic
    assert row.variadic == variadic
    if not variadic:
        assert row.inputs == len(schema.inputs)
        required = sum(i.option == OPTION.Single for i in schema.inputs)
        assert row.required == required
    assert set(row.attributes) == set(schema.attributes)
    for name, attribute in schema.attributes.items():
        expected, actual = default_of(attribute), row.attributes[name]
        if isinstance(expected, float):
            assert np.float32(actual) == np.float32(expected), name
        else:
            assert actual == expected, name


@pytest.mark.parametrize("op", [op for _, op in ROWS])
def test_attribute_inputs_exist(op: str) -> None:
    row = ROWS["", op]
    assert row.run_time <= row.attribute_inputs
    assert all(0 <= i < row.inputs for i in row.attribute_inputs)


def value(graph: Graph, name: str, dtype: str = "float32", shape: Any = (2, 3)) -> Value:
    made = graph.value(name, TensorType(dtype, shape))
    graph.inputs.append(made)
    return made


def node(graph: Graph, op: str, inputs: list[Any], attrs: Any = None, **more: Any) -> Node:
    out = graph.value("y", TensorType(more.get("dtype", "float32"), more.get("shape", (2, 3))))
    made = Node(op, inputs, [out], attrs or {}, domain=more.get("domain", ""), name=op)
    made.location = Location((more.get("name", op),))
    return graph.append(made)


def test_supported_names_the_reason() -> None:
    graph = Graph("g")
    x = value(graph, "x")
    axes = value(graph, "axes", "int64", (1,))
    f8 = value(graph, "f8", "float8_e4m3fn")
    unknown = value(graph, "u", shape=None)
    rows = [
        (node(graph, "Relu", [x]), None),
        (node(graph, "Relu", [x], domain="ai.other"), "no lowering for this operator"),
        (node(graph, "NonZero", [x]), "no lowering for this operator"),
        (node(graph, "Relu", [f8]), "element type float8_e4m3fn"),
        (node(graph, "Relu", [unknown]), "unknown rank of input 0"),
        (node(graph, "Relu", [x], shape=None), "unknown output shape"),
        (node(graph, "Relu", [x], shape=(2, UNKNOWN)), "the output's shape depends on the data"),
        (node(graph, "Relu", [x], {"alpha": 1.0}), "attribute alpha"),
        (node(graph, "Concat", [x, x]), "attribute axis is missing"),
        (node(graph, "Add", [x]), "input 1 is missing"),
        (node(graph, "Relu", [x, x]), "2 inputs"),
        (node(graph, "ReduceSum", [x, axes]), "input 1 is known at run time only"),
        (node(graph, "ReduceSum", [x, graph.constant(np.array([1]))]), None),
        (node(graph, "BatchNormalization", [x] * 5, {"training_mode": 1}), "training mode"),
    ]
    for made, reason in rows:
        assert registry.supported(made) == reason, made


def test_check_lists_every_node_at_once() -> None:
    graph = Graph("g")
    x = value(graph, "x")
    for i in range(5):
        node(graph, "NonZero", [x], name=f"mask/{i}")
    node(graph, "Unique", [x], name="ids")
    node(graph, "Relu", [x], name="fine")
    node(graph, "LSTM", [x], name="elsewhere")
    with pytest.raises(UnsupportedOpError) as error:
        registry.check(graph, lambda n: n.op == "LSTM")
    text = str(error.value)
    assert "6 nodes cannot be lowered" in text
    assert "5 x NonZero: no lowering for this operator (mask/0, mask/1, mask/2 and 2 more)" in text
    assert "1 x Unique" in text
    assert "ids" in text
    assert "Relu" not in text
    assert "LSTM" not in text
    assert error.value.exit_code == 3
    registry.check(graph, lambda n: n.op in ("LSTM", "NonZero", "Unique"))


def test_check_looks_into_subgraphs_and_elementwise_bodies() -> None:
    graph = Graph("g")
    x = value(graph, "x")
    body = Graph("body")
    node(body, "Unique", [value(body, "b")], name="inner")
    node(graph, "Elementwise", [x], {"body": body}, domain="burnish")
    branch = Graph("then", parent=graph)
    node(branch, "NonZero", [x], name="branch")
    node(graph, "If", [x], {"then_branch": branch})
    with pytest.raises(UnsupportedOpError, match="inner") as error:
        registry.check(graph, lambda n: n.op == "If")
    assert "branch" in str(error.value)


def test_onnx_knows_every_row() -> None:
    assert all(onnx.defs.has(op) for _, op in ROWS)
    assert len(ROWS) > 130
