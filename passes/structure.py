"""A hash of what a graph computes and how, names of values and nodes left out."""

from __future__ import annotations

from burnish.ir import Attr, Constant, Graph, Node, Value

#: Larger constants are told apart by identity, not by their elements.
_MAX_BYTES = 1 << 12


def structure_hash(graph: Graph) -> int:
    """Equal for two states of a graph that differ in names and in the order of nodes only.

    The nodes must be in topological order. Hashes are of one process.
    """
    return _Hasher().graph(graph)


class _Hasher:
    def __init__(self) -> None:
        self._values: dict[Value, int] = {}

    def graph(self, graph: Graph) -> int:
        """Hash a graph; what surrounds it has been hashed before."""
        for value in graph.inputs:
            self._values[value] = hash(("input", value.name))
        nodes = [self._node(node) for node in graph.nodes]
        # Equal nodes count as often as they are there.
        return hash((tuple(sorted(nodes)), tuple(self._value(v) for v in graph.outputs)))

    def _node(self, node: Node) -> int:
        attrs = tuple(sorted((k, self._attribute(v)) for k, v in node.attrs.items()))
        operands = tuple(self._value(v) for v in node.inputs)
        outputs = tuple(v is not None for v in node.outputs)
        result = hash((node.op, node.domain, operands, attrs, outputs))
        for index, value in enumerate(node.outputs):
            if value is not None:
                self._values[value] = hash((result, index))
        return result

    def _value(self, value: Value | None) -> int:
        if value is None:
            return 0
        if value.const is not None:
            return _constant(value.const)
        return self._values[value]

    def _attribute(self, attr: Attr) -> int:
        if isinstance(attr, Graph):
            return self.graph(attr)
        if isinstance(attr, Constant):
            return _constant(attr)
        # 1 and 1.0 hash alike but are different attributes.
        return hash((type(attr).__name__, attr))


def _constant(const: Constant) -> int:
    if const.nbytes > _MAX_BYTES:
        return hash((str(const.type), id(const)))
    elements = const.array
    data = tuple(elements.flat) if elements.dtype.hasobject else elements.tobytes()
    return hash((str(const.type), data))
