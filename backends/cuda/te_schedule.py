"""Kernels from tensor expressions: a thread for each element of a result.

Everything that is no reduction is computed where it is used. Each reduction, and each group of
results of one shape, is a grid of its own. (TVM's own schedules, dlight, want indices without
bindings and reductions with a known combiner; the table has others.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tvm import ir, te, tirx
from tvm.tirx.script import builder as T  # noqa: N812

from burnish.backends.cpu.te_expr import (
    Expr,
    Flattener,
    Program,
    emit,
    int64,
    static,
    substitute,
    tensor_key,
)
from burnish.backends.cpu.te_loops import Loop, collapse, dim, index_var
from burnish.backends.cpu.te_schedule import Buffers, Store, emit_stages, free_symbols, linear
from burnish.backends.cpu.tir import Kernel
from burnish.backends.cuda import te_math
from burnish.backends.cuda.sources import widened
from burnish.backends.cuda.tir import (
    Index,
    below,
    ceildiv,
    cell,
    dtype_of,
    grid,
    i32,
    kernel,
    name,
    pin,
    product,
    put,
    unravel,
    when_all,
)
from burnish.errors import LoweringError

#: Threads of a block.
THREADS = 256
_INT32 = 2**31 - 1


def schedule_te(outputs: Sequence[te.Tensor], inputs: Sequence[te.Tensor], title: str) -> Kernel:
    """Make one kernel of a TE graph.

    Args:
        outputs: Result tensors.
        inputs: Placeholders, in argument order; unused ones are allowed.
        title: Kernel name.

    Returns:
        The kernel: inputs, outputs, then the symbols that are no bare dimension of any of them.

    Raises:
        LoweringError: The graph contains something other than ``te.compute`` over the inputs, or
            a reduction with explicit initial values.
    """
    with kernel(title) as k:
        buffers: Buffers = {}
        for i, tensor in enumerate(inputs):
            shape = [dim(d) for d in tensor.shape]
            buffers[tensor_key(tensor)] = k.input(f"in{i}", shape, str(tensor.dtype)).flat
        stores = []
        for i, tensor in enumerate(outputs):
            shape = [dim(d) for d in tensor.shape]
            stores.append((tensor, k.output(f"out{i}", shape, str(tensor.dtype)).flat))
        k.symbols(*free_symbols(outputs, {tensor_key(t) for t in inputs}))
        emit_stages(outputs, stores, buffers, _scratch, _reduction, _injective)
    return k.result


def _scratch(tensor: te.Tensor) -> Any:
    size = product(dim(d) for d in tensor.shape)
    return T.alloc_buffer((dim(size),), str(tensor.dtype), scope="global")


def _once(value: Expr, is_index: bool) -> Expr:
    """Evaluate once: the simplifier would put pure definitions into every use."""
    value = te_math.folded(value)
    if is_index or dtype_of(value) == "bool":
        return name(value)
    return pin(value)


def _emit(program: Program, env: Mapping[ir.Var, Expr]) -> list[Expr]:
    return [te_math.folded(v) for v in emit(program, env, math=te_math.apply, once=_once)]


def _each(loops: Sequence[Loop], env: dict[ir.Var, Expr], body: Any) -> None:
    """A thread for each point of the loops; sets their variables in ``env``."""
    extents: list[Index] = [dim(loop.extent) for loop in loops]
    count = product(extents)
    if isinstance(count, int) and count == 0:
        T.evaluate(i32(0))
        return
    small = isinstance(count, int) and count <= _INT32 - THREADS
    with grid(ceildiv(count, THREADS), THREADS) as (block, thread):
        index = name((block if small else widened(block)) * i32(THREADS) + thread)

        def one() -> None:
            places = unravel(index, extents) if loops else []
            env.update((loop.var, int64(at)) for loop, at in zip(loops, places, strict=True))
            body()

        when_all(below(index, count), one)


def _injective(group: Sequence[Store], buffers: Buffers) -> None:
    """One grid for results of one shape."""
    shape = list(group[0][0].shape)
    domain = [(index_var(i), int64(d)) for i, d in enumerate(shape)]
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
    loops = collapse(flattener.program, domain, env)

    def body() -> None:
        values = _emit(flattener.program, env)
        at = linear(names, shape, env)
        for (_, flat), value in zip(group, values, strict=True):
            T.buffer_store(flat, value, [at])

    _each(loops, env, body)


def _reduction(op: Any, targets: Sequence[Any], buffers: Buffers) -> None:
    """A grid for a reduction: each thread computes one result (or several, as in ArgMax)."""
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
    for source in (*([root.condition] if conditional else []), *root.source):
        flattener.add(source, axes)
    env: dict[ir.Var, Expr] = {}
    out_loops = collapse(flattener.program, outer, env)
    red_loops = collapse(flattener.program, inner, env)
    combiner = root.combiner

    def body() -> None:
        totals = [cell(identity) for identity in combiner.identity_element]

        def step() -> None:
            values = _emit(flattener.program, env)
            if conditional:
                keep, *values = values
                pairs = zip(values, combiner.identity_element, strict=True)
                values = [tirx.Select(keep, value, identity) for value, identity in pairs]
            known = dict(zip(combiner.lhs, (t[0] for t in totals), strict=True))
            known |= dict(zip(combiner.rhs, values, strict=True))
            results = [pin(substitute(result, known)) for result in combiner.result]
            for total, result in zip(totals, results, strict=True):
                put(total, 0, result, 1)

        _serial(red_loops, env, step)
        at = linear([v for v, _ in outer], [extent for _, extent in outer], env)
        for flat, total in zip(targets, totals, strict=True):
            T.buffer_store(flat, total[0], [at])

    _each(out_loops, env, body)


def _serial(loops: Sequence[Loop], env: dict[ir.Var, Expr], body: Any) -> None:
    """Serial loops, outermost first."""
    if not loops:
        body()
        return
    with T.serial(int64(0), int64(loops[0].extent)) as i:
        env[loops[0].var] = int64(i)
        _serial(loops[1:], env, body)
