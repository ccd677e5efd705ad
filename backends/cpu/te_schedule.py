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

import itertools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import tvm
from tvm import ir, te, tirx
from tvm.tirx.script import builder as T  # noqa: N812

from burnish.artifact import held_as
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
from burnish.backends.cpu.te_loops import (
    Loop,
    coefficients,
    collapse,
    dim,
    estimate,
    index_var,
    nest,
    serial_nest,
)
from burnish.errors import LoweringError

TensorKey: TypeAlias = tuple[int, int]
#: Flat buffers of tensors in memory.
Buffers: TypeAlias = dict[TensorKey, Any]
#: An output with its flat buffer.
Store: TypeAlias = tuple[te.Tensor, Any]

#: Outputs that a column-wise reduction accumulates at once: they stay in the first-level cache.
_COLUMNS = 512
#: An innermost loop of this size is cut where conditions change, into fewer than so many pieces.
_SHORTEST_SPLIT = 16
_MOST_SEGMENTS = 8
#: Weight of a math function relative to a load or an addition.
_MATH_WEIGHT = 6


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
            arg = k.input(f"in{i}", [dim(d) for d in tensor.shape], _dtype(tensor))
            buffers[tensor_key(tensor)] = arg.flat
        stores: list[Store] = []
        for i, tensor in enumerate(outputs):
            arg = k.output(f"out{i}", [dim(d) for d in tensor.shape], _dtype(tensor))
            stores.append((tensor, arg.flat))
        k.symbols(*free_symbols(outputs, {tensor_key(t) for t in inputs}))
        emit_stages(
            outputs,
            stores,
            buffers,
            lambda tensor: tir.scratch(_size(tensor.shape), _dtype(tensor)),
            lambda op, targets, known: _reduction(op, targets, known, isa),
            _injective,
        )
    return k.result


def emit_stages(
    outputs: Sequence[te.Tensor],
    stores: Sequence[Store],
    buffers: Buffers,
    scratch: Callable[[te.Tensor], Any],
    reduction: Callable[[Any, Sequence[Any], Buffers], None],
    injective: Callable[[Sequence[Store], Buffers], None],
) -> None:
    """Emit reductions in dependency order, then everything else grouped by shape.

    Args:
        outputs: Result tensors.
        stores: Each of them with its flat buffer.
        buffers: Flat buffers of the inputs; reductions add theirs.
        scratch: Makes a flat buffer for a tensor that is no output.
        reduction: Emits a reduction into flat buffers.
        injective: Emits outputs of one shape.
    """
    own = {tensor_key(tensor): flat for tensor, flat in stores}
    for tensor in reductions(outputs, buffers):
        op = tensor.op
        results = [op.output(i) for i in range(op.num_outputs)]
        targets = []
        for result in results:
            flat = own.get(tensor_key(result))
            targets.append(scratch(result) if flat is None else flat)
        reduction(op, targets, buffers)
        buffers.update((tensor_key(r), flat) for r, flat in zip(results, targets, strict=True))
    groups: list[list[Store]] = []
    for tensor, flat in stores:
        if buffers.get(tensor_key(tensor)) is flat:
            continue  # a reduction, done above
        for group in groups:
            if same_shape(group[0][0].shape, tensor.shape):
                group.append((tensor, flat))
                break
        else:
            groups.append([(tensor, flat)])
    for group in groups:
        injective(group, buffers)


# --- graph ----------------------------------------------------------------------------------------


def _dtype(tensor: te.Tensor) -> str:
    return held_as(str(tensor.dtype))


def _size(shape: Sequence[Expr]) -> Expr:
    return tir.product(dim(d) for d in shape)


def same_shape(a: Sequence[Expr], b: Sequence[Expr]) -> bool:
    """Whether two shapes are known to be equal."""
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


def reductions(outputs: Sequence[te.Tensor], known: Collection[TensorKey]) -> list[te.Tensor]:
    """First outputs of the reductions behind the outputs, in dependency order."""
    return [op.output(0) for op in _stages(outputs, known) if op.reduce_axis]


def free_symbols(outputs: Sequence[te.Tensor], known: Collection[TensorKey]) -> list[ir.Var]:
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


# --- injective stages -----------------------------------------------------------------------------


def linear(variables_: Sequence[ir.Var], shape: Sequence[Expr], env: Mapping[ir.Var, Expr]) -> Expr:
    """The flat index, row-major, of a place in a shape."""
    index: Expr = int64(0)
    for var, extent in zip(variables_, shape, strict=True):
        index = index * int64(extent) + env[var]
    return tvm.sym.Analyzer().simplify(index)


def _injective(group: Sequence[Store], buffers: Buffers) -> None:
    """One loop nest for outputs of one shape."""
    shape = list(group[0][0].shape)
    domain = [(index_var(i), int64(d)) for i, d in enumerate(shape)]
    names = [v for v, _ in domain]

    def flatten(within: Mapping[ir.Var, tuple[int, int]] | None = None) -> Program:
        flattener = Flattener(buffers, domain, within)
        for tensor, _ in group:
            if tensor_key(tensor) in buffers:
                # An output that is also an input, or one value returned twice.
                flattener.load(tensor, names)
            else:
                axes = {ax.var: v for ax, v in zip(tensor.op.axis, names, strict=True)}
                flattener.add(tensor.op.body[tensor.value_index], axes)
        return flattener.program

    program = flatten()
    env: dict[ir.Var, Expr] = {}
    loops = collapse(program, domain, env)
    weight = 1 + _MATH_WEIGHT * program.math_steps

    def body(part: Program) -> None:
        values = emit(part, env)
        at = linear(names, shape, env)
        for (_, flat), value in zip(group, values, strict=True):
            T.buffer_store(flat, value, [at])

    segments = _segments(program, loops)
    if not segments:
        with nest(loops, weight, env):
            body(program)
        return
    *outer, inner = loops
    with nest(outer, weight * estimate(inner.extent), env):
        for begin, end in segments:
            with tir.serial(begin, end) as i:
                env[inner.var] = int64(i)
                body(flatten({inner.var: (begin, end)}))


