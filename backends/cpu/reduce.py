"""Reductions of float32 tensors over any axes (ONNX ReduceSum-13 and its relatives).

Neighbouring axes that are both kept or both reduced are one. If the innermost is reduced, outputs
are computed one by one, in vectors along it; else a block of neighbouring outputs at a time. Empty
sets give the identity (sum 0, product 1, max -inf, min inf), and what follows from it.

Arguments: ``x`` of the spec's shape, ``y`` of any shape with the kept dimensions' elements.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx

from burnish.backends.cpu import vmath
from burnish.backends.cpu.isa import Isa
from burnish.backends.cpu.rows import TASK_ELEMENTS, each_row, each_vector, is_number
from burnish.backends.cpu.tir import (
    Acc,
    Expr,
    Index,
    Kernel,
    Tensor,
    branch,
    ceildiv,
    constant,
    first_lanes,
    floordiv,
    floormod,
    kernel,
    lanes_of,
    let,
    load,
    local,
    parallel,
    product,
    select,
    serial,
    splat,
    static,
    store,
)

#: Vectors of outputs that are computed at once when the innermost axis is kept.
_WIDE = 4


def _maximum(a: Expr, b: Expr) -> Expr:
    """The larger; a NaN stays."""
    return let(select(is_number(a), select(b <= a, a, b), a))


def _minimum(a: Expr, b: Expr) -> Expr:
    return let(select(is_number(a), select(b >= a, a, b), a))


def _same(x: Expr) -> Expr:
    return x


def _square(x: Expr) -> Expr:
    x = let(x)
    return let(x * x)


@dataclass(frozen=True)
class _Op:
    """A reduction: of each element, of two partial results, of the result."""

    combine: Callable[[Expr, Expr], Expr]
    identity: float
    before: Callable[[Expr], Expr] = _same
    after: Callable[[Expr], Expr] = _same


def _add(a: Expr, b: Expr) -> Expr:
    return a + b


#: By ONNX operator. ``ReduceMean`` and ``ReduceLogSumExp`` have more to them, see below.
OPS: dict[str, _Op] = {
    "ReduceSum": _Op(_add, 0.0),
    "ReduceMean": _Op(_add, 0.0),
    "ReduceMax": _Op(_maximum, -math.inf),
    "ReduceMin": _Op(_minimum, math.inf),
    "ReduceProd": _Op(lambda a, b: a * b, 1.0),
    "ReduceL1": _Op(_add, 0.0, tirx.abs),
    "ReduceL2": _Op(_add, 0.0, _square, tirx.sqrt),
    "ReduceSumSquare": _Op(_add, 0.0, _square),
    "ReduceLogSum": _Op(_add, 0.0, _same, vmath.log),
    "ReduceLogSumExp": _Op(_add, 0.0, vmath.exp, vmath.log),
}


@dataclass(frozen=True, eq=False)
class ReduceSpec:
    """What a reduction kernel computes.

    Attributes:
        op: A key of :data:`OPS`.
        shape: Shape of the input: ints or int64 expressions.
        axes: Axes to reduce, not negative; all of them if empty.
        output: Shape of the output, with or without the reduced dimensions.
    """

    op: str
    shape: tuple[Index, ...]
    axes: tuple[int, ...]
    output: tuple[Index, ...]


@dataclass(frozen=True)
class _Group:
    """Neighbouring axes that are all kept or all reduced."""

    extent: Index
    stride: Index
    reduced: bool


def _groups(spec: ReduceSpec) -> list[_Group]:
    """Axes from outer to inner; no two neighbours of a kind."""
    axes = spec.axes or tuple(range(len(spec.shape)))
    groups: list[_Group] = []
    stride: Index = 1
    for axis in reversed(range(len(spec.shape))):
        extent, reduced = static(spec.shape[axis]), axis in axes
        if not (isinstance(extent, int) and extent == 1):
            if groups and groups[-1].reduced == reduced:
                last = groups[-1]
                groups[-1] = _Group(static(last.extent * extent), last.stride, reduced)
            else:
                groups.append(_Group(extent, stride, reduced))
        stride = stride * extent
    return groups[::-1]


def reduce(isa: Isa, spec: ReduceSpec, name: str = "") -> Kernel:
    """Build the kernel of ``spec``; arguments as in the module's docstring."""
    with kernel(name or spec.op.lower(), isa) as k:
        x = k.input("x", spec.shape)
        y = k.output("y", spec.output)
        groups = _groups(spec)
        kept = [g for g in groups if not g.reduced]
        reduced = [g for g in groups if g.reduced]
        body = _Reduction(isa, spec.op, x, y, kept, reduced)
        if kept and not groups[-1].reduced:
            body.columns()
        else:
            body.rows()
    return k.result


