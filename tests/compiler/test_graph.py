"""The graph: uses, edits, names, order."""

from __future__ import annotations

import numpy as np
import pytest

from burnish.ir import Builder, Constant, Graph, Location, Node, TensorType, Value, sym
from burnish.ir.verify import verify

TYPE = TensorType("float32", (sym("N"), 4))


def _graph() -> tuple[Graph, Builder, Value]:
    graph = Graph()
    graph.opset[""] = 25
    x = graph.value("x", TYPE)
    graph.inputs.append(x)
    return graph, Builder(graph, Location(("original",))), x


def test_uses_follow_every_edit() -> None:
    graph, b, x = _graph()
    y = b.op("Relu", x)
    z = b.op("Add", y, y)
    graph.set_outputs([z])
    assert [(n.op, i) for n, i in y.uses] == [("Add", 0), ("Add", 1)]
    assert y.single_user() is None
    assert y.users() == [z.producer]
    assert z.producer is not None
    z.producer.set_input(1, x)
    assert y.single_user() is z.producer
    assert z.single_user() is None
    z.producer.set_inputs([x, x])
    assert not y.uses
    verify_order = [n.op for n in graph.nodes]
    assert verify_order == ["Relu", "Add"]
    assert y.producer is not None
    graph.remove(y.producer)
    verify(graph)


def test_removing_a_used_node_is_an_error() -> None:
    graph, b, x = _graph()
    y = b.op("Relu", x)
    b.op("Neg", y)
    assert y.producer is not None
    with pytest.raises(ValueError, match="still used"):
        graph.remove(y.producer)


def test_output_names_survive_replacement() -> None:
    graph, b, x = _graph()
    y = b.op("Relu", x, name="old")
    graph.set_outputs([y])
    y.name = graph.reserve("result")
    new = b.op("Neg", x, name="new")
    graph.replace_uses(y, new)
    assert [v.name for v in graph.outputs] == ["result"]
    assert graph.outputs[0] is new
    graph.replace_uses(new, x)
    assert [v.name for v in graph.outputs] == ["result"]
    assert graph.outputs[0].producer is not None
    assert graph.outputs[0].producer.op == "Identity"
    assert graph.inputs[0].name == "x"


def test_two_outputs_may_become_one_value() -> None:
    graph, b, x = _graph()
    y, z = b.op("Relu", x), b.op("Relu", x)
    y.name, z.name = graph.reserve("first"), graph.reserve("second")
    graph.set_outputs([y, z])
    graph.replace_uses(z, y)
    assert [v.name for v in graph.outputs] == ["first", "second"]
    assert len(set(graph.outputs)) == 2


def test_names_are_unique_over_all_subgraphs() -> None:
    graph, _, _ = _graph()
    inner = Graph("body", graph)
    assert graph.value("x").name == "x_1"
    assert inner.value("x").name == "x_2"
    assert inner.unique_name("y") == "y"
    assert graph.unique_name("y") == "y_1"
    with pytest.raises(ValueError, match="duplicate"):
        inner.reserve("x")


def test_sort_is_stable_and_sees_captured_values() -> None:
    graph, _b, x = _graph()
    late = Value("late", TYPE)
    inner = Graph("then", graph)
    captured = inner.append(Node("Neg", [late], [inner.value("inner")]))
    inner.set_outputs([captured.output])
    condition = graph.constant(np.asarray(True), "c")
    branch = Node("If", [condition], [graph.value("r")], {"then_branch": inner})
    graph.append(branch)
    graph.append(Node("Relu", [x], [late]))
    graph.append(Node("Abs", [x], [graph.value("other")]))
    graph.sort()
    assert [n.op for n in graph.nodes] == ["Relu", "If", "Abs"]
    assert [n.op for n in graph.walk()] == ["Relu", "If", "Neg", "Abs"]
    graph.remove(branch)
    assert not late.uses


def test_a_cycle_is_an_error() -> None:
    graph, _, _ = _graph()
    a, c = Value("a"), Value("c")
    graph.append(Node("Relu", [c], [a]))
    graph.append(Node("Neg", [a], [c]))
    with pytest.raises(ValueError, match="cycle"):
        graph.sort()


def test_constants_load_late_and_once() -> None:
    calls = []

    def load() -> np.ndarray:
        calls.append(1)
        return np.full((3, 5), 2, np.float32)

    constant = Constant(load, TensorType("float32", (3, 5)))
    assert constant.nbytes == 60
    assert calls == []
    assert constant.array.sum() == 30
    assert constant.array is constant.array
    assert calls == [1]
    assert Constant(np.arange(3)).type == TensorType("int64", (3,))
    with pytest.raises(ValueError, match="needs its type"):
        Constant(load)


def test_constants_are_those_in_use() -> None:
    graph, b, x = _graph()
    used, unused = b.constant(np.ones(4, np.float32)), b.constant(np.ones(4, np.float32))
    graph.set_outputs([b.op("Add", b.op("Mul", x, used), used), used])
    assert graph.constants() == [used]
    assert unused not in graph.constants()


def test_locations_merge_in_order() -> None:
    a, b = Location(("conv",), ("fold",)), Location(("bias", "conv"), ("fuse",))
    merged = Location.merge([a, b], "epilogue")
    assert merged == Location(("conv", "bias"), ("fold", "fuse", "epilogue"))
    assert str(merged) == "conv+bias via fold, fuse, epilogue"


def test_attribute_access_is_typed() -> None:
    graph, b, x = _graph()
    node = b.node("Softmax", [x], {"axis": -1})
    assert node.int_attr("axis") == -1
    assert node.int_attr("missing", 3) == 3
    with pytest.raises(AssertionError):
        node.str_attr("axis")
    with pytest.raises(ValueError, match="no input 1"):
        node.required(1)
    assert node.location == Location(("original",))
    assert node.key == "Softmax"
    assert b.graph is graph