def _segments(program: Program, loops: Sequence[Loop]) -> list[tuple[int, int]]:
    """Pieces of the innermost loop in which no condition changes (concatenation, padding).

    Empty if the loop should stay whole: nothing changes, or the pieces would be tiny.
    """
    extent = static(loops[-1].extent) if loops else None
    if extent is None:
        return []
    points = {p for p in program.thresholds.get(loops[-1].var, ()) if 0 < p < extent}
    if not points or len(points) >= _MOST_SEGMENTS or extent < _SHORTEST_SPLIT:
        return []
    ends = sorted({0, extent, *points})
    return list(itertools.pairwise(ends))


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
    outer = [(index_var(i), int64(ax.dom.extent)) for i, ax in enumerate(op.axis)]
    inner = [(index_var(i, "r"), int64(ax.dom.extent)) for i, ax in enumerate(op.reduce_axis)]
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
    out_loops = collapse(flattener.program, outer, env)
    red_loops = collapse(flattener.program, inner, env)
    shape = [extent for _, extent in outer]
    names = [v for v, _ in outer]
    if _by_columns(flattener.program, out_loops, red_loops):
        _reduce_columns(stage, targets, out_loops, red_loops, env, (names, shape))
    else:
        _reduce_rows(stage, targets, out_loops, red_loops, env, (names, shape), isa)


def _by_columns(program: Program, out: Sequence[Loop], red: Sequence[Loop]) -> bool:
    """True if neighbouring outputs read neighbouring elements, reduced elements do not."""
    if not out or estimate(out[-1].extent) < 4:
        return False
    domain = [*(loop.var for loop in out), *(loop.var for loop in red)]
    rows, _ = coefficients(program, domain)
    votes = 0
    for row in rows:
        votes += static(row.get(out[-1].var, 0)) == 1
        votes -= bool(red) and static(row.get(red[-1].var, 0)) == 1
    return votes > 0


def _reduce_columns(
    stage: _Reduction,
    targets: Sequence[Any],
    out: Sequence[Loop],
    red: Sequence[Loop],
    env: dict[ir.Var, Expr],
    result: tuple[Sequence[ir.Var], Sequence[Expr]],
) -> None:
    """Accumulate a block of neighbouring outputs in place, one reduced element at a time."""
    *rows, columns = out
    extent = static(columns.extent)
    width = _COLUMNS if extent is None else min(_COLUMNS, extent)
    blocks = tir.ceildiv(dim(columns.extent), width)
    weight = width * max(1, math.prod(estimate(loop.extent) for loop in red))
    weight *= 1 + _MATH_WEIGHT * stage.program.math_steps
    block_var = index_var(0, "block")
    inside = [*rows, Loop(block_var, int64(blocks))]
    with nest(inside, weight, env):
        start = tir.let(int64(env[block_var] * width))
        count = width
        if extent is None or extent % width:
            count = tir.let(tir.minimum(width, dim(columns.extent) - start))
        with tir.serial(count) as j:
            env[columns.var] = int64(start + j)
            at = linear(*result, env)
            for flat, identity in zip(targets, stage.identity, strict=True):
                T.buffer_store(flat, identity, [at])
        with serial_nest(red, env), tir.serial(count) as j:
            env[columns.var] = int64(start + j)
            at = linear(*result, env)
            values = stage.step([tir.let(flat[at]) for flat in targets], env)
            for flat, value in zip(targets, values, strict=True):
                T.buffer_store(flat, value, [at])


def _reduce_rows(
    stage: _Reduction,
    targets: Sequence[Any],
    out: Sequence[Loop],
    red: Sequence[Loop],
    env: dict[ir.Var, Expr],
    result: tuple[Sequence[ir.Var], Sequence[Expr]],
    isa: Isa,
) -> None:
    """Reduce one output at a time, with an accumulator per vector lane along the inner loop."""
    weight = max(1, math.prod(estimate(loop.extent) for loop in red))
    weight *= 1 + _MATH_WEIGHT * stage.program.math_steps
    lanes = isa.lanes
    dtypes = [str(flat.dtype) for flat in targets]
    with nest(out, weight, env):
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
            size = dim(last.extent)
            whole = (
                tir.let(tir.floordiv(size, lanes)) if not isinstance(size, int) else size // lanes
            )
            with serial_nest(rest, env):
                with tir.serial(whole) as step, tir.serial(lanes) as lane:
                    env[last.var] = int64(step * lanes + lane)
                    accumulate(lane)
                with tir.serial(whole * lanes, size) as i:
                    env[last.var] = int64(i)
                    accumulate(i - whole * lanes)
        totals = [tir.let(slot[int64(0)]) for slot in slots]
        for lane in range(1, lanes):
            totals = stage.combine(totals, [slot[int64(lane)] for slot in slots])
        at = linear(*result, env)
        for flat, value in zip(targets, totals, strict=True):
            T.buffer_store(flat, value, [at])
