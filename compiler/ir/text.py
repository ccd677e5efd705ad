"""The text form of the IR, in the manner of ONNX's own text syntax.

Every line is one node; result types follow as a comment::

    y = burnish::Conv <strides = [1, 1], postops = ["Relu"]> (x, w)  # float32[1,64,56,56]
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from burnish.ir.graph import Attr, Constant, Graph, Node, Value

#: Constants with more elements than this are written as their type only.
MAX_ELEMENTS = 16


def node_text(node: Node) -> str:
    """One line for a node, without its subgraphs' bodies."""
    results = ", ".join("_" if v is None else v.name for v in node.outputs)
    attrs = ", ".join(f"{k} = {attr_text(v)}" for k, v in sorted(node.attrs.items()))
    inputs = ", ".join("" if v is None else v.name for v in node.inputs)
    return f"{results} = {node.key} {f'<{attrs}> ' if attrs else ''}({inputs})"


def attr_text(attr: Attr) -> str:
    """An attribute's value."""
    if isinstance(attr, Graph):
        return f"graph {attr.name}"
    if isinstance(attr, Constant):
        return constant_text(attr)
    if isinstance(attr, tuple):
        return f"[{', '.join(map(_scalar_text, attr))}]"
    return _scalar_text(attr)


def constant_text(constant: Constant) -> str:
    """A constant: its type, and its elements when they are few."""
    count = int(np.prod([d for d in constant.type.dims if isinstance(d, int)], dtype=np.int64))
    if count > MAX_ELEMENTS:
        return f"{constant.type}"
    elements: Sequence[object] = constant.array.reshape(-1).tolist()
    return f"{constant.type} {{{', '.join(map(_scalar_text, elements))}}}"


def _scalar_text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.8g}"
    return f'"{value}"' if isinstance(value, str) else str(value)


def _value_text(value: Value) -> str:
    return f"{value.type} {value.name}"


def graph_text(graph: Graph, indent: str = "") -> str:
    """A graph with its subgraphs, one node a line; constants above the nodes."""
    inside = indent + "    "
    lines = [
        f"{indent}{graph.name} ({', '.join(map(_value_text, graph.inputs))}) => "
        f"({', '.join(map(_value_text, graph.outputs))}) {{"
    ]
    if graph.parent is None:
        lines += [
            f"{inside}{v.name} = {constant_text(v.const)}" for v in graph.constants() if v.const
        ]
    for node in graph.nodes:
        types = ", ".join("_" if v is None else str(v.type) for v in node.outputs)
        lines.append(f"{inside}{node_text(node)}  # {types}")
        lines += [
            graph_text(attr, inside) for attr in node.attrs.values() if isinstance(attr, Graph)
        ]
    lines.append(f"{indent}}}")
    return "\n".join(lines)