class _Reduction:
    def __init__(
        self,
        isa: Isa,
        name: str,
        x: Tensor,
        y: Tensor,
        kept: list[_Group],
        reduced: list[_Group],
    ) -> None:
        self.lanes = isa.lanes
        self.name = name
        self.op = OPS[name]
        self.x, self.y = x, y
        self.kept, self.reduced = kept, reduced
        self.count = static(product(g.extent for g in reduced))

    def _start(self, groups: Sequence[_Group], index: Index) -> Index:
        """Offset of the ``index``-th combination of the groups' indices."""
        offset: Index = 0
        for group in reversed(groups):
            offset = offset + floormod(index, group.extent) * group.stride
            index = floordiv(index, group.extent)
        return let(offset)

    def _finish(self, value: Expr, shift: Expr | None) -> Expr:
        lanes = lanes_of(value)
        if self.name == "ReduceMean":
            if isinstance(self.count, int):
                count = constant(float(self.count), lanes)
            else:
                count = splat(tirx.Cast("float32", self.count), lanes)
            return let(value / count)
        value = self.op.after(value)
        return value if shift is None else let(value + shift)

    @staticmethod
    def _finite(top: Expr) -> Expr:
        """What LogSumExp subtracts: the maximum, if it is a number."""
        lanes = lanes_of(top)
        usable = tirx.abs(top) < constant(math.inf, lanes)
        return let(select(usable, top, constant(0.0, lanes)))

    # -- the innermost axis is reduced -------------------------------------------------------------

    def rows(self) -> None:
        """One output after the other."""
        total = static(product(g.extent for g in self.kept))
        length = self.count
        with each_row(total, length) as row:
            base = self._start(self.kept, row)
            shift = None
            if self.name == "ReduceLogSumExp":
                shift = self._finite(self._fold(base, OPS["ReduceMax"], None))
            value = self._fold(base, self.op, shift)
            self.y.store(row, self._finish(value, shift))

    def _fold(self, base: Index, op: _Op, shift: Expr | None) -> Expr:
        """Combine all elements of one output."""
        lanes, chains = self.lanes, 4
        acc = Acc(chains, lanes)
        acc.fill(op.identity)
        offset = None if shift is None else let(splat(shift, lanes))
        turn = 0

        def body(start: Index, p: Index, valid: Index | None) -> None:
            nonlocal turn
            chain = turn % chains
            turn += 1
            value = let(load(self.x.flat, start + p, lanes, valid))
            value = op.before(value if offset is None else let(value - offset))
            if valid is not None:
                value = select(first_lanes(valid, lanes), value, constant(op.identity, lanes))
            acc[chain] = op.combine(acc[chain], let(value))

        def nest(groups: Sequence[_Group], start: Index) -> None:
            if not groups:
                body(start, 0, 1)
            elif len(groups) == 1:
                each_vector(groups[0].extent, lanes, lambda p, v: body(start, p, v), chains)
            else:
                with serial(groups[0].extent) as i:
                    nest(groups[1:], let(start + i * groups[0].stride))

        nest(self.reduced, base)
        vector = op.combine(op.combine(acc[0], acc[1]), op.combine(acc[2], acc[3]))
        cell = local(lanes)
        store(cell, 0, let(vector))
        parts = [let(load(cell, i)) for i in range(lanes)]
        while len(parts) > 1:
            parts = [let(op.combine(a, b)) for a, b in zip(parts[::2], parts[1::2], strict=True)]
        return parts[0]

    # -- the innermost axis is kept ----------------------------------------------------------------

    def columns(self) -> None:
        """Blocks of neighbouring outputs."""
        *outer, inner = self.kept
        extent, lanes = inner.extent, self.lanes
        wide = _WIDE
        if isinstance(extent, int):
            wide = max(1, min(_WIDE, extent // lanes))
        block = wide * lanes
        blocks = ceildiv(extent, block)
        tasks = product(g.extent for g in outer) * blocks
        work = tasks * block * self.count
        small = isinstance(work, int) and work < 4 * TASK_ELEMENTS

        def run(task: Index) -> None:
            row, part = let(floordiv(task, blocks)), let(floormod(task, blocks))
            column = let(part * block)
            source = let(self._start(outer, row) + column)
            target = let(row * extent + column)

            def tail() -> None:
                rest = extent - column if not isinstance(extent, int) else extent % block
                each_vector(
                    rest if isinstance(rest, int) else let(rest),
                    lanes,
                    lambda p, v: self._columns(source + p, target + p, 1, v),
                )

            if isinstance(extent, int) and extent % block == 0:
                self._columns(source, target, wide, None)
            else:
                branch(
                    column + block <= extent,
                    lambda: self._columns(source, target, wide, None),
                    tail,
                )

        with serial(tasks) if small else parallel(tasks) as task:
            run(task)

    def _columns(self, source: Index, target: Index, vectors: int, valid: Index | None) -> None:
        """``vectors`` vectors of outputs."""
        lanes = self.lanes
        acc = Acc(vectors, lanes)

        def sweep(op: _Op, shifts: list[Expr] | None) -> None:
            acc.fill(op.identity)

            def nest(groups: Sequence[_Group], start: Index) -> None:
                if groups:
                    with serial(groups[0].extent) as i:
                        nest(groups[1:], let(start + i * groups[0].stride))
                    return
                for v in range(vectors):
                    value = let(load(self.x.flat, start + v * lanes, lanes, valid))
                    value = op.before(value if shifts is None else let(value - shifts[v]))
                    acc[v] = op.combine(acc[v], value)

            nest(self.reduced, source)

        shifts: list[Any] | None = None
        if self.name == "ReduceLogSumExp":
            sweep(OPS["ReduceMax"], None)
            shifts = [self._finite(let(acc[v])) for v in range(vectors)]
        sweep(self.op, shifts)
        for v in range(vectors):
            result = self._finish(let(acc[v]), None if shifts is None else shifts[v])
            store(self.y.flat, target + v * lanes, result, valid)
