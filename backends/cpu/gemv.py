"""Products with so few rows that the right operand is read in place, once.

The row-major operand is read like packed weights with a longer stride. The transposed one is read
along its rows: dot products of several columns at once, whose lanes are summed at the end.

Products with constant weights need none of this: the packed layout of
:mod:`burnish.backends.cpu.gemm` streams through memory with one row as with many.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from burnish.backends.cpu.epilogue import Epilogue
from burnish.backends.cpu.isa import Isa
from burnish.backends.cpu.tir import (
    Acc,
    Expr,
    Index,
    Tensor,
    branch,
    constant,
    floordiv,
    hold,
    let,
    load,
    local,
    minimum,
    reduce_add,
    serial,
    splat,
    store,
    when,
)


@dataclass(frozen=True)
class Panel:
    """A block of columns of one matrix of a batched product.

    Attributes:
        isa: The instruction set.
        a: Left operand.
        b: Right operand.
        y: Result.
        at: Offset of the matrix in ``a`` and in ``b``, and its first row in ``y``.
        sizes: K and N.
        column: First column.
        vectors: Vectors of columns.
        tail: Valid lanes of the last vector, if N is static and they are not all.
        transposed: Whether ``b`` is [N, K].
        scale: Factor of the product, which a packed ``b`` has in it.
        epilogue: Post-ops.
    """

    isa: Isa
    a: Tensor
    b: Tensor
    y: Tensor
    at: tuple[Index, Index, Index]
    sizes: tuple[Index, Index]
    column: Index
    vectors: int
    tail: int | None
    transposed: bool
    scale: float
    epilogue: Epilogue | None

    def valid(self, vector: int) -> Index | None:
        """Columns of a vector that exist; None if all do."""
        n = self.sizes[1]
        if isinstance(n, int):
            return self.tail if vector == self.vectors - 1 else None
        return n - self.column - vector * self.isa.lanes

    def write(self, row: Index, count: int, at: Callable[[int, int], Expr]) -> None:
        """Store ``count`` rows of sums from row ``row``; ``at(row, vector)`` is a vector."""
        n = self.sizes[1]
        lanes = self.isa.lanes

        def stores(masked: bool) -> None:
            for r in range(count):
                for v in range(self.vectors):
                    column = self.column + v * lanes
                    offset = (self.at[2] + row + r) * n + column
                    valid = self.valid(v) if masked else None
                    value = at(r, v)
                    if self.epilogue is not None:
                        static_valid = valid if isinstance(valid, int) else None
                        value = let(self.epilogue.start(value, offset, column, static_valid))
                        if self.epilogue.deferred:
                            value = self.epilogue.finish(value, offset, column, static_valid)
                    store(self.y.flat, offset, value, valid)

        if isinstance(n, int):
            stores(masked=True)
        else:
            inside = self.column + self.vectors * lanes <= n
            branch(inside, lambda: stores(masked=False), lambda: stores(masked=True))


def few_rows(panel: Panel, begin: Index, end: Index) -> None:
    """Rows [begin, end) of the block, one after the other."""
    with serial(begin, end) as row:
        (_dot_row if panel.transposed else _axpy_row)(panel, row)


def _scaled(panel: Panel, value: Expr) -> Expr:
    if panel.scale == 1.0:
        return value
    return value * constant(panel.scale, panel.isa.lanes)


def _axpy_row(panel: Panel, row: Index) -> None:
    """Add the rows of ``b``, times elements of a row of ``a``."""
    k, n = panel.sizes
    lanes = panel.isa.lanes
    acc = Acc(panel.vectors, lanes)
    acc.fill()
    a_at = hold(panel.at[0] + row * k)
    b_at = hold(panel.at[1] + panel.column)
    with serial(k) as step:
        x = splat(let(panel.a.load(a_at + step)), lanes)
        for v in range(panel.vectors):
            value = load(panel.b.flat, b_at + step * n + v * lanes, lanes, panel.valid(v))
            acc[v] = acc[v] + x * value
    panel.write(row, 1, lambda _, v: _scaled(panel, acc[v]))


#: Dot products in flight, at most as many as a vector has lanes.
_DOTS = 8


def _dot_row(panel: Panel, row: Index) -> None:
    """Dot products of a row of ``a`` with rows of ``b``."""
    k, n = panel.sizes
    lanes = panel.isa.lanes
    a_at = hold(panel.at[0] + row * k)
    sums = [_Cell(lanes) for _ in range(panel.vectors)]
    dots = min(_DOTS, lanes)
    acc = Acc(dots, lanes)
    whole = hold(floordiv(k, lanes))
    rest = hold(k - whole * lanes)
    for v in range(panel.vectors):
        with serial(lanes // dots) as group:
            base = hold(panel.column + v * lanes + group * dots)
            # Columns that do not exist repeat the last one; they are not stored.
            starts = [hold(panel.at[1] + minimum(base + j, n - 1) * k) for j in range(dots)]
            acc.fill()
            with serial(whole) as step:
                x = let(panel.a.load(a_at + step * lanes, lanes))
                for j in range(dots):
                    acc[j] = acc[j] + x * panel.b.load(starts[j] + step * lanes, lanes)
            _dot_tail(panel, acc, a_at, starts, whole, rest)
            for j in range(dots):
                sums[v].put(group * dots + j, reduce_add(acc[j]))
    panel.write(row, 1, lambda _, v: _scaled(panel, sums[v].vector()))


def _dot_tail(
    panel: Panel, acc: Acc, a_at: Index, starts: list[Index], whole: Index, rest: Index
) -> None:
    """The elements of the rows after the last whole vector."""
    lanes = panel.isa.lanes
    if isinstance(rest, int) and rest == 0:
        return

    def add() -> None:
        x = let(load(panel.a.flat, a_at + whole * lanes, lanes, rest))
        for j in range(len(starts)):
            other = load(panel.b.flat, starts[j] + whole * lanes, lanes, rest)
            acc[j] = acc[j] + x * other

    if isinstance(rest, int):
        add()
    else:
        with when(rest > 0):
            add()


class _Cell:
    """A vector that is written element by element."""

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        self._buffer = local(lanes)

    def put(self, index: Index, value: Expr) -> None:
        """Set one lane."""
        store(self._buffer, index, value)

    def vector(self) -> Expr:
        """All lanes."""
        return load(self._buffer, 0, self.lanes)
