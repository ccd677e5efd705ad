"""How a Winograd convolution is cut into blocks of tiles, and where its intermediate results lie.

Each tile of m x m output pixels has (m+2)^2 products per pair of channels. The transformed input
``V`` [(m+2)^2, tiles, IC] and the products ``M`` [(m+2)^2, tiles, OC block] of a block of tiles
have to stay in the second-level cache. Where the input of a block fits in a task's stack, a task
does all steps for its block (*private*). Where there are few tiles of many channels, one loop over
tiles transforms the input of a *panel* of tiles into memory of the arena, and a second one over
blocks of tiles and of output channels multiplies (*shared*): so the weights are read once, and
there are enough tasks.
"""

from __future__ import annotations

from dataclasses import dataclass

from burnish.backends.cpu.conv import ConvSpec
from burnish.backends.cpu.isa import Isa
from burnish.backends.cpu.tiling import (
    Columns,
    Tile,
    fits,
    plan_columns,
    tile_columns,
    vector_count,
)
from burnish.backends.cpu.tir import Index, ceildiv, static

#: Bytes of V and M of a task that holds both.
_PRIVATE_BYTES = 512 * 1024
#: Bytes of V that the tasks of one panel share.
_SHARED_BYTES = 1536 * 1024
#: Bytes of M of a task that shares V.
_PRODUCT_BYTES = 256 * 1024
#: A private block of fewer tiles would read the weights too often.
_LEAST_PRIVATE = 12
#: Tiles of a block, even if they are small.
_MOST_TILES = 56
#: Threads that private blocks are shared out to evenly, if it can be.
_THREADS = (2, 4, 8)
#: Floats in 4 KiB: planes a multiple of it apart meet in the same sets of the first-level cache.
_PAGE = 1024
#: Bytes of weights that arrive in a cycle: they pass once for each register tile.
_STREAM = 20.0
_MOST_VECTORS = 3
_MOST_ROWS = {1: 14, 2: 8, 3: 8}


@dataclass(frozen=True)
class Plan:
    """Blocking of one convolution.

    Attributes:
        m: Output pixels of a tile along each axis, 2 or 4.
        columns: Blocks of output channels, which are the layout of the packed weights.
        block: Tiles that are multiplied together.
        panel: Tiles whose transformed input is in memory at once.
        private: Whether a task transforms the input of its own block.
        depth: Elements between the tiles of a plane of V.
        lanes: float32 elements of a vector.
    """

    m: int
    columns: tuple[Columns, ...]
    block: int
    panel: int
    private: bool
    depth: int
    lanes: int

    @property
    def points(self) -> int:
        """Products of a tile: planes of V and M."""
        return (self.m + 2) ** 2

    @property
    def width(self) -> int:
        """Elements between the tiles of a plane of M."""
        return self.lanes * max(c.tile.vectors for c in self.columns)

    @property
    def input_plane(self) -> int:
        """Elements between the planes of V."""
        return plane(self.panel * self.depth, self.lanes)

    @property
    def product_plane(self) -> int:
        """Elements between the planes of M."""
        return plane(self.block * self.width, self.lanes)

    @property
    def scratch(self) -> int:
        """float32 elements of V in the arena; 0 if it is private."""
        return 0 if self.private else self.points * self.input_plane


