"""From TIR kernels to a host library with a fat binary in it.

The kernels are loops and barriers already (:mod:`burnish.backends.cuda.tir`): they get the passes
that they need, and none of those that TVM runs on what a schedule left.
"""

from __future__ import annotations

import threading
from typing import Any

import tvm
from tvm import s_tir, tirx
from tvm.tirx.build import split_host_device_mods

from burnish.backends.cuda import toolkit
from burnish.errors import BurnishError

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


# What builds in this thread: modules are built side by side.
_callbacks = threading.local()


def _sequence(makers: Any) -> Any:
    return tvm.ir.transform.Sequential([make() for make in makers])


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
    failed: list[BurnishError] = []

    def compile_source(source: Any) -> bytes:
        try:
            return toolkit.compile_cuda(str(source), arch)
        except BurnishError as error:
            failed.append(error)
            raise

    _callbacks.compile = compile_source
    tvm.register_global_func("tvm_callback_cuda_compile", _compile, override=True)
    lowered = _sequence(_PASSES)(tirx.transform.BindTarget(tvm_target)(mod))
    host, devices = split_host_device_mods(lowered)
    host = _sequence(_HOST_PASSES)(host)
    library = tvm.get_global_func(f"target.build.{tvm_target.host.kind.name}")(
        host, tvm_target.host
    )
    for device in devices.values():
        kernels = _sequence(_DEVICE_PASSES)(device)
        try:
            binary = tvm.get_global_func("target.build.cuda")(kernels, tvm_target)
        except Exception:
            # TVM makes an error of its own of what its callback raises.
            if failed:
                raise failed[0] from None
            raise
        library.import_module(binary)
    return library


def _compile(source: Any) -> bytes:
    """Called by TVM's code generator, in the thread that builds."""
    compiled: bytes = _callbacks.compile(source)
    return compiled
