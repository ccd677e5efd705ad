"""Export: every stage is a model that onnxruntime runs; composites are local functions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.checker
import pytest

from burnish.errors import InputFileError
from burnish.export import BASE_OPSET, save, to_model
from burnish.importers import load
from burnish.importers.upgrade import CANONICAL_OPSET
from burnish.ir import Attr, Builder, Graph, Location, Node, TensorType, Value, sym
from burnish.ir.composites import inline
from tests.support.roundtrip import model, random_feeds, run

N, S = sym("N"), sym("S")


def _graph(*types: TensorType) -> tuple[Graph, Builder, list[Value]]:
    graph = Graph("stage")
    graph.opset[""] = 25
    for index, type in enumerate(types):
        graph.inputs.append(graph.value(f"x{index}", type))
    return graph, Builder(graph), list(graph.inputs)


def _random(*shape: int) -> np.ndarray:
    return np.random.default_rng(5).standard_normal(shape).astype(np.float32)


def _conv(graph: Graph, b: Builder, x: list[Value]) -> Value:
    attrs: dict[str, Attr] = {
        "data_format": "NHWC",
        "strides": (1, 1),
        "pads": (1, 1, 1, 1),
        "dilations": (1, 1),
        "group": 1,
        "postops": ("Add:channel", "Add:full", "Relu"),
    }
    w, bias = b.constant(_random(4, 3, 3, 3)), b.constant(_random(4))
    return b.composite("Conv", x[0], w, bias, x[1], **attrs)


def _matmul(graph: Graph, b: Builder, x: list[Value]) -> Value:
    w, bias = b.constant(_random(4, 6)), b.constant(_random(6))
    first = b.composite("MatMul", x[0], w, bias, postops=("Add:channel", "Gelu"))
    back = b.constant(_random(6, 4))
    return b.composite("MatMul", first, back, x[1], postops=("Add:full", "Silu"))


def _attention(graph: Graph, b: Builder, x: list[Value]) -> Value:
    attrs: dict[str, Attr] = {"num_heads": 2, "kv_num_heads": 2, "scale": 0.4, "causal": 1}
    return b.composite("Attention", x[0], x[1], x[2], None, **attrs)


def _elementwise(graph: Graph, b: Builder, x: list[Value]) -> Value:
    body = Graph("body")
    body.opset[""] = 25
    inner = Builder(body)
    body.inputs += [body.value("a", x[0].type), body.value("b", x[1].type)]
    two = inner.constant(np.asarray(2, np.float32))
    scaled = inner.op("Mul", body.inputs[0], two)
    body.set_outputs([inner.op("Tanh", inner.op("Add", scaled, body.inputs[1]))])
    return b.composite("Elementwise", x[0], x[1], body=body)


F = "float32"
COMPOSITES = {
    "Conv": (_conv, [TensorType(F, (N, S, 5, 3)), TensorType(F, (N, S, 5, 4))]),
    "MatMul": (_matmul, [TensorType(F, (N, S, 4)), TensorType(F, (N, S, 4))]),
    "Attention": (_attention, [TensorType(F, (N, S, 8))] * 3),
    "Elementwise": (_elementwise, [TensorType(F, (N, S)), TensorType(F, (S,))]),
}


@pytest.mark.parametrize("name", COMPOSITES)
def test_composites_are_functions_that_run_at_any_size(name: str) -> None:
    build, types = COMPOSITES[name]
    graph, b, inputs = _graph(*types)
    graph.set_outputs([build(graph, b, inputs)])
    exported = to_model(graph)
    onnx.checker.check_model(exported)
    assert {n.domain for n in exported.graph.node} == {"burnish"}
    assert all(f.name.startswith(f"{name}_") for f in exported.functions)
    # Inlining the definition is another way to the same numbers.
    plain, b, inputs = _graph(*types)
    plain.set_outputs([build(plain, b, inputs)])
    if name != "Elementwise":
        for node in plain.nodes:
            inline(node)
        assert not to_model(plain).functions
    for sizes in ({"N": 1, "S": 3}, {"N": 2, "S": 7}):
        feeds = random_feeds(graph, sizes)
        (found,) = run(exported, feeds)
        (expected,) = run(to_model(plain), feeds)
        assert np.abs(expected).max() > 0.1
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", COMPOSITES)
def test_exported_composites_can_be_imported(name: str) -> None:
    build, types = COMPOSITES[name]
    graph, b, inputs = _graph(*types)
    graph.set_outputs([build(graph, b, inputs)])
    again = load(to_model(graph))
    assert {n.domain for n in again.walk()} == {""}
    assert again.outputs[0].t == graph.outputs[0].t
    sizes = {"N": 2, "S": 4}
    feeds = random_feeds(graph, sizes)
    np.testing.assert_allclose(
        run(to_model(again), feeds)[0], run(to_model(graph), feeds)[0], rtol=1e-6, atol=1e-6
    )


def test_equal_composites_share_a_function() -> None:
    graph, b, (x,) = _graph(TensorType(F, (N, 4)))
    weights = [b.constant(_random(4, 4) * (i + 1)) for i in range(3)]
    for i, w in enumerate(weights):
        b.location = Location((f"layer{i}/matmul",))
        x = b.composite("MatMul", x, w, postops=("Relu",) if i < 2 else ())
    graph.set_outputs([x])
    exported = to_model(graph)
    called = [n.op_type for n in exported.graph.node]
    assert called[0] == called[1] != called[2]
    assert sorted(f.name for f in exported.functions) == sorted(set(called))


def test_the_same_graph_gives_the_same_bytes() -> None:
    def build() -> Graph:
        graph, b, inputs = _graph(*COMPOSITES["Conv"][1])
        graph.set_outputs([_conv(graph, b, inputs)])
        return graph

    first = build()
    data = to_model(first).SerializeToString(deterministic=True)
    assert to_model(first).SerializeToString(deterministic=True) == data
    assert to_model(build()).SerializeToString(deterministic=True) == data


def test_types_names_and_locations_are_written() -> None:
    graph, b, (x,) = _graph(TensorType(F, (N, S * 2 + 1)))
    b.location = Location(("layer/a", "layer/b"))
    y = b.op("Concat", x, x, axis=1, name="joined")
    graph.set_outputs([b.op("Neg", y)])
    exported = to_model(graph)
    dims = exported.graph.value_info[0].type.tensor_type.shape.dim
    assert [d.dim_param for d in dims] == ["N", "4*S + 2"]
    node = exported.graph.node[0]
    assert node.name == "joined"
    assert {p.key: p.value for p in node.metadata_props} == {"burnish.location": "layer/a\nlayer/b"}


def test_attribute_types_follow_the_schema() -> None:
    graph, b, (x,) = _graph(TensorType(F, (N, 4)))
    y = b.op("LeakyRelu", b.op("Elu", x, alpha=1), alpha=0.5)  # alpha=1 is a float all the same
    graph.set_outputs([y])
    exported = to_model(graph)
    onnx.checker.check_model(exported, full_check=True)
    assert exported.graph.node[0].attribute[0].type == onnx.AttributeProto.FLOAT


OPSETS = {
    "old": ("g (float[2] x) => (float[2] y) { y = Cast<to=1>(x) }", 23),
    "new-operator": (
        """g (float[1,2,4,8] x, float[1,2,1,8] u, int64[1] i) => (float[1,2,4,8] y)
        { y = TensorScatter(x, u, i) }""",
        24,
    ),
    "new-input": (
        """g (float[1,2,3,4] q, float[1,2,3,4] k, float[1,2,3,4] v, int64[1] n)
        => (float[1,2,3,4] y) { y = Attention(q, k, v, , , , n) }""",
        24,
    ),
}


@pytest.mark.parametrize("name", OPSETS)
def test_the_opset_is_as_old_as_it_can_be(name: str) -> None:
    text, opset = OPSETS[name]
    exported = to_model(load(model(text)))
    assert [o.version for o in exported.opset_import if o.domain == ""] == [opset]


@pytest.mark.parametrize("alpha", [1.0, 1.702])
def test_swish_is_written_out(alpha: float) -> None:
    graph, b, (x,) = _graph(TensorType(F, (N, 4)))
    graph.set_outputs([b.op("Swish", x, alpha=alpha)])
    array = _random(3, 4)
    (found,) = run(to_model(graph), {"x0": array})
    np.testing.assert_allclose(found, array / (1 + np.exp(-alpha * array)), rtol=1e-6)


def test_outputs_that_are_inputs_or_constants() -> None:
    graph, b, (x,) = _graph(TensorType(F, (N, 4)))
    graph.set_outputs([b.op("Neg", x), x, b.constant(_random(3), "c")])
    found = run(to_model(graph), {"x0": _random(2, 4)})
    np.testing.assert_array_equal(found[0], -_random(2, 4))
    np.testing.assert_array_equal(found[1], _random(2, 4))
    np.testing.assert_array_equal(found[2], _random(3))


def test_graphs_with_foreign_nodes_export() -> None:
    graph, _b, (x,) = _graph(TensorType(F, (N, 4)))
    graph.opset["org.acme"] = 3
    y = graph.value("y")
    graph.append(Node("Magic", [x, None, x, None], [y], {"kind": "deep"}, domain="org.acme"))
    graph.set_outputs([y])
    exported = to_model(graph)
    assert list(exported.graph.node[0].input) == ["x0", "", "x0"]
    assert {o.domain: o.version for o in exported.opset_import} == {"": 23, "org.acme": 3}


def test_saved_files_are_complete_or_absent(tmp_path: Path) -> None:
    graph = load(model("g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }"))
    path = tmp_path / "m.onnx"
    save(graph, path)
    assert load(path).nodes[0].op == "Relu"
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]
    with pytest.raises(InputFileError, match="cannot write") as caught:
        save(graph, tmp_path / "missing" / "m.onnx")
    assert caught.value.at == str(tmp_path / "missing" / "m.onnx")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputFileError, match="cannot write"):
        save(graph, tmp_path / "folder")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "m.onnx"]


def test_large_constants_go_to_a_second_file(tmp_path: Path) -> None:
    graph, b, (x,) = _graph(TensorType(F, (N, 64)))
    w, small = b.constant(_random(64, 64), "w"), b.constant(_random(64), "small")
    graph.set_outputs([b.op("Add", b.op("MatMul", x, w), small)])
    save(graph, tmp_path / "m.onnx", external_data=True)
    proto = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    placed = {t.name: t.data_location for t in proto.graph.initializer}
    assert placed == {"w": onnx.TensorProto.EXTERNAL, "small": onnx.TensorProto.DEFAULT}
    again = load(tmp_path / "m.onnx")
    np.testing.assert_array_equal(again.nodes[0].required(1).array, _random(64, 64))


def test_what_a_new_opset_allows_is_exported_for_it() -> None:
    text = "g (float[3] x, float[3] y) => (float[3] z) { z = Mod<fmod=FMOD>(x, y) }"
    for fmod, opset in ((1, BASE_OPSET), (0, CANONICAL_OPSET)):
        exported = to_model(load(model(text.replace("FMOD", str(fmod)), CANONICAL_OPSET)))
        assert {o.domain: o.version for o in exported.opset_import}[""] == opset