def plane(elements: int, lanes: int) -> int:
    """A distance of planes one vector beyond whole pages, so that they use different sets."""
    return -(-elements // _PAGE) * _PAGE + lanes


def tile_counts(spec: ConvSpec, m: int) -> tuple[Index, Index, Index]:
    """Tiles along rows, along columns, and in the batch."""
    rows, cols = ceildiv(spec.oh, m), ceildiv(spec.ow, m)
    return static(rows), static(cols), static(static(spec.n) * rows * cols)


def plan_winograd(spec: ConvSpec, isa: Isa, m: int) -> Plan:
    """The blocking for a convolution of 3x3 filters with stride 1."""
    lanes, points = isa.lanes, (m + 2) ** 2
    rows, cols, tiles = tile_counts(spec, m)
    # Blocks for a batch of unknown size suit one image.
    image = rows * cols
    known = tiles if isinstance(tiles, int) else image if isinstance(image, int) else None
    depth = -(-spec.ic // lanes) * lanes
    if depth * 4 % 256 == 0:  # tiles a multiple of 256 bytes apart use a few sets only
        depth += lanes
    tile = spec.tile or _register_tile(isa, spec.oc, known)
    columns = tile_columns(isa, known, spec.ic, spec.oc, tile)
    width, step = lanes * max(c.tile.vectors for c in columns), tile.rows

    def fitting(budget: int, floats: int) -> int:
        """Tiles of ``floats`` in each plane that fit in ``budget`` bytes, planes padded."""
        return max(0, (budget - points * 4 * (_PAGE + lanes)) // (points * 4 * floats))

    own = min(_MOST_TILES, fitting(_PRIVATE_BYTES, depth + width))
    whole = known is not None and points * 4 * depth * known <= _SHARED_BYTES
    if own >= _LEAST_PRIVATE and not (whole and known is not None and known < 4 * own):
        block = _balanced(known, own, step)
        return Plan(m, columns, block, block, True, depth, lanes)
    # A little more than the limit is better than a second block of few tiles.
    block = _cut(known, min(_MOST_TILES, fitting(_PRODUCT_BYTES, width)) + step - 1, step)
    limit = known if whole and known is not None else fitting(_SHARED_BYTES, depth)
    panel = max(block, -(-limit // block) * block)
    return Plan(m, columns, block, panel, False, depth, lanes)


def _balanced(known: int | None, limit: int, step: int) -> int:
    """Tiles of a private block, a multiple of ``step``: threads get like numbers of blocks."""
    most = max(1, limit // step)
    if known is None:
        return most * step

    def loads(block: int) -> float:
        """Tiles of the thread that has most, for one tile of an even share."""
        blocks = -(-known // block)
        return sum(min(known, -(-blocks // t) * block) * t / known for t in _THREADS)

    return min((k * step for k in range(most, most * 3 // 5, -1)), key=lambda b: round(loads(b), 3))


def tile_cycles(rows: int, vectors: int, isa: Isa) -> float:
    """Estimated cycles of one step of a register tile, whose weights are not in the first cache."""
    stream = vectors * isa.lanes * 4 / _STREAM
    return max(rows * vectors / 2, (rows + vectors) / 2, stream, 4.0)


def _cut(known: int | None, limit: int, step: int) -> int:
    """Tiles of a block, a multiple of ``step``; the blocks of a known number are alike."""
    limit = max(step, limit // step * step)
    if known is None:
        return limit
    blocks = -(-known // limit)
    return -(-known // (blocks * step)) * step


def _register_tile(isa: Isa, oc: int, tiles: int | None) -> Tile:
    """The register tile of the products.

    Unlike those of a plain product, every register tile of rows reads its weights from the second
    level cache or beyond: a narrow tile of many rows needs fewer of them at a time.
    """
    options = [
        Tile(rows, vectors)
        for vectors in range(1, min(_MOST_VECTORS, vector_count(oc, isa)) + 1)
        for rows in range(1, _MOST_ROWS[vectors] + 1)
        if fits(Tile(rows, vectors), isa)
    ]

    def cost(tile: Tile) -> float:
        total = 0.0
        for _, blocks, vectors, _ in plan_columns(oc, tile.vectors, isa):
            if tiles is None or tiles > _MOST_TILES:
                total += blocks * tile_cycles(tile.rows, vectors, isa) / tile.rows
                continue
            full, rest = divmod(tiles, tile.rows)
            total += blocks * full * tile_cycles(tile.rows, vectors, isa)
            total += blocks * tile_cycles(rest, vectors, isa) if rest else 0
        return total

    return min(options, key=lambda t: (round(cost(t), 6), t.vectors != 2, t.rows))
