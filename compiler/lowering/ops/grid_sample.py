"""GridSample and AffineGrid."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

from tvm import te, tirx

from burnish.ir.graph import Node
from burnish.ir.types import FLOATS
from burnish.lowering.ops.activation import clamp
from burnish.lowering.ops.common import all_of, bind, cast, like, select, wide, wide_dtype
from burnish.lowering.registry import te_rule
from burnish.lowering.te_context import Prim, TeContext, int64


def _denormalized(g: Prim, extent: Prim, align_corners: int) -> Prim:
    """A grid coordinate in [-1, 1] as a position in the input."""
    size = cast(extent, str(g.ty))
    if align_corners:
        return (g + like(1, g)) * like(0.5, g) * (size - like(1, g))
    return ((g + like(1, g)) * size - like(1, g)) * like(0.5, g)


def _reflected(x: Prim, extent: Prim, align_corners: int) -> Prim:
    """A position folded back at the borders, as often as needed."""
    size = cast(extent, str(x.ty))
    low = like(0, x) if align_corners else like(-0.5, x)
    span = size - like(1, x) if align_corners else size
    safe = select(span > like(0, x), span, like(1, x))

    def fold(d: Prim) -> Prim:
        turns = te.floor(d / safe)
        rest = d - turns * safe
        odd = turns - like(2, x) * te.floor(turns * like(0.5, x))
        return low + select(odd > like(0.5, x), safe - rest, rest)

    return bind(te.abs(x - low), fold)


def _cubic(t: Prim) -> list[Prim]:
    """Weights of the taps -1, 0, 1, 2 at offset ``t`` (Keys, a = -0.75)."""
    a = -0.75

    def near(d: Prim) -> Prim:
        return ((like(a + 2, d) * d - like(a + 3, d)) * d) * d + like(1, d)

    def far(d: Prim) -> Prim:
        return ((like(a, d) * d - like(5 * a, d)) * d + like(8 * a, d)) * d - like(4 * a, d)

    one = like(1, t)
    return [far(t + one), near(t), near(one - t), far(like(2, t) - t)]


class _Sampler:
    """Reads the input at grid positions of one output element."""

    def __init__(
        self, ctx: TeContext, x: te.Tensor, at: tuple[Prim, ...], padding: str, align: int
    ) -> None:
        self.x = x
        self.n, self.c = at[0], at[1]
        self.extents = ctx.in_shape(0)[2:]
        self.padding = padding
        self.align = align

    def border(self, position: Prim, axis: int) -> Prim:
        """A float position as the padding mode moves it."""
        extent = self.extents[axis]
        if self.padding == "reflection":
            position = _reflected(position, extent, self.align)
        if self.padding != "zeros":
            last = cast(extent, str(position.ty)) - like(1, position)
            position = clamp(position, like(0, position), last)
        return position

    def read(self, index: list[Prim]) -> Prim:
        """The element at whole float positions, 0 outside."""
        where = [tirx.Cast("int64", i) for i in index]
        inside = []
        for i, extent in zip(where, self.extents, strict=True):
            inside += [i >= int64(0), i < extent]
        value = wide(self.x(self.n, self.c, *where))
        return tirx.if_then_else(all_of(*inside), value, like(0, value))

    def nearest(self, positions: list[Prim]) -> Prim:
        """Nearest element, ties to even."""
        moved = [te.nearbyint(self.border(p, a)) for a, p in enumerate(positions)]
        return _bound(moved, self.read)

    def linear(self, positions: list[Prim]) -> Prim:
        """Multilinear interpolation."""

        def interpolate(values: list[Prim]) -> Prim:
            moved, base = values[: len(positions)], values[len(positions) :]
            total: Prim = None
            for corner in product((0, 1), repeat=len(moved)):
                weight: Prim = None
                for side, p, b in zip(corner, moved, base, strict=True):
                    factor = p - b if side else like(1, p) - (p - b)
                    weight = factor if weight is None else weight * factor
                index = [b + like(side, b) for side, b in zip(corner, base, strict=True)]
                part = weight * self.read(index)
                total = part if total is None else total + part
            return total

        def with_base(moved: list[Prim]) -> Prim:
            return _bound([te.floor(p) for p in moved], lambda base: interpolate([*moved, *base]))

        return _bound([self.border(p, a) for a, p in enumerate(positions)], with_base)

    def cubic(self, positions: list[Prim]) -> Prim:
        """Bicubic interpolation; every tap is padded by itself."""

        def interpolate(values: list[Prim]) -> Prim:
            weights, taps = (values[0:4], values[4:8]), (values[8:12], values[12:16])
            total: Prim = None
            for row, column in product(range(4), repeat=2):
                value = self.read([taps[0][row], taps[1][column]])
                part = weights[0][row] * weights[1][column] * value
                total = part if total is None else total + part
            return total

        def with_base(base: list[Prim]) -> Prim:
            values = [w for p, b in zip(positions, base, strict=True) for w in _cubic(p - b)]
            for axis, b in enumerate(base):
                steps = [b + like(step, b) for step in (-1, 0, 1, 2)]
                values += [te.nearbyint(self.border(p, axis)) for p in steps]
            return _bound(values, interpolate)

        return _bound([te.floor(p) for p in positions], with_base)


def _check(node: Node) -> str | None:
    if node.str_attr("mode", "linear") == "cubic" and len(node.required(0).shape) != 4:
        return "cubic interpolation of other than two axes"
    return None


@te_rule("GridSample", dtypes=FLOATS, check=_check)
def grid_sample(
    ctx: TeContext,
    x: te.Tensor,
    grid: te.Tensor,
    *,
    align_corners: int = 0,
    mode: str = "linear",
    padding_mode: str = "zeros",
) -> te.Tensor:
    """GridSample-22 with any number of spatial axes."""
    rank = len(ctx.in_dims(0)) - 2
    extents = ctx.in_shape(0)[2:]

    def body(*at: Prim) -> Prim:
        sampler = _Sampler(ctx, x, at, padding_mode, align_corners)
        # The last grid coordinate is that of the first spatial axis.
        coordinates = [
            _denormalized(wide(grid(at[0], *at[2:], int64(rank - 1 - axis))), extent, align_corners)
            for axis, extent in enumerate(extents)
        ]
        sample = {"nearest": sampler.nearest, "linear": sampler.linear, "cubic": sampler.cubic}
        return cast(_bound(coordinates, sample[mode]), ctx.out_type().dtype)

    return ctx.compute(body)


@te_rule("AffineGrid", attribute_inputs=(1,), dtypes=FLOATS | {"int64"})
def affine_grid(
    ctx: TeContext, theta: te.Tensor, size: te.Tensor | None, *, align_corners: int = 0
) -> te.Tensor:
    """AffineGrid-20: for every position in [-1, 1], the affine map of its coordinates."""
    extents = ctx.out_shape()[1:-1]

    def coordinate(i: Prim, extent: Prim) -> Prim:
        kind = wide_dtype(ctx.out_type().dtype)
        i, count = cast(i, kind), cast(extent, kind)
        if align_corners:
            # A single position lies at the lower border.
            last = tirx.max(count - like(1, count), like(1, count))
            return like(2, i) * i / last - like(1, i)
        return (like(2, i) * i + like(1, i)) / count - like(1, i)

    def body(n: Prim, *at: Prim) -> Prim:
        *position, row = at
        # The first coordinate is that of the last axis.
        places = list(zip(position, extents, strict=True))[::-1]
        total = wide(theta(n, row, int64(len(places))))
        for column, (i, extent) in enumerate(places):
            total = total + wide(theta(n, row, int64(column))) * coordinate(i, extent)
        return cast(total, ctx.out_type().dtype)

    return ctx.compute(body)


def _bound(
    values: list[Prim], body: Callable[[list[Prim]], Prim], done: tuple[Prim, ...] = ()
) -> Prim:
    """Evaluate each value once before ``body`` uses them."""
    if not values:
        return body(list(done))
    return bind(values[0], lambda v: _bound(values[1:], body, (*done, v)))
