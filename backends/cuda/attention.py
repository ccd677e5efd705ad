"""Scaled dot-product attention in three kernels: scores, probabilities, and their product with v.

Both products run on tensor cores at float16. Scores are kept in float32: softmax turns their
absolute error into a relative one. A row of probabilities is filled up with zeros to a whole number
of vectors, so that any number of keys is read in vectors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tvm import tirx

from burnish.backends.cuda.arch import Arch
from burnish.backends.cuda.epilogue import number
from burnish.backends.cuda.product import Problem, choose_tile, multiply
from burnish.backends.cuda.rows import along, each_row, softmax_row
from burnish.backends.cuda.sources import Across, Lines, widened
from burnish.backends.cuda.staging import Source
from burnish.backends.cuda.tir import (
    Expr,
    Index,
    Kernel,
    common_lanes,
    conjunction,
    floordiv,
    floormod,
    i32,
    kernel,
    name,
    pin,
    read,
    write,
)

#: Rows of probabilities are a multiple of this long.
STEP = 8


@dataclass(frozen=True)
class Place:
    """Where the heads of queries, keys or values lie in a [batch, length, total] tensor.

    Attributes:
        length: Number of positions.
        heads: Number of heads.
        width: Columns of a head.
        offset: First column.
        total: Columns of the tensor.
    """

    length: Index
    heads: int
    width: int
    offset: int
    total: int

    def start(self, batch: Expr, head: Expr) -> Expr:
        """Flat offset of a head's first element."""
        return name(widened(batch) * self.length * self.total + self.offset + head * self.width)

    def lanes(self, dtype: str) -> int:
        """Elements of an access along a head."""
        return common_lanes(dtype, self.total, self.offset, self.width)


@dataclass(frozen=True)
class AttentionSpec:
    """An attention; ONNX Attention-24 on flat heads.

    Attributes:
        batch: Number of sequences.
        q: Queries.
        k: Keys.
        v: Values.
        dtype: Element type of queries, keys, values and result.
        scale: Factor of the scores.
        padded: Length of a row of probabilities: that of the keys, rounded up to :data:`STEP`.
        mask: ``float`` is added to the scores, ``bool`` keeps a score.
        mask_shape: Broadcasts to [batch, heads, queries, keys].
        mask_dtype: Its element type.
        causal: Query i sees the keys j <= i.
        nan_to_zero: Rows with every key masked are zero.
    """

    batch: Index
    q: Place
    k: Place
    v: Place
    dtype: str
    scale: float
    padded: Index
    mask: Literal["", "float", "bool"] = ""
    mask_shape: tuple[Index, ...] = ()
    mask_dtype: str = "float32"
    causal: bool = False
    nan_to_zero: bool = False

    @property
    def scores(self) -> tuple[Index, ...]:
        """Shape of the scores."""
        return (self.batch, self.q.heads, self.q.length, self.k.length)

    @property
    def probabilities(self) -> tuple[Index, ...]:
        """Shape of the probabilities."""
        return (*self.scores[:3], self.padded)

    def key_head(self, head: Expr) -> Expr:
        """The key head that a query head reads."""
        group = self.q.heads // self.k.heads
        return head if group == 1 else floordiv(head, group)


def scores(arch: Arch, spec: AttentionSpec, shape: tuple[Index, ...], same: bool) -> Kernel:
    """The kernel of ``scale * q @ k.T``.

    Args:
        arch: GPU architecture.
        spec: The attention.
        shape: Shape of the tensor with the queries.
        same: The keys lie in the same tensor, which is passed once.
    """
    q, k = spec.q, spec.k
    problem = Problem(spec.batch * q.heads, q.length, k.length, q.width)
    tile = choose_tile(problem, spec.dtype, arch.multiprocessors)
    with kernel("scores") as b:
        queries = b.input("q", shape, spec.dtype)
        keys = queries if same else b.input("k", (spec.batch, k.length, k.total), spec.dtype)
        y = b.output("y", spec.scores, "float32")

        def operands(index: Expr) -> tuple[Source, Source]:
            batch, head = name(floordiv(index, q.heads)), name(floormod(index, q.heads))
            lines = []
            for tensor, place, at in ((queries, q, head), (keys, k, spec.key_head(head))):
                lanes = place.lanes(spec.dtype)
                start = place.start(batch, at)
                lines.append(Lines(tensor, start, place.total, place.length, q.width, lanes))
            return lines[0], lines[1]

        def store(index: Expr, row: Expr, column: Expr, value: Expr) -> None:
            at = (widened(index) * q.length + row) * k.length + column
            write(y, name(at), value * number(spec.scale))

        multiply(problem, tile, operands, store, spec.dtype)
    return b.result


