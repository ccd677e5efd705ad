"""From TIR kernels to machine code, with the passes that generated kernels need and no others.

TVM's default pipeline simplifies, partitions, software-pipelines and compacts what a schedule left.
The kernels here are written as loops already; on them its passes take most of the build time
(``CompactBufferAllocation`` alone 80 %: its time is quadratic in the number of stack cells).
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import s_tir, tirx

# No StorageRewrite: it lets stack arrays of different element types share memory, and LLVM is then
# told that accesses of different types never meet, which gives wrong results.
_PASSES = (
    s_tir.transform.LowerInitBlock,
    s_tir.transform.PlanAndUpdateBufferAllocationLocation,
    s_tir.transform.ConvertBlocksToOpaque,
    s_tir.transform.LowerOpaqueBlock,
    tirx.transform.FlattenBuffer,
    tirx.transform.StmtSimplify,
    tirx.transform.VerifyMemory,
    tirx.transform.SplitHostDevice,
    tirx.transform.MakePackedAPI,
    tirx.transform.LowerTVMBuiltin,
    tirx.transform.LowerIntrin,
)


def build_kernels(mod: Any, target: Any) -> Any:
    """Machine code of a module of kernels.

    Args:
        mod: An ``IRModule`` of PrimFuncs with global symbols.
        target: What ``tvm.target.Target`` takes (:attr:`Isa.target`).

    Returns:
        The runtime module.
    """
    tvm_target = tvm.target.Target(target)
    bound = tirx.transform.BindTarget(tvm_target.with_host(tvm_target))
    lowered = tvm.ir.transform.Sequential([bound, *(make() for make in _PASSES)])(mod)
    return tvm.get_global_func(f"target.build.{tvm_target.kind.name}")(lowered, tvm_target)
