"""How a reshape maps axes: the smallest runs of axes that keep their product."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from burnish.ir import Dim, equal
from burnish.ir.dims import product

Block: TypeAlias = tuple[list[int], list[int]]


def aligned_blocks(before: Sequence[Dim], after: Sequence[Dim]) -> list[Block] | None:
    """Split two shapes of equal size into the smallest runs of axes with equal products."""
    blocks: list[Block] = []
    i = j = 0
    while i < len(before) or j < len(after):
        left = [i] if i < len(before) else []
        right = [j] if j < len(after) else []
        if not left or not right:
            # Trailing axes of size 1 belong to the last block.
            rest = [*(before[a] for a in left), *(after[a] for a in right)]
            if rest[0] != 1 or not blocks:
                return None
            blocks[-1] = (blocks[-1][0] + left, blocks[-1][1] + right)
            i, j = i + len(left), j + len(right)
            continue
        i, j = i + 1, j + 1
        while not equal(product(before[a] for a in left), product(after[a] for a in right)):
            shorter = _shorter(before, left, after, right, i, j)
            if shorter is None:
                return None
            if shorter:
                left.append(i)
                i += 1
            else:
                right.append(j)
                j += 1
        blocks.append((left, right))
    return blocks


def _shorter(
    before: Sequence[Dim],
    left: list[int],
    after: Sequence[Dim],
    right: list[int],
    i: int,
    j: int,
) -> bool | None:
    """Whether the left run has to grow; None when neither can."""
    a, c = product(before[k] for k in left), product(after[k] for k in right)
    if isinstance(a, int) and isinstance(c, int):
        grow_left = a < c
    else:
        grow_left = isinstance(a, int) or len(left) <= len(right)
    if grow_left:
        return True if i < len(before) else None
    return False if j < len(after) else None
