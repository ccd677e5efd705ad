"""From TIR kernels to a host library with a fat binary in it.

Kernels that were scheduled from tensor expressions go through TVM's own passes. Those written with
:mod:`burnish.backends.cuda.tir` are loops and barriers already; they get the passes that they need.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import s_tir, tirx
from tvm.s_tir.pipeline import default_s_tir_pipeline
from tvm.tirx.build import split_host_device_mods

from burnish.backends.cuda import toolkit
from burnish.backends.cuda.tir import EXPLICIT

# No RemoveNoOp: it takes the load of a fragment for one. No ThreadSync: it sees conflicts where
# threads of a warp exchange data. No StorageRewrite: it shares memory between arrays of different
# element types.
_PASSES = (
    s_tir.transform.LowerInitBlock,
    s_tir.transform.PlanAndUpdateBufferAllocationLocation,
    s_tir.transform.ConvertBlocksToOpaque,
    s_tir.transform.UnifyThreadBinding,
    s_tir.transform.LowerOpaqueBlock,
    tirx.transform.FlattenBuffer,
    lambda: tirx.transform.NarrowDataType(32),
    tirx.transform.StmtSimplify,
    tirx.transform.VerifyMemory,
    tirx.transform.AnnotateEntryFunc,
    s_tir.transform.InferFragment,
    tirx.transform.SplitHostDevice,
    tirx.transform.MakePackedAPI,
)
_DEVICE_PASSES = (tirx.transform.StmtSimplify, tirx.transform.LowerIntrin)
_HOST_PASSES = (tirx.transform.LowerTVMBuiltin, tirx.transform.LowerIntrin)


def _sequence(makers: Any) -> Any:
    return tvm.ir.transform.Sequential([make() for make in makers])


def _is_template(func: Any) -> bool:
    return bool(func.attrs.get(EXPLICIT, False))


def build_kernels(mod: Any, target: Any) -> Any:
    """Machine code of a module of kernels.

    Args:
        mod: An ``IRModule`` of PrimFuncs with global symbols.
        target: What ``tvm.target.Target`` takes, with ``host``.

    Returns:
        The host's runtime module, which imports the module of device code.
    """
    toolkit.load_cuda_runtime()
    tvm_target = tvm.target.Target(target)
    arch = str(target["arch"])
    tvm.register_global_func(
        "tvm_callback_cuda_compile",
        lambda source: toolkit.compile_cuda(str(source), arch),
        override=True,
    )
    mod = tirx.transform.BindTarget(tvm_target)(mod)
    scheduled, _, finalize = default_s_tir_pipeline()
    host, device = tvm.IRModule({}, attrs=mod.attrs), tvm.IRModule({})
    for accepts, passes, last in (
        (_is_template, _sequence(_PASSES), _sequence(_DEVICE_PASSES)),
        (lambda func: not _is_template(func), scheduled, finalize()),
    ):
        part = tirx.transform.Filter(accepts)(mod)
        if not part.functions:
            continue
        part_host, part_devices = split_host_device_mods(passes(part))
        host.update(_sequence(_HOST_PASSES)(part_host))
        for part_device in part_devices.values():
            device.update(last(part_device))
    library = tvm.get_global_func(f"target.build.{tvm_target.host.kind.name}")(
        host, tvm_target.host
    )
    if device.functions:
        library.import_module(tvm.get_global_func("target.build.cuda")(device, tvm_target))
    return library
