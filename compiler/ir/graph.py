"""The graph: values, nodes, constants. SSA with ONNX semantics.

A :class:`Graph` owns its nodes. A :class:`Value` knows its producer and its uses, so every rewrite
is a local edit. Subgraphs (the branches of If, the bodies of Loop and Scan) are attributes that
hold a Graph; they refer to values of outer graphs directly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias, Union

import numpy as np

from burnish.ir.dims import Dim
from burnish.ir.types import BY_NAME, TensorType, UnknownTypeError, from_numpy

if TYPE_CHECKING:
    from burnish.ir.infer import Guard


@dataclass(frozen=True)
class Location:
    """Where a node comes from.

    Attributes:
        names: Names of the original model's nodes that it stands for, in graph order.
        via: Names of the passes and rules that made it, oldest first.
    """

    names: tuple[str, ...] = ()
    via: tuple[str, ...] = ()

    @staticmethod
    def merge(locations: Iterable[Location], via: str = "") -> Location:
        """The location of a node that replaces several; ``via`` names the rule that did it."""
        names: dict[str, None] = {}
        rules: dict[str, None] = {}
        for location in locations:
            names.update(dict.fromkeys(location.names))
            rules.update(dict.fromkeys(location.via))
        if via:
            rules[via] = None
        return Location(tuple(names), tuple(rules))

    def __str__(self) -> str:
        names = (
            "+".join(self.names) if len(self.names) <= 4 else f"{self.names[0]}+…+{self.names[-1]}"
        )
        return f"{names} via {', '.join(self.via)}" if self.via else names


class Constant:
    """A tensor that may load late: external data stays on disk until somebody asks for it.

    Args:
        array: The data, or a function that returns them.
        type: Needed when ``array`` is a function.
    """

    def __init__(
        self, array: np.ndarray | Callable[[], np.ndarray], type: TensorType | None = None
    ) -> None:
        self._array = array
        if isinstance(array, np.ndarray):
            type = TensorType(from_numpy(array.dtype), tuple(int(d) for d in array.shape))
        if type is None:
            raise ValueError("a lazy constant needs its type")
        self.type: TensorType = type

    @property
    def array(self) -> np.ndarray:
        """The data; loads them at the first call. Do not write to it."""
        if not isinstance(self._array, np.ndarray):
            self._array = self._array()
        return self._array

    @property
    def loaded(self) -> bool:
        """Whether the data are at hand already."""
        return isinstance(self._array, np.ndarray)

    @property
    def nbytes(self) -> int:
        """Size in bytes, without loading."""
        count = 1
        for d in self.type.dims:
            assert isinstance(d, int)
            count *= d
        return (count * BY_NAME[self.type.dtype].bits + 7) // 8


Attr: TypeAlias = Union[
    int, float, str, bytes, tuple[int, ...], tuple[float, ...], tuple[str, ...], Constant, "Graph"
]


@dataclass(eq=False)
class Value:
    """An edge of the graph: one tensor.

    Attributes:
        name: Unique in its graph; graph inputs and outputs keep the model's names.
        type: None until shape inference has run.
        producer: The node that makes it; None for graph inputs, constants and loop variables.
        const: The tensor, if it is a constant (an initializer).
        content: For small integer tensors whose elements are known as dims: the elements, in
            row-major order (usually of rank 0 or 1; a known content has a static shape).
        uses: (node, input index) of every use, subgraph nodes included.
        outputs_of: The graphs that it is an output of, as many times as it is one.
    """

    name: str
    type: TensorType | None = None
    producer: Node | None = None
    const: Constant | None = None
    content: tuple[Dim, ...] | None = None
    uses: list[tuple[Node, int]] = field(default_factory=list, repr=False)
    outputs_of: list[Graph] = field(default_factory=list, repr=False)

    @property
    def is_const(self) -> bool:
        """Whether the tensor is known."""
        return self.const is not None

    @property
    def array(self) -> np.ndarray:
        """The constant's data; raises ValueError for a value that is no constant."""
        if self.const is None:
            raise ValueError(f"{self.name} is not a constant")
        return self.const.array

    @property
    def t(self) -> TensorType:
        """The type, which must be known by now."""
        if self.type is None:
            raise UnknownTypeError(f"type of {self.name} is unknown")
        return self.type

    @property
    def shape(self) -> tuple[Dim, ...]:
        """The dims; rank must be known."""
        return self.t.dims

    @property
    def dtype(self) -> str:
        """The element type."""
        return self.t.dtype

    @property
    def is_output(self) -> bool:
        """Whether it is an output of a graph or subgraph."""
        return bool(self.outputs_of)

    def users(self) -> list[Node]:
        """The nodes that use it, each once, in order of use."""
        return list(dict.fromkeys(node for node, _ in self.uses))

    def single_user(self) -> Node | None:
        """The one node that uses it, if there is exactly one use and it is no graph output."""
        return self.uses[0][0] if len(self.uses) == 1 and not self.outputs_of else None

    def __str__(self) -> str:
        return f"%{self.name}: {self.type}"


