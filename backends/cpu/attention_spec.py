"""What an attention kernel computes, and where its operands lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from burnish.backends.cpu.tir import Index


@dataclass(frozen=True, eq=False)
class Heads:
    """A [batch, sequence, head, width] tensor somewhere in an argument.

    Attributes:
        argument: Index into :attr:`AttentionSpec.arguments`.
        batch: Elements between neighbours along the batch, and so on for each dimension.
        sequence: See ``batch``.
        head: See ``batch``.
        width: See ``batch``.
        offset: Element at which the tensor starts.
    """

    argument: int
    batch: Index
    sequence: Index
    head: Index
    width: Index = 1
    offset: Index = 0


def merged_heads(
    argument: int, length: Index, heads: int, width: int, total: int = 0, offset: int = 0
) -> Heads:
    """Heads side by side: [batch, length, heads * width], or a slice of [batch, length, total]."""
    row = total or heads * width
    return Heads(argument, length * row, row, width, 1, offset)


def split_heads(argument: int, length: Index, heads: int, width: int) -> Heads:
    """[batch, heads, length, width]."""
    return Heads(argument, heads * length * width, width, length * width, 1)


def transposed_heads(argument: int, length: Index, heads: int, width: int) -> Heads:
    """[batch, heads, width, length]."""
    return Heads(argument, heads * length * width, 1, length * width, length)


@dataclass(frozen=True, eq=False)
class AttentionSpec:
    """``out = softmax(scale * q kT + mask) v`` for every head.

    Attributes:
        batch: Batch size.
        queries: Query positions S.
        keys: Key positions T.
        heads: Query heads.
        kv_heads: Key and value heads; query head h reads head ``h // (heads / kv_heads)``.
        width: Width of a query or key head.
        value_width: Width of a value head; values must lie with stride 1 along it.
        arguments: Shapes of the float32 arguments that hold ``q``, ``k`` and ``v``.
        q: Where the queries lie.
        k: Where the keys lie.
        v: Where the values lie.
        scale: Factor of the scores.
        mask: ``float`` is added to the scores, ``bool`` keeps a score where it is true.
        mask_shape: Shape of the mask, of rank 4; each dimension is that of [batch, heads, queries,
            keys] or the int 1.
        causal: Query i sees only keys ``j <= i + causal_offset``.
        causal_offset: See ``causal``.
        nan_to_zero: Probabilities that are not a number count as 0.
        heads_first: The output is [batch, heads, queries, value_width], else
            [batch, queries, heads * value_width].
        dtype: Element type of the tensors, ``float32`` or a 16-bit float; sums are float32.
        mask_dtype: Element type of a mask of floats: ``float32``, or None for that of the tensors.
    """

    batch: Index
    queries: Index
    keys: Index
    heads: int
    kv_heads: int
    width: int
    value_width: int
    arguments: tuple[tuple[Index, ...], ...]
    q: Heads
    k: Heads
    v: Heads
    scale: float = 1.0
    mask: Literal["", "float", "bool"] = ""
    mask_shape: tuple[Index, ...] = ()
    causal: bool = False
    causal_offset: Index = 0
    nan_to_zero: bool = False
    heads_first: bool = False
    dtype: str = "float32"
    mask_dtype: str | None = "float32"

    def output_shape(self) -> tuple[Index, ...]:
        """Shape of the result."""
        if self.heads_first:
            return (self.batch, self.heads, self.queries, self.value_width)
        return (self.batch, self.queries, self.heads * self.value_width)

    def output_heads(self) -> Heads:
        """Where the heads of the result lie."""
        make = split_heads if self.heads_first else merged_heads
        return make(0, self.queries, self.heads, self.value_width)
