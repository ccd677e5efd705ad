"""Operators that ONNX defines by a function body, replaced by that body.

Rare operators come for free so: whatever ONNX composes of plain operators needs no lowering.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx
from onnx import defs, helper, numpy_helper

from burnish.export import subgraph_proto
from burnish.importers.upgrade import CANONICAL_OPSET, upgrade_graph
from burnish.ir.graph import Attr, Constant, Graph, Location, Node, Value
from burnish.ir.proto import attribute_protos, type_proto

#: Bodies may contain operators with bodies.
_MAX_ROUNDS = 8


def expand_all(graph: Graph, wanted: Callable[[Node], bool]) -> int:
    """Expand every node that ``wanted`` picks and ONNX has a body for, until none is left.

    Args:
        graph: The graph, typed, at the canonical opset; its subgraphs are searched too.
        wanted: Picks nodes, for instance those without a lowering.

    Returns:
        How many nodes were replaced.
    """
    count = 0
    for _ in range(_MAX_ROUNDS):
        expanded = [node for node in list(graph.walk()) if wanted(node) and expand(node)]
        if not expanded:
            break
        count += len(expanded)
    if count:
        for inner in _graphs(graph):
            inner.sort()
    return count


def _graphs(graph: Graph) -> list[Graph]:
    found = [graph]
    for node in graph.nodes:
        for inner in node.subgraphs():
            found += _graphs(inner)
    return found


def expand(node: Node) -> bool:
    """Replace a node by the body that ONNX defines for it; False if ONNX has none."""
    graph = node.graph
    function = function_of(node)
    if graph is None or function is None:
        return False
    body = _body_graph(node, function)
    values: dict[Value, Value] = dict(zip(body.inputs, _present(node), strict=True))
    location = Location.merge([node.location], via="function-body")
    _copy_nodes(body, graph, values, node.name, location)
    asked = [v for v in node.outputs if v is not None]
    for old, new in zip(asked, body.outputs, strict=True):
        graph.replace_uses(old, _outer(values, graph, new))
    graph.remove(node)
    return True


def _copy_nodes(
    source: Graph, target: Graph, values: dict[Value, Value], prefix: str, location: Location
) -> None:
    """Copy the nodes of a graph into another; ``values`` says what its values are there."""
    for node in source.nodes:
        inputs = [None if v is None else _outer(values, target, v) for v in node.inputs]
        outputs = [_copy_value(values, target, v, prefix) for v in node.outputs]
        attrs = {
            name: _copy_graph(value, target, values, prefix, location)
            if isinstance(value, Graph) and value.parent is not None
            else value
            for name, value in node.attrs.items()
        }
        name = f"{prefix}/{node.name}"
        target.append(
            Node(node.op, inputs, outputs, attrs, domain=node.domain, name=name, location=location)
        )


def _copy_value(
    values: dict[Value, Value], target: Graph, value: Value | None, prefix: str
) -> Value | None:
    if value is None:
        return None
    made = target.value(f"{prefix}/{value.name}", value.type)
    made.content = value.content
    values[value] = made
    return made


def _copy_graph(
    source: Graph, parent: Graph, values: dict[Value, Value], prefix: str, location: Location
) -> Graph:
    """A copy of a subgraph inside of another graph."""
    copy = Graph(source.name, parent)
    for value in source.inputs:
        made = _copy_value(values, copy, value, prefix)
        assert made is not None
        copy.inputs.append(made)
    _copy_nodes(source, copy, values, prefix, location)
    copy.set_outputs([_outer(values, copy, v) for v in source.outputs])
    return copy


def _present(node: Node) -> list[Value]:
    """Inputs that are present and no constants, each once."""
    return list(dict.fromkeys(v for v in node.inputs if v is not None and not v.is_const))


def _outer(values: dict[Value, Value], graph: Graph, value: Value) -> Value:
    """The value of the graph for one of the body; constants are taken over."""
    if value not in values:
        assert value.const is not None, value.name
        values[value] = graph.constant(value.const, value.name)
    return values[value]


def function_of(node: Node) -> onnx.FunctionProto | None:
    """The body that ONNX defines for a node with its attributes and types, or None."""
    version = CANONICAL_OPSET if node.domain == "" else 1
    try:
        schema = defs.get_schema(node.op, version, node.domain)
    except defs.SchemaError:
        return None
    if any(v is not None and v.type is None for v in node.inputs) or _reads_outer_values(node):
        return None
    function = onnx.FunctionProto()
    if schema.has_function:
        versions = [v for v in schema.function_opset_versions if v <= CANONICAL_OPSET]
        text = schema.get_function_with_opset_version(max(versions)) if versions else b""
    elif schema.has_context_dependent_function:
        versions = [
            v for v in schema.context_dependent_function_opset_versions if v <= CANONICAL_OPSET
        ]
        types = [b"" if v is None else type_proto(v.t).SerializeToString() for v in node.inputs]
        text = (
            schema.get_context_dependent_function_with_opset_version(
                max(versions), _proto(node).SerializeToString(), types
            )
            if versions
            else b""
        )
    else:
        return None
    if not text:
        return None
    function.ParseFromString(text)
    return function


def _proto(node: Node) -> onnx.NodeProto:
    proto = onnx.NodeProto(op_type=node.op, domain=node.domain, name=node.name)
    proto.input.extend("" if v is None else v.name for v in node.inputs)
    proto.output.extend("" if v is None else v.name for v in node.outputs)
    proto.attribute.extend(attribute_protos(node.attrs))
    for name, value in node.attrs.items():
        if isinstance(value, Graph):
            attribute = proto.attribute.add(name=name, type=onnx.AttributeProto.GRAPH)
            attribute.g.CopyFrom(subgraph_proto(value))
    return proto


def _reads_outer_values(node: Node) -> bool:
    """Whether a subgraph of the node needs more than it gets: ONNX puts no such into a body."""
    for graph in node.subgraphs():
        own = set(graph.inputs)
        own.update(v for n in graph.walk() for v in n.outputs if v is not None)
        own.update(v for n in graph.walk() for inner in n.subgraphs() for v in inner.inputs)
        read = {v for n in graph.walk() for v in n.inputs if v is not None} | set(graph.outputs)
        if any(not v.is_const and v not in own for v in read):
            return True
    return False


def _body_graph(node: Node, function: onnx.FunctionProto) -> Graph:
    """The body as a graph of its own, upgraded and typed."""
    graph = Graph(node.op)
    opset = {o.domain: o.version for o in function.opset_import}
    graph.opset = {"": CANONICAL_OPSET, **opset}
    names: dict[str, Value | None] = {"": None}
    stand_ins: dict[Value, Value] = {}
    for index, name in enumerate(function.input):
        value = node.input(index)
        names[name] = None if value is None else _stand_in(graph, stand_ins, value)
    attrs = _attributes(node, function)
    for proto in function.node:
        _read(graph, proto, names, attrs)
    # Of optional outputs, the body may lack those that nobody asked for.
    asked = [name for name, v in zip(function.output, node.outputs, strict=False) if v is not None]
    results = [names[name] for name in asked]
    graph.set_outputs([v for v in results if v is not None])
    upgrade_graph(graph, {})
    return graph


def _stand_in(graph: Graph, stand_ins: dict[Value, Value], value: Value) -> Value:
    if value not in stand_ins:
        if value.const is not None:
            stand_ins[value] = graph.constant(value.const, value.name)
        else:
            stand_in = graph.value(value.name, value.type)
            stand_in.content = value.content
            graph.inputs.append(stand_in)
            stand_ins[value] = stand_in
    return stand_ins[value]


def _attributes(node: Node, function: onnx.FunctionProto) -> dict[str, Attr]:
    """What the body's attribute references stand for: the node's attributes and the defaults."""
    attrs: dict[str, Attr] = {}
    version = CANONICAL_OPSET if node.domain == "" else 1
    for name, attribute in defs.get_schema(node.op, version, node.domain).attributes.items():
        if attribute.default_value.type:
            attrs[name] = _attr(attribute.default_value)
    attrs.update({a.name: _attr(a) for a in function.attribute_proto})
    attrs.update(node.attrs)
    return attrs


def _attr(proto: onnx.AttributeProto) -> Attr:
    value = helper.get_attribute_value(proto)
    if isinstance(value, onnx.TensorProto):
        return Constant(numpy_helper.to_array(value))
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, (int, float)):
        return value
    return tuple(v.decode() if isinstance(v, bytes) else v for v in value)


def _read(
    graph: Graph,
    proto: onnx.NodeProto,
    names: dict[str, Value | None],
    outer: Mapping[str, Attr],
) -> None:
    """Append one node of a body."""
    attrs: dict[str, Attr] = {}
    for attribute in proto.attribute:
        if attribute.HasField("g"):
            attrs[attribute.name] = _subgraph(graph, attribute.g, names, outer)
        elif not attribute.ref_attr_name:
            attrs[attribute.name] = _attr(attribute)
        elif attribute.ref_attr_name in outer:
            attrs[attribute.name] = outer[attribute.ref_attr_name]
    if proto.op_type == "Constant" and not proto.domain:
        names[proto.output[0]] = graph.constant(_constant(attrs), proto.output[0])
        return
    outputs: list[Value | None] = []
    for name in proto.output:
        made = graph.value(name) if name else None
        if name:
            names[name] = made
        outputs.append(made)
    inputs = [names[name] for name in proto.input]
    while inputs and inputs[-1] is None:
        inputs.pop()
    domain = "" if proto.domain == "ai.onnx" else proto.domain
    graph.append(Node(proto.op_type, inputs, outputs, attrs, domain=domain, name=proto.op_type))


def _subgraph(
    parent: Graph,
    proto: onnx.GraphProto,
    names: Mapping[str, Value | None],
    outer: Mapping[str, Attr],
) -> Graph:
    """A subgraph of a body's node."""
    graph = Graph(proto.name or "body", parent)
    scope = dict(names)
    for tensor in proto.initializer:
        scope[tensor.name] = graph.constant(numpy_helper.to_array(tensor), tensor.name)
    for info in proto.input:
        value = graph.value(info.name)
        scope[info.name] = value
        graph.inputs.append(value)
    for node in proto.node:
        _read(graph, node, scope, outer)
    results = [scope[info.name] for info in proto.output]
    graph.set_outputs([v for v in results if v is not None])
    return graph


def _constant(attrs: Mapping[str, Attr]) -> Constant:
    ((name, value),) = attrs.items()
    if isinstance(value, Constant):
        return value
    dtypes = {"value_int": "int64", "value_float": "float32"}
    return Constant(np.asarray(value, dtypes[name.removesuffix("s")]))
