"""Nodes without a kernel template: their tensor expressions as one kernel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import te

from burnish.backends.cpu.narrow import NARROW
from burnish.backends.cpu.rules.node_kernel import node_kernel
from burnish.backends.cpu.te_schedule import schedule_te
from burnish.backends.te_table import NodeKernel, TeTable
from burnish.ir import Node
from burnish.lowering.context import NodeContext
from burnish.lowering.precision import computed_in
from burnish.lowering.te_context import Symbols


def _build(ctx: NodeContext, node: Node, name: str) -> NodeKernel:
    return node_kernel(node, name, ctx.isa, Symbols())


def _schedule(
    ctx: NodeContext, results: Sequence[te.Tensor], inputs: Sequence[te.Tensor], name: str
) -> Any:
    return schedule_te(results, inputs, name, ctx.isa)


class _Table(TeTable):
    """Widens 16 bits, whatever a node is."""

    def emit(self, ctx: NodeContext, node: Node) -> None:
        if computed_in(node, node.outputs[0].dtype if node.outputs[0] else "") in NARROW:
            ctx.computes = "float32"
        super().emit(ctx, node)


TABLE = _Table(_build, _schedule)
