"""Axes: permutations and what a Transpose costs; how a Reshape maps runs of axes.

``Transpose(x, p)`` has ``shape[i] = x.shape[p[i]]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from burnish.ir import Builder, Dim, Expr, Node, Value, equal
from burnish.ir.dims import evaluate, product, symbols
from burnish.ir.types import BY_NAME

Perm: TypeAlias = tuple[int, ...]
#: Axes before and after a reshape that have the same product.
Block: TypeAlias = tuple[list[int], list[int]]

#: What symbols stand for when costs are compared: the first axis of inputs (a batch), and others.
TYPICAL_BATCH, TYPICAL_SIZE = 4, 64


def compose(first: Sequence[int], then: Sequence[int]) -> Perm:
    """The permutation of ``Transpose(Transpose(x, first), then)``."""
    return tuple(first[i] for i in then)


def inverse(perm: Sequence[int]) -> Perm:
    """The permutation that undoes ``perm``."""
    return tuple(perm.index(i) for i in range(len(perm)))


def is_identity(perm: Sequence[int]) -> bool:
    """Whether nothing moves."""
    return tuple(perm) == tuple(range(len(perm)))


def is_view(shape: Sequence[Dim], perm: Sequence[int]) -> bool:
    """Whether only axes of size 1 move, so that the elements keep their order."""
    kept = [axis for axis in perm if not (isinstance(shape[axis], int) and shape[axis] == 1)]
    return kept == sorted(kept)


def bytes_of(value: Value) -> int:
    """The size of a value, with a guess for symbolic dims."""
    return max(BY_NAME[value.dtype].bits // 8, 1) * elements_of(value)


def elements_of(value: Value) -> int:
    """The number of elements of a value, with a guess for symbolic dims.

    The same for every order of the axes: costs that change when axes move cannot be compared.
    """
    batch = _batch_symbols(value)
    total = 1
    for dim in value.shape:
        if isinstance(dim, Expr):
            sizes = {s: TYPICAL_BATCH if s in batch else TYPICAL_SIZE for s in symbols(dim)}
            total *= max(evaluate(dim, sizes), 1)
        else:
            total *= dim if isinstance(dim, int) else TYPICAL_SIZE
    return total


def _batch_symbols(value: Value) -> frozenset[str]:
    """The symbols that are the first axis of a graph input, and no other axis of one."""
    node = value.producer or next((user for user, _ in value.uses), None)
    if node is None or node.graph is None:
        return frozenset()
    shapes = [v.type.dims for v in node.graph.root.inputs if v.type is not None and v.type.rank]
    first = [s for shape in shapes for s in symbols(shape[0])]
    return frozenset(first).difference(s for shape in shapes for d in shape[1:] for s in symbols(d))


def transpose_cost(value: Value, perm: Sequence[int]) -> int:
    """Bytes moved by ``Transpose(value, perm)``; 0 when it is a view."""
    return 0 if is_view(value.shape, perm) else bytes_of(value)


def permutation_of(node: Node) -> Perm:
    """The permutation of a Transpose node; the default reverses the axes."""
    rank = len(node.required(0).shape)
    return node.ints_attr("perm", tuple(reversed(range(rank))))


def transposed(b: Builder, value: Value, perm: Sequence[int]) -> Value:
    """``Transpose(value, perm)``, looking through a Transpose that makes ``value``."""
    source, total = value, tuple(perm)
    while source.producer is not None and source.producer.key == "Transpose":
        total = compose(permutation_of(source.producer), total)
        source = source.producer.required(0)
    if is_identity(total):
        return source
    return b.op("Transpose", source, perm=total)


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
