"""Small artifacts built by hand from Relax, for tests of the runtime without burnish's compiler."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm import relax, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T  # noqa: N812 - TVM's own name for it

from burnish.artifact import (
    Manifest,
    TargetInfo,
    TensorInfo,
    link_module,
    weight_from_array,
    write_artifact,
)

TARGET = TargetInfo("x86", "baseline", "x86_64", ("sse2",))
WIDTH = 16


def affine_kernel(name: str = "affine") -> tirx.PrimFunc:
    """y[n, 16] = x[n, 16] * w[16] + 1, in parallel over rows; x needs no alignment."""
    rows = tirx.Var("rows", "int64")
    with IRBuilder() as builder, T.prim_func(s_tir=True, is_private=True):
        T.func_name(name)
        T.func_attr({"tirx.noalias": True})
        x = T.arg("x", T.buffer((rows, WIDTH), "float32", align=4))
        w = T.arg("w", T.buffer((WIDTH,), "float32"))
        y = T.arg("y", T.buffer((rows, WIDTH), "float32"))
        with T.parallel(rows) as i, T.serial(WIDTH) as j:
            T.buffer_store(y, x[i, j] * w[j] + T.float32(1), [i, j])
    return builder.get()


def tensor(shape: Sequence[Any], dtype: str = "float32") -> relax.TensorType:
    return relax.TensorType(tuple(shape), dtype)


def module(
    params: Sequence[tuple[str, Sequence[Any], str]],
    body: Callable[..., Sequence[relax.Expr]],
    kernels: Sequence[tuple[str, tirx.PrimFunc]] = (),
) -> tvm.IRModule:
    """A module whose ``main`` takes ``params`` and returns the tuple that ``body`` makes.

    ``body`` is called with a BlockBuilder, the kernels by name and the parameters.
    """
    builder = relax.BlockBuilder()
    functions = {name: builder.add_func(function, name) for name, function in kernels}
    variables = [relax.Var(name, tensor(shape, dtype)) for name, shape, dtype in params]
    with builder.function("main", variables):
        with builder.dataflow():
            results = body(builder, functions, *variables)
            output = builder.emit_output(relax.Tuple(list(results)))
        builder.emit_func_output(output)
    return builder.get()


def call(builder: Any, kernel: Any, arguments: Sequence[Any], shape: Sequence[Any]) -> relax.Var:
    return builder.emit(relax.call_tir(kernel, relax.Tuple(list(arguments)), tensor(shape)))


def compile_library(mod: tvm.IRModule, path: Path) -> None:
    # Only what the virtual machine needs: TVM's default pipeline looks for patterns in the kernels.
    phases = tvm.transform.Sequential(
        [
            relax.transform.RemovePurityChecking(),
            relax.transform.CallTIRRewrite(),
            relax.transform.StaticPlanBlockMemory(),
            relax.transform.LowerAllocTensor(),
            relax.transform.KillAfterLastUse(),
            relax.transform.LowerRuntimeBuiltin(),
            relax.transform.ComputePrimValue(),
            relax.transform.VMShapeLower(),
            relax.transform.AttachGlobalSymbol(),
        ]
    )
    target = tvm.target.Target({"kind": "llvm"})
    link_module(relax.build(mod, target=target, relax_pipeline=phases), path)


def manifest(
    inputs: Sequence[TensorInfo], outputs: Sequence[TensorInfo], weights: Sequence[TensorInfo] = ()
) -> Manifest:
    return Manifest("handmade", "0" * 64, TARGET, tuple(inputs), tuple(outputs), tuple(weights))


@functools.cache
def _affine_library(chain: int) -> bytes:
    rows = tirx.Var("n", "int64")

    def body(builder: Any, kernels: Any, x: Any, w: Any) -> list[Any]:
        value = x
        for _ in range(chain):
            value = call(builder, kernels["affine"], [value, w], (rows, WIDTH))
        return [value]

    params = [("x", (rows, WIDTH), "float32"), ("w", (WIDTH,), "float32")]
    mod = module(params, body, [("affine", affine_kernel())])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.so"
        compile_library(mod, path)
        return path.read_bytes()


WEIGHT = np.linspace(0.5, 1.5, WIDTH, dtype=np.float32)


def affine_artifact(path: Path, chain: int = 2) -> Path:
    """An artifact of ``y = affine(...affine(x))``, ``chain`` times, with a symbolic ``n``."""
    library = path.with_name(path.name + ".so")
    library.write_bytes(_affine_library(chain))
    weight = weight_from_array("w", WEIGHT)
    write_artifact(
        path,
        manifest(
            [TensorInfo("x", "float32", ("n", WIDTH))],
            [TensorInfo("y", "float32", ("n", WIDTH))],
            [weight.info],
        ),
        library,
        [weight],
    )
    library.unlink()
    return path


def affine_reference(x: np.ndarray[Any, Any], chain: int = 2) -> np.ndarray[Any, Any]:
    for _ in range(chain):
        x = x * WEIGHT + np.float32(1)
    return x
