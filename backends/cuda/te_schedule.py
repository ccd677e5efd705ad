"""Kernels from tensor expressions, by TVM's default GPU schedules (dlight)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import tvm
from tvm import te, tirx
from tvm.s_tir import dlight

from burnish.backends.cpu.te_expr import tensor_key
from burnish.backends.cpu.te_schedule import free_symbols
from burnish.backends.cpu.tir import Kernel
from burnish.backends.cuda.arch import Arch
from burnish.errors import LoweringError


def schedule_te(
    outputs: Sequence[te.Tensor], inputs: Sequence[te.Tensor], name: str, arch: Arch
) -> Kernel:
    """Make one kernel of a TE graph: a grid for each reduction, and one for everything else.

    Args:
        outputs: Result tensors.
        inputs: Placeholders, in argument order; unused ones are allowed.
        name: Kernel name.
        arch: GPU architecture.

    Returns:
        The kernel: inputs, outputs, then the symbols that are no bare dimension of any of them.

    Raises:
        LoweringError: No schedule takes it.
    """
    arguments = {tensor_key(t) for t in inputs}
    known = set(arguments)
    results = []
    for tensor in outputs:
        if tensor_key(tensor) in known:
            # An output that is also an input, or one value returned twice.
            tensor = te.compute(tensor.shape, lambda *i, t=tensor: t(*i), name="copy")
        known.add(tensor_key(tensor))
        results.append(tensor)
    func = te.create_prim_func([*inputs, *results])
    scalars = _scalars(results, arguments, func.params)
    func = tirx.PrimFunc([*func.params, *scalars], func.body, func.ret_type, func.attrs)
    func = func.with_attr({"tirx.noalias": True, "tirx.is_scheduled": False})
    with tvm.target.Target(arch.target):
        mod = dlight.ApplyDefaultSchedule(
            dlight.gpu.Fallback(),
        )(tvm.IRModule({"main": func}))
    scheduled = mod["main"]
    if not _is_bound(scheduled):
        raise LoweringError(f"no GPU schedule takes the tensor expressions of {name}")
    return Kernel(scheduled.without_attr("global_symbol"), tuple(scalars))


def _scalars(
    outputs: Sequence[te.Tensor], known: Collection[tuple[int, int]], params: Sequence[Any]
) -> list[Any]:
    """Symbols that no argument has as a bare dimension."""
    bare = [d for p in params for d in p.shape if isinstance(d, tirx.Var)]
    return [v for v in free_symbols(outputs, known) if not any(v.same_as(b) for b in bare)]


def _is_bound(func: Any) -> bool:
    return "threadIdx.x" in func.script()
