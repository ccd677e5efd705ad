"""Dot products of pairs of bfloat16: the inner operation of products stored in bfloat16.

``acc[i] += a[0] * b[i][0] + a[1] * b[i][1]`` in float32. The operands are int32 vectors of pairs.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from tvm.tirx.script import builder as T  # noqa: N812

from burnish.backends.cpu import bfloat16
from burnish.backends.cpu.half import HALF, unwidened
from burnish.backends.cpu.isa import Isa
from burnish.backends.cpu.microkernel import F32, Dot
from burnish.backends.cpu.narrow import Narrow
from burnish.backends.cpu.tir import Tensor, floordiv, i64

#: Factors of one dot product.
PAIR = 2

DOT2 = Dot("bf16", "int32", "float32", PAIR, bfloat16.pair_dot)


def dot_of(isa: Isa, dtype: str, depth: int) -> Dot:
    """What multiplies tensors of ``dtype`` in steps along ``depth`` contiguous elements."""
    if dtype == "float16" and isa.paired:
        return HALF
    return DOT2 if dtype == "bfloat16" and isa.bf16 and depth % PAIR == 0 else F32


def computes(dot: Dot) -> str:
    """The element type that a product on floats computes in."""
    return {DOT2.name: "bfloat16", HALF.name: "float16"}.get(dot.name, "float32")


def detail_of(dot: Dot, tile: str) -> str:
    """What was chosen, for the report."""
    kind = {DOT2.name: "bf16 pairs, ", HALF.name: "fp16, "}.get(dot.name, "")
    return f"{kind}tile {tile}"


def pairs(tensor: Tensor, dot: Dot) -> Tensor:
    """The tensor as the product reads it: in pairs, not widened, or as it is."""
    if dot is HALF:
        return unwidened(tensor)
    if dot is not DOT2:
        return tensor
    flat = tensor.flat
    buffer = flat.buffer if isinstance(flat, Narrow) else flat
    size = i64(floordiv(tensor.size, PAIR))
    return replace(tensor, flat=T.decl_buffer((size,), "int32", data=buffer.data, align=2 * PAIR))


def pair_rows(w: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """[depth, N] of 16 bits as [depth / 2, N] of int32: pairs along the depth."""
    depth, n = w.shape
    paired = w.reshape(depth // PAIR, PAIR, n).transpose(0, 2, 1)
    return np.ascontiguousarray(paired).view(np.int32).reshape(-1, n)
