"""Relax phases shared by all backends, as plain lists, and the build of a lowered module."""

from __future__ import annotations

from typing import Any

import tvm
from tvm import relax

from burnish.backends.base import Target


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


def lower_relax(mod: Any, target: Target) -> Any:
    """Run all phases."""
    phases = [*dataflow_lower_phase(), *memory_phase(), *finalize_phase()]
    with tvm.target.Target(dict(target.tvm)):
        return trust_parameters(tvm.transform.Sequential(phases)(mod))


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


def build_executable(mod: Any, target: Target) -> Any:
    """Generate machine code for a module that :func:`lower_relax` returned."""
    # Common subexpressions of the generated kernels are bound by their templates; TVM's search for
    # more takes most of the build time of the large ones.
    with tvm.transform.PassContext(opt_level=3, config={"tirx.disable_cse_tir": True}):
        return relax.build(mod, tvm.target.Target(dict(target.tvm)), relax_pipeline=None)
