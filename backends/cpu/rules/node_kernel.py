"""One kernel of one plain operator, by the operator table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import te

from burnish.backends.cpu.isa import Isa
from burnish.backends.cpu.te_schedule import schedule_te
from burnish.backends.cpu.tir import Kernel, kernel
from burnish.errors import LoweringError
from burnish.ir.dims import is_static
from burnish.ir.graph import Node, Value
from burnish.lowering import registry
from burnish.lowering.kernel_context import KernelContext
from burnish.lowering.ops.common import const
from burnish.lowering.te_context import Symbols, TeContext


@dataclass(frozen=True)
class NodeKernel:
    """A kernel and what it is called with.

    Attributes:
        kernel: The kernel.
        inputs: Values to pass, in order; fewer than the node's where some are compiled in.
        outputs: Values that it writes, in order.
    """

    kernel: Kernel
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]


def apply(
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
            arguments.append(scalar_constant(value, symbols))
    results = rule.function(ctx, *arguments, **registry.attributes(rule, node))
    if not isinstance(results, tuple):
        results = (results,)
    return tuple(
        result if value is not None else None
        for result, value in zip(results, node.outputs, strict=False)
    )


def placeholder(value: Value, symbols: Symbols, name: str) -> te.Tensor:
    """A TE input of a value's type."""
    return te.placeholder([symbols.expr(d) for d in value.shape], value.dtype, name)


def is_scalar_constant(value: Value) -> bool:
    """A constant of one element, which is compiled into the code."""
    return value.is_const and all(d == 1 for d in value.shape)


def scalar_constant(value: Value, symbols: Symbols) -> te.Tensor:
    """The tensor of a constant of one element."""
    if not is_scalar_constant(value):
        raise LoweringError(f"{value.name} is neither an argument nor a scalar constant")
    number = value.array.reshape(-1).tolist()[0]
    shape = [symbols.expr(d) for d in value.shape]
    return te.compute(shape, lambda *i: const(number, value.dtype), name="constant")


def node_kernel(node: Node, name: str, isa: Isa, symbols: Symbols) -> NodeKernel:
    """The kernel of one plain operator.

    Args:
        node: A node for which :func:`burnish.lowering.registry.supported` is None.
        name: Name of the kernel.
        isa: Instruction set.
        symbols: Variables of the shape symbols.

    Raises:
        LoweringError: The operator has no row, or its rule failed.
    """
    rule = registry.find(node)
    if rule is None:
        raise LoweringError(f"{node.key} has no lowering", at=str(node.location))
    passed = _arguments(rule, node)
    outputs = tuple(v for v in node.outputs if v is not None)
    if rule.kernel:
        return NodeKernel(_imperative(rule, node, passed, name, isa, symbols), passed, outputs)
    tensors = {v: placeholder(v, symbols, f"in{i}") for i, v in enumerate(passed)}
    results = [t for t in apply(node, tensors, symbols) if t is not None]
    built = schedule_te(results, [tensors[v] for v in passed], name, isa)
    return NodeKernel(built, passed, outputs)


def _arguments(rule: registry.Rule, node: Node) -> tuple[Value, ...]:
    passed: dict[Value, None] = {}
    for index, value in enumerate(node.inputs):
        if value is None or registry.is_compile_time(rule, node, index):
            continue
        if rule.kernel or not is_scalar_constant(value):
            passed[value] = None
    return tuple(passed)


def _imperative(
    rule: registry.Rule,
    node: Node,
    passed: Sequence[Value],
    name: str,
    isa: Isa,
    symbols: Symbols,
) -> Kernel:
    def shape(value: Value) -> list[Any]:
        return [d if isinstance(d, int) else symbols.expr(d) for d in value.shape]

    with kernel(name, isa) as k:
        tensors = {v: k.input(f"in{i}", shape(v), v.dtype) for i, v in enumerate(passed)}
        outs = tuple(
            None if v is None else k.output(f"out{i}", shape(v), v.dtype)
            for i, v in enumerate(node.outputs)
        )
        ctx = KernelContext(node, symbols, builder=k, outputs=outs)
        for index in range(len(node.inputs)):
            k.symbols(*(symbols.expr(d) for d in ctx.dims_of(index) or () if not is_static(d)))
        arguments = [
            None if v is None or registry.is_compile_time(rule, node, i) else tensors[v]
            for i, v in enumerate(node.inputs)
        ]
        rule.function(ctx, *arguments, **registry.attributes(rule, node))
    return k.result
