"""Small artifacts for CUDA built by hand from Relax, for tests of the runtime without a backend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tvm
from tvm import relax, tirx
from tvm.s_tir import dlight

from burnish.artifact import (
    Manifest,
    TargetInfo,
    TensorInfo,
    link_module,
    weight_from_array,
    write_artifact,
)
from burnish.backends.cuda import toolkit
from tests.support.product import INNER, WEIGHT, WIDTH

ARCH = "sm_80"
TARGET = TargetInfo(f"cuda:{ARCH}", ARCH, "x86_64", ("sse2",), device="cuda")

_TVM_TARGET = {
    "kind": "cuda",
    "arch": ARCH,
    "max_shared_memory_per_block": 49152,
    "max_threads_per_block": 1024,
    "registers_per_block": 65536,
    "host": {"kind": "llvm"},
}


def product_artifact(path: Path) -> Path:
    """An artifact of ``y = softmax(x w), z = x, p = x w`` for x of (n, 96), n symbolic, in fp32."""
    toolkit.load_cuda_runtime()
    tvm.register_global_func(
        "tvm_callback_cuda_compile",
        lambda source: toolkit.compile_cuda(str(source), ARCH),
        override=True,
    )
    target = tvm.target.Target(_TVM_TARGET)
    with target:
        mod = tvm.transform.Sequential(_passes())(_module())
        executable = tvm.compile(mod, target)
    library = path.with_name(path.name + ".so")
    link_module(executable, library)
    weight = weight_from_array("w", WEIGHT)
    outputs = [
        TensorInfo("y", "float32", ("n", WIDTH)),
        TensorInfo("z", "float32", ("n", INNER)),
        TensorInfo("p", "float32", ("n", WIDTH)),
    ]
    inputs = (TensorInfo("x", "float32", ("n", INNER)),)
    info = Manifest("product", "0" * 64, TARGET, inputs, tuple(outputs), (weight.info,))
    write_artifact(path, info, library, [weight])
    library.unlink()
    return path


def _module() -> tvm.IRModule:
    builder = relax.BlockBuilder()
    rows = tirx.Var("n", "int64")
    x = relax.Var("x", relax.TensorType((rows, INNER), "float32"))
    w = relax.Var("w", relax.TensorType((INNER, WIDTH), "float32"))
    with builder.function("main", [x, w]):
        with builder.dataflow():
            product = builder.emit(relax.op.matmul(x, w))
            output = builder.emit_output(
                relax.Tuple([builder.emit(relax.op.nn.softmax(product)), x, product])
            )
        builder.emit_func_output(output)
    return builder.get()


def _passes() -> list[Any]:
    rules = (
        dlight.gpu.Matmul(),
        dlight.gpu.Reduction(),
        dlight.gpu.GeneralReduction(),
        dlight.gpu.Fallback(),
    )
    return [relax.transform.LegalizeOps(), dlight.ApplyDefaultSchedule(*rules)]
