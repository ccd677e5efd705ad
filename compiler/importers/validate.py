"""Checks on a parsed model, before anything is built from it.

onnx-graphsurgeon merges values of the same name, and skips attributes that it does not know with
a warning only, so that these have to be found on the protobuf.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx

from burnish.errors import ModelError
from burnish.importers.reader import opset_of
from burnish.importers.upgrade import CANONICAL_OPSET

MIN_OPSET = 1
MAX_IR_VERSION = 14
_GOOD = {
    onnx.AttributeProto.FLOAT,
    onnx.AttributeProto.INT,
    onnx.AttributeProto.STRING,
    onnx.AttributeProto.TENSOR,
    onnx.AttributeProto.GRAPH,
    onnx.AttributeProto.FLOATS,
    onnx.AttributeProto.INTS,
    onnx.AttributeProto.STRINGS,
}


def check_model(model: onnx.ModelProto) -> onnx.ModelProto:
    """Check versions, names and attributes; returns the model, with overloads renamed.

    Raises:
        ModelError: With the node that is wrong.
    """
    for owner in (model, *model.functions):
        version = opset_of(owner).get("")
        if version is not None and not MIN_OPSET <= version <= CANONICAL_OPSET:
            raise ModelError(
                f"the model uses opset {version}; supported are {MIN_OPSET} to {CANONICAL_OPSET}",
                hint="convert it with onnx.version_converter, or export it again",
            )
    if model.ir_version > MAX_IR_VERSION:
        raise ModelError(
            f"the model has IR version {model.ir_version}; supported are up to {MAX_IR_VERSION}"
        )
    if any(f.overload for f in model.functions):
        model = _without_overloads(model)
    _check_graph(model.graph, set())
    for function in model.functions:
        _check_nodes(function.node, set(function.input))
    return model


def _check_graph(graph: onnx.GraphProto, outer: set[str]) -> None:
    inputs = [v.name for v in graph.input]
    known: set[str] = set()
    for name in inputs:
        if not name or name in known:
            raise ModelError(f"two graph inputs are called {name!r}", at=graph.name or None)
        known.add(name)
    tensors = [t.name for t in graph.initializer] + [
        t.values.name for t in graph.sparse_initializer
    ]
    if len(set(tensors)) != len(tensors):
        twice = next(n for n in tensors if tensors.count(n) > 1)
        raise ModelError(f"two initializers are called {twice!r}", at=graph.name or None)
    known.update(tensors)
    _check_nodes(graph.node, known)
    names = [v.name for v in graph.output]
    if not names and not outer:
        raise ModelError("the graph has no outputs")


def _check_nodes(nodes: Sequence[onnx.NodeProto], known: set[str]) -> None:
    for index, node in enumerate(nodes):
        at = node.name or f"{node.op_type}_{index}"
        if not node.op_type:
            raise ModelError("a node without an operator", at=at)
        for name in node.output:
            if name and name in known:
                raise ModelError(f"value {name!r} is produced more than once", at=at)
            known.add(name)
        for attribute in node.attribute:
            _check_attribute(attribute, at)
    for node in nodes:
        for graph in _subgraphs(node):
            _check_graph(graph, known)


def _check_attribute(attribute: onnx.AttributeProto, at: str) -> None:
    if attribute.ref_attr_name:
        return
    if attribute.type not in _GOOD:
        kind = onnx.AttributeProto.AttributeType.Name(attribute.type)
        raise ModelError(f"attribute {attribute.name!r} of unsupported type {kind}", at=at)
    try:
        for text in (attribute.s, *attribute.strings):
            text.decode()
    except UnicodeDecodeError:
        raise ModelError(f"attribute {attribute.name!r} is no valid UTF-8", at=at) from None


def _subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g


def _without_overloads(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy where ``overload`` is part of the name: GraphSurgeon knows names only."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for function in copy.functions:
        function.name, function.overload = _joined(function.name, function.overload), ""
        _rename(function.node)
    _rename(copy.graph.node)
    return copy


def _joined(name: str, overload: str) -> str:
    return f"{name}:{overload}" if overload else name


def _rename(nodes: Sequence[onnx.NodeProto]) -> None:
    for node in nodes:
        node.op_type, node.overload = _joined(node.op_type, node.overload), ""
        for graph in _subgraphs(node):
            _rename(graph.node)
