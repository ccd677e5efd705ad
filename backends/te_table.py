"""Emits nodes without a kernel rule: their tensor expressions as one kernel, in a backend's way."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import te

from burnish.ir import Constant, Graph, Node, TensorType, Value
from burnish.lowering.context import CallShapes, Lowered, NodeContext
from burnish.lowering.scope import canonical_symbols, rename


@dataclass(frozen=True)
class NodeKernel:
    """A kernel and what it is called with.

    Attributes:
        kernel: The kernel (:class:`burnish.backends.cpu.tir.Kernel`).
        inputs: Values to pass, in order; fewer than the node's where some are compiled in.
        outputs: Values that it writes, in order.
    """

    kernel: Any
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]


@dataclass(frozen=True)
class TeTable:
    """A backend's :class:`~burnish.backends.base.TableEmitter`.

    Attributes:
        build: Makes the kernel of a node under a name, over the graph's own symbols.
        schedule: Makes the kernel of tensor expressions: results, placeholders, name.
    """

    build: Callable[[NodeContext, Node, str], NodeKernel]
    schedule: Callable[[NodeContext, Sequence[te.Tensor], Sequence[te.Tensor], str], Any]

    def copy(self, ctx: NodeContext, tensor: Lowered) -> Lowered:
        """A copy of a tensor, so that an output of the model is nobody else's memory."""

        def build(shapes: CallShapes) -> Any:
            x = te.placeholder(shapes.inputs[0], tensor.dtype, "x")
            y = te.compute(x.shape, lambda *i: x(*i), name="copy")
            return self.schedule(ctx, [y], [x], "copy")

        (result,) = ctx.call("copy", (), build, [tensor], [TensorType(tensor.dtype, tensor.dims)])
        return result

    def emit(self, ctx: NodeContext, node: Node) -> None:
        """Emit a node of the operator table, or an Elementwise composite made of such nodes."""
        names = canonical_symbols(_shapes(node))
        key = ("te", _node_key(node, names))
        table = ctx.function.module.kernels
        entry = ctx.function.module.te_kernels.get(key)
        if entry is None:
            made = self.build(ctx, node, _name(node))
            # The kernel is written over the graph's own symbols.
            scalars = tuple(names[v.name] for v in made.kernel.scalars)
            built = table.add(_name(node), key, made.kernel, len(made.outputs), scalars)
            positions = tuple(node.inputs.index(v) for v in made.inputs)
            entry = ctx.function.module.te_kernels[key] = (built, positions)
        built, positions = entry
        inputs = [ctx.tensor(node.required(i)) for i in positions]
        outputs = [v.t for v in node.outputs if v is not None]
        ctx.set(*ctx.emit_call(built, names, inputs, outputs))


def _name(node: Node) -> str:
    body = node.attrs.get("body")
    if isinstance(body, Graph):
        ops = list(dict.fromkeys(n.op.lower() for n in body.nodes))
        return "_".join(ops[:4]) + ("_etc" if len(ops) > 4 else "")
    return node.op.lower()


def _values(node: Node) -> Iterable[Value]:
    yield from (v for v in node.inputs if v is not None)
    yield from (v for v in node.outputs if v is not None)
    body = node.attrs.get("body")
    if isinstance(body, Graph):
        for inner in body.nodes:
            yield from _values(inner)


def _shapes(node: Node) -> Iterable[tuple[Any, ...]]:
    for value in _values(node):
        yield value.shape
        if value.content is not None:
            yield value.content


def _value_key(value: Value | None, names: dict[str, str], ids: dict[Value, int]) -> Hashable:
    if value is None:
        return None
    shape = tuple(map(str, rename(value.shape, names)))
    content: Hashable = None
    if value.const is not None:
        small = value.const.nbytes <= 4096
        array = value.array if small else None
        content = None if array is None else hashlib.sha256(array.tobytes()).hexdigest()
    elif value.content is not None:
        content = tuple(map(str, rename(value.content, names)))
    return (value.dtype, shape, content, value.is_const, ids.setdefault(value, len(ids)))


def _attr_key(attr: Any, names: dict[str, str], ids: dict[Value, int]) -> Hashable:
    if isinstance(attr, Constant):
        return hashlib.sha256(attr.array.tobytes()).hexdigest()
    if isinstance(attr, Graph):
        inputs = tuple(_value_key(v, names, ids) for v in attr.inputs)
        nodes = tuple(_node_key(n, names, ids) for n in attr.nodes)
        return (inputs, nodes, tuple(ids[v] for v in attr.outputs))
    return (type(attr).__name__, attr)


def _node_key(node: Node, names: dict[str, str], ids: dict[Value, int] | None = None) -> Hashable:
    """Everything that a table kernel's code depends on, with symbols by canonical name."""
    ids = {} if ids is None else ids
    inputs = tuple(_value_key(v, names, ids) for v in node.inputs)
    outputs = tuple(_value_key(v, names, ids) for v in node.outputs)
    attrs = tuple((k, _attr_key(v, names, ids)) for k, v in sorted(node.attrs.items()))
    return (node.key, inputs, outputs, attrs)
