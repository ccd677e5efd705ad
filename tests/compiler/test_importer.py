"""Import of ONNX models: dims, shapes from the user, names, damaged and invalid models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import TensorProto, helper, numpy_helper

from burnish.errors import BurnishError, InputFileError, ModelError, UsageError
from burnish.export import to_model
from burnish.importers import load
from burnish.importers.input_shapes import DimSpec
from burnish.ir.verify import verify
from tests.support.roundtrip import check, model, run

ADD = "g (float[N,S] x, float[N,S] y) => (float[N,S] z) { z = Add(x, y) }"


def _dims(*dims: object) -> onnx.ModelProto:
    """Neg of an input with these dims; None stands for a dim without value and name."""
    x = helper.make_tensor_value_info("in:put", TensorProto.FLOAT, dims)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * len(dims))
    graph = helper.make_graph([helper.make_node("Neg", ["in:put"], ["y"])], "g", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


DIMS = {
    ("batch", 3): "batch,3",
    (None, "?", "", 4): "in_put_0,in_put_1,in_put_2,4",
    ("-1", "-1"): "in_put_0,in_put_1",
    (-1, 2): "in_put_0,2",
    ("batch", "batch"): "batch,batch",
    ("p2o.DynamicDimension.0",): "p2o.DynamicDimension.0",
    ("batch size", "2x"): "batch_size,d_2x",
    ("a-b", "a b"): "a_b,a_b_2",
    ("past", "past + 1", "2*past"): "past,past + 1,2*past",
    ("unseen + 1",): "unseen_1",
    ("8",): "8",
}


@pytest.mark.parametrize("written", DIMS, ids=str)
def test_dims_become_symbols(written: tuple[object, ...]) -> None:
    graph = load(_dims(*written))
    assert str(graph.inputs[0].type) == f"float32[{DIMS[written]}]"
    assert graph.outputs[0].t == graph.inputs[0].t
    assert graph.inputs[0].name == "in:put"


def test_renamed_dims_keep_the_model_s_spelling() -> None:
    assert load(_dims("batch size", "n")).dim_names == {"batch_size": "batch size"}


def test_a_shared_name_is_one_symbol() -> None:
    graph = check(model(ADD), sizes={"N": 2, "S": 5})
    assert [str(v.type) for v in graph.inputs] == ["float32[N,S]"] * 2
    assert str(graph.outputs[0].type) == "float32[N,S]"


def test_inferred_dims_win_over_declared_outputs() -> None:
    graph = load(model("g (float[N,4] x) => (float[K,other] y) { y = Relu(x) }"))
    assert str(graph.outputs[0].type) == "float32[N,4]"


SHAPES: list[tuple[dict[str, tuple[DimSpec, ...]], list[str], dict[str, tuple[int, int]]]] = [
    ({"x": (2, 5)}, ["float32[2,5]", "float32[2,5]", "float32[2,5]"], {}),
    ({"x": (2, "S")}, ["float32[2,S]"] * 3, {}),
    ({"x": ("batch", "time")}, ["float32[batch,time]"] * 3, {}),
    ({"x": ("N", (1, 512))}, ["float32[N,S]"] * 3, {"S": (1, 512)}),
    (
        {"x": ((1, 8), (1, 512)), "y": ((2, 9), "S")},
        ["float32[N,S]"] * 3,
        {"N": (2, 8), "S": (1, 512)},
    ),
    ({"x": ("N", "N")}, ["float32[N,N]"] * 3, {}),
]


@pytest.mark.parametrize(("shapes", "types", "bounds"), SHAPES, ids=str)
def test_input_shapes(
    shapes: dict[str, tuple[DimSpec, ...]],
    types: list[str],
    bounds: dict[str, tuple[int, int]],
) -> None:
    graph = load(model(ADD), shapes)
    assert [str(v.type) for v in (*graph.inputs, *graph.outputs)] == types
    assert graph.dim_bounds == bounds


WRONG_SHAPES: list[tuple[dict[str, tuple[DimSpec, ...]], str]] = [
    ({"w": (2, 5)}, "no input 'w'"),
    ({"x": (2, 5, 1)}, "has 2 dims, but 3 are given"),
    ({"x": (2, 5), "y": (3, 5)}, "N is given as 2 and as 3"),
    ({"x": (2, -5)}, "cannot be -5"),
    ({"x": ("N", (5, 2))}, "5..2 are no bounds"),
    ({"x": ("N", (1, 2)), "y": ("N", (3, 4))}, "exclude each other"),
]


@pytest.mark.parametrize(("shapes", "message"), WRONG_SHAPES, ids=str)
def test_wrong_input_shapes(shapes: dict[str, tuple[DimSpec, ...]], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load(model(ADD), shapes)


def test_a_fixed_dim_of_the_model_cannot_change() -> None:
    proto = model("g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }")
    assert str(load(proto, {"x": (3, 4)}).inputs[0].type) == "float32[3,4]"
    with pytest.raises(UsageError, match="is 4 in the model and cannot become 5"):
        load(proto, {"x": (3, 5)})


def test_an_input_without_shape_can_get_one() -> None:
    proto = model("g (float[N] x) => (float[N] y) { y = Relu(x) }")
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    assert str(load(proto, {"x": ("n", 3)}).outputs[0].type) == "float32[n,3]"
    assert str(load(proto).outputs[0].type) == "float32[...]"


def test_inputs_with_a_default_are_constants() -> None:
    proto = model("g (float[N] x, float[1] w) => (float[N] y) <float[1] w = {2}> { y = Mul(x, w) }")
    graph = check(proto, sizes={"N": 3}, feeds={"x": np.asarray([1, 2, 3], np.float32)})
    assert [v.name for v in graph.inputs] == ["x"]
    assert any("default value" in note for note in graph.notes)


def test_all_forms_of_constant_nodes() -> None:
    graph = check(
        model(
            """g (float[4] x) => (float[4] a, float[4] b, float[4] c, float[4] d, float[4] e) {
                t = Constant<value = float {2}>() f = Constant<value_float = 0.5>()
                fs = Constant<value_floats = [1.0, 2.0, 3.0, 4.0]>()
                i = Constant<value_int = 3>() is = Constant<value_ints = [1, 2, 3, 4]>()
                a = Mul(x, t) b = Mul(x, f) c = Mul(x, fs)
                j = Cast<to=1>(i) js = Cast<to=1>(is) d = Mul(x, j) e = Mul(x, js)
            }"""
        )
    )
    assert "Constant" not in {n.op for n in graph.walk()}
    assert len(graph.constants()) == 5


def test_names_and_locations_are_those_of_the_model() -> None:
    proto = model("g (float[4] x) => (float[4] y) { a = Relu(x) b = Relu(a) y = Relu(b) }")
    proto.graph.node[0].name = "encoder/act"
    proto.graph.node[1].name = "encoder/act"
    graph = load(proto)
    assert [n.location.names for n in graph.nodes] == [
        ("encoder/act",),
        ("encoder/act",),
        ("Relu_2",),
    ]
    assert len({n.name for n in graph.nodes}) == 3
    verify(graph)


def test_nodes_in_any_order() -> None:
    proto = model("g (float[4] x) => (float[4] y) { a = Neg(x) y = Relu(a) }")
    nodes = list(proto.graph.node)
    del proto.graph.node[:]
    proto.graph.node.extend(reversed(nodes))
    assert [n.op for n in load(proto).nodes] == ["Neg", "Relu"]


def test_subgraphs_capture_values_and_keep_names_apart() -> None:
    text = """g (float[N] x, bool c) => (float[N] z) <float[1] w = {3}> {
        a = Neg(x)
        y = If(c) <then_branch = t () => (float[N] o) { p = Mul(a, w) o = Abs(p) },
                   else_branch = e () => (float[N] o) { p = Add(a, x) o = Abs(p) }>
        z = Relu(y)
    }"""
    for condition in (True, False):
        feeds = {"x": np.asarray([1, -2, 3], np.float32), "c": np.asarray(condition)}
        graph = check(model(text), feeds=feeds, sizes={"N": 3})
    names = [v.name for n in graph.walk() for v in n.outputs if v is not None]
    assert len(set(names)) == len(names)
    verify(graph)


def test_a_branch_may_return_an_outer_value_or_a_constant() -> None:
    text = """g (float[2] x, bool c) => (float[2] z) <float[2] w = {3, 4}> {
        y = If(c) <then_branch = t () => (float[2] o) { o = Identity(x) },
                   else_branch = e () => (float[2] p) { p = Identity(w) }>
        z = Relu(y)
    }"""
    proto = model(text)
    for condition in (True, False):
        feeds = {"x": np.asarray([1, -2], np.float32), "c": np.asarray(condition)}
        graph = load(proto)
        for node in list(graph.walk()):
            if node.op == "Identity" and node.graph is not graph:
                assert node.graph is not None
                node.graph.replace_uses(node.output, node.required(0))
                node.graph.remove(node)
        np.testing.assert_array_equal(run(proto, feeds)[0], run(to_model(graph), feeds)[0])


def test_unknown_operators_come_in_as_foreign_nodes() -> None:
    proto = model(
        """g (float[2,N] x) => (float[K,4] z) <float[K,4] y> {
            a = Relu(x) y = org.acme.Magic<strength=3>(a) b = Fantasy(x) z = Neg(y) }""",
        imports=', "org.acme" : 1',
    )
    proto.graph.value_info.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, ["K", 4]))
    graph = load(proto)
    assert [n.key for n in graph.nodes] == ["Relu", "org.acme::Magic", "Fantasy", "Neg"]
    magic, fantasy = graph.nodes[1], graph.nodes[2]
    assert magic.attrs == {"strength": 3}
    assert str(magic.output.type) == "float32[K,4]"  # what the model declares
    assert fantasy.output.type is None
    assert str(graph.outputs[0].type) == "float32[K,4]"


def test_surgery_sees_the_data_and_changes_the_model(tmp_path: Path) -> None:
    weights = np.arange(4096, dtype=np.float32) / 4096
    proto = model("g (float[N,4096] x) => (float[N,4096] y) { a = Mul(x, w) y = Relu(a) }", 17)
    proto.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    path = tmp_path / "m.onnx"
    onnx.save(proto, path)

    def halve(graph: gs.Graph) -> gs.Graph:
        node = next(n for n in graph.nodes if n.op == "Mul")
        node.inputs[1].values = node.inputs[1].values / 2
        next(n for n in graph.nodes if n.op == "Relu").op = "Neg"
        return graph

    graph = load(path, surgery=halve)
    assert [n.op for n in graph.nodes] == ["Mul", "Neg"]
    np.testing.assert_array_equal(graph.nodes[0].required(1).array, weights / 2)


def test_large_initializers_stay_in_the_file_until_asked_for(tmp_path: Path) -> None:
    weights = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    proto = model("g (float[N,64] x) => (float[N,64] y) { y = MatMul(x, w) }", 17)
    proto.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    path = tmp_path / "m.onnx"
    onnx.save(proto, path)
    graph = load(path)
    (constant,) = graph.constants()
    assert constant.const is not None
    assert callable(constant.const._array)
    np.testing.assert_array_equal(constant.array, weights)
    assert constant.array.flags.aligned
    # A link to the model is as good as the model.
    link = tmp_path / "elsewhere" / "link.onnx"
    link.parent.mkdir()
    link.symlink_to(path)
    np.testing.assert_array_equal(load(link).constants()[0].array, weights)


@pytest.mark.parametrize("dtype", ["float16", "float64", "int8", "uint8", "int32", "int64", "bool"])
def test_element_types(dtype: str, tmp_path: Path) -> None:
    data = np.random.default_rng(3).integers(0, 2, (5, 1200)).astype(dtype)
    for array in (data, data[:, :3]):  # lazy, and inside
        proto = model("g (float[1] x) => (float[1] y) { y = Relu(x) z = Identity(w) }")
        proto.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array), "w"))
        proto.graph.output.append(onnx.ValueInfoProto(name="z"))
        onnx.save(proto, tmp_path / "m.onnx")
        found = load(tmp_path / "m.onnx").nodes[1].required(0)
        assert found.dtype == dtype
        np.testing.assert_array_equal(found.array, array)


def _damaged(kind: str) -> bytes:
    proto = model("g (float[N,64] x) => (float[N,64] y) { y = MatMul(x, w) }", 17)
    proto.graph.initializer.append(numpy_helper.from_array(np.ones((64, 64), np.float32), "w"))
    data: bytes = proto.SerializeToString()
    return {
        "empty": b"",
        "text": b"this is a README, not a model\n" * 20,
        "truncated": data[: len(data) // 2],
        "short": data[:-3],
        "zeros": bytes(1000),
        "other-protobuf": helper.make_tensor(
            "t", TensorProto.FLOAT, [2], [1, 2]
        ).SerializeToString(),
    }[kind]


@pytest.mark.parametrize("kind", ["empty", "text", "truncated", "short", "zeros", "other-protobuf"])
def test_damaged_files(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(_damaged(kind))
    with pytest.raises(InputFileError, match="not an ONNX model, or a damaged one") as caught:
        load(path)
    assert caught.value.at == str(path)
    assert caught.value.hint


def test_every_truncation_is_an_error_of_ours(tmp_path: Path) -> None:
    proto = model(
        "g (float[N,8] x) => (float[N,8] y) <float[8] w = {1,2,3,4,5,6,7,8}> { y = Mul(x, w) }"
    )
    data = proto.SerializeToString()
    path = tmp_path / "m.onnx"
    refused = 0
    for length in range(len(data)):
        path.write_bytes(data[:length])
        try:
            load(path)
        except BurnishError:
            refused += 1
    # A message that ends between two of its fields is complete.
    assert refused > 0.9 * len(data)


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match="No such file"):
        load(tmp_path / "missing.onnx")
    with pytest.raises(InputFileError, match="directory"):
        load(tmp_path)


def _with_sparse(proto: onnx.ModelProto) -> None:
    values = helper.make_tensor("s", TensorProto.FLOAT, [1], [3.0])
    indices = helper.make_tensor("i", TensorProto.INT64, [1], [2])
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4]))
    proto.graph.node[1].op_type = "Add"
    proto.graph.node[1].input.append("s")


def _with_short_data(proto: onnx.ModelProto) -> None:
    short = onnx.TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], raw_data=b"123")
    proto.graph.initializer.append(short)
    proto.graph.node[1].op_type = "Add"
    proto.graph.node[1].input.append("w")


def _with_cast(proto: onnx.ModelProto, **attrs: object) -> None:
    proto.graph.node[1].CopyFrom(helper.make_node("Cast", ["a"], ["b"], name="culprit", **attrs))


def _with_sequence(proto: onnx.ModelProto) -> None:
    sequence = helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, [4])
    proto.graph.input[0].CopyFrom(sequence)


def _set_input(proto: onnx.ModelProto, node: int, name: str) -> None:
    proto.graph.node[node].input[0] = name


def _set_output(proto: onnx.ModelProto, name: str) -> None:
    proto.graph.node[1].output[0] = name


Change = Callable[[onnx.ModelProto], object]
# What is done to the model x -> Neg -> Abs (the culprit) -> Relu -> y; message; where.
INVALID: dict[str, tuple[Change, str, str | None]] = {
    "cycle": (lambda m: _set_input(m, 0, "y"), "cycle", None),
    "undefined": (lambda m: _set_input(m, 1, "nowhere"), "nothing produces it", "culprit"),
    "duplicate-value": (lambda m: _set_output(m, "a"), "'a' is produced more than", "culprit"),
    "duplicate-input": (
        lambda m: m.graph.input.append(m.graph.input[0]),
        "two graph inputs are called 'x'",
        "g",
    ),
    "input-is-output": (lambda m: _set_output(m, "x"), "'x' is produced more than", "culprit"),
    "no-operator": (
        lambda m: m.graph.node[1].ClearField("op_type"),
        "without an operator",
        "culprit",
    ),
    "missing-input": (
        lambda m: m.graph.node[1].ClearField("input"),
        "input 0 .* is missing",
        "culprit",
    ),
    "surplus-input": (
        lambda m: m.graph.node[1].input.append("x"),
        "2 inputs, at most 1",
        "culprit",
    ),
    "surplus-output": (lambda m: m.graph.node[1].output.append("c"), "2 outputs", "culprit"),
    "unknown-attribute": (
        lambda m: m.graph.node[1].attribute.append(helper.make_attribute("colour", 1)),
        "unknown attribute 'colour'",
        "culprit",
    ),
    "missing-attribute": (_with_cast, "attribute 'to' is missing", "culprit"),
    "attribute-type": (
        lambda m: _with_cast(m, to="float"),
        "attribute 'to' is no INT",
        "culprit",
    ),
    "dtype": (
        lambda m: m.graph.node[1].MergeFrom(onnx.NodeProto(op_type="Not")),
        "cannot be tensor\\(float\\)",
        "culprit",
    ),
    "sparse": (_with_sparse, "sparse tensors are not supported", "s"),
    "sequence": (_with_sequence, "only tensors are supported", "x"),
    "output": (
        lambda m: m.graph.output[0].MergeFrom(onnx.ValueInfoProto(name="nowhere")),
        "nothing produces",
        "nowhere",
    ),
    "no-outputs": (lambda m: m.graph.ClearField("output"), "no outputs", None),
    "ir-version": (
        lambda m: m.MergeFrom(onnx.ModelProto(ir_version=99)),
        "IR version 99",
        None,
    ),
    "short-data": (_with_short_data, "needs 16 bytes of data but has 3", "w"),
}


@pytest.mark.parametrize("kind", INVALID)
def test_invalid_models(kind: str) -> None:
    change, message, at = INVALID[kind]
    proto = model("g (float[4] x) => (float[4] y) { a = Neg(x) b = Abs(a) y = Relu(b) }", 17)
    proto.graph.node[1].name = "culprit"
    change(proto)
    with pytest.raises(ModelError, match=message) as caught:
        load(proto)
    if at is not None:
        assert caught.value.at == at
    assert caught.value.exit_code == 3
