"""Weights in 8 or 4 bits: what a product with them computes, and how they are packed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from burnish.backends.cpu.gemm import pack_columns
from burnish.backends.cpu.isa import Isa
from burnish.backends.cpu.tiling import Columns, Tile, best_rows, plan_columns
from burnish.backends.cpu.tir import Index, product, static
from burnish.errors import CompileError
from burnish.ir.postops import PostOp

I32Array: TypeAlias = npt.NDArray[np.int32]

#: Bits of a word, in which codes of one column lie.
WORD = 32
#: Rows with which weights are unpacked in registers.
FEW_ROWS = 4
#: Rows that are multiplied with weights while these are written out, where there are as many.
TOGETHER = 8


@dataclass(frozen=True, eq=False)
class NBitsSpec:
    """What a kernel computes.

    Attributes:
        lead: All dimensions of ``x`` but the last: ints or int64 expressions.
        k: Last dimension of ``x``.
        n: Last dimension of ``y``.
        bits: 8 or 4.
        block: Rows of ``w`` that share a scale: a multiple of the codes in a word, or all.
        symmetric: Whether all zero points are 0.
        postops: Applied to the product.
    """

    lead: tuple[Index, ...]
    k: int
    n: int
    bits: int
    block: int
    symmetric: bool
    postops: tuple[PostOp, ...] = ()

    def __post_init__(self) -> None:
        if self.block % self.codes and self.block < self.k:
            raise CompileError(f"blocks of {self.block} rows, which cut words in two")

    @property
    def rows(self) -> Index:
        """Rows of the product."""
        return static(product(static(d) for d in self.lead))

    @property
    def codes(self) -> int:
        """Codes of a word."""
        return WORD // self.bits

    @property
    def words(self) -> int:
        """Words of a column."""
        return -(-self.k // self.codes)

    @property
    def blocks(self) -> int:
        """Scales of a column."""
        return -(-self.k // self.block)

    def columns(self, isa: Isa) -> tuple[Columns, ...]:
        """Column blocks, which are also the layout of words, scales and zero points."""
        rows = None
        if isinstance(self.rows, int):
            rows = max(1, self.rows - first_rows(self.rows))
        found = []
        for first, blocks, vectors, tail in plan_columns(self.n, _width(isa), isa):
            tile = best_rows(vectors, rows, self.k, isa)
            found.append(Columns(first, blocks, tile or Tile(1, vectors), tail))
        return tuple(found)


def first_rows(rows: int) -> int:
    """Rows, of some, that are multiplied with weights while these are unpacked."""
    return TOGETHER if rows >= TOGETHER else min(rows, FEW_ROWS)


def _width(isa: Isa) -> int:
    """Vectors of a column block."""
    return 4 if isa.registers >= 32 else 2


def pack_codes(codes: npt.NDArray[np.integer[Any]], spec: NBitsSpec, isa: Isa) -> I32Array:
    """Codes [K, N] around 0, in [-2^(bits - 1), 2^(bits - 1)), as the kernel reads them: 1-D words.

    A word holds neighbours of a column. In 8 bits they are its bytes. In 4 bits its low nibbles are
    the first four, its high nibbles the others, so that each half is four bytes too.
    """
    padded = np.zeros((spec.words * spec.codes, spec.n), np.int8)
    padded[: spec.k] = codes
    group = padded.reshape(spec.words, spec.codes, spec.n).view(np.uint8)
    if spec.bits == 4:
        group = group + np.uint8(8)
        group = group[:, :4] | (group[:, 4:] << np.uint8(4))
    words = np.ascontiguousarray(group.transpose(0, 2, 1)).view(np.int32)[..., 0]
    packed: I32Array = pack_columns(words, spec.columns(isa), isa)
    return packed


def pack_blocks(values: npt.NDArray[Any], spec: NBitsSpec, isa: Isa) -> npt.NDArray[Any]:
    """Scales or zero points [blocks, N] as the kernel reads them: 1-D."""
    return pack_columns(values, spec.columns(isa), isa)