class Node:
    """An operation.

    Attributes:
        op: Operator type, ``Conv``.
        domain: ``""`` for ONNX, ``"burnish"`` for composites, anything else for foreign operators.
        inputs: Values; None stands for an optional input that is left out. Change with
            :meth:`set_input` and :meth:`set_inputs` only.
        outputs: Values; None stands for an optional output that nobody asked for.
        attrs: Attributes by name; lists are tuples.
        name: Unique in its graph.
        location: The original nodes it stands for.
        graph: The graph that it is in.
    """

    def __init__(
        self,
        op: str,
        inputs: Sequence[Value | None],
        outputs: Sequence[Value | None],
        attrs: dict[str, Attr] | None = None,
        *,
        domain: str = "",
        name: str = "",
        location: Location | None = None,
    ) -> None:
        self.op = op
        self.domain = domain
        self.attrs: dict[str, Attr] = dict(attrs or {})
        self.name = name
        self.location = location or Location((name,) if name else ())
        self.graph: Graph | None = None
        self._inputs: list[Value | None] = []
        self.outputs: list[Value | None] = list(outputs)
        for value in outputs:
            if value is not None:
                value.producer = self
        self.set_inputs(inputs)

    @property
    def inputs(self) -> tuple[Value | None, ...]:
        """The inputs."""
        return tuple(self._inputs)

    @property
    def output(self) -> Value:
        """The first output."""
        first = self.outputs[0]
        assert first is not None
        return first

    def input(self, index: int) -> Value | None:
        """An input, or None when it is left out or beyond the last."""
        return self._inputs[index] if index < len(self._inputs) else None

    def required(self, index: int) -> Value:
        """An input that the operator cannot be without."""
        value = self.input(index)
        if value is None:
            raise ValueError(f"{self.op} {self.name!r} has no input {index}")
        return value

    def set_input(self, index: int, value: Value | None) -> None:
        """Replace one input."""
        old = self._inputs[index]
        if old is not None:
            old.uses.remove((self, index))
        self._inputs[index] = value
        if value is not None:
            value.uses.append((self, index))

    def set_inputs(self, values: Sequence[Value | None]) -> None:
        """Replace all inputs."""
        for index, old in enumerate(self._inputs):
            if old is not None:
                old.uses.remove((self, index))
        self._inputs = list(values)
        for index, value in enumerate(values):
            if value is not None:
                value.uses.append((self, index))

    def subgraphs(self) -> Iterator[Graph]:
        """Subgraphs among the attributes; the closed body of an Elementwise composite is none."""
        for attr in self.attrs.values():
            if isinstance(attr, Graph) and attr.parent is not None:
                yield attr

    def int_attr(self, name: str, default: int = 0) -> int:
        """An integer attribute."""
        value = self.attrs.get(name, default)
        assert isinstance(value, int), name
        return value

    def float_attr(self, name: str, default: float = 0.0) -> float:
        """A float attribute."""
        value = self.attrs.get(name, default)
        assert isinstance(value, (int, float)), name
        return float(value)

    def str_attr(self, name: str, default: str = "") -> str:
        """A string attribute."""
        value = self.attrs.get(name, default)
        assert isinstance(value, str), name
        return value

    def ints_attr(self, name: str, default: tuple[int, ...] = ()) -> tuple[int, ...]:
        """A list-of-integers attribute."""
        value = self.attrs.get(name, default)
        assert isinstance(value, tuple), name
        return tuple(int(v) for v in value)

    def strs_attr(self, name: str, default: tuple[str, ...] = ()) -> tuple[str, ...]:
        """A list-of-strings attribute."""
        value = self.attrs.get(name, default)
        assert isinstance(value, tuple), name
        return tuple(str(v) for v in value)

    @property
    def key(self) -> str:
        """Operator with its domain: ``Conv``, ``burnish::Conv``."""
        return f"{self.domain}::{self.op}" if self.domain else self.op

    def __repr__(self) -> str:
        return f"<{self.key} {self.name!r}>"


