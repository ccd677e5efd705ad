"""From a graph of onnx-graphsurgeon to the IR, local functions inlined.

Nodes keep the form that they have in the model; :mod:`burnish.importers.upgrade` brings them to
the canonical opset.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.ir.tensor import LazyValues, SparseValues

from burnish.errors import ModelError
from burnish.importers.constants import Origin, constant_of
from burnish.importers.symbols import Symbols
from burnish.ir.graph import Attr, Constant, Graph, Location, Node, Value
from burnish.ir.types import BY_NUMPY, BY_ONNX, TensorType

#: Functions may call functions, but not themselves.
MAX_DEPTH = 64


@dataclass
class _Scope:
    """Where names are looked up: one function body or graph.

    Attributes:
        values: IR values by the identity of the GraphSurgeon tensor.
        attrs: Attributes of the function call that is being inlined.
        prefix: Names of the calls around, for locations and value names.
        opset: Versions of the domains that nodes here are written in.
    """

    values: dict[int, Value]
    opset: Mapping[str, int]
    attrs: Mapping[str, Attr] = field(default_factory=dict)
    prefix: tuple[str, ...] = ()


class Reader:
    """Builds the IR of one model.

    Args:
        origin: Where the data of the model lie.
        symbols: Makes dims.
        functions: Local functions by (domain, name).
    """

    def __init__(
        self,
        origin: Origin,
        symbols: Symbols,
        functions: Mapping[tuple[str, str], gs.Function],
    ) -> None:
        self.origin = origin
        self.symbols = symbols
        self.functions = functions
        #: Opset versions of nodes that do not follow the model's imports, by node.
        self.versions: dict[Node, int] = {}
        self._keep: list[object] = []  # tensors whose identity is a key must stay alive

    def read(self, source: gs.Graph, opset: Mapping[str, int]) -> Graph:
        """The main graph."""
        graph = Graph(source.name or "main")
        graph.opset = dict(opset)
        scope = _Scope({}, opset)
        for tensor in source.inputs:
            _require_tensor(tensor, "input")
            self._declare(graph, scope, tensor, graph.reserve(tensor.name))
            graph.inputs.append(scope.values[id(tensor)])
        for tensor in source.outputs:
            if id(tensor) not in scope.values:
                self._declare(graph, scope, tensor, graph.reserve(tensor.name))
        self._nodes(graph, scope, source.nodes)
        graph.set_outputs([self._output(graph, scope, t) for t in source.outputs])
        return graph

    def _subgraph(self, source: gs.Graph, parent: Graph, outer: _Scope) -> Graph:
        graph = Graph(source.name or "subgraph", parent)
        scope = _Scope(dict(outer.values), outer.opset, outer.attrs, outer.prefix)
        for tensor in source.inputs:
            self._declare(graph, scope, tensor, graph.unique_name(tensor.name))
            graph.inputs.append(scope.values[id(tensor)])
        self._nodes(graph, scope, source.nodes)
        graph.set_outputs([self._output(graph, scope, t) for t in source.outputs])
        # Constants of an outer graph that are first seen here are not repeated there.
        outer.values.update((k, v) for k, v in scope.values.items() if v.is_const)
        return graph

    def _declare(self, graph: Graph, scope: _Scope, tensor: gs.Tensor, name: str) -> Value:
        if isinstance(tensor, gs.Constant):
            const = self._constant(tensor)
            value = Value(name, const.type, const=const)
        else:
            value = Value(name, self._type(tensor))
        scope.values[id(tensor)] = value
        self._keep.append(tensor)
        return value

    def _type(self, tensor: gs.Variable) -> TensorType | None:
        """What the model declares of a value; used for inputs and where inference cannot tell."""
        if tensor.dtype is None or tensor.type not in (None, "tensor_type"):
            return None
        dtype = tensor.dtype
        row = BY_ONNX.get(dtype) if isinstance(dtype, int) else BY_NUMPY.get(np.dtype(dtype))
        if row is None:
            return None
        if tensor.shape is None:
            return TensorType(row.name, None)
        dims = (self.symbols.dim(d, tensor.name, i) for i, d in enumerate(tensor.shape))
        return TensorType(row.name, tuple(dims))

    def _constant(self, tensor: gs.Constant) -> Constant:
        values = tensor._values  # `values` would load the data
        if isinstance(values, SparseValues):
            raise ModelError(
                "sparse tensors are not supported",
                at=tensor.name,
                hint="store it as a dense initializer",
            )
        if isinstance(values, LazyValues):
            return constant_of(values.tensor, self.origin)
        array = np.asarray(values)
        if array.dtype not in BY_NUMPY:
            raise ModelError(f"constant of unsupported dtype {array.dtype}", at=tensor.name)
        return Constant(array)

    def _nodes(self, graph: Graph, scope: _Scope, nodes: Sequence[gs.Node]) -> None:
        # Outputs first: a model whose nodes are out of order is sorted later.
        for node in nodes:
            for tensor in node.outputs:
                if tensor.is_empty():
                    continue
                if id(tensor) in scope.values:
                    if scope.values[id(tensor)].producer is not None or len(tensor.inputs) > 1:
                        raise ModelError(
                            f"value {tensor.name!r} is produced more than once", at=node.name
                        )
                    continue
                stem = "/".join((*scope.prefix, tensor.name))
                self._declare(graph, scope, tensor, graph.unique_name(stem))
        for index, node in enumerate(nodes):
            self._node(graph, scope, node, node.name or f"{node.op}_{index}")

    def _node(self, graph: Graph, scope: _Scope, node: gs.Node, name: str) -> None:
        domain = _domain(node.domain)
        full = "/".join((*scope.prefix, name))
        inputs = [self._input(graph, scope, t, full) for t in node.inputs]
        outputs = [None if t.is_empty() else scope.values[id(t)] for t in node.outputs]
        function = self.functions.get((domain, node.op))
        if function is not None:
            self._inline(graph, scope, node, function, name, inputs, outputs)
            return
        for value in outputs:
            if value is not None and value.producer is not None:
                raise ModelError(f"value {value.name!r} is produced more than once", at=full)
        attrs = self._attrs(graph, scope, node, full)
        if domain == "" and node.op == "Constant":
            self._constant_node(outputs[0], attrs, full)
            return
        made = Node(node.op, inputs, outputs, attrs, domain=domain, location=Location((full,)))
        made.name = full
        graph.append(made)
        version = scope.opset.get(domain)
        if version is not None and version != graph.root.opset.get(domain):
            self.versions[made] = version

    def _input(self, graph: Graph, scope: _Scope, tensor: gs.Tensor, at: str) -> Value | None:
        if tensor.is_empty():
            return None
        if id(tensor) not in scope.values:
            if not isinstance(tensor, gs.Constant):
                raise ModelError(
                    f"value {tensor.name!r} is used but nothing produces it",
                    at=at,
                    hint="the model is damaged, or was cut out of a larger one",
                )
            stem = "/".join((*scope.prefix, tensor.name))
            self._declare(graph, scope, tensor, graph.unique_name(stem or "const"))
        return scope.values[id(tensor)]

    def _output(self, graph: Graph, scope: _Scope, tensor: gs.Tensor) -> Value:
        value = scope.values.get(id(tensor))
        if value is None and isinstance(tensor, gs.Constant):
            const = self._constant(tensor)
            value = Value(tensor.name, const.type, const=const)
            scope.values[id(tensor)] = value
        known = value is not None and (value.is_const or value.producer or value in graph.inputs)
        if value is None or not known:
            raise ModelError("graph output that nothing produces", at=tensor.name)
        return value

    def _constant_node(self, value: Value | None, attrs: dict[str, Attr], at: str) -> None:
        """A Constant node becomes a constant; opset 1 to 25 have six spellings of the data."""
        if value is None:
            return
        value.const = _constant_of_attrs(attrs, at)
        value.type = value.const.type

    def _attrs(self, graph: Graph, scope: _Scope, node: gs.Node, at: str) -> dict[str, Attr]:
        attrs: dict[str, Attr] = {}
        for name, value in node.attrs.items():
            if isinstance(value, gs.Node.AttributeRef):
                if value.name in scope.attrs:
                    attrs[name] = scope.attrs[value.name]
                continue
            attrs[name] = self._attr(graph, scope, name, value, at)
        return attrs

    def _attr(self, graph: Graph, scope: _Scope, name: str, value: object, at: str) -> Attr:
        if isinstance(value, gs.Graph):
            return self._subgraph(value, graph, scope)
        if isinstance(value, gs.Constant):
            return self._constant(value)
        if isinstance(value, np.ndarray):
            return Constant(value)
        if isinstance(value, (list, tuple)):
            return tuple(value)
        if isinstance(value, (int, float, str, bytes)):
            return value
        if isinstance(value, (type, np.dtype)):
            # GraphSurgeon turns the ``to`` of a Cast that it makes into a numpy dtype.
            return BY_NUMPY[np.dtype(value)].onnx
        raise ModelError(f"attribute {name!r} has an unsupported type", at=at)

    def _inline(
        self,
        graph: Graph,
        scope: _Scope,
        call: gs.Node,
        function: gs.Function,
        name: str,
        inputs: Sequence[Value | None],
        outputs: Sequence[Value | None],
    ) -> None:
        """Replace a call by the nodes of the function."""
        if len(scope.prefix) >= MAX_DEPTH:
            raise ModelError(f"local function {function.name!r} calls itself", at=name)
        attrs: dict[str, Attr] = {}
        for key, default in (function.attrs or {}).items():
            if default is not None:
                attrs[key] = self._attr(graph, scope, key, default, name)
        attrs.update(self._attrs(graph, scope, call, name))
        # Every inlining makes new values, so the map starts with the parameters only.
        inner = _Scope({}, _function_opset(function, scope.opset), attrs, (*scope.prefix, name))
        absent: set[int] = set()
        for i, tensor in enumerate(function.inputs):
            value = inputs[i] if i < len(inputs) else None
            if value is None:
                absent.add(id(tensor))
            else:
                inner.values[id(tensor)] = value
        for i, tensor in enumerate(function.outputs):
            value = outputs[i] if i < len(outputs) else None
            if id(tensor) in inner.values:
                # The function passes an input through.
                if value is not None:
                    passed = inner.values[id(tensor)]
                    graph.append(Node("Identity", [passed], [value], name=f"{name}/identity"))
            elif value is not None:
                inner.values[id(tensor)] = value
        body = _without_absent(function.nodes, absent)
        self._nodes(graph, inner, body)


def _without_absent(nodes: Sequence[gs.Node], absent: set[int]) -> list[gs.Node]:
    """Nodes of a function body where parameters that the call leaves out are left out too."""
    if not absent:
        return list(nodes)
    result = []
    for node in nodes:
        if any(id(t) in absent for t in node.inputs):
            inputs = [gs.Variable.empty() if id(t) in absent else t for t in node.inputs]
            copied = _Call(node, inputs)
            result.append(copied)
        else:
            result.append(node)
    return result


class _Call:
    """A view of a GraphSurgeon node with other inputs; the node itself is shared by all calls."""

    def __init__(self, node: gs.Node, inputs: list[gs.Tensor]) -> None:
        self.op, self.name, self.domain = node.op, node.name, node.domain
        self.attrs, self.outputs, self.inputs = node.attrs, node.outputs, inputs


def _domain(domain: str | None) -> str:
    return "" if domain in (None, "ai.onnx") else str(domain)


def _function_opset(function: gs.Function, outer: Mapping[str, int]) -> Mapping[str, int]:
    imports = function.import_domains or ()
    return {**outer, **{_domain(o.domain): int(o.version) for o in imports}}


def _require_tensor(tensor: gs.Tensor, role: str) -> None:
    if isinstance(tensor, gs.Variable) and tensor.type not in (None, "tensor_type"):
        raise ModelError(
            f"graph {role} of type {tensor.type.removesuffix('_type')}; only tensors are supported",
            at=tensor.name,
        )
    if isinstance(tensor, gs.Variable) and tensor.dtype is None:
        raise ModelError(f"graph {role} without an element type", at=tensor.name)


def _constant_of_attrs(attrs: Mapping[str, Attr], at: str) -> Constant:
    if len(attrs) != 1:
        raise ModelError("a Constant node must have exactly one value", at=at)
    ((name, value),) = attrs.items()
    if name == "value" and isinstance(value, Constant):
        return value
    dtypes = {"value_float": "float32", "value_int": "int64", "value_string": "object"}
    dtype = dtypes.get(name.removesuffix("s"))
    if dtype is None or isinstance(value, (Constant, Graph)):
        raise ModelError(f"Constant with unsupported attribute {name!r}", at=at)
    return Constant(np.asarray(value, dtype=dtype))


def functions_of(source: gs.Graph) -> dict[tuple[str, str], gs.Function]:
    """Local functions by (domain, name)."""
    return {(_domain(f.domain), f.name): f for f in source.functions}


def opset_of(model: onnx.ModelProto | onnx.FunctionProto) -> dict[str, int]:
    """Opset versions by domain; ``ai.onnx`` is the empty domain."""
    return {_domain(o.domain): int(o.version) for o in model.opset_import}
