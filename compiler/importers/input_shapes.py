"""User-given input shapes: fix, rename or bound the dims of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from burnish.errors import UsageError
from burnish.ir import dims
from burnish.ir.dims import Dim, Expr, sym
from burnish.ir.graph import Graph
from burnish.ir.types import TensorType

#: A size, a name, or bounds (min, max).
DimSpec: TypeAlias = int | str | tuple[int, int]


def apply_input_shapes(graph: Graph, shapes: Mapping[str, Sequence[DimSpec]]) -> None:
    """Apply shapes to the graph inputs and everything declared in terms of their symbols.

    Raises:
        UsageError: An unknown input, a wrong rank, or a size that contradicts the model.
    """
    inputs = {v.name: v for v in graph.inputs}
    bindings: dict[str, Dim] = {}
    for name, spec in shapes.items():
        if name not in inputs:
            raise UsageError(
                f"the model has no input {name!r}", hint=f"its inputs are {', '.join(inputs)}"
            )
        type = inputs[name].t
        if type.shape is None:
            type = TensorType(type.dtype, tuple(sym(f"{name}_{i}") for i in range(len(spec))))
            inputs[name].type = type
        if len(spec) != len(type.dims):
            raise UsageError(
                f"input {name!r} has {len(type.dims)} dims, but {len(spec)} are given",
                hint=f"its type is {type}",
            )
        for axis, (dim, wanted) in enumerate(zip(type.dims, spec, strict=True)):
            _bind(graph, bindings, dim, wanted, f"dim {axis} of input {name!r}")
    for value in _all_values(graph):
        if value.type is not None and value.type.shape is not None:
            shape = tuple(dims.substitute(d, bindings) for d in value.type.shape)
            value.type = TensorType(value.type.dtype, shape)
    for old, new in bindings.items():
        bounds = graph.dim_bounds.pop(old, None)
        if bounds is not None and isinstance(new, Expr):
            graph.dim_bounds[str(new)] = bounds


def _all_values(graph: Graph) -> list:  # type: ignore[type-arg]
    produced = [v for node in graph.walk() for v in node.outputs if v is not None]
    return list(dict.fromkeys([*graph.inputs, *produced, *graph.outputs]))


def _bind(graph: Graph, bindings: dict[str, Dim], dim: Dim, wanted: DimSpec, where: str) -> None:
    name = str(dim) if isinstance(dim, Expr) and dims.symbols(dim) == {str(dim)} else None
    if isinstance(wanted, tuple):
        _bound(graph, name, dim, wanted, where)
        return
    target: Dim = sym(wanted) if isinstance(wanted, str) else wanted
    if isinstance(target, int) and target < 0:
        raise UsageError(f"{where} cannot be {target}")
    if name is None:
        if not dims.equal(dims.substitute(dim, bindings), target):
            raise UsageError(f"{where} is {dim} in the model and cannot become {target}")
        return
    if name in bindings and not dims.equal(bindings[name], target):
        raise UsageError(f"{where}: {name} is given as {bindings[name]} and as {target}")
    bindings[name] = target


def _bound(graph: Graph, name: str | None, dim: Dim, wanted: tuple[int, int], where: str) -> None:
    low, high = wanted
    if not 0 <= low <= high:
        raise UsageError(f"{where}: {low}..{high} are no bounds")
    if name is None:
        if isinstance(dim, int) and low <= dim <= high:
            return
        raise UsageError(f"{where} is {dim} in the model and cannot be bounded")
    old_low, old_high = graph.dim_bounds.get(name, (low, high))
    if max(low, old_low) > min(high, old_high):
        raise UsageError(f"{where}: the bounds of {name} exclude each other")
    graph.dim_bounds[name] = (max(low, old_low), min(high, old_high))
