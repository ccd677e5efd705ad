"""Transposes of square tiles in vector registers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import tirx
from tvm.ir.prim import Shuffle

from burnish.backends.cpu.tir import Expr, Index, dtype_of, let, load, store, with_lanes


def _fence(value: Expr) -> Expr:
    """A value that LLVM does not look behind.

    It would follow the shuffles to the loads, and gather each result element by element.
    """
    return let(tirx.call_llvm_pure_intrin(dtype_of(value), "llvm.arithmetic.fence", value))


def transpose_vectors(rows: Sequence[Expr]) -> list[Expr]:
    """Transpose ``n`` vectors of ``n`` lanes; ``n`` is a power of two.

    Blocks of 1, 2, 4 ... lanes change places between two vectors: log2(n) steps of n shuffles.
    """
    n = len(rows)
    vectors = [_fence(row) for row in rows]
    width = 1
    while width < n:
        first = [lane if not lane & width else n + lane - width for lane in range(n)]
        second = [lane + width if not lane & width else n + lane for lane in range(n)]
        for i in range(n):
            if not i & width:
                pair = [vectors[i], vectors[i + width]]
                vectors[i] = _fence(Shuffle(pair, first))
                vectors[i + width] = _fence(Shuffle(pair, second))
        width *= 2
    return vectors


def transpose_words(rows: Sequence[Expr]) -> list[Expr]:
    """Transpose ``n`` vectors of ``n`` int32."""
    words, floats = (with_lanes(base, len(rows)) for base in ("int32", "float32"))
    columns = transpose_vectors([let(tirx.reinterpret(floats, row)) for row in rows])
    return [let(tirx.reinterpret(words, column)) for column in columns]


def transpose_tile(
    source: Any,
    source_at: Index,
    source_stride: Index,
    target: Any,
    target_at: Index,
    target_stride: Index,
    lanes: int,
    factor: Expr | None = None,
) -> None:
    """Write the transpose of a ``lanes`` x ``lanes`` tile of a flat buffer, times ``factor``."""
    rows = [let(load(source, source_at + i * source_stride, lanes)) for i in range(lanes)]
    for i, vector in enumerate(transpose_vectors(rows)):
        value = vector if factor is None else vector * factor
        store(target, target_at + i * target_stride, value)
