"""The IR verifier: every invariant, broken once in every way."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from burnish.errors import VerifyError
from burnish.ir import Builder, Constant, Graph, Node, TensorType, Value
from burnish.ir.verify import INVARIANTS, verify

F4 = TensorType("float32", (4,))


def make() -> Graph:
    """x -> Relu -> Add(constant) -> If with a branch that captures the Relu."""
    graph = Graph("g")
    graph.opset = {"": 25}
    b = Builder(graph)
    x = Value(graph.reserve("x"), F4)
    c = Value(graph.reserve("c"), TensorType("bool", ()))
    graph.inputs += [x, c]
    relu = b.op("Relu", x, name="relu")
    total = b.op("Add", relu, b.constant(np.ones(4, np.float32)), name="add")
    branches = []
    for name, op in (("then_branch", "Neg"), ("else_branch", "Exp")):
        inner = Graph(name, parent=graph)
        inner.set_outputs([Builder(inner).op(op, relu, name=op.lower())])
        branches.append((name, inner))
    chosen = b.node("If", [c], dict(branches), name="if").output
    s = b.op("Shape", total, name="shape")
    graph.set_outputs([total, chosen, s])
    return graph


def node(graph: Graph, name: str) -> Node:
    return next(n for n in graph.walk() if n.name == name)


def elementwise(graph: Graph) -> Node:
    """A composite with a body that computes Neg."""
    body = Graph("body")
    body.opset = {"": 25}
    inner = Value(body.reserve("in0"), F4)
    body.inputs.append(inner)
    body.set_outputs([Builder(body).op("Neg", inner)])
    out = graph.value("e", F4)
    made = Node("Elementwise", [graph.inputs[0]], [out], {"body": body}, domain="burnish")
    return graph.append(made)


def forget_graph(g: Graph) -> None:
    node(g, "relu").graph = None


def steal_producer(g: Graph) -> None:
    node(g, "relu").output.producer = node(g, "add")


def constant_input(g: Graph) -> None:
    g.inputs[0].const = Constant(np.ones(4, np.float32))


def constant_with_producer(g: Graph) -> None:
    node(g, "relu").output.const = Constant(np.ones(4, np.float32))


def forget_use(g: Graph) -> None:
    g.inputs[0].uses.clear()


def double_use(g: Graph) -> None:
    g.inputs[0].uses.append(g.inputs[0].uses[0])


def stale_use(g: Graph) -> None:
    g.inputs[0].uses.append((Node("Exp", [], [g.value("z", F4)]), 0))


def forget_output(g: Graph) -> None:
    g.outputs[0].outputs_of.clear()


def false_output(g: Graph) -> None:
    g.inputs[0].outputs_of.append(g)


def reverse(g: Graph) -> None:
    for n in reversed(g.nodes):
        del g._nodes[n]
        g._nodes[n] = None


def capture_later(g: Graph) -> None:
    node(g, "neg").set_input(0, node(g, "shape").output)


def escape_branch(g: Graph) -> None:
    node(g, "shape").set_input(0, node(g, "neg").output)


def output_of_nothing(g: Graph) -> None:
    g.set_outputs([Value("nowhere", F4)])


def same_value_names(g: Graph) -> None:
    node(g, "relu").output.name = "x"


def no_value_name(g: Graph) -> None:
    node(g, "relu").output.name = ""


def same_node_names(g: Graph) -> None:
    node(g, "neg").name = "relu"


def no_type(g: Graph) -> None:
    node(g, "neg").output.type = None


def wrong_content(g: Graph) -> None:
    node(g, "shape").output.content = (4, 5)


def constant_of_another_type(g: Graph) -> None:
    node(g, "add").required(1).type = TensorType("float32", (5,))


def constant_with_other_data(g: Graph) -> None:
    value = node(g, "add").required(1)
    value.const = Constant(lambda: np.ones(5, np.float32), F4)
    assert value.array.shape == (5,)


def foreign_domain(g: Graph) -> None:
    node(g, "relu").domain = "com.example"


def wrong_parent(g: Graph) -> None:
    next(node(g, "if").subgraphs()).parent = Graph("other")


def too_many_branch_outputs(g: Graph) -> None:
    inner = next(node(g, "if").subgraphs())
    inner.set_outputs([*inner.outputs, *inner.outputs])


def unknown_composite(g: Graph) -> None:
    node(g, "relu").domain = "burnish"


def bad_postops(g: Graph) -> None:
    elementwise(g).attrs["postops"] = ("Frobnicate",)


def missing_operand(g: Graph) -> None:
    elementwise(g).attrs["postops"] = ("Add:full",)


def no_body(g: Graph) -> None:
    del elementwise(g).attrs["body"]


def body_with_another_input(g: Graph) -> None:
    body = elementwise(g).attrs["body"]
    assert isinstance(body, Graph)
    body.inputs.append(Value(body.reserve("in1"), F4))


def broken_body(g: Graph) -> None:
    body = elementwise(g).attrs["body"]
    assert isinstance(body, Graph)
    body.nodes[0].output.type = None


#: (invariant, how it is broken, part of the message)
BROKEN: list[tuple[str, Callable[[Graph], None], str]] = [
    ("producers are consistent", forget_graph, "does not know its graph"),
    ("producers are consistent", steal_producer, "does not name the node as its producer"),
    ("producers are consistent", constant_input, "a graph input has a producer or a constant"),
    ("producers are consistent", constant_with_producer, "a constant has a producer"),
    ("uses are consistent", forget_use, "missing ['relu']"),
    ("uses are consistent", double_use, "a use is recorded twice"),
    ("uses are consistent", stale_use, "recorded uses are wrong"),
    ("outputs are consistent", forget_output, "not recorded as one"),
    ("outputs are consistent", false_output, "an output of a graph that does not have it"),
    ("definitions precede uses", reverse, "used before it is defined"),
    ("definitions precede uses", capture_later, "used before it is defined"),
    ("definitions precede uses", escape_branch, "used before it is defined, or not visible"),
    ("definitions precede uses", output_of_nothing, "that no visible node defines"),
    ("names are unique", same_value_names, "two values have this name"),
    ("names are unique", no_value_name, "it has no name"),
    ("names are unique", same_node_names, "two nodes have this name"),
    ("every value has a type", no_type, "it has no type"),
    ("every value has a type", wrong_content, "2 known elements but type int64[1]"),
    ("constants have their type", constant_of_another_type, "but the constant is float32[4]"),
    ("constants have their type", constant_with_other_data, "but the data are"),
    ("every domain has an opset", foreign_domain, "no opset for the domain 'com.example'"),
    ("subgraphs belong to their node", wrong_parent, "names another parent"),
    ("subgraphs belong to their node", too_many_branch_outputs, "another number of outputs"),
    ("composites are defined", unknown_composite, "the composite Relu has no definition"),
    ("composites are defined", bad_postops, "bad postops"),
    ("composites are defined", missing_operand, "its post-ops take 1 operands"),
    ("composites are defined", no_body, "an Elementwise without a closed body"),
    ("composites are defined", body_with_another_input, "another number of inputs"),
    ("composites are defined", broken_body, "in the body: every value has a type"),
]


def test_a_valid_graph_passes() -> None:
    graph = make()
    elementwise(graph)
    verify(graph)


@pytest.mark.parametrize(
    ("invariant", "how", "message"), BROKEN, ids=[how.__name__ for _, how, _ in BROKEN]
)
def test_broken(invariant: str, how: Callable[[Graph], None], message: str) -> None:
    graph = make()
    how(graph)
    with pytest.raises(VerifyError) as caught:
        verify(graph)
    assert caught.value.message.startswith(f"{invariant}: ")
    assert message in caught.value.message
    assert caught.value.at


def test_every_invariant_is_broken_by_a_test() -> None:
    assert {i.name for i in INVARIANTS} == {invariant for invariant, _, _ in BROKEN}
