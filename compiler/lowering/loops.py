"""Loops in the one form that is lowered: Loop with a number of iterations and a condition."""

from __future__ import annotations

import numpy as np

from burnish.ir import Builder, Graph, Node, Value
from burnish.ir.infer.common import axis_of

_FOREVER = int(np.iinfo(np.int64).max)


def complete(node: Node) -> None:
    """Give a Loop the operands that it leaves out: no limit, and a condition that holds."""
    graph = node.graph
    assert graph is not None
    b = Builder(graph, node.location)
    if node.input(0) is None:
        node.set_input(0, b.ints(_FOREVER, "trips"))
    if node.input(1) is None:
        node.set_input(1, b.constant(np.array(True), "condition"))


def scan_to_loop(node: Node) -> None:
    """Replace a Scan (opset 9 and later) by a Loop whose body picks the slices itself."""
    graph, body = node.graph, node.attrs.pop("body")
    assert graph is not None
    assert isinstance(body, Graph)
    b = Builder(graph, node.location)
    count = node.int_attr("num_scan_inputs")
    states = len(node.inputs) - count
    sources = [node.required(i) for i in range(states, len(node.inputs))]
    axes = node.ints_attr("scan_input_axes", (0,) * count)
    along = [axis_of(a, len(s.shape)) for a, s in zip(axes, sources, strict=True)]
    steps = b.op("Shape", sources[0], start=along[0], end=along[0] + 1)
    backwards = node.ints_attr("scan_input_directions", (0,) * count)
    _pick_slices(body, states, list(zip(sources, along, backwards, strict=True)), steps)
    results = [v.type for v in node.outputs if v is not None]
    made = b.node(
        "Loop",
        [steps, b.constant(np.array(True), "condition"), *node.inputs[:states]],
        {"body": body},
        outputs=len(results),
    )
    outputs: list[Value | None] = list(made.outputs[:states])
    scanned = len(results) - states
    out_axes = node.ints_attr("scan_output_axes", (0,) * scanned)
    directions = node.ints_attr("scan_output_directions", (0,) * scanned)
    for value, axis, reverse in zip(made.outputs[states:], out_axes, directions, strict=True):
        assert value is not None
        outputs.append(_placed(b, value, axis, bool(reverse)))
    for old, new in zip(node.outputs, outputs, strict=True):
        if old is not None and new is not None:
            graph.replace_uses(old, new)
    graph.remove(node)


def _pick_slices(
    body: Graph, states: int, scanned: list[tuple[Value, int, int]], steps: Value
) -> None:
    """Turn a Scan's body into that of a Loop, whose scanned values are slices of outer tensors."""
    b = Builder(body)
    carried, slices = body.inputs[:states], body.inputs[states:]
    iteration, condition = body.value("iteration"), body.value("condition")
    body.inputs = [iteration, condition, *carried]
    for inner, (source, axis, backwards) in zip(slices, scanned, strict=True):
        index = iteration
        if backwards:
            last = b.op("Sub", steps, b.ints([1]))
            index = b.op("Sub", b.op("Squeeze", last, b.ints([0])), iteration)
        body.replace_uses(inner, b.op("Gather", source, index, axis=axis))
    body.set_outputs([condition, *body.outputs])
    body.sort()


def _placed(b: Builder, value: Value, axis: int, reverse: bool) -> Value:
    """A stacked output with its first axis reversed, and moved to where the Scan wants it."""
    if reverse:
        far = int(np.iinfo(np.int64).min)
        value = b.op("Slice", value, b.ints([-1]), b.ints([far]), b.ints([0]), b.ints([-1]))
    rank = len(value.shape)
    position = axis_of(axis, rank)
    if position == 0:
        return value
    order = [*range(1, position + 1), 0, *range(position + 1, rank)]
    return b.op("Transpose", value, perm=tuple(order))
