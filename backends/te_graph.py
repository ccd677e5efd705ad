"""The tensor expressions of a node or of a group of elementwise nodes: what backends schedule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tvm import te, tirx

from burnish.errors import LoweringError
from burnish.ir.graph import Graph, Node, Value
from burnish.lowering import registry
from burnish.lowering.module_ops import VIEWS
from burnish.lowering.ops.common import const
from burnish.lowering.te_context import Symbols, TeContext


@dataclass(frozen=True)
class TeGraph:
    """Tensor expressions between placeholders and results.

    Attributes:
        inputs: Values to pass, in order; fewer than the node's where some are compiled in.
        placeholders: The TE input of each.
        outputs: Values that are computed, in order.
        results: The tensor of each.
    """

    inputs: tuple[Value, ...]
    placeholders: tuple[te.Tensor, ...]
    outputs: tuple[Value, ...]
    results: tuple[te.Tensor, ...]


def te_graph(node: Node, symbols: Symbols) -> TeGraph:
    """The tensor expressions of a plain operator or of an Elementwise composite.

    Raises:
        LoweringError: An operator has no tensor expression.
    """
    return (
        _of_group(node, symbols) if node.key == "burnish::Elementwise" else _of_node(node, symbols)
    )


def passed_inputs(rule: registry.Rule, node: Node) -> tuple[Value, ...]:
    """The inputs that are arguments of a plain operator's kernel, each once."""
    passed: dict[Value, None] = {}
    for index, value in enumerate(node.inputs):
        if value is None or registry.is_compile_time(rule, node, index):
            continue
        if rule.kernel or not _is_scalar_constant(value):
            passed[value] = None
    return tuple(passed)


def _of_node(node: Node, symbols: Symbols) -> TeGraph:
    rule = registry.find(node)
    if rule is None:
        raise LoweringError(f"{node.key} has no lowering", at=str(node.location))
    passed = passed_inputs(rule, node)
    tensors = {v: _placeholder(v, symbols, f"in{i}") for i, v in enumerate(passed)}
    results = [t for t in _apply(node, tensors, symbols) if t is not None]
    outputs = tuple(v for v in node.outputs if v is not None)
    return TeGraph(passed, tuple(tensors[v] for v in passed), outputs, tuple(results))


def _of_group(node: Node, symbols: Symbols) -> TeGraph:
    body = node.attrs["body"]
    assert isinstance(body, Graph)
    outer = tuple(node.required(i) for i in range(len(node.inputs)))
    tensors: dict[Value, Any] = {
        v: _placeholder(v, symbols, f"in{i}") for i, v in enumerate(body.inputs)
    }
    inputs = tuple(tensors[v] for v in body.inputs)
    for inner in body.nodes:
        if inner.op in VIEWS and not inner.domain:
            source = inner.required(0)
            tensor = tensors.get(source)
            if tensor is None:
                tensor = _scalar_constant(source, symbols)
            results: tuple[Any, ...] = (_view(tensor, inner.output, symbols),)
        else:
            results = _apply(inner, tensors, symbols)
        tensors.update(
            (v, r) for v, r in zip(inner.outputs, results, strict=False) if v is not None
        )
    outputs = tuple(v for v in node.outputs if v is not None)
    return TeGraph(outer, inputs, outputs, tuple(tensors[v] for v in body.outputs))


def _apply(
    node: Node, tensors: Mapping[Value, te.Tensor], symbols: Symbols
) -> tuple[te.Tensor | None, ...]:
    """Apply a node's TE rule.

    Args:
        node: The node; all types known.
        tensors: The tensor of every input that is not known at compile time.
        symbols: Variables of the shape symbols.

    Returns:
        One tensor for each output of the node; None for those that nobody asked for.
    """
    rule = registry.find(node)
    if rule is None or rule.kernel:
        raise LoweringError(f"{node.key} has no tensor expression", at=str(node.location))
    ctx = TeContext(node, symbols)
    arguments: list[te.Tensor | None] = []
    for index, value in enumerate(node.inputs):
        if value is None or registry.is_compile_time(rule, node, index):
            arguments.append(None)
        elif value in tensors:
            arguments.append(tensors[value])
        else:
            arguments.append(_scalar_constant(value, symbols))
    results = rule.function(ctx, *arguments, **registry.attributes(rule, node))
    if not isinstance(results, tuple):
        results = (results,)
    return tuple(
        result if value is not None else None
        for result, value in zip(results, node.outputs, strict=False)
    )


def _placeholder(value: Value, symbols: Symbols, name: str) -> te.Tensor:
    """A TE input of a value's type."""
    return te.placeholder([symbols.expr(d) for d in value.shape], value.dtype, name)


def _is_scalar_constant(value: Value) -> bool:
    """A constant of one element, which is compiled into the code."""
    return value.is_const and all(d == 1 for d in value.shape)


def _scalar_constant(value: Value, symbols: Symbols) -> te.Tensor:
    """The tensor of a constant of one element."""
    if not _is_scalar_constant(value):
        raise LoweringError(f"{value.name} is neither an argument nor a scalar constant")
    number = value.array.reshape(-1).tolist()[0]
    shape = [symbols.expr(d) for d in value.shape]
    return te.compute(shape, lambda *i: const(number, value.dtype), name="constant")


def _view(tensor: Any, value: Value, symbols: Symbols) -> Any:
    """A reshape as an index map: row-major offset in the new shape, unravelled in the old."""
    shape = [symbols.expr(d) for d in value.shape]
    old = list(tensor.shape)

    def read(*at: Any) -> Any:
        offset: Any = tirx.const(0, "int64")
        for i, extent in zip(at, shape, strict=True):
            offset = offset * extent + i
        index: list[Any] = []
        for extent in reversed(old):
            index.insert(0, tirx.floormod(offset, extent))
            offset = tirx.floordiv(offset, extent)
        return tensor(*index)

    return te.compute(shape, read, name="view")
