"""Kernels from tensor expressions: the workhorse for operators without a template of their own.

:func:`schedule_te` turns a TE graph into one parallel, vectorizable kernel. Everything that is no
reduction is inlined into the outputs. Each output (and each inner reduction) becomes a loop nest:

* neighbouring loops whose accesses are jointly contiguous are collapsed into one,
* the outer loops are cut into tasks of about :data:`GRAIN` elements and shared out to threads
  (not at all when the whole is known to be small),
* the inner loop runs over unit-stride elements with a branch-free body, which LLVM vectorizes,
  for static, odd and symbolic sizes alike.

Reductions run with one accumulator per vector lane when the reduced elements are contiguous, and
row by row over a block of outputs when the outputs are.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import tvm
from tvm import ir, te, tirx
from tvm.tirx.script import builder as T  # noqa: N812

from burnish.backends.cpu import tir
from burnish.backends.cpu.isa import Isa
from burnish.backends.cpu.te_expr import (
    Expr,
    Flattener,
    Program,
    emit,
    evaluate_once,
    int64,
    static,
    substitute,
    tensor_key,
    variables,
)
from burnish.errors import LoweringError

TensorKey: TypeAlias = tuple[int, int]
#: Flat buffers of tensors in memory.
Buffers: TypeAlias = dict[TensorKey, Any]

#: Elements (weighted by math functions) that one task should have.
GRAIN = 8192
#: Below this many weighted elements a kernel runs on the calling thread.
PARALLEL_THRESHOLD = 16384
#: What a symbolic dimension is taken for when loops are cut into tasks.
_TYPICAL = 64
#: Outputs that a column-wise reduction accumulates at once: they stay in the first-level cache.
_COLUMNS = 512
#: Weight of a math function relative to a load or an addition.
_MATH_WEIGHT = 6


@dataclass(frozen=True)
class _Loop:
    """A loop after collapsing: its variable's place in the domain and its extent."""

    var: ir.Var
    extent: Expr


def schedule_te(
    outputs: Sequence[te.Tensor], inputs: Sequence[te.Tensor], name: str, isa: Isa
) -> tir.Kernel:
    """Make one kernel of a TE graph.

    Args:
        outputs: Result tensors, of any rank, shape and dtype (bool, integers, float16/32/64).
        inputs: Placeholders, in argument order; unused ones are allowed.
        name: Kernel name.
        isa: Instruction set.

    Returns:
        The kernel: inputs, outputs, then the symbols that are no bare dimension of any of them.

    Raises:
        LoweringError: The graph contains something other than ``te.compute`` over the inputs, or
            a reduction with explicit initial values.
    """
    with tir.kernel(name, isa) as k:
        buffers: Buffers = {}
        for i, tensor in enumerate(inputs):
            arg = k.input(f"in{i}", [_dim(d) for d in tensor.shape], _dtype(tensor))
            buffers[tensor_key(tensor)] = arg.flat
        stores: list[tuple[te.Tensor, Any]] = []
        for i, tensor in enumerate(outputs):
            arg = k.output(f"out{i}", [_dim(d) for d in tensor.shape], _dtype(tensor))
            stores.append((tensor, arg.flat))
        k.symbols(*_symbols(outputs, {tensor_key(t) for t in inputs}))
        _emit_stages(outputs, stores, buffers, isa)
    return k.result


def _emit_stages(
    outputs: Sequence[te.Tensor],
    stores: list[tuple[te.Tensor, Any]],
    buffers: Buffers,
    isa: Isa,
) -> None:
    """Reductions in dependency order, then everything else grouped by shape."""
    own = {tensor_key(tensor): flat for tensor, flat in stores}
    for tensor in _reductions(outputs, buffers):
        op = tensor.op
        targets = []
        for i in range(op.num_outputs):
            result = op.output(i)
            flat = own.get(tensor_key(result))
            if flat is None:
                flat = tir.scratch(_size(result.shape), _dtype(result))
            targets.append(flat)
        _reduction(op, targets, buffers, isa)
        for i, flat in enumerate(targets):
            buffers[tensor_key(op.output(i))] = flat
    groups: list[list[tuple[te.Tensor, Any]]] = []
    for tensor, flat in stores:
        if buffers.get(tensor_key(tensor)) is flat:
            continue  # a reduction, done above
        for group in groups:
            if _same_shape(group[0][0].shape, tensor.shape):
                group.append((tensor, flat))
                break
        else:
            groups.append([(tensor, flat)])
    for group in groups:
        _injective(group, buffers)


# --- graph ----------------------------------------------------------------------------------------


def _dtype(tensor: te.Tensor) -> str:
    return str(tensor.dtype)


def _dim(extent: Expr) -> Expr:
    value = static(extent)
    return int64(extent) if value is None else value


