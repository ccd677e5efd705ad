"""Estimated cycles of a Winograd convolution, comparable to those of the direct template."""

from __future__ import annotations

from burnish.backends.cpu.conv import ConvSpec
from burnish.backends.cpu.isa import Isa
from burnish.backends.cpu.tiling import vector_count
from burnish.backends.cpu.winograd_plan import Plan, tile_cycles

#: Cycles to transform one vector of channels of a tile, input and output (measured, 512 bits).
_INPUT = {2: 30.0, 4: 105.0}
_OUTPUT = {2: 40.0, 4: 135.0}
#: More for an input vector that is gathered first: at a border, or the last of the channels.
_GATHER = {2: 35.0, 4: 80.0}
#: Weights up to this size are in the second-level cache when a layer is run again.
_NEAR_BYTES = 512 * 1024
#: Bytes in a cycle that transformed weights arrive with from beyond: between memory and the last
#: level of cache, as the weights of a model pass once in a run.
_FAR_RATE = 8.0
#: Cycles for a prologue, and for each accumulator that is cleared and stored.
_PROLOGUE = 12.0


def winograd_cost(spec: ConvSpec, plan: Plan, isa: Isa, size: tuple[int, int, int]) -> float:
    """Estimated cycles of one core.

    Args:
        spec: The convolution.
        plan: Its blocking.
        isa: The instruction set.
        size: Batch, output rows and output columns; nominal where they are not known.
    """
    n, oh, ow = size
    m, points = plan.m, plan.points
    rows, cols = -(-oh // m), -(-ow // m)
    tiles = n * rows * cols
    gathered = _gathered(rows, cols) * n
    whole, vectors = spec.ic // isa.lanes, vector_count(spec.ic, isa)
    load = tiles * vectors * _INPUT[m] + (tiles * (vectors - whole) + gathered * whole) * _GATHER[m]
    store = tiles * vector_count(spec.oc, isa) * _OUTPUT[m]
    products = 0.0
    for c in plan.columns:
        full, rest = divmod(min(plan.block, tiles), c.tile.rows)
        one = full * _product(spec.ic, c.tile.rows, c.tile.vectors, isa)
        if rest:
            one += _product(spec.ic, rest, c.tile.vectors, isa)
        products += c.blocks * points * one * tiles / min(plan.block, tiles)
    weights = 4 * points * spec.ic * vector_count(spec.oc, isa) * isa.lanes
    far = weights / _FAR_RATE if weights > _NEAR_BYTES else 0.0
    return load + store + max(products, far) + 0.1 * min(products, far)


def _product(depth: int, rows: int, vectors: int, isa: Isa) -> float:
    """One register tile of products."""
    return depth * tile_cycles(rows, vectors, isa) + _PROLOGUE + rows * vectors


def _gathered(rows: int, cols: int) -> int:
    """Tiles whose input may lie outside of an image."""
    return rows * cols - max(0, rows - 2) * max(0, cols - 2)
