"""Nodes without a kernel template: their tensor expressions as one kernel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import te

from burnish.backends.cuda.te_schedule import schedule_te
from burnish.backends.te_graph import te_graph
from burnish.backends.te_table import NodeKernel, TeTable
from burnish.ir import Node
from burnish.lowering.context import NodeContext
from burnish.lowering.te_context import Symbols


def _build(ctx: NodeContext, node: Node, name: str) -> NodeKernel:
    graph = te_graph(node, Symbols())
    kernel = schedule_te(graph.results, graph.placeholders, name)
    return NodeKernel(kernel, graph.inputs, graph.outputs)


def _schedule(
    ctx: NodeContext, results: Sequence[te.Tensor], inputs: Sequence[te.Tensor], name: str
) -> Any:
    return schedule_te(results, inputs, name)


TABLE = TeTable(_build, _schedule)
