"""One kernel of one plain operator or of one Elementwise composite, by the operator table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from burnish.backends.cpu.isa import Isa
from burnish.backends.cpu.te_schedule import schedule_te
from burnish.backends.cpu.tir import Kernel, kernel
from burnish.backends.te_graph import passed_inputs, te_graph
from burnish.backends.te_table import NodeKernel
from burnish.ir.dims import is_static
from burnish.ir.graph import Node, Value
from burnish.lowering import registry
from burnish.lowering.kernel_context import KernelContext
from burnish.lowering.te_context import Symbols


def node_kernel(node: Node, name: str, isa: Isa, symbols: Symbols) -> NodeKernel:
    """The kernel of a plain operator or of an Elementwise composite.

    Args:
        node: A node for which :func:`burnish.lowering.registry.supported` is None, or a group.
        name: Name of the kernel.
        isa: Instruction set.
        symbols: Variables of the shape symbols.

    Raises:
        LoweringError: The operator has no row, or its rule failed.
    """
    rule = registry.find(node)
    if rule is not None and rule.kernel:
        passed = passed_inputs(rule, node)
        outputs = tuple(v for v in node.outputs if v is not None)
        return NodeKernel(_imperative(rule, node, passed, name, isa, symbols), passed, outputs)
    graph = te_graph(node, symbols)
    built = schedule_te(graph.results, graph.placeholders, name, isa)
    return NodeKernel(built, graph.inputs, graph.outputs)


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
