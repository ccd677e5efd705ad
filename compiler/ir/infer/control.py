"""Operators that hold subgraphs."""

from __future__ import annotations

from collections.abc import Sequence

from burnish.errors import ShapeError
from burnish.ir import dims
from burnish.ir.dims import UNKNOWN, Dim
from burnish.ir.graph import Graph, Node, Value
from burnish.ir.infer.common import at_least_zero, axis_of, elements, scalar_int
from burnish.ir.infer.registry import Result, infer, infer_graph, unrecorded
from burnish.ir.types import TensorType


def _body(node: Node, name: str) -> Graph:
    graph = node.attrs.get(name)
    if not isinstance(graph, Graph):
        raise ShapeError(f"attribute {name} is missing")
    return graph


@infer("If")
def if_(node: Node) -> Sequence[Result]:
    """Dims on which both branches agree stay; a condition that is decided picks its branch."""
    then, otherwise = _body(node, "then_branch"), _body(node, "else_branch")
    unrecorded(then)
    unrecorded(otherwise)
    if len(then.outputs) != len(node.outputs) or len(otherwise.outputs) != len(node.outputs):
        raise ShapeError("the branches have another number of outputs")
    decided = elements(node.input(0))
    if decided and isinstance(decided[0], int):
        taken = then if decided[0] else otherwise
        return [(v.type, elements(v)) if v.type is not None else None for v in taken.outputs]
    return merge_branches(node)


def merge_branches(node: Node) -> list[TensorType | None]:
    """The types of an If whose branches are typed already."""
    then, otherwise = _body(node, "then_branch"), _body(node, "else_branch")
    return [_merged(a, b) for a, b in zip(then.outputs, otherwise.outputs, strict=True)]


def _merged(a: Value, b: Value) -> TensorType | None:
    if a.type is None or b.type is None:
        return None
    if a.type.dtype != b.type.dtype:
        raise ShapeError(f"the branches give {a.type.dtype} and {b.type.dtype}")
    return TensorType(a.type.dtype, _common(a.type, b.type))


def _common(a: TensorType, b: TensorType) -> tuple[Dim, ...] | None:
    if a.shape is None or b.shape is None or len(a.shape) != len(b.shape):
        return None
    return tuple(x if dims.equal(x, y) else UNKNOWN for x, y in zip(a.shape, b.shape, strict=True))


def _assign(value: Value, type: TensorType | None) -> None:
    value.type, value.content = type, None


def _settle(body: Graph, carried: Sequence[Value], results: Sequence[Value]) -> None:
    """Infer a loop body until the types that it carries around hold for every iteration."""
    for _ in range(sum(len(v.type.shape or ()) + 1 for v in carried if v.type is not None) + 1):
        infer_graph(body)
        changed = False
        for before, after in zip(carried, results, strict=True):
            if before.type is None or after.type is None:
                continue
            if before.type.dtype != after.type.dtype:
                raise ShapeError(
                    f"the loop carries {before.type.dtype} in and {after.type.dtype} out"
                )
            shape = _common(before.type, after.type)
            if not _as_known(shape, before.type.shape):
                _assign(before, TensorType(before.type.dtype, shape))
                changed = True
        if not changed:
            return


def _as_known(new: tuple[Dim, ...] | None, old: tuple[Dim, ...] | None) -> bool:
    """Whether widening ``old`` to ``new`` changed nothing."""
    if new is None or old is None:
        return new is old
    return [d is UNKNOWN for d in new] == [d is UNKNOWN for d in old]


def _trips(node: Node, body: Graph) -> Dim:
    """The number of iterations, where the condition never ends the loop."""
    condition, following = node.input(1), body.outputs[0]
    while following.producer is not None and following.producer.key == "Identity":
        following = following.producer.required(0)
    goes_on = following is body.inputs[1] or scalar_int(following) == 1
    starts = condition is None or scalar_int(condition) == 1
    trips = elements(node.input(0))
    if not trips or not (goes_on and starts):
        return UNKNOWN
    return at_least_zero(trips[0])


@infer("Loop")
def loop(node: Node) -> Sequence[Result]:
    """Loop(max_trips?, condition?, carried...): the final values, then the scanned outputs."""
    body = _body(node, "body")
    initial = node.inputs[2:]
    if len(body.inputs) != len(initial) + 2:
        raise ShapeError(f"the body has {len(body.inputs)} inputs, not {len(initial) + 2}")
    seed_body(node)
    carried = body.inputs[2:]
    results = body.outputs[1 : 1 + len(carried)]
    _settle(body, carried, results)
    # Zero iterations return the initial value: `carried` holds for it and for every later one.
    types: list[Result] = [v.type for v in carried]
    count = _trips(node, body)
    for value in body.outputs[1 + len(carried) :]:
        if value.type is None:
            types.append(None)
            continue
        inner_shape = value.type.shape
        shape = None if inner_shape is None else (count, *inner_shape)
        types.append(TensorType(value.type.dtype, shape))
    return types


def _scan_inputs(node: Node, body: Graph) -> Dim:
    """Type the inputs of a Scan body; returns the number of steps."""
    count = node.int_attr("num_scan_inputs")
    states = len(node.inputs) - count
    axes = node.ints_attr("scan_input_axes", (0,) * count)
    time: Dim = UNKNOWN
    for i, (inner, outer) in enumerate(zip(body.inputs, node.inputs, strict=True)):
        if outer is None or outer.type is None:
            _assign(inner, None)
            continue
        shape = outer.type.shape
        if i >= states and shape is not None:
            axis = axis_of(axes[i - states], len(shape))
            time = shape[axis]
            shape = (*shape[:axis], *shape[axis + 1 :])
        _assign(inner, TensorType(outer.type.dtype, shape))
    return time


@infer("Scan")
def scan(node: Node) -> Sequence[Result]:
    """Scan(states..., scanned inputs...), opset 9 and later."""
    body = _body(node, "body")
    if len(body.inputs) != len(node.inputs):
        raise ShapeError(f"the body has {len(body.inputs)} inputs, not {len(node.inputs)}")
    states = len(node.inputs) - node.int_attr("num_scan_inputs")
    time = _scan_inputs(node, body)
    _settle(body, body.inputs[:states], body.outputs[:states])
    types: list[Result] = [v.type for v in body.inputs[:states]]
    scanned = body.outputs[states:]
    out_axes = node.ints_attr("scan_output_axes", (0,) * len(scanned))
    for value, out_axis in zip(scanned, out_axes, strict=True):
        if value.type is None:
            types.append(None)
        elif value.type.shape is None:
            types.append(value.type)
        else:
            inner_shape = value.type.shape
            axis = axis_of(out_axis, len(inner_shape) + 1)
            shape = (*inner_shape[:axis], time, *inner_shape[axis:])
            types.append(TensorType(value.type.dtype, shape))
    return types


def seed_body(node: Node) -> None:
    """Give the inputs of a loop body the types of the first iteration, before it is inferred."""
    body = node.attrs.get("body")
    if not isinstance(body, Graph):
        return
    if node.op == "Loop" and len(body.inputs) == len(node.inputs):
        _assign(body.inputs[0], TensorType("int64", ()))
        _assign(body.inputs[1], TensorType("bool", ()))
        for inner, outer in zip(body.inputs[2:], node.inputs[2:], strict=True):
            _assign(inner, outer.type if outer is not None else inner.type)
    elif node.op == "Scan" and len(body.inputs) == len(node.inputs):
        _scan_inputs(node, body)
