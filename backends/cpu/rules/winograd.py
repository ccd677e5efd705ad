"""Winograd tactics of convolutions with 3x3 filters."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf

from burnish.backends.cpu.conv import ConvSpec
from burnish.backends.cpu.costs import nominal
from burnish.backends.cpu.gemm import packed_size
from burnish.backends.cpu.isa import Isa
from burnish.backends.cpu.rules.conv_node import ConvNode, Template, conv_node
from burnish.backends.cpu.winograd import pack_winograd, winograd
from burnish.backends.cpu.winograd_cost import winograd_cost
from burnish.backends.cpu.winograd_error import WinogradError, measure_error
from burnish.backends.cpu.winograd_plan import Plan, plan_winograd
from burnish.ir import Node
from burnish.lowering.context import NodeContext
from burnish.lowering.tactics import Tactic

_DTYPES = ("float32", "bfloat16")


def winograd_tactics(ctx: NodeContext, node: Node) -> Iterator[Tactic]:
    """F(2x2, 3x3), and F(4x4, 3x3) where it costs less and the tolerance covers its error."""
    found = conv_node(ctx, node)
    if not applies(found.spec):
        return
    plans = {m: plan_winograd(found.spec, ctx.isa, m) for m in (2, 4)}
    n, oh, ow, _ = found.output_dims
    # Images of a batch of unknown size do not share the cost of reading the weights.
    batch, times = (n, 1) if isinstance(n, int) else (1, nominal(n))
    size = batch, nominal(oh), nominal(ow)
    costs = {m: times * winograd_cost(found.spec, p, ctx.isa, size) for m, p in plans.items()}
    error = _error(found) if costs[4] < costs[2] else None
    note = f", F(4x4) not covered: {error}" if error is not None and not error.covered else ""
    yield _tactic(found, plans[2], ctx.isa, costs[2], note)
    if error is not None and error.covered:
        yield _tactic(found, plans[4], ctx.isa, costs[4], f", {error}")


def applies(spec: ConvSpec) -> bool:
    """Whether a convolution has a Winograd form here that can be of use.

    On a map of two rows or columns the direct template skips most taps, as they lie outside. Data
    of bfloat16 are computed in float32: a quarter of the products may take less time than all of
    them twice as fast.
    """
    thin = any(isinstance(d, int) and d < 3 for d in (spec.oh, spec.ow))
    return (
        not thin
        and spec.kernel == (3, 3)
        and spec.strides == spec.dilations == (1, 1)
        and spec.groups == 1
        and spec.dtype in _DTYPES
        and max(spec.pads) <= 1
    )


def _error(found: ConvNode) -> WinogradError:
    """The error of F(4x4, 3x3) for the node's filters."""
    const = found.weights.const
    if const is None:
        return WinogradError(inf, inf, inf)
    return measure_error(const.array, 4)


def _tactic(found: ConvNode, plan: Plan, isa: Isa, cost: float, note: str) -> Tactic:
    m, spec, tile = plan.m, found.spec, plan.columns[0].tile
    template = Template(
        f"winograd_f{m}",
        lambda isa, spec: winograd(isa, spec, m),
        lambda w, spec, isa: pack_winograd(w, spec, isa, m),
        (m, plan),
        # Transformed filters are float32 whatever the filters are.
        packed_size(plan.points * spec.ic, spec.oc, isa) if spec.dtype == "float32" else None,
        f"F({m}x{m},3x3) tile {tile.rows}x{tile.vectors}{note}",
        plan.scratch,
        over=not plan.scratch,
        placed=not plan.scratch,
    )
    return Tactic(f"winograd-f{m}", cost, lambda: found.call(template))
