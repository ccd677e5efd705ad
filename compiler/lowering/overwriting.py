"""Whose memory a kernel may write its result to: that of an operand that nobody reads any more.

What the graph does not show also counts: reshapes are views of their operand's memory, and some
rules lower a node to its operand itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from burnish.ir import Graph, Node, Value
from burnish.lowering.context import Lowered
from burnish.lowering.module_ops import LAZY


class Overwriting:
    """Answers for one function which tensors have had their last reader."""

    def __init__(self, graph: Graph) -> None:
        self._positions = {node: i for i, node in enumerate(graph.nodes)}
        #: By identity: a view, and the tensor whose memory it shows.
        self._views: dict[int, tuple[Any, Any]] = {}

    def add_view(self, view: Any, of: Any) -> None:
        """Note that the expression ``view`` shares the memory of ``of``."""
        self._views[id(view)] = (view, of)

    def _base(self, expr: Any) -> Any:
        while id(expr) in self._views:
            expr = self._views[id(expr)][1]
        return expr

    def allows(self, node: Node, operand: Value, env: Mapping[Value, Lowered]) -> bool:
        """Whether the kernel of ``node`` may write over ``operand`` while it reads it.

        Args:
            node: A node of the graph, about to be lowered.
            operand: One of its inputs, lowered already.
            env: What has been lowered.
        """
        base = self._base(env[operand].expr)
        shared = {v for v, lowered in env.items() if self._base(lowered.expr) is base}
        uses = [i for i in node.inputs if i in shared]
        if len(uses) != 1 or node not in self._positions:
            return False
        return all(self._is_dead(value, node) for value in shared)

    def _is_dead(self, value: Value, node: Node) -> bool:
        """Whether no node but ``node`` reads a value that this function computes."""
        if value.is_const or value.is_output or value.producer not in self._positions:
            return False
        now = self._positions[node]
        for user in value.users():
            if user is node:
                continue
            # A node of a subgraph has no position: it may run at any time.
            if self._positions.get(user, now) >= now:
                return False
            # What is lowered late reads its operand late.
            late = user.key in LAZY and user.key != "Shape"
            if late and not all(self._is_dead(v, node) for v in user.outputs if v is not None):
                return False
        return True