def probabilities(spec: AttentionSpec) -> Kernel:
    """The kernel of the softmax over masked scores: scores, mask if there is one, result."""
    with kernel("probabilities") as b:
        x = b.input("scores", spec.scores, "float32")
        mask = b.input("mask", spec.mask_shape, spec.mask_dtype) if spec.mask else None
        y = b.output("y", spec.probabilities, spec.dtype)
        queries, keys = spec.q.length, spec.k.length
        with each_row(spec.batch * spec.q.heads * queries) as (row, lane):
            # The scores of 2**31 rows do not fit into any GPU: int32, which divides much faster.
            number_of = i32(row)
            query = pin(floormod(number_of, i32(queries)))
            head = pin(floordiv(number_of, i32(queries)))
            base = name(row * keys)
            base_mask = 0 if mask is None else name(_mask_row(spec, head, query))

            def score(i: Expr) -> Expr:
                value = read(x, base + i)
                keep = []
                if mask is not None:
                    column = 0 if _is_one(spec.mask_shape[3]) else i
                    if spec.mask == "bool":
                        keep.append(mask.flat[base_mask + column])
                    else:
                        value = value + read(mask, base_mask + column)
                if spec.causal:
                    keep.append(widened(i) <= widened(query))
                condition = conjunction(keep)
                if condition is not None:
                    value = tirx.Select(condition, value, number(float("-inf")))
                return name(value)

            softmax_row(
                keys,
                lane,
                score,
                lambda i, value: write(y, row * spec.padded + i, value),
                nan_to_zero=spec.nan_to_zero,
            )
            with along(spec.padded - keys, lane) as i:
                write(y, row * spec.padded + keys + i, number(0.0))
    return b.result


def _is_one(dim: Index) -> bool:
    return isinstance(dim, int) and dim == 1


def _mask_row(spec: AttentionSpec, head: Expr, query: Expr) -> Expr:
    """Flat offset of the mask's row for a head of the batch and a query."""
    places = (floordiv(head, spec.q.heads), floormod(head, spec.q.heads), query)
    offset: Index = 0
    for at, extent in zip(places, spec.mask_shape[:3], strict=True):
        offset = offset * extent
        if not _is_one(extent):
            offset = offset + widened(at)
    return tirx.const(0, "int64") + offset * spec.mask_shape[3]


def weighted(arch: Arch, spec: AttentionSpec, shape: tuple[Index, ...]) -> Kernel:
    """The kernel of ``probabilities @ v``: both, and the result [batch, queries, heads * width].

    Args:
        arch: GPU architecture.
        spec: The attention.
        shape: Shape of the tensor with the values.
    """
    q, v = spec.q, spec.v
    problem = Problem(spec.batch * q.heads, q.length, v.width, v.length)
    tile = choose_tile(problem, spec.dtype, arch.multiprocessors)
    columns = q.heads * v.width
    with kernel("weighted") as b:
        p = b.input("p", spec.probabilities, spec.dtype)
        values = b.input("v", shape, spec.dtype)
        y = b.output("y", (spec.batch, q.length, columns), spec.dtype)

        def operands(index: Expr) -> tuple[Source, Source]:
            batch, head = name(floordiv(index, q.heads)), name(floormod(index, q.heads))
            start = name(widened(index) * q.length * spec.padded)
            lanes = common_lanes(spec.dtype, STEP)
            left = Lines(p, start, spec.padded, q.length, v.length, lanes)
            start = v.start(batch, spec.key_head(head))
            lanes = v.lanes(spec.dtype)
            return left, Across(values, start, v.total, v.width, v.length, lanes)

        def store(index: Expr, row: Expr, column: Expr, value: Expr) -> None:
            batch, head = name(floordiv(index, q.heads)), name(floormod(index, q.heads))
            place = (widened(batch) * q.length + row) * columns + head * v.width + column
            write(y, name(place), value)

        multiply(problem, tile, operands, store, spec.dtype)
    return b.result


__all__ = ["STEP", "AttentionSpec", "Place", "probabilities", "scores", "weighted"]
