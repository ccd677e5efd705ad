"""Relax phases shared by all backends, as plain lists, and the build of a lowered module."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import tvm
from tvm import relax

from burnish.backends.base import Target
from burnish.backends.determinism import order_shape_functions
from burnish.backends.objects import ChunkBuilder
from burnish.backends.tvm_compat import empty_library, relax_codegen, relax_link
from burnish.cache import KernelCache
from burnish.lowering.module import EXTERNAL_MODULES

#: How the lowering names the parameters that are weights.
WEIGHT_PREFIX = "w."


def dataflow_lower_phase() -> list[Any]:
    """From calls of kernels to calls that write into allocated tensors."""
    return [
        relax.transform.RemovePurityChecking(),
        relax.transform.CallTIRRewrite(),
    ]


def memory_phase() -> list[Any]:
    """Buffers are shared where lifetimes allow, and freed after their last use."""
    return [
        relax.transform.StaticPlanBlockMemory(),
        relax.transform.LowerAllocTensor(),
        relax.transform.KillAfterLastUse(),
    ]


def finalize_phase() -> list[Any]:
    """Down to what the virtual machine knows."""
    return [
        relax.transform.LowerRuntimeBuiltin(),
        relax.transform.ComputePrimValue(),
        relax.transform.VMShapeLower(),
        relax.transform.AttachGlobalSymbol(),
    ]


def default_phases() -> list[Any]:
    """What a backend runs that has no phases of its own."""
    return [*dataflow_lower_phase(), *memory_phase(), *finalize_phase()]


def lower_relax(mod: Any, target: Target) -> Any:
    """Run all phases."""
    phases = (target.backend.phases or default_phases)()
    with tvm.target.Target(dict(target.tvm)):
        mod = tvm.transform.Sequential(list(phases))(mod)
    return trust_parameters(order_shape_functions(mod))


def trust_parameters(mod: Any) -> Any:
    """Drop the checks that the virtual machine makes of parameters that were checked before.

    Every call of ``main`` passes all weights, whose types the artifact's reader has checked when it
    was loaded, and branch functions get what ``main`` made. A check that also binds a symbol stays.
    """
    for var, func in mod.functions.items():
        if not isinstance(func, relax.Function):
            continue
        params = [p for p in func.params if _is_static(p)]
        body = func.body
        if not params or not isinstance(body, relax.SeqExpr):
            continue
        blocks = [
            relax.BindingBlock([b for b in block.bindings if not _checks(b, params)])
            for block in body.blocks
        ]
        trusted = relax.Function(
            func.params, relax.SeqExpr(blocks, body.body), func.ret_ty, func.is_pure, func.attrs
        )
        mod.update_func(var, trusted)
    return mod


def _is_static(param: Any) -> bool:
    shape = getattr(param.ty, "shape", None)
    return (
        shape is not None
        and param.name.startswith(WEIGHT_PREFIX)
        and all(isinstance(d, tvm.tirx.IntImm) for d in shape.values)
    )


def _checks(binding: Any, params: list[Any]) -> bool:
    call = getattr(binding, "value", None)
    return (
        isinstance(call, relax.Call)
        and isinstance(call.op, relax.ExternFunc)
        and call.op.global_symbol in ("vm.builtin.check_tensor_info", "vm.builtin.match_shape")
        and any(call.args[0].same_as(p) for p in params)
    )


def build_executable(
    mod: Any,
    target: Target,
    progress: Callable[[int, int], None] = lambda done, total: None,
    cache: KernelCache | None = None,
) -> Any:
    """Generate machine code for a module that :func:`lower_relax` returned.

    The kernels are built in chunks of about equal size, by as many threads as there are CPUs:
    LLVM runs outside of Python's lock. The chunks do not depend on the number of threads, so that
    every machine makes the same code, nor on the cache.

    Args:
        mod: The module.
        target: What to build for.
        progress: Gets (kernels that are done, kernels).
        cache: Where object files of equal kernels are taken from, and kept.

    Returns:
        The executable.
    """
    tvm_target = tvm.target.Target(dict(target.tvm))
    builder = relax.ExecBuilder()
    externals = [] if mod.attrs is None else list(mod.attrs.get(EXTERNAL_MODULES, ()))
    mod = relax_codegen(builder, mod.without_attr(EXTERNAL_MODULES))
    chunks = _chunks(mod, target.backend.kernels_per_build)
    done = 0

    with tempfile.TemporaryDirectory(prefix="burnish-objects-") as folder:
        build = ChunkBuilder(target, mod.attrs, Path(folder), cache)

        def build_chunk(numbered: tuple[int, dict[Any, Any]]) -> Any:
            nonlocal done
            library = build(*numbered)
            done += len(numbered[1])
            progress(done, len(mod.functions))
            return library

        with ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0))) as pool:
            libraries = list(pool.map(build_chunk, enumerate(chunks)))
    return relax_link(builder, tvm_target, [empty_library(tvm_target), *libraries, *externals])


def _chunks(mod: Any, size: int) -> list[dict[Any, Any]]:
    """The kernels in groups of at most ``size``, in a fixed order."""
    kernels = [(v, f) for v, f in mod.functions.items() if isinstance(f, tvm.tirx.PrimFunc)]
    kernels.sort(key=lambda item: str(item[0].name_hint))
    return [dict(kernels[i : i + size]) for i in range(0, len(kernels), size)]