def _size(shape: Sequence[Expr]) -> Expr:
    return tir.product(_dim(d) for d in shape)


def _same_shape(a: Sequence[Expr], b: Sequence[Expr]) -> bool:
    analyzer = tvm.sym.Analyzer()
    return len(a) == len(b) and all(
        analyzer.can_prove_equal(int64(x), int64(y)) for x, y in zip(a, b, strict=True)
    )


def _stages(outputs: Sequence[te.Tensor], known: Collection[TensorKey]) -> list[Any]:
    """Operations behind the outputs in dependency order; an operation appears once."""
    order: list[Any] = []
    seen: set[int] = set()

    def visit(tensor: te.Tensor) -> None:
        if tensor_key(tensor) in known or tensor.op.__chandle__() in seen:
            return
        seen.add(tensor.op.__chandle__())
        if not isinstance(tensor.op, te.ComputeOp):
            raise LoweringError(
                f"tensor {tensor.op.name!r} is a {type(tensor.op).__name__} but no kernel input",
                hint="only te.compute over the given placeholders can be scheduled",
            )
        for source in tensor.op.input_tensors:
            visit(source)
        order.append(tensor.op)

    for tensor in outputs:
        visit(tensor)
    return order


def _reductions(outputs: Sequence[te.Tensor], known: Collection[TensorKey]) -> list[te.Tensor]:
    """First outputs of the reductions behind the outputs, in dependency order."""
    return [op.output(0) for op in _stages(outputs, known) if op.reduce_axis]


def _symbols(outputs: Sequence[te.Tensor], known: Collection[TensorKey]) -> list[ir.Var]:
    """Free variables of bodies and extents: shape symbols."""
    found: set[ir.Var] = set()
    bound: set[ir.Var] = set()
    for op in _stages(outputs, known):
        for axis in (*op.axis, *op.reduce_axis):
            bound.add(axis.var)
            variables(axis.dom.extent, found)
        for body in op.body:
            for root in body.source if op.reduce_axis else (body,):
                variables(root, found)
    return sorted((v for v in found - bound), key=lambda v: v.name)


# --- loops ----------------------------------------------------------------------------------------


def _index_var(i: int, kind: str = "i") -> ir.Var:
    return tirx.Var(f"{kind}{i}", "int64")


