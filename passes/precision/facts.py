"""What is known of values before anything is decided: constants, measured ranges, where they go."""

from __future__ import annotations

from typing import Final

import numpy as np

from burnish.ir import Constant, Node, Value, parse_postops
from burnish.ir.types import BY_NAME, INTEGERS
from burnish.passes.precision.ranges import FUNCTIONS, Ranges
from burnish.passes.precision.roles import Role, Row

WIDE: Final = "float32"
#: Linear operators, of which spectra are made.
_LINEAR: Final = frozenset(
    {
        *("Conv", "ConvTranspose", "MatMul", "Gemm"),
        *("burnish::Conv", "burnish::ConvTranspose", "burnish::MatMul"),
    }
)
#: Through these an error of an operand arrives as a like error of the result.
_SUMS: Final = frozenset({"Add", "Cast", "Div", "Mul", "Neg", "Sub", "Where"})


def is_wide(value: Value) -> bool:
    """Whether a value is of the type that the pass changes."""
    return value.type is not None and value.dtype == WIDE


class Facts:
    """Answers about the values of a graph, each found out once.

    Args:
        rows: The row of every node, producers before users.
        ranges: What was measured, and the 16-bit type.
    """

    def __init__(self, rows: dict[Node, Row], ranges: Ranges) -> None:
        self.rows = rows
        self.ranges = ranges
        self.stored = ranges.stored
        self._extent: dict[Constant, float] = {}
        self._wild: dict[Value, bool] = {}
        self._counts: dict[Value, bool] = {}
        self._blurs: dict[Value, str] = {}
        self._logged: dict[Value, bool] = {}
        # What depends on producers in their order, what depends on users in the opposite one: a
        # question that was never asked would recurse through the whole graph.
        for node in rows:
            for value in filter(None, node.outputs):
                self.is_wild(value)
                self._is_count(value)
        for node in reversed(rows):
            for value in filter(None, node.outputs):
                self.before_log(value)
                self.blurs(value)

    def unfit(self, value: Value) -> str:
        """Why a value cannot be stored in 16 bits; empty if it can, or nothing is known of it."""
        if value.const is None:
            return self.ranges.beyond(value, masks=self.is_wild(value))
        largest, name, dtype = self._largest(value.const), value.name, self.stored.dtype
        if largest > self.stored.largest:
            return f"a constant is beyond the range of {dtype} ({name} holds {largest:.4g})"
        if 0 < largest < self.stored.smallest:
            return f"a constant is too small for {dtype} ({name} holds nothing over {largest:.4g})"
        return ""

    def _largest(self, const: Constant) -> float:
        """The largest finite magnitude of a constant."""
        if const not in self._extent:
            array = const.array
            finite = np.abs(array[np.isfinite(array)]) if array.size else array
            self._extent[const] = float(finite.max(initial=0.0))
        return self._extent[const]

    def is_wild(self, value: Value) -> bool:
        """Whether a constant out of range takes part in making a value."""
        if value.const is not None:
            return is_wide(value) and self._largest(value.const) > self.stored.largest
        if value not in self._wild:
            self._wild[value] = False
            node = value.producer
            row = self.rows.get(node) if node is not None else None
            if node is not None and row is not None and row.role in (Role.GLUE, Role.MOVE):
                self._wild[value] = any(v is not None and self.is_wild(v) for v in node.inputs)
        return self._wild[value]

    # --- where values come from ----------------------------------------------------------------

    def inexact_count(self, value: Value) -> str:
        """Why a value may not be rounded that holds integers; empty if it may, or holds others.

        Positions and the like are integers, and what follows tells one from the next.
        """
        if not self._is_count(value) or self.ranges.exact(value):
            return ""
        return (
            f"it reads integers as numbers, which {self.stored.dtype} holds up to "
            f"{2**self.stored.bits}"
        )

    def _is_count(self, value: Value) -> bool:
        """Whether a value is made of integers of more bits than the type has, and constants."""
        if value not in self._counts:
            self._counts[value] = False
            node = value.producer
            if node is not None and is_wide(value):
                self._counts[value] = self._makes_count(node)
        return self._counts[value]

    def _makes_count(self, node: Node) -> bool:
        if node.key == "Range":
            return True
        source = node.input(0)
        if node.key == "Cast" and source is not None and source.dtype in INTEGERS:
            return BY_NAME[source.dtype].bits > self.stored.bits
        if self.rows[node].role not in (Role.GLUE, Role.MOVE):
            return False
        data = [
            v
            for i, v in enumerate(node.inputs)
            if v is not None and not v.is_const and self.rows[node].carries(i)
        ]
        return bool(data) and all(map(self._is_count, data))

    # --- where values go -----------------------------------------------------------------------

    def blurs(self, value: Value) -> str:
        """Which function would suffer if a value was rounded; empty if none is known to."""
        if value not in self._blurs:
            self._blurs[value] = ""
            reasons = (self.blurred(user, index) for user, index in value.uses)
            self._blurs[value] = next(filter(None, reasons), "")
        return self._blurs[value]

    def blurred(self, user: Node, index: int) -> str:
        """The same of one use of a value."""
        if user.key in FUNCTIONS and index == 0:
            argument = user.required(0)
            return self.ranges.blurred(argument, user.op, masks=self.is_wild(argument))
        row = self.rows[user]
        if not row.carries(index) or not (row.role is Role.MOVE or user.key in _SUMS):
            return ""
        results = (self.blurs(v) for v in user.outputs if v is not None)
        return next(filter(None, results), "")

    def before_log(self, value: Value) -> bool:
        """Whether a logarithm is taken of what linear operators and glue make of a value."""
        if value not in self._logged:
            self._logged[value] = False
            self._logged[value] = any(
                user.key == "Log"
                or (
                    self.rows[user].carries(index)
                    and self._is_linear(user)
                    and any(self.before_log(v) for v in user.outputs if v is not None)
                )
                for user, index in value.uses
            )
        return self._logged[value]

    def _is_linear(self, node: Node) -> bool:
        """Whether a node may be part of a spectrum: it is linear, or no compute node at all."""
        if self.rows[node].role is not Role.COMPUTE:
            return True
        return node.key in _LINEAR and all(
            post.operand and post.op in ("Add", "Sub")
            for post in parse_postops(node.strs_attr("postops"))
        )
