"""Masks of attention: added to or selecting the scores."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from tvm import tirx
from tvm.tirx.script import builder as T  # noqa: N812

from burnish.backends.cpu.attention_spec import AttentionSpec
from burnish.backends.cpu.tile_transpose import transpose_vectors
from burnish.backends.cpu.tir import (
    Expr,
    Index,
    KernelBuilder,
    Tensor,
    constant,
    floordiv,
    i64,
    let,
    load,
    local,
    minimum,
    select,
    serial,
    splat,
    static,
    store,
)


class Place(Protocol):
    """Batch index and query head."""

    @property
    def batch(self) -> Index:
        """Batch index."""

    @property
    def head(self) -> Index:
        """Query head."""


@dataclass(frozen=True)
class Mask:
    """The mask of a kernel, or none.

    Attributes:
        lanes: Vector width.
        tensor: The argument; None without a mask.
        bytes: For a boolean mask its elements as int8, which vectors can be loaded from.
        strides: Elements between neighbours in [batch, head, query, key]; 0 where it broadcasts.
        queries: Number of queries.
    """

    lanes: int
    tensor: Tensor | None
    bytes: Any
    strides: tuple[Index, ...]
    queries: Index

    @classmethod
    def declare(cls, k: KernelBuilder, spec: AttentionSpec) -> Mask:
        """Declare the mask as the next input, if the spec has one."""
        queries = static(spec.queries)
        if not spec.mask:
            return cls(k.isa.lanes, None, None, (), queries)
        tensor = k.input(
            "mask", spec.mask_shape, "bool" if spec.mask == "bool" else spec.mask_dtype
        )
        view = None
        if spec.mask == "bool":
            view = T.decl_buffer((i64(tensor.size),), "int8", data=tensor.buffer.data, align=1)
        strides = tuple(
            0 if dim == 1 else stride
            for dim, stride in zip(tensor.shape, tensor.strides, strict=True)
        )
        return cls(k.isa.lanes, tensor, view, strides, queries)

    @property
    def by_query(self) -> bool:
        """Whether queries have different masks."""
        return self.tensor is not None and not _is_zero(self.strides[2])

    def start(self, place: Place) -> Index:
        """First element for a head."""
        return let(place.batch * self.strides[0] + place.head * self.strides[1])

    def read(self, at: Index, lanes: int = 1, valid: Index | None = None) -> Expr:
        """Elements as floats: what to add, or 1 where a boolean mask keeps the score."""
        assert self.tensor is not None
        if self.bytes is None:
            return let(load(self.tensor.flat, at, lanes, valid))
        kind = "float32" if lanes == 1 else f"float32x{lanes}"
        return let(tirx.Cast(kind, load(self.bytes, at, lanes, valid)))

    def apply(self, score: Expr, element: Expr) -> Expr:
        """Scores under mask elements of as many lanes, as :meth:`read` gave them."""
        if self.bytes is None:
            return score + element
        lanes = self.lanes
        return select(element > constant(0.5, lanes), score, constant(-math.inf, lanes))

    def scalars(self, place: Place) -> Callable[[Expr, Index], Expr]:
        """How to mask a vector of queries for one key, if all queries have the same mask."""
        if self.tensor is None or self.by_query:
            return lambda score, key: score
        base = self.start(place)
        stride = self.strides[3]
        return lambda score, key: self.apply(
            score, let(splat(self.read(base + key * stride), self.lanes))
        )

    def add_rows(
        self,
        place: Place,
        buffers: tuple[Any, Any],
        stride: int,
        queries: tuple[Index, Index],
        keys: tuple[Index, Index],
    ) -> None:
        """Mask ``scores[key, query]`` if queries have different masks; also finds the maxima.

        Args:
            place: The head.
            buffers: Scores of a block of keys, and the maxima for each query.
            stride: Elements between the scores of neighbouring keys.
            queries: First query, number of vectors of queries.
            keys: First key, number of keys.
        """
        if not self.by_query:
            return
        scores, tops = buffers
        lanes, step = self.lanes, self.strides[3]
        count = keys[1]
        base = let(self.start(place) + keys[0] * step)
        whole = let(floordiv(count, lanes)) if not isinstance(count, int) else count // lanes
        with serial(queries[1]) as c:
            rows = [
                let(
                    base + minimum(queries[0] + (c * lanes + i), self.queries - 1) * self.strides[2]
                )
                for i in range(lanes)
            ]

            def put(key: Index, element: Expr) -> None:
                at = let(key * stride + c * lanes)
                value = let(self.apply(load(scores, at, lanes), element))
                store(scores, at, value)
                top = let(load(tops, c * lanes, lanes))
                store(tops, c * lanes, select(top < value, value, top))

            contiguous = not _is_zero(step)
            if contiguous and (not isinstance(whole, int) or whole):
                with serial(whole) as block:
                    key = let(block * lanes)
                    columns = transpose_vectors([self.read(r + key, lanes) for r in rows])
                    for i, column in enumerate(columns):
                        put(key + i, column)
            with serial(whole * lanes if contiguous else 0, count) as key:
                cell = local(lanes)
                for i, row in enumerate(rows):
                    store(cell, i, self.read(row + key * step))
                put(key, let(load(cell, 0, lanes)))


def _is_zero(stride: Index) -> bool:
    return isinstance(stride, int) and stride == 0