def _coefficients(
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


def _collapse(
    program: Program, domain: Sequence[tuple[ir.Var, Expr]], env: dict[ir.Var, Expr]
) -> list[_Loop]:
    """Merge neighbouring loops; fills ``env`` with the value of every domain variable."""
    names = [v for v, _ in domain]
    rows, opaque = _coefficients(program, names)
    analyzer = tvm.sym.Analyzer()
    zero = int64(0)
    loops: list[_Loop] = []
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
                loops[-1] = _Loop(inner.var, merged)
                continue
        loops.append(_Loop(var, extent))
    return loops[::-1]


def _estimate(extent: Expr) -> int:
    """A number for planning: symbols count as :data:`_TYPICAL`."""
    value = static(extent)
    if value is not None:
        return value
    found: set[ir.Var] = set()
    variables(extent, found)
    guess = substitute(extent, {v: tirx.const(_TYPICAL, v.ty.dtype) for v in found})
    value = static(tvm.sym.Analyzer().simplify(guess))
    return _TYPICAL if value is None else max(value, 1)


def _is_small(loops: Sequence[_Loop], weight: int) -> bool:
    """Known to be too little work for more than one thread."""
    if any(static(loop.extent) is None for loop in loops):
        return False
    elements = math.prod(_estimate(loop.extent) for loop in loops)
    return weight * elements < PARALLEL_THRESHOLD


@contextmanager
def _nest(loops: Sequence[_Loop], weight: int, env: dict[ir.Var, Expr]) -> Iterator[None]:
    """All loops, the outer ones as parallel tasks; sets their variables in ``env``."""
    if not loops:
        yield
        return
    if _is_small(loops, weight):
        with _serial(loops, env):
            yield
        return
    # The innermost loop from which on a task has GRAIN elements; a task takes a piece of it.
    cut, inside = len(loops) - 1, weight
    while cut > 0 and inside * _estimate(loops[cut].extent) < GRAIN:
        inside *= _estimate(loops[cut].extent)
        cut -= 1
    pivot = loops[cut]
    piece = max(1, GRAIN // max(inside, 1))
    extent = static(pivot.extent)
    if extent is not None:
        piece = extent if piece * 2 > extent else piece
    blocks = tir.ceildiv(_dim(pivot.extent), piece)
    outer = [_dim(loop.extent) for loop in loops[:cut]]
    with tir.parallel(tir.product([*outer, blocks])) as task:
        block = tir.let(tir.floormod(task, blocks)) if outer else task
        rest = tir.floordiv(task, blocks) if outer else 0
        for loop in reversed(loops[:cut]):
            size = _dim(loop.extent)
            env[loop.var] = int64(tir.let(tir.floormod(rest, size)))
            rest = tir.floordiv(rest, size)
        start = tir.let(int64(block * piece))
        count = tir.minimum(piece, _dim(pivot.extent) - start)
        if extent is not None and extent % piece == 0:
            count = piece
        with tir.serial(count if isinstance(count, int) else tir.let(count)) as i:
            env[pivot.var] = int64(start + i)
            with _serial(loops[cut + 1 :], env):
                yield


@contextmanager
def _serial(loops: Sequence[_Loop], env: dict[ir.Var, Expr]) -> Iterator[None]:
    """Serial loops, outermost first."""
    if not loops:
        yield
        return
    with tir.serial(_dim(loops[0].extent)) as i:
        env[loops[0].var] = int64(i)
        with _serial(loops[1:], env):
            yield


# --- injective stages -----------------------------------------------------------------------------


def _linear(
    variables_: Sequence[ir.Var], shape: Sequence[Expr], env: Mapping[ir.Var, Expr]
) -> Expr:
    index: Expr = int64(0)
    for var, extent in zip(variables_, shape, strict=True):
        index = index * int64(extent) + env[var]
    return tvm.sym.Analyzer().simplify(index)


def _injective(group: Sequence[tuple[te.Tensor, Any]], buffers: Buffers) -> None:
    """One loop nest for outputs of one shape."""
    shape = list(group[0][0].shape)
    domain = [(_index_var(i), int64(d)) for i, d in enumerate(shape)]
    names = [v for v, _ in domain]
    flattener = Flattener(buffers, domain)
    for tensor, _ in group:
        if tensor_key(tensor) in buffers:
            # An output that is also an input, or one value returned twice.
            flattener.load(tensor, names)
        else:
            axes = {ax.var: v for ax, v in zip(tensor.op.axis, names, strict=True)}
            flattener.add(tensor.op.body[tensor.value_index], axes)
    env: dict[ir.Var, Expr] = {}
    loops = _collapse(flattener.program, domain, env)
    weight = 1 + _MATH_WEIGHT * flattener.program.math_steps
    with _nest(loops, weight, env):
        values = emit(flattener.program, env)
        at = _linear(names, shape, env)
        for (_, flat), value in zip(group, values, strict=True):
            T.buffer_store(flat, value, [at])


# --- reductions -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Reduction:
    """A reduction stage: its scalar program and its combiner."""

    program: Program
    combiner: Any
    condition: bool

    @property
    def identity(self) -> list[Expr]:
        return list(self.combiner.identity_element)

    def combine(self, left: Sequence[Expr], right: Sequence[Expr]) -> list[Expr]:
        env = dict(zip(self.combiner.lhs, left, strict=True))
        env |= dict(zip(self.combiner.rhs, right, strict=True))
        return [evaluate_once(substitute(r, env)) for r in self.combiner.result]

    def step(self, left: Sequence[Expr], env: Mapping[ir.Var, Expr]) -> list[Expr]:
        """Accumulate the element at ``env``."""
        values = emit(self.program, env)
        if not self.condition:
            return self.combine(left, values)
        keep, *values = values
        values = [tirx.Select(keep, v, i) for v, i in zip(values, self.identity, strict=True)]
        return self.combine(left, values)


def _reduction(op: Any, targets: Sequence[Any], buffers: Buffers, isa: Isa) -> None:
    """Loop nest of a reduction (one or more results from one source, as in ArgMax)."""
    root = op.body[0]
    if len(root.init):
        raise LoweringError(f"reduction {op.name!r} has explicit initial values")
    outer = [(_index_var(i), int64(ax.dom.extent)) for i, ax in enumerate(op.axis)]
    inner = [(_index_var(i, "r"), int64(ax.dom.extent)) for i, ax in enumerate(op.reduce_axis)]
    axes: dict[ir.Var, Expr] = {ax.var: v for ax, (v, _) in zip(op.axis, outer, strict=True)}
    for ax, (v, _) in zip(op.reduce_axis, inner, strict=True):
        low = int64(ax.dom.min)
        axes[ax.var] = v if static(low) == 0 else v + low
    flattener = Flattener(buffers, [*outer, *inner])
    conditional = static(root.condition) != 1
    if conditional:
        flattener.add(root.condition, axes)
    for source in root.source:
        flattener.add(source, axes)
    stage = _Reduction(flattener.program, root.combiner, conditional)
    env: dict[ir.Var, Expr] = {}
    # Collapsed separately: an output loop and a reduction loop never merge.
    out_loops = _collapse(flattener.program, outer, env)
    red_loops = _collapse(flattener.program, inner, env)
    shape = [extent for _, extent in outer]
    names = [v for v, _ in outer]
    if _by_columns(flattener.program, out_loops, red_loops):
        _reduce_columns(stage, targets, out_loops, red_loops, env, (names, shape))
    else:
        _reduce_rows(stage, targets, out_loops, red_loops, env, (names, shape), isa)


def _by_columns(program: Program, out: Sequence[_Loop], red: Sequence[_Loop]) -> bool:
    """True if neighbouring outputs read neighbouring elements, reduced elements do not."""
    if not out or _estimate(out[-1].extent) < 4:
        return False
    domain = [*(loop.var for loop in out), *(loop.var for loop in red)]
    rows, _ = _coefficients(program, domain)
    votes = 0
    for row in rows:
        votes += static(row.get(out[-1].var, 0)) == 1
        votes -= bool(red) and static(row.get(red[-1].var, 0)) == 1
    return votes > 0


def _reduce_columns(
    stage: _Reduction,
    targets: Sequence[Any],
    out: Sequence[_Loop],
    red: Sequence[_Loop],
    env: dict[ir.Var, Expr],
    result: tuple[Sequence[ir.Var], Sequence[Expr]],
) -> None:
    """Accumulate a block of neighbouring outputs in place, one reduced element at a time."""
    *rows, columns = out
    extent = static(columns.extent)
    width = _COLUMNS if extent is None else min(_COLUMNS, extent)
    blocks = tir.ceildiv(_dim(columns.extent), width)
    weight = width * max(1, math.prod(_estimate(loop.extent) for loop in red))
    weight *= 1 + _MATH_WEIGHT * stage.program.math_steps
    block_var = _index_var(0, "block")
    nest = [*rows, _Loop(block_var, int64(blocks))]
    with _nest(nest, weight, env):
        start = tir.let(int64(env[block_var] * width))
        count = width
        if extent is None or extent % width:
            count = tir.let(tir.minimum(width, _dim(columns.extent) - start))
        with tir.serial(count) as j:
            env[columns.var] = int64(start + j)
            at = _linear(*result, env)
            for flat, identity in zip(targets, stage.identity, strict=True):
                T.buffer_store(flat, identity, [at])
        with _serial(red, env), tir.serial(count) as j:
            env[columns.var] = int64(start + j)
            at = _linear(*result, env)
            values = stage.step([tir.let(flat[at]) for flat in targets], env)
            for flat, value in zip(targets, values, strict=True):
                T.buffer_store(flat, value, [at])


def _reduce_rows(
    stage: _Reduction,
    targets: Sequence[Any],
    out: Sequence[_Loop],
    red: Sequence[_Loop],
    env: dict[ir.Var, Expr],
    result: tuple[Sequence[ir.Var], Sequence[Expr]],
    isa: Isa,
) -> None:
    """Reduce one output at a time, with an accumulator per vector lane along the inner loop."""
    weight = max(1, math.prod(_estimate(loop.extent) for loop in red))
    weight *= 1 + _MATH_WEIGHT * stage.program.math_steps
    lanes = isa.lanes
    dtypes = [str(flat.dtype) for flat in targets]
    with _nest(out, weight, env):
        widths = [lanes] * len(targets)
        slots = [tir.local(n, d) for n, d in zip(widths, dtypes, strict=True)]
        with tir.serial(lanes) as lane:
            for slot, identity in zip(slots, stage.identity, strict=True):
                T.buffer_store(slot, identity, [int64(lane)])

        def accumulate(lane: Expr) -> None:
            values = stage.step([tir.let(slot[int64(lane)]) for slot in slots], env)
            for slot, value in zip(slots, values, strict=True):
                T.buffer_store(slot, value, [int64(lane)])

        if not red:
            accumulate(0)
        else:
            *rest, last = red
            size = _dim(last.extent)
            whole = (
                tir.let(tir.floordiv(size, lanes)) if not isinstance(size, int) else size // lanes
            )
            with _serial(rest, env):
                with tir.serial(whole) as step, tir.serial(lanes) as lane:
                    env[last.var] = int64(step * lanes + lane)
                    accumulate(lane)
                with tir.serial(whole * lanes, size) as i:
                    env[last.var] = int64(i)
                    accumulate(i - whole * lanes)
        totals = [tir.let(slot[int64(0)]) for slot in slots]
        for lane in range(1, lanes):
            totals = stage.combine(totals, [slot[int64(lane)] for slot in slots])
        at = _linear(*result, env)
        for flat, value in zip(targets, totals, strict=True):
            T.buffer_store(flat, value, [at])
