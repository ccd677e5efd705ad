"""Shape elimination: shape arithmetic that inference has understood becomes constants.

Exporters compute the operands of Reshape, Expand or Slice at run time from Shape, Gather and Concat
nodes. Inference follows these computations symbolically (:attr:`burnish.ir.Value.content`), so the
operand can be written down, and the nodes that computed it die.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from burnish.ir import UNKNOWN, Builder, Dim, Graph, Node, TensorType, Value
from burnish.ir.dims import equal
from burnish.ir.infer import infer_graph
from burnish.ir.infer.common import const_ints, elements
from burnish.ir.types import to_numpy
from burnish.passes.base import Numerics, Pass, PassContext, all_graphs
from burnish.passes.rows import has_rank, reshape_target
from burnish.passes.shape_values import is_direct, is_size, shape_value

#: Slice reads any larger end as "to the end".
_END = np.iinfo(np.int64).max


@dataclass(frozen=True)
class EliminateShapes(Pass):
    """Replace shape arithmetic by constants.

    Before: `s = Concat(Gather(Shape(x), 0), [12], [64]); y = Reshape(z, s)`, z is [batch, 768].
    After: `y = Reshape(z, [0, 12, 64])`.
    Keeps: operands that no constant can say (an Expand to a run-time size); of two values with
        equal symbolic elements the first serves both.
    Numerics: exact.
    """

    name: ClassVar[str] = "eliminate-shapes"
    numerics: ClassVar[Numerics] = Numerics.EXACT

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        """See :class:`EliminateShapes`."""
        _infer_again(graph)
        changed = False
        for inner in all_graphs(graph):
            for node in inner.nodes:
                if node in inner:
                    with ctx.visiting(node):
                        changed |= _known_outputs(node)
                        changed |= _constant_operand(node)
        for inner in all_graphs(graph):
            changed |= _rebuild_contents(inner)
        return _share_contents(graph) or changed


def _infer_again(graph: Graph) -> None:
    """Infer with what is constant by now; what was known stays known."""
    values = [v for node in graph.walk() for v in node.outputs if v is not None]
    known = [(v, v.type, v.content) for v in values]
    infer_graph(graph)
    for value, type, content in known:
        if type is not None and type.shape is not None and value.type is not None:
            shape = value.type.shape
            if shape is None:
                value.type = type
            elif any(d is UNKNOWN for d in shape):
                dims = zip(shape, type.shape, strict=True)
                merged = tuple(old if new is UNKNOWN else new for new, old in dims)
                value.type = TensorType(type.dtype, merged)
        if value.content is None:
            value.content = content


def _known_outputs(node: Node) -> bool:
    """Let users of outputs whose elements are all numbers read constants."""
    graph = node.graph
    assert graph is not None
    changed = False
    for value in node.outputs:
        if value is None or value.content is None or not (value.uses or value.is_output):
            continue
        if value.is_output and not value.uses and node.op == "Identity":
            continue
        if not all(isinstance(d, int) for d in value.content) or not value.t.static:
            continue
        array = np.array(value.content, dtype=to_numpy(value.dtype)).reshape(value.shape)
        graph.replace_uses(value, graph.constant(array, f"{value.name}_value"))
        changed = True
    return changed


def _constant_operand(node: Node) -> bool:
    """Write the shape operand of a node as a constant if that can be done."""
    wanted: list[tuple[int, tuple[int, ...]]] = []
    if node.domain or not all(has_rank(v) for v in (*node.inputs, *node.outputs) if v is not None):
        return False
    if node.op == "Reshape":
        wanted = _reshape(node)
    elif node.op == "Expand":
        wanted = _expand(node)
    elif node.op == "Slice":
        wanted = _slice(node)
    if not wanted:
        return False
    assert node.graph is not None
    b = Builder(node.graph)
    types = [v.type for v in node.outputs if v is not None]
    for index, numbers in wanted:
        dtype = to_numpy(node.required(index).dtype)
        node.set_input(index, b.constant(np.array(numbers, dtype=dtype), "shape"))
    if node.op == "Reshape":
        node.attrs.pop("allowzero", None)
    for value, type in zip((v for v in node.outputs if v is not None), types, strict=True):
        value.type = type
    return True


def _reshape(node: Node) -> list[tuple[int, tuple[int, ...]]]:
    if node.required(1).is_const:
        return []
    target = reshape_target(node.required(0).shape, node.output.shape)
    if target is None:
        target = _one_free_dim(node)
    return [(1, target)] if target is not None else []


def _one_free_dim(node: Node) -> tuple[int, ...] | None:
    """The operand as the model has it, when its elements are numbers and one symbol."""
    content = node.required(1).content
    if content is None or any(isinstance(d, int) and d == 0 for d in content):
        return None
    numbers = tuple(d if isinstance(d, int) else -1 for d in content)
    return numbers if numbers.count(-1) == 1 else None


def _expand(node: Node) -> list[tuple[int, tuple[int, ...]]]:
    """Numbers where the result has them, 1 where the operand has the dim already."""
    if node.required(1).is_const:
        return []
    source, target = node.required(0).shape, node.output.shape
    offset = len(target) - len(source)
    wanted: list[int] = []
    for index, dim in enumerate(target):
        own: Dim = source[index - offset] if index >= offset else 1
        if equal(own, dim):
            wanted.append(1)
        elif isinstance(dim, int):
            wanted.append(dim)
        else:
            return []
    return [(1, tuple(wanted))]


def _slice(node: Node) -> list[tuple[int, tuple[int, ...]]]:
    """Ends that are the size of their axis, as "to the end"."""
    ends = elements(node.input(2))
    if ends is None or node.required(2).is_const:
        return []
    shape = node.required(0).shape
    axes = const_ints(node.input(3)) if node.input(3) is not None else tuple(range(len(ends)))
    steps = const_ints(node.input(4)) if node.input(4) is not None else (1,) * len(ends)
    if axes is None or steps is None or len(axes) != len(ends):
        return []
    wanted: list[int] = []
    for end, axis, step in zip(ends, axes, steps, strict=True):
        if isinstance(end, int):
            wanted.append(end)
        elif equal(end, shape[axis]) and step > 0:
            wanted.append(_END)
        else:
            return []
    return [(2, tuple(wanted))]


def _rebuild_contents(graph: Graph) -> bool:
    """Make sizes that are really needed from the sizes of graph inputs, in the shortest way."""
    changed = False
    for node in graph.nodes:
        for value in node.outputs:
            if value is None or not _is_roundabout(value, graph.root):
                continue
            assert value.content is not None
            rank = value.t.rank or 0
            made = shape_value(Builder(graph), value.content, rank=rank, dtype=value.dtype)
            if made is not None:
                graph.replace_uses(value, made)
                changed = True
    return changed


def _is_roundabout(value: Value, root: Graph) -> bool:
    """Whether something needs a value that is a list of sizes of graph inputs but not made so."""
    if not value.content or value.dtype not in ("int64", "int32") or value.t.rank not in (0, 1):
        return False
    if is_direct(value) or not all(is_size(d, root) for d in value.content):
        return False
    # What only other sizes are computed from goes away with them.
    needed = (user for user in value.users() if any(v and not v.content for v in user.outputs))
    return value.is_output or any(True for _ in needed)


def _share_contents(graph: Graph) -> bool:
    """Let values with equal symbolic elements be one value."""
    groups: dict[tuple[TensorType, tuple[Dim, ...]], list[Value]] = {}
    for node in graph.nodes:
        for value in node.outputs:
            if value is None or not value.content or value.type is None or not value.uses:
                continue
            if value.type.static and all(equal(d, d) for d in value.content):
                groups.setdefault((value.type, value.content), []).append(value)
    changed = False
    for values in groups.values():
        # The form that _rebuild_contents makes: it would replace any other again.
        kept = next(filter(is_direct, values), values[0])
        for value in values:
            if value is not kept:
                for user, index in list(value.uses):
                    user.set_input(index, kept)
                changed = True
    return changed
