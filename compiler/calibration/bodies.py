"""Extremes of values inside If, Loop and Scan, as further outputs of a model.

A value of a body exists once for each iteration, or not at all where its branch is not taken. So
the body reduces it to one row of three numbers, whose merging is their maximum: the largest of the
negated finite numbers, the largest finite number, and 1 if there is any other number. Rows leave a
branch as an output to which the other branch adds an empty row, a loop as a scanned output that the
graph around it reduces again; and so on up to the outputs of the model.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import onnx.parser
from numpy.typing import NDArray

#: Domain of the functions that reduce.
_DOMAIN: Final = "burnish.calibration"
_NONE: Final = np.array([np.finfo(np.float32).min, np.finfo(np.float32).min, 0.0], np.float32)
_ROW: Final = len(_NONE)
#: ``Extremes`` makes the row of a tensor, ``Merge`` one row of any number of rows. Reductions get
#: something to reduce where there is nothing: ONNX leaves results of empty ones to the runtime.
_FUNCTIONS: Final = (
    """Extremes (x) => (row) {
    flat_shape = Constant<value_ints = [-1]>()
    flat = Reshape(x, flat_shape)
    infinite = IsInf(flat)
    invalid = IsNaN(flat)
    left_out = Or(infinite, invalid)
    least = Constant<value_floats = [-3.4028234663852886e38]>()
    negated = Neg(flat)
    negated_finite = Where(left_out, least, negated)
    negated_all = Concat<axis = 0>(negated_finite, least)
    low = ReduceMax<keepdims = 1>(negated_all)
    finite = Where(left_out, least, flat)
    all = Concat<axis = 0>(finite, least)
    high = ReduceMax<keepdims = 1>(all)
    zero = Constant<value_floats = [0.0]>()
    marks = Cast<to = 1>(left_out)
    all_marks = Concat<axis = 0>(marks, zero)
    mark = ReduceMax<keepdims = 1>(all_marks)
    row = Concat<axis = 0>(low, high, mark)
}""",
    """Merge (rows) => (row) {
    table_shape = Constant<value_ints = [-1, 3]>()
    table = Reshape(rows, table_shape)
    empty = Constant<value_floats = [-3.4028234663852886e38, -3.4028234663852886e38, 0.0]>()
    row_shape = Constant<value_ints = [1, 3]>()
    empty_row = Reshape(empty, row_shape)
    filled = Concat<axis = 0>(table, empty_row)
    axes = Constant<value_ints = [0]>()
    row = ReduceMax<keepdims = 0>(filled, axes)
}""",
)


def extremes(row: NDArray[np.float32]) -> NDArray[np.float32]:
    """What a row stands for: the least and the largest finite number, and one that is not finite.

    Args:
        row: [3] float32, as an output that :func:`expose` adds.

    Returns:
        [0] to [3] float32; neither extreme if there is no finite number, no infinity if all are.
    """
    low, high = -row[0], row[1]
    finite = [low, high] if low <= high else []
    return np.array([*finite, *([np.inf] if row[2] else [])], np.float32)


def expose(model: onnx.ModelProto, names: Collection[str]) -> dict[str, str]:
    """Let a model have the extremes of values of its bodies as outputs.

    Args:
        model: Changed in place.
        names: Values of type float32 in bodies at any depth; their names are unique in the model.

    Returns:
        The output with the row of each value, by its name.
    """
    rows = _Exposer(frozenset(names)).expose(model.graph)
    for row in rows.values():
        kind = onnx.TensorProto.FLOAT
        model.graph.output.append(onnx.helper.make_tensor_value_info(row, kind, [_ROW]))
    if rows:
        version = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
        head = f'<domain: "{_DOMAIN}", opset_import: ["" : {version}]>\n'
        model.functions.extend(onnx.parser.parse_function(head + text) for text in _FUNCTIONS)
        model.opset_import.append(onnx.helper.make_opsetid(_DOMAIN, 1))
    return rows


@dataclass
class _Exposer:
    """Adds nodes and outputs to graphs.

    Attributes:
        wanted: Names of values.
        count: Names made so far.
    """

    wanted: frozenset[str]
    count: int = field(default=0)

    def expose(self, graph: onnx.GraphProto) -> dict[str, str]:
        """Rows that ``graph`` itself computes of values of the bodies in it, by name."""
        found: dict[str, str] = {}
        for node in list(graph.node):
            bodies = [a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]
            inner = [self._rows(body) for body in bodies]
            for name in {name: None for rows in inner for name in rows}:
                for body, rows in zip(bodies, inner, strict=True):
                    self._output(body, rows.get(name))
                out = self._name()
                known = len(bodies[0].output) - 1 - (node.op_type == "Loop")
                node.output.extend([""] * (known - len(node.output)))
                node.output.append(out)
                if node.op_type != "If":
                    out = self._call(graph, "Merge", out)
                found[name] = out
            if node.op_type == "Scan":
                _extend_scan(node, sum(map(len, inner)))
        return found

    def _rows(self, body: onnx.GraphProto) -> dict[str, str]:
        """Rows of all values that a body makes, at any depth."""
        own = [name for name in _made(body) if name in self.wanted]
        rows = self.expose(body)
        return rows | {name: self._call(body, "Extremes", name) for name in own}

    def _output(self, body: onnx.GraphProto, row: str | None) -> None:
        """Let a body have a row as its last output; an empty one in a branch without the value."""
        if row is None:
            row = self._name()
            empty = onnx.numpy_helper.from_array(_NONE)
            body.node.append(onnx.helper.make_node("Constant", [], [row], value=empty))
        kind = onnx.TensorProto.FLOAT
        body.output.append(onnx.helper.make_tensor_value_info(row, kind, [_ROW]))

    def _call(self, graph: onnx.GraphProto, function: str, value: str) -> str:
        out = self._name()
        graph.node.append(onnx.helper.make_node(function, [value], [out], domain=_DOMAIN))
        return out

    def _name(self) -> str:
        self.count += 1
        return f"{_DOMAIN}/{self.count}"


def _made(graph: onnx.GraphProto) -> Iterator[str]:
    yield from (value.name for value in graph.input)
    for node in graph.node:
        yield from node.output


def _extend_scan(node: onnx.NodeProto, count: int) -> None:
    """Directions and axes of a Scan, where it has any, for ``count`` further outputs."""
    for attribute in node.attribute:
        if attribute.name in ("scan_output_axes", "scan_output_directions"):
            attribute.ints.extend([0] * count)
