"""The inner loop that products and convolutions share.

``acc[r, v] += broadcast(a[r]) * b[v]`` for a register tile of rows by vectors, ``b`` from packed
weights. What is multiplied is a row of :class:`Dot`, so that other element types use the same
templates: a dot product of ``kpack`` neighbours takes the place of one multiply-add.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from burnish.backends.cpu.tir import Acc, Expr, Index, constant, let, load, splat


@dataclass(frozen=True)
class Dot:
    """An inner operation.

    Attributes:
        name: ``f32``, later ``bf16``, ``u8s8``.
        operand: Element type in which both operands are read: ``kpack`` elements as one.
        result: Element type of the accumulators.
        kpack: Neighbours along the reduction that one operand element holds.
        accumulate: ``(acc, a, b) -> acc + dot(a, b)`` on vectors.
    """

    name: str
    operand: str
    result: str
    kpack: int
    accumulate: Callable[[Expr, Expr, Expr], Expr]


F32 = Dot("f32", "float32", "float32", 1, lambda acc, a, b: acc + a * b)


@dataclass(frozen=True)
class RegisterTile:
    """Accumulators of one tile; ``at(r, v)`` is row ``r``, vector ``v``."""

    rows: int
    vectors: int
    acc: Acc
    dot: Dot

    @classmethod
    def zero(cls, rows: int, vectors: int, acc: Acc, dot: Dot = F32) -> RegisterTile:
        """A tile that is all zeros, in the first accumulators of ``acc``.

        The variants of a tile in one kernel share accumulators: some of TVM's passes take time
        quadratic in the number of arrays.
        """
        for i in range(rows * vectors):
            acc[i] = constant(0, acc.lanes, acc.dtype)
        return cls(rows, vectors, acc, dot)

    def at(self, row: int, vector: int) -> Expr:
        """Current value of an accumulator."""
        return self.acc[row * self.vectors + vector]

    def step(
        self,
        a: Any,
        a_offsets: Sequence[Index],
        b: Any,
        b_offset: Index,
        rows: Sequence[int] | None = None,
        valid: int | None = None,
    ) -> None:
        """One step of the reduction.

        Args:
            a: 1-D buffer of the broadcast operand.
            a_offsets: Offset in ``a`` for each row of the tile.
            b: 1-D buffer of the vector operand.
            b_offset: Offset of the first vector; the others follow it.
            rows: Rows that take part; all by default.
            valid: Lanes of the last vector that may be read from ``b``.
        """
        lanes = self.acc.lanes
        bs = [
            let(load(b, b_offset + v * lanes, lanes, valid if v == self.vectors - 1 else None))
            for v in range(self.vectors)
        ]
        for r in range(self.rows) if rows is None else rows:
            x = let(splat(let(load(a, a_offsets[r])), lanes))
            for v in range(self.vectors):
                i = r * self.vectors + v
                self.acc[i] = self.dot.accumulate(self.acc[i], x, bs[v])
