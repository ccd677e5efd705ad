"""Local functions: inlined, with the names of the call and of the node inside."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest

from burnish.errors import ModelError
from burnish.importers import load
from burnish.ir.verify import verify
from tests.support.roundtrip import check

HEADER = '<ir_version: 10, opset_import: ["" : 20, "local" : 1]>\n'
FUNCTION_HEADER = '<domain: "local", opset_import: ["" : 20, "local" : 1]>\n'


def _model(graph: str, *functions: str) -> onnx.ModelProto:
    proto = onnx.parser.parse_model(HEADER + graph)
    for text in functions:
        proto.functions.append(onnx.parser.parse_function(FUNCTION_HEADER + text))
    return proto


SCALED = """Scaled <alpha: float = 2.0> (x, w) => (y)
    { a = Constant<value_float: float = @alpha>() b = Mul(x, a) y = Add(b, w) }"""
TWICE = "Twice (x, w) => (y) { a = local.Scaled<alpha = 0.5>(x, w) y = local.Scaled(a, w) }"


def test_calls_are_inlined_with_their_names() -> None:
    proto = _model(
        """g (float[N,4] x, float[4] w) => (float[N,4] y)
        { a = local.Twice(x, w) y = local.Twice(a, w) }""",
        SCALED,
        TWICE,
    )
    proto.graph.node[0].name = "first"
    graph = check(proto, sizes={"N": 2})
    assert [n.op for n in graph.nodes] == ["Mul", "Add"] * 4
    assert {n.domain for n in graph.nodes} == {""}
    names = [n.location.names[0] for n in graph.nodes]
    assert names[0] == "first/Scaled_0/Mul_1"
    assert names[3] == "first/Scaled_1/Add_2"
    assert names[4].startswith("Twice_1/")
    verify(graph)


def test_attributes_default_and_override() -> None:
    proto = _model(
        """g (float[2] x, float[1] w) => (float[2] a, float[2] b)
        { a = local.Scaled(x, w) b = local.Scaled<alpha = 7.0>(x, w) }""",
        SCALED,
    )
    graph = check(proto)
    constants = sorted(float(v.array) for v in graph.constants())
    assert constants == [2.0, 7.0]


def test_attribute_references_on_operators() -> None:
    proto = _model(
        """g (float[N,M,3] x) => (float[A,B,C] y, float[D,E,F] z)
        { y = local.Soft<axis = 0>(x) z = local.Soft<axis = -1>(x) }""",
        "Soft <axis> (x) => (y) { y = Softmax<axis: int = @axis>(x) }",
    )
    graph = check(proto, sizes={"N": 2, "M": 4})
    assert [n.attrs["axis"] for n in graph.nodes] == [0, -1]


def test_an_attribute_that_is_not_given_is_left_out() -> None:
    proto = _model(
        "g (float[2,3] x) => (float[2,3] y) { y = local.Soft(x) }",
        "Soft <axis> (x) => (y) { y = Softmax<axis: int = @axis>(x) }",
    )
    (node,) = load(proto).nodes
    assert "axis" not in node.attrs


def test_parameters_that_are_left_out() -> None:
    clip = "Bounded (x, low, high) => (y) { a = Clip(x, low, high) y = Neg(a) }"
    proto = _model(
        """g (float[4] x, float h) => (float[4] y, float[4] z)
        { y = local.Bounded(x, , h) z = local.Bounded(x) }""",
        clip,
    )
    graph = check(proto)
    clips = [n for n in graph.nodes if n.op == "Clip"]
    assert clips[0].input(1) is None
    assert clips[0].input(2) is graph.inputs[1]
    assert clips[1].input(1) is None
    assert clips[1].input(2) is None


def test_a_function_may_pass_its_input_through() -> None:
    proto = _model(
        "g (float[4] x) => (float[4] y, float[4] z) { y, z = local.Both(x) }",
        "Both (x) => (x, b) { b = Neg(x) }",
    )
    graph = load(proto)
    assert sorted(n.op for n in graph.nodes) == ["Identity", "Neg"]
    assert [v.name for v in graph.outputs] == ["y", "z"]


def test_unused_outputs_of_a_call() -> None:
    proto = _model(
        "g (float[6] x) => (float[3] y) { y, z = local.Halves(x)  }",
        "Halves (x) => (a, b) { a, b = Split<num_outputs = 2>(x) }",
    )
    proto.graph.node[0].output[1] = ""
    check(proto)


def test_functions_in_subgraphs_capture_outer_values() -> None:
    proto = _model(
        """g (float[N] x, float[1] w, bool c) => (float[N] y) {
            y = If(c) <then_branch = t () => (float[N] a) { a = local.Scaled(x, w) },
                       else_branch = e () => (float[N] b) { b = local.Scaled<alpha=3.0>(x, w) }>
        }""",
        SCALED,
    )
    for condition in (True, False):
        feeds = {
            "x": np.asarray([1, 2, -3], np.float32),
            "w": np.asarray([5], np.float32),
            "c": np.asarray(condition),
        }
        graph = check(proto, feeds=feeds, sizes={"N": 3})
    verify(graph)


def test_overloads() -> None:
    proto = _model(
        "g (float[4] x) => (float[4] y, float[4] z) { y = local.F(x) z = local.F(x) }",
        "F (x) => (y) { y = Neg(x) }",
        "F (x) => (y) { y = Exp(x) }",
    )
    proto.functions[1].overload = "second"
    proto.graph.node[1].overload = "second"
    graph = load(proto)
    assert [n.op for n in graph.nodes] == ["Neg", "Exp"]
    assert proto.functions[1].overload == "second", "the caller's model is not changed"


def test_recursion_is_refused() -> None:
    proto = _model(
        "g (float[4] x) => (float[4] y) { y = local.F(x) }",
        "F (x) => (y) { a = Neg(x) y = local.F(a) }",
    )
    with pytest.raises(ModelError, match="'F' calls itself"):
        load(proto)


def test_the_functions_own_opset_decides() -> None:
    proto = _model("g (float[2,1,3] x) => (float[2,3] y) { y = local.F(x) }")
    text = """<domain: "local", opset_import: ["" : 11]>
    F (x) => (y) { y = Squeeze<axes = [1]>(x) }"""
    proto.functions.append(onnx.parser.parse_function(text))
    (node,) = load(proto).nodes
    assert node.attrs == {}
    assert node.required(1).array.tolist() == [1]
    assert str(node.output.type) == "float32[2,3]"