class Graph:
    """Nodes in topological order, inputs, outputs, constants.

    Attributes:
        name: Name of the model's graph.
        inputs: Graph inputs (initializers are not inputs).
        opset: Opset version by domain, at the canonical opset after import.
        parent: The graph around a subgraph.
        dim_bounds: Upper and lower bounds of symbols, where the user or the model gives them.
        dim_names: The model's own spelling of symbols whose names are no identifiers.
        notes: What the import changed or assumed, for the report.
        conditions: What the model demands of the sizes of its symbols.
    """

    def __init__(self, name: str = "main", parent: Graph | None = None) -> None:
        self.name = name
        self.inputs: list[Value] = []
        self._outputs: list[Value] = []
        self._nodes: dict[Node, None] = {}
        self._names: set[str] = set() if parent is None else parent.root._names
        self._node_names: set[str] = set() if parent is None else parent.root._node_names
        self._counters: dict[str, int] = {}
        self.parent = parent
        self.opset: dict[str, int] = {} if parent is None else parent.opset
        self.dim_bounds: dict[str, tuple[int, int]] = {} if parent is None else parent.dim_bounds
        self.dim_names: dict[str, str] = {} if parent is None else parent.dim_names
        self.notes: list[str] = [] if parent is None else parent.notes
        self.conditions: tuple[Guard, ...] = ()

    @property
    def root(self) -> Graph:
        """The outermost graph."""
        return self if self.parent is None else self.parent.root

    @property
    def nodes(self) -> list[Node]:
        """A snapshot of the nodes; safe to iterate while the graph changes."""
        return list(self._nodes)

    def __len__(self) -> int:
        return len(self._nodes)

    def __contains__(self, node: Node) -> bool:
        return node in self._nodes

    @property
    def outputs(self) -> tuple[Value, ...]:
        """Graph outputs; change with :meth:`set_outputs`."""
        return tuple(self._outputs)

    def set_outputs(self, values: Sequence[Value]) -> None:
        """Replace the outputs."""
        for old in self._outputs:
            old.outputs_of.remove(self)
        self._outputs = list(values)
        for value in values:
            value.outputs_of.append(self)

    def unique_name(self, stem: str) -> str:
        """A value name that is not used yet, and reserve it."""
        return _unique(stem, self.root._names, self.root._counters)

    def reserve(self, name: str) -> str:
        """Reserve a value name exactly; raises ValueError when it is taken."""
        if name in self.root._names:
            raise ValueError(f"duplicate value name {name!r}")
        self.root._names.add(name)
        return name

    def value(self, name: str, type: TensorType | None = None) -> Value:
        """A new value with a unique name made from ``name``."""
        return Value(self.unique_name(name), type)

    def constant(self, array: np.ndarray | Constant, name: str = "const") -> Value:
        """A new constant value."""
        const = array if isinstance(array, Constant) else Constant(np.asarray(array))
        return Value(self.unique_name(name), const.type, const=const)

    def append(self, node: Node) -> Node:
        """Add a node; its place is found by :meth:`sort`."""
        if not node.name or node.name in self.root._node_names:
            node.name = _unique(node.name or node.op, self.root._node_names, self.root._counters)
        self.root._node_names.add(node.name)
        node.graph = self
        self._nodes[node] = None
        return node

    def remove(self, node: Node) -> None:
        """Remove a node whose outputs nobody uses; raises ValueError when somebody does."""
        for value in node.outputs:
            if value is not None and (value.uses or value.outputs_of):
                raise ValueError(f"{node!r} is still used through {value.name}")
        node.set_inputs([])
        for graph in node.subgraphs():
            for inner in graph.walk():
                inner.set_inputs([])
                for nested in inner.subgraphs():
                    nested.set_outputs([])
            graph.set_outputs([])
        del self._nodes[node]
        node.graph = None

    def adopt(self, inner: Graph) -> list[Node]:
        """Move all nodes of a subgraph into this graph, and return them."""
        moved = inner.nodes
        for node in moved:
            del inner._nodes[node]
            self._nodes[node] = None
            node.graph = self
            for nested in node.subgraphs():
                nested.parent = self
        return moved

    def replace_uses(self, old: Value, new: Value) -> None:
        """Let every use of ``old`` read ``new``; a graph output keeps its name.

        When ``old`` is an output of the root graph and ``new`` is not one, the names are swapped,
        so that the model's output names survive. When ``new`` cannot take the name (it is a graph
        input, a constant, or an output itself), an Identity node carries it.
        """
        if old is new:
            return
        for node, index in list(old.uses):
            node.set_input(index, new)
        for graph in list(dict.fromkeys(old.outputs_of)):
            takes_name = new.producer is not None and not new.outputs_of
            if graph.parent is not None:
                replacement = new
            elif takes_name and new.producer is not None and new.producer.graph is graph:
                old.name, new.name = new.name, old.name
                replacement = new
            else:
                carried = Value(old.name, new.type, content=new.content)
                old.name = self.unique_name(old.name)
                self.root.append(Node("Identity", [new], [carried], name="output_identity"))
                replacement = carried
            graph.set_outputs([replacement if v is old else v for v in graph.outputs])

    def sort(self) -> None:
        """Sort the nodes topologically, stable; raises ValueError on a cycle."""
        order: dict[Node, None] = {}
        state: dict[Node, int] = {}
        for start in self._nodes:
            stack = [(start, iter(self._dependencies(start)))]
            if state.get(start) == 2:
                continue
            state[start] = 1
            while stack:
                node, deps = stack[-1]
                for dep in deps:
                    if state.get(dep, 0) == 0:
                        state[dep] = 1
                        stack.append((dep, iter(self._dependencies(dep))))
                        break
                    if state[dep] == 1:
                        raise ValueError(f"the graph has a cycle through {dep!r}")
                else:
                    stack.pop()
                    state[node] = 2
                    order[node] = None
        self._nodes = order

    def _dependencies(self, node: Node) -> list[Node]:
        found: dict[Node, None] = {}
        for value in _all_inputs(node):
            if value.producer is not None and value.producer in self._nodes:
                found[value.producer] = None
        return list(found)

    def walk(self) -> Iterator[Node]:
        """All nodes, those of subgraphs after the node that holds them."""
        for node in self.nodes:
            yield node
            for graph in node.subgraphs():
                yield from graph.walk()

    def constants(self) -> list[Value]:
        """Every constant that a node or an output uses, subgraphs included, each once."""
        found: dict[Value, None] = {}
        for node in self.walk():
            for value in node.inputs:
                if value is not None and value.is_const:
                    found[value] = None
            for graph in node.subgraphs():
                found.update((v, None) for v in graph.outputs if v.is_const)
        found.update((v, None) for v in self.outputs if v.is_const)
        return list(found)


def _unique(stem: str, taken: set[str], counters: dict[str, int]) -> str:
    name = stem
    while name in taken:
        counters[stem] = counters.get(stem, 0) + 1
        name = f"{stem}_{counters[stem]}"
    taken.add(name)
    return name


def _all_inputs(node: Node) -> Iterator[Value]:
    """Inputs of a node and everything that its subgraphs capture."""
    for value in node.inputs:
        if value is not None:
            yield value
    for graph in node.subgraphs():
        for inner in graph.nodes:
            yield from _all_inputs(inner)
        yield from graph.outputs
