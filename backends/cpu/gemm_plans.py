"""Ways to compute a product with constant weights, with what each is expected to cost.

They differ in the register tile, in the order of the loops and in whether the reduction is cut into
passes. The cost is that of the inner loops (:mod:`burnish.backends.cpu.tiling`) and of what they
wait for because it does not lie in the second-level cache: weights that every tile of rows reads
again, and the operand that the outer loop reads again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from burnish.backends.cpu.gemm import GemmSpec, weights_first
from burnish.backends.cpu.isa import Isa
from burnish.backends.cpu.tiling import MAX_VECTORS, Columns, best_rows, columns_cost, row_chunk

#: Bytes of weights that stay in a second-level cache of 1 MiB while rows stream by.
_PANEL = 400 * 1024
#: An operand of more than this does not stay there.
_OPERAND = 768 * 1024
#: An operand of more than this competes with the rest of the model for the third-level cache.
_FAR = 4 * 1024 * 1024
#: Bytes for which the inner loops wait one cycle, when they come from the second-level cache, from
#: the third and from beyond: most of the traffic runs beside the arithmetic. Fitted to measured
#: times.
_NEAR_BYTES = 1600.0
_PANEL_BYTES = 350.0
_OPERAND_BYTES = 170.0
_FAR_BYTES = 40.0
#: Tiles that are offered, and how much more than the best the others may be expected to cost.
_TILES = 3
_WORST = 1.5


@dataclass(frozen=True, eq=False)
class GemmPlan:
    """One way to compute a product.

    Attributes:
        spec: The product, with tile, passes and order of the loops set.
        columns: Its column blocks.
        cost: Estimated cycles of one core.
    """

    spec: GemmSpec
    columns: tuple[Columns, ...]
    cost: float

    @property
    def tile(self) -> str:
        """The tile, for people."""
        return f"{self.columns[0].tile.rows}x{self.columns[0].tile.vectors}"

    @property
    def name(self) -> str:
        """``gemm 8x3``, ``gemm 8x3 k-blocked 1536``, ``gemm 6x4 rows-first``, ``gemv 4``."""
        few = self.spec.rows == 1
        parts = [f"gemv {self.columns[0].tile.vectors}" if few else f"gemm {self.tile}"]
        if self.spec.steps:
            parts.append(f"k-blocked {self.spec.steps}")
        if self.spec.rows_first is not None:
            parts.append("rows-first" if self.spec.rows_first else "weights-first")
        return " ".join(parts)


def gemm_plans(isa: Isa, spec: GemmSpec, rows: int) -> list[GemmPlan]:
    """Plans for a product whose spec leaves the choice open, the cheapest first.

    Args:
        isa: The instruction set.
        spec: The product.
        rows: Its rows, or how many are expected.
    """
    known = spec.rows if isinstance(spec.rows, int) else None
    depth = spec.depth(isa)
    tiles = {best_rows(v, known, depth, isa) for v in range(1, MAX_VECTORS + 1)} - {None}
    plans = sorted(
        (_plan(isa, replace(spec, tile=tile), rows) for tile in tiles), key=lambda p: p.cost
    )
    # A width that the result does not have is that of another plan.
    plans = list({plan.columns: plan for plan in reversed(plans)}.values())[::-1]
    plans = [p for p in plans if p.cost <= _WORST * plans[0].cost][:_TILES]
    plans += [_plan(isa, s, rows) for p in plans[:2] for s in _in_passes(p, isa)]
    plans += [_plan(isa, s, rows) for s in _reordered(plans[0].spec, isa)]
    return sorted(plans, key=lambda p: p.cost)


def _in_passes(plan: GemmPlan, isa: Isa) -> Iterator[GemmSpec]:
    """The same with a reduction in passes, if it is deep."""
    spec = plan.spec
    step = 4 * plan.columns[0].tile.vectors * isa.lanes
    passes = -(-spec.k * step // _PANEL)
    if passes > 1 and spec.dtype == "float32" and spec.rows != 1:
        yield replace(spec, steps=-(-spec.k // passes))


def _reordered(spec: GemmSpec, isa: Isa) -> Iterator[GemmSpec]:
    """The same with the other order of the loops, if there are several blocks both ways."""
    columns = spec.columns(isa)
    blocks, rows = sum(c.blocks for c in columns), spec.rows
    known = rows if isinstance(rows, int) else None
    depth = spec.depth(isa)
    chunk = row_chunk(known, depth, spec.n, blocks, columns[0].tile.rows)
    if blocks > 1 and (known is None or known > chunk):
        yield replace(spec, rows_first=weights_first(depth, spec.n))


def _plan(isa: Isa, spec: GemmSpec, rows: int) -> GemmPlan:
    columns = spec.columns(isa)
    depth = spec.depth(isa)
    cost = columns_cost(columns, rows, depth, isa)
    steps = spec.steps or depth
    passes = -(-depth // steps)
    for c in columns:
        tiles = -(-rows // c.tile.rows)
        cost += c.blocks * (passes - 1) * tiles * (12.0 + 2 * c.tile.rows * c.tile.vectors)
        step = 4 * c.tile.vectors * isa.lanes
        rate = _PANEL_BYTES if steps * step > _PANEL else _NEAR_BYTES
        cost += c.blocks * (tiles - 1) * depth * step / rate
    return GemmPlan(spec, columns, cost + _again(isa, spec, columns, rows))


def _again(isa: Isa, spec: GemmSpec, columns: tuple[Columns, ...], rows: int) -> float:
    """Cycles for what the outer loop reads again because it did not stay in the cache."""
    depth = spec.depth(isa)
    first = weights_first(depth, spec.n) if spec.rows_first is None else not spec.rows_first
    blocks = sum(c.blocks for c in columns)
    if first:
        operand, times = 4 * rows * depth, blocks
    else:
        known = rows if isinstance(spec.rows, int) else None
        chunk = row_chunk(known, depth, spec.n, blocks, columns[0].tile.rows, spec.steps)
        operand, times = 4 * depth * spec.n, -(-rows // chunk)
    if operand <= _OPERAND:
        return 0.0
    return operand * (times - 1) / (_FAR_BYTES if operand > _FAR else _OPERAND_BYTES)
