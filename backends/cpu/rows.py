"""Loops over rows of contiguous elements, which softmax, norms and reductions share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from burnish.backends.cpu.tir import (
    Acc,
    Expr,
    Index,
    ceildiv,
    constant,
    floordiv,
    lanes_of,
    let,
    minimum,
    parallel,
    serial,
    static,
    when,
)

#: Elements that a parallel task should have at least.
TASK_ELEMENTS = 4096
#: Total elements below which a kernel stays on the calling thread.
SERIAL_ELEMENTS = 16384
#: What a symbolic row length is taken for when rows are grouped into tasks.
_TYPICAL_LENGTH = 256

#: Called with the position in the row and the number of valid lanes, None for all.
Body = Callable[[Index, Index | None], None]


def is_number(x: Expr) -> Expr:
    """Whether float32 lanes are not NaN (TVM simplifies ``x == x`` to true)."""
    return x <= constant(math.inf, lanes_of(x))


@contextmanager
def each_row(rows: Index, length: Index) -> Iterator[Index]:
    """A parallel loop over rows, grouped into tasks of enough elements."""
    rows, length = static(rows), static(length)
    if isinstance(rows, int) and isinstance(length, int) and rows * length < SERIAL_ELEMENTS:
        with serial(rows) as row:
            yield row
        return
    group = max(1, TASK_ELEMENTS // (length if isinstance(length, int) else _TYPICAL_LENGTH))
    if isinstance(rows, int):
        group = min(group, rows)
    with parallel(ceildiv(rows, group)) as task:
        first = let(task * group)
        count = group
        if not isinstance(rows, int) or rows % group:
            count = let(minimum(group, rows - first))
        with serial(count) as i:
            yield let(first + i)


def each_vector(length: Index, lanes: int, body: Body, unroll: int = 1) -> None:
    """Run ``body`` for every vector of a row; the last one may be partial.

    ``body`` is emitted ``unroll`` times for the main loop, once for what remains of it and once for
    the partial vector.
    """
    length = static(length)
    step = lanes * unroll
    main = length // step * step if isinstance(length, int) else let(floordiv(length, step) * step)
    whole = (
        length // lanes * lanes if isinstance(length, int) else let(floordiv(length, lanes) * lanes)
    )
    if not isinstance(length, int) or main:
        with serial(main // step if isinstance(main, int) else floordiv(main, step)) as i:
            base = i * step if isinstance(i, int) else let(i * step)
            for u in range(unroll):
                body(base + u * lanes, None)
    if unroll > 1:
        if isinstance(main, int) and isinstance(whole, int):
            for position in range(main, whole, lanes):
                body(position, None)
        else:
            with serial(floordiv(whole - main, lanes)) as i:
                body(let(main + i * lanes), None)
    if isinstance(length, int):
        if whole < length:
            body(whole, length - whole)
        return
    with when(whole < length):
        body(whole, let(length - whole))


def fold_row(
    length: Index,
    lanes: int,
    read: Callable[[Index, Index | None], Expr],
    combine: Callable[[Expr, Expr], Expr],
    identity: float,
    chains: int = 4,
) -> Expr:
    """Combine all vectors of a row into one, in ``chains`` independent accumulators.

    ``read`` must give the identity in lanes that are not valid.
    """
    acc = Acc(chains, lanes)
    acc.fill(identity)
    turn = 0

    def body(position: Index, valid: Index | None) -> None:
        nonlocal turn
        chain = turn % chains
        turn += 1
        acc[chain] = combine(acc[chain], read(position, valid))

    each_vector(length, lanes, body, chains)
    values = [acc[i] for i in range(chains)]
    while len(values) > 1:
        values = [let(combine(a, b)) for a, b in zip(values[::2], values[1::2], strict=True)]
    return values[0]
