"""Export: an IR graph of any stage as an ONNX model that onnxruntime runs.

Plain nodes become ONNX nodes. A composite becomes a call of a local function of the domain
``burnish`` whose body is the composite's definition for these very attributes and types; equal
bodies share one function.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TypeGuard

import numpy as np
import onnx

from burnish.errors import InputFileError
from burnish.ir import composites
from burnish.ir.graph import Constant, Graph, Node, Value
from burnish.ir.proto import attribute_protos, tensor_proto, type_proto, type_text
from burnish.ir.types import BY_NAME, to_numpy

#: Metadata of a node: the original node names that it stands for, one a line.
LOCATION_KEY = "burnish.location"
#: The opset of exported models, unless they use something newer. Between this and the canonical
#: opset hardly more changed than lists of element types, and onnxruntime 1.23, the last one for
#: Python 3.10, takes nothing newer.
BASE_OPSET = 23
#: IR version of exported models.
IR_VERSION = 10
#: Protobuf cannot hold a message of 2 GiB; constants beyond this go to a second file.
EMBED_LIMIT = 1_900_000_000
#: Smaller constants stay in the model file even when the data are external.
EXTERNAL_THRESHOLD = 1024


#: Types of 16 bits, and operators for which onnxruntime's CPU provider takes bfloat16: those that
#: compute nothing, and control flow. For others of float16 it computes in float32 and drops most
#: roundings in between.
_NARROW = frozenset({"float16", "bfloat16"})
_MOVES = frozenset(
    {
        *("Cast", "Compress", "Concat", "ConstantOfShape", "Flatten", "Gather", "GatherElements"),
        *("GatherND", "Identity", "If", "Loop", "Reshape", "ReverseSequence", "Scan"),
        *("ScatterElements", "ScatterND", "Shape", "Slice", "Split", "Squeeze", "Transpose"),
        "Unsqueeze",
    }
)


@lru_cache(maxsize=1024)
def _attribute_kinds(op: str, domain: str, version: int) -> Mapping[str, int]:
    try:
        schema = onnx.defs.get_schema(op, version, domain)
    except onnx.defs.SchemaError:
        return {}
    return {name: int(a.type.value) for name, a in schema.attributes.items()}


def _least_opset(node: Node, version: int) -> int:
    """The least opset from :data:`BASE_OPSET` on in which the node has the same meaning."""
    if node.domain or version <= BASE_OPSET:
        return min(version, BASE_OPSET)
    new = _schema(node.op, version)
    if new is None:
        return BASE_OPSET
    candidates = (_schema(node.op, older) for older in range(BASE_OPSET, version))
    fitting = (s for s in candidates if s is not None and _fits(node, s))
    return max(int(next(fitting, new).since_version), BASE_OPSET)


def _fits(node: Node, schema: onnx.defs.OpSchema) -> bool:
    """Whether an older version of the operator has all that the node uses."""
    types = {t for c in schema.type_constraints for t in c.allowed_type_strs}
    if node.op == "Mod" and schema.since_version < 28 and not node.int_attr("fmod"):
        # The schema allowed floats, and its text did not.
        types -= {"tensor(float16)", "tensor(float)", "tensor(double)", "tensor(bfloat16)"}
    return (
        set(node.attrs) <= set(schema.attributes)
        and len(node.inputs) <= schema.max_input
        and all(type_text(v.t) in types for v in (*node.inputs, *node.outputs) if v and v.type)
    )


@lru_cache(maxsize=1024)
def _schema(op: str, version: int) -> onnx.defs.OpSchema | None:
    try:
        return onnx.defs.get_schema(op, version, "")
    except onnx.defs.SchemaError:
        return None


class _Exporter:
    """State of one export: names that are taken, functions made so far."""

    def __init__(self, root: Graph, *, widened: bool = False) -> None:
        self.widened = widened
        self.opset = {"": BASE_OPSET, **root.opset}
        #: The least opset that has everything that was exported so far.
        self.least = min(BASE_OPSET, self.opset[""])
        self.functions: dict[str, onnx.FunctionProto] = {}
        self.taken = _value_names(root)

    def node(self, node: Node) -> onnx.NodeProto:
        """One node; a composite registers its function."""
        proto = onnx.NodeProto(op_type=node.op, domain=node.domain, name=node.name)
        kinds = _attribute_kinds(node.op, node.domain, self.opset.get(node.domain, 1))
        if node.domain == composites.DOMAIN:
            proto.op_type = self._function(node)
        else:
            self.least = max(self.least, _least_opset(node, self.opset[""]))
            proto.attribute.extend(attribute_protos(node.attrs, kinds))
            for name in sorted(node.attrs):
                value = node.attrs[name]
                if isinstance(value, Graph):
                    attribute = onnx.AttributeProto(name=name, type=onnx.AttributeProto.GRAPH)
                    attribute.g.CopyFrom(self.graph(value))
                    proto.attribute.append(attribute)
        proto.input.extend(_names(node.inputs))
        proto.output.extend(_names(tuple(node.outputs)))
        _locate(proto, node)
        return proto

    def _function(self, node: Node) -> str:
        """Register the function that a composite calls, and return its name."""
        body = _body(node)
        function = onnx.FunctionProto(domain=composites.DOMAIN)
        inputs = iter(body.inputs)
        function.input.extend(
            next(inputs).name if v is not None else f"absent{i}" for i, v in enumerate(node.inputs)
        )
        function.output.extend(f"out{i}" for i in range(len(body.outputs)))
        for value in body.constants():
            assert value.const is not None
            function.node.append(_constant_node(value.const, value.name))
        body.sort()
        for inner in body.nodes:
            function.node.extend(self.nodes(inner))
        for proto in function.node:
            # The call says where it comes from; a body that said it too could not be shared.
            proto.ClearField("metadata_props")
        for i, value in enumerate(body.outputs):
            function.node.append(_node("Identity", [value.name], f"out{i}"))
        digest = hashlib.sha256(function.SerializeToString(deterministic=True)).hexdigest()
        name = f"{node.op}_{digest[:10]}"
        function.name = name
        self.functions.setdefault(name, function)
        return name

    def graph(self, graph: Graph) -> onnx.GraphProto:
        """A graph or subgraph without its initializers."""
        graph.sort()
        proto = onnx.GraphProto(name=graph.name)
        proto.input.extend(_value_info(v) for v in graph.inputs)
        declared = set(graph.inputs) | set(graph.outputs)
        for node in graph.nodes:
            proto.node.extend(self.nodes(node))
            for value in node.outputs:
                if value is not None and value not in declared and value.type is not None:
                    proto.value_info.append(_value_info(value))
        outputs = graph.outputs if graph.parent is None else self._own_outputs(graph, proto)
        proto.output.extend(_value_info(v) for v in outputs)
        return proto

    def _own_outputs(self, graph: Graph, proto: onnx.GraphProto) -> list[Value]:
        """Outputs of a subgraph; onnxruntime demands that a node of the subgraph makes each."""
        outputs: list[Value] = []
        for value in graph.outputs:
            produced = value.producer is not None and value.producer.graph is graph
            if produced and value not in outputs:
                outputs.append(value)
                continue
            copied = Value(self._fresh(f"{value.name}_copy"), value.type)
            outputs.append(copied)
            proto.node.append(_node("Identity", [value.name], copied.name))
        return outputs

    def _fresh(self, stem: str) -> str:
        name, count = stem, 0
        while name in self.taken:
            count += 1
            name = f"{stem}_{count}"
        self.taken.add(name)
        return name

    def nodes(self, node: Node) -> list[onnx.NodeProto]:
        """One node, or several for an operator that onnxruntime lacks."""
        protos = self._swish(node) if node.key == "Swish" else [self.node(node)]
        # The body of a composite is widened itself.
        if self.widened and not node.domain and node.op not in _MOVES:
            return self._widen(node, protos)
        return protos

    def _widen(self, node: Node, protos: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
        """Let the protos of a node compute on float32 what has 16 bits outside."""
        before, after = [], []
        names: dict[str, str] = {}
        for value in dict.fromkeys(v for v in node.inputs if _is_narrow(v)):
            names[value.name] = self._fresh(f"{value.name}_widened")
            before.append(_cast(value.name, names[value.name], onnx.TensorProto.FLOAT))
        for value in (v for v in node.outputs if _is_narrow(v)):
            names[value.name] = self._fresh(f"{value.name}_unrounded")
            after.append(_cast(names[value.name], value.name, BY_NAME[value.dtype].onnx))
        for proto in protos:
            for refs in (proto.input, proto.output):
                refs[:] = [names.get(name, name) for name in refs]
        return [*before, *protos, *after]

    def _swish(self, node: Node) -> list[onnx.NodeProto]:
        """Swish(x) = x * Sigmoid(alpha * x).

        onnxruntime 1.31 has no kernel, and expands the operator in models of opset 24 only.
        """
        x, y = node.required(0), node.output
        scaled, protos = x.name, []
        alpha = node.float_attr("alpha", 1.0)
        if alpha != 1:
            factor, scaled = self._fresh(f"{y.name}_alpha"), self._fresh(f"{y.name}_scaled")
            array = np.asarray(alpha, to_numpy(x.dtype))
            protos.append(_constant_node(Constant(array), factor))
            protos.append(_node("Mul", [x.name, factor], scaled))
        gate = self._fresh(f"{y.name}_sigmoid")
        protos += [_node("Sigmoid", [scaled], gate), _node("Mul", [x.name, gate], y.name)]
        for proto, part in zip(
            protos, ("alpha", "scale", "gate", "mul")[-len(protos) :], strict=True
        ):
            proto.name = f"{node.name}/{part}"
        _locate(protos[-1], node)
        return protos


def _node(op: str, inputs: list[str], output: str) -> onnx.NodeProto:
    return onnx.NodeProto(op_type=op, input=inputs, output=[output])


def _cast(source: str, output: str, to: int) -> onnx.NodeProto:
    proto = _node("Cast", [source], output)
    proto.attribute.add(name="to", type=onnx.AttributeProto.INT, i=to)
    return proto


def _is_narrow(value: Value | None) -> TypeGuard[Value]:
    return value is not None and value.type is not None and value.dtype in _NARROW


def _constant_node(constant: Constant, output: str) -> onnx.NodeProto:
    node = onnx.NodeProto(op_type="Constant", output=[output])
    attribute = node.attribute.add(name="value", type=onnx.AttributeProto.TENSOR)
    attribute.t.CopyFrom(tensor_proto(constant, ""))
    return node


def _locate(proto: onnx.NodeProto, node: Node) -> None:
    """Keep the original names of a node that stands for others than its own name says."""
    if node.location.names and node.location.names != (proto.name,):
        proto.metadata_props.add(key=LOCATION_KEY, value="\n".join(node.location.names))


def _body(node: Node) -> Graph:
    body = node.attrs.get("body")
    if isinstance(body, Graph) and body.parent is None:
        return body
    return composites.body(node)


def _value_names(graph: Graph) -> set[str]:
    names = {v.name for v in (*graph.inputs, *graph.outputs, *graph.constants())}
    for node in graph.walk():
        names.update(v.name for v in node.outputs if v is not None)
        for inner in node.subgraphs():
            names.update(v.name for v in inner.inputs)
    return names


def _names(values: tuple[Value | None, ...]) -> list[str]:
    names = ["" if v is None else v.name for v in values]
    while names and not names[-1]:
        names.pop()
    return names


def _value_info(value: Value) -> onnx.ValueInfoProto:
    info = onnx.ValueInfoProto(name=value.name)
    if value.type is not None:
        info.type.CopyFrom(type_proto(value.type))
    return info


def to_model(graph: Graph, *, widened: bool = False) -> onnx.ModelProto:
    """The graph as an ONNX model with all data inside.

    The same graph gives the same bytes (``SerializeToString(deterministic=True)``).

    Args:
        graph: The graph.
        widened: Let nodes of bfloat16 and float16 compute on float32, between Casts, unless they
            only move elements: onnxruntime's CPU provider has no kernels for the former, and
            rounds no results between nodes of the latter.

    Raises:
        InputFileError: The constants do not fit into one protobuf message; use :func:`save`.
    """
    total = sum(v.const.nbytes for v in graph.constants() if v.const is not None)
    if total > EMBED_LIMIT:
        raise InputFileError(
            f"the model has {total} bytes of constants, more than one protobuf message can hold",
            hint="save it to a file, which puts them into a second one",
        )
    model = _skeleton(graph, widened=widened)
    for value in graph.constants():
        assert value.const is not None
        model.graph.initializer.append(tensor_proto(value.const, value.name))
    return model


def _skeleton(graph: Graph, *, widened: bool = False) -> onnx.ModelProto:
    """The model without initializers."""
    exporter = _Exporter(graph, widened=widened)
    model = onnx.ModelProto(ir_version=IR_VERSION, producer_name="burnish")
    model.graph.CopyFrom(exporter.graph(graph))
    opset = {**exporter.opset, "": exporter.least}
    if exporter.functions:
        opset[composites.DOMAIN] = 1
    for name in sorted(exporter.functions):
        function = exporter.functions[name]
        for domain in sorted({n.domain for n in function.node} | {""}):
            function.opset_import.add(domain=domain, version=opset.get(domain, 1))
        model.functions.append(function)
    for domain in sorted(opset):
        model.opset_import.add(domain=domain, version=opset[domain])
    return model


def subgraph_proto(graph: Graph) -> onnx.GraphProto:
    """A subgraph with its own constants inside; values of outer graphs stay names."""
    proto = _Exporter(graph.root).graph(graph)
    for value in graph.constants():
        assert value.const is not None
        proto.initializer.append(tensor_proto(value.const, value.name))
    return proto


def save(
    graph: Graph,
    path: str | Path,
    *,
    external_data: bool | None = None,
    widened: bool = False,
) -> None:
    """Write the graph as an ONNX file, all or nothing.

    Args:
        graph: The graph.
        path: The file; it is replaced if it exists.
        external_data: Write large constants to ``NAME.data`` beside it. Default: when they are
            too large for one file.
        widened: As in :func:`to_model`.

    Raises:
        InputFileError: The file cannot be written.
    """
    target = Path(path)
    constants = graph.constants()
    total = sum(v.const.nbytes for v in constants if v.const is not None)
    if external_data is None:
        external_data = total > EMBED_LIMIT
    try:
        if not external_data:
            data = to_model(graph, widened=widened).SerializeToString(deterministic=True)
            _replace(target, data)
            return
        model = _skeleton(graph, widened=widened)
        beside = target.with_name(target.name + ".data")
        with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as handle:
            try:
                for value in constants:
                    assert value.const is not None
                    model.graph.initializer.append(
                        _external(value.const, value.name, beside, handle)
                    )
            except BaseException:
                os.unlink(handle.name)
                raise
        os.replace(handle.name, beside)
        _replace(target, model.SerializeToString(deterministic=True))
    except OSError as error:
        raise InputFileError(
            f"cannot write {target}: {error.strerror or error}", at=str(target)
        ) from None


def _external(constant: Constant, name: str, beside: Path, handle: object) -> onnx.TensorProto:
    proto = tensor_proto(constant, name)
    if len(proto.raw_data) < EXTERNAL_THRESHOLD:
        return proto
    position = handle.tell()  # type: ignore[attr-defined]
    padding = -position % 4096
    handle.write(b"\0" * padding)  # type: ignore[attr-defined]
    handle.write(proto.raw_data)  # type: ignore[attr-defined]
    entries = {
        "location": beside.name,
        "offset": str(position + padding),
        "length": str(len(proto.raw_data)),
    }
    proto.ClearField("raw_data")
    proto.data_location = onnx.TensorProto.EXTERNAL
    for key, value in entries.items():
        proto.external_data.add(key=key, value=value)
    return proto


def _replace(target: Path, data: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise
