"""Loop nests of scheduled tensor expressions: collapsed, and cut into parallel tasks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import tvm
from tvm import ir, tirx

from burnish.backends.cpu import tir
from burnish.backends.cpu.te_expr import Expr, Program, int64, static, substitute, variables

#: Elements (weighted by math functions) that one task should have.
GRAIN = 8192
#: Below this many weighted elements a kernel runs on the calling thread.
PARALLEL_THRESHOLD = 16384
#: What a symbolic dimension is taken for when loops are cut into tasks.
_TYPICAL = 64


@dataclass(frozen=True)
class Loop:
    """A loop after collapsing: its variable's place in the domain and its extent."""

    var: ir.Var
    extent: Expr


def dim(extent: Expr) -> Expr:
    """An extent as a Python int, or as an int64 expression if it is symbolic."""
    value = static(extent)
    return int64(extent) if value is None else value


def index_var(i: int, kind: str = "i") -> ir.Var:
    """A fresh int64 variable."""
    return tirx.Var(f"{kind}{i}", "int64")


def coefficients(
    program: Program, domain: Sequence[ir.Var]
) -> tuple[list[dict[ir.Var, Expr]], set[ir.Var]]:
    """Stride of each variable in each load; variables used in other ways."""
    opaque = set(program.opaque)
    rows: list[dict[ir.Var, Expr]] = []
    indices = set(domain)
    for load in program.loads:
        used: set[ir.Var] = set()
        variables(load.index, used)
        mine = [v for v in domain if v in used]
        if not mine:
            rows.append({})
            continue
        linear = tvm.sym.detect_linear_equation(load.index, mine)
        if len(linear) != len(mine) + 1:
            opaque |= used & indices
            rows.append({})
            continue
        rows.append(dict(zip(mine, list(linear)[:-1], strict=True)))
    return rows, opaque


def collapse(
    program: Program, domain: Sequence[tuple[ir.Var, Expr]], env: dict[ir.Var, Expr]
) -> list[Loop]:
    """Merge neighbouring loops; fills ``env`` with the value of every domain variable."""
    names = [v for v, _ in domain]
    rows, opaque = coefficients(program, names)
    analyzer = tvm.sym.Analyzer()
    zero = int64(0)
    loops: list[Loop] = []
    for var, extent in reversed(domain):
        if static(extent) == 1:
            env[var] = zero
            continue
        if loops:
            inner = loops[-1]
            joint = (
                var not in opaque
                and inner.var not in opaque
                and all(
                    analyzer.can_prove_equal(
                        row.get(var, zero), row.get(inner.var, zero) * int64(inner.extent)
                    )
                    for row in rows
                )
            )
            if joint:
                env[var] = zero
                merged = analyzer.simplify(int64(extent) * int64(inner.extent))
                loops[-1] = Loop(inner.var, merged)
                continue
        loops.append(Loop(var, extent))
    return loops[::-1]


def estimate(extent: Expr) -> int:
    """A number for planning: symbols count as :data:`_TYPICAL`."""
    value = static(extent)
    if value is not None:
        return value
    found: set[ir.Var] = set()
    variables(extent, found)
    guess = substitute(extent, {v: tirx.const(_TYPICAL, v.ty.dtype) for v in found})
    value = static(tvm.sym.Analyzer().simplify(guess))
    return _TYPICAL if value is None else max(value, 1)


def is_small(loops: Sequence[Loop], weight: int) -> bool:
    """Known to be too little work for more than one thread."""
    if any(static(loop.extent) is None for loop in loops):
        return False
    elements = math.prod(estimate(loop.extent) for loop in loops)
    return weight * elements < PARALLEL_THRESHOLD


@contextmanager
def nest(loops: Sequence[Loop], weight: int, env: dict[ir.Var, Expr]) -> Iterator[None]:
    """All loops, the outer ones as parallel tasks; sets their variables in ``env``."""
    if not loops:
        yield
        return
    if is_small(loops, weight):
        with serial_nest(loops, env):
            yield
        return
    # The innermost loop from which on a task has GRAIN elements; a task takes a piece of it.
    cut, inside = len(loops) - 1, weight
    while cut > 0 and inside * estimate(loops[cut].extent) < GRAIN:
        inside *= estimate(loops[cut].extent)
        cut -= 1
    pivot = loops[cut]
    piece = max(1, GRAIN // max(inside, 1))
    extent = static(pivot.extent)
    if extent is not None:
        piece = extent if piece * 2 > extent else piece
    blocks = tir.ceildiv(dim(pivot.extent), piece)
    outer = [dim(loop.extent) for loop in loops[:cut]]
    with tir.parallel(tir.product([*outer, blocks])) as task:
        block = tir.let(tir.floormod(task, blocks)) if outer else task
        rest = tir.floordiv(task, blocks) if outer else 0
        for loop in reversed(loops[:cut]):
            size = dim(loop.extent)
            env[loop.var] = int64(tir.let(tir.floormod(rest, size)))
            rest = tir.floordiv(rest, size)
        start = tir.let(int64(block * piece))
        count = tir.minimum(piece, dim(pivot.extent) - start)
        if extent is not None and extent % piece == 0:
            count = piece
        with tir.serial(count if isinstance(count, int) else tir.let(count)) as i:
            env[pivot.var] = int64(start + i)
            with serial_nest(loops[cut + 1 :], env):
                yield


@contextmanager
def serial_nest(loops: Sequence[Loop], env: dict[ir.Var, Expr]) -> Iterator[None]:
    """Serial loops, outermost first."""
    if not loops:
        yield
        return
    with tir.serial(dim(loops[0].extent)) as i:
        env[loops[0].var] = int64(i)
        with serial_nest(loops[1:], env):
            yield
