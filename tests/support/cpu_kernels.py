"""Build kernels and run them on NumPy arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tvm

from burnish.artifact import cpu_features
from burnish.backends.cpu.codegen import build_kernels
from burnish.backends.cpu.epilogue import pack_channel
from burnish.backends.cpu.isa import Isa
from burnish.backends.cpu.tir import Kernel
from burnish.ir.postops import PostOp

Array = npt.NDArray[Any]


class Library:
    """Compiled kernels by name. Asking for one skips the test if this CPU cannot run it."""

    def __init__(self, module: Any, isa: Isa) -> None:
        self.module = module
        self.isa = isa

    def __getitem__(self, name: str) -> Any:
        missing = set(self.isa.features) - cpu_features()
        if missing:
            pytest.skip(f"this CPU lacks {', '.join(sorted(missing))}")
        return self.module[name]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name)


def build_module(functions: dict[str, Any], isa: Isa) -> Library:
    """Compile PrimFuncs that have global symbols into one module."""
    return Library(build_kernels(tvm.IRModule(functions), isa.target), isa)


def build(kernels: dict[str, Kernel], isa: Isa) -> Library:
    """Compile kernels into one module."""
    funcs = {name: k.func.with_attr("global_symbol", name) for name, k in kernels.items()}
    return build_module(funcs, isa)


def run(
    library: Any, name: str, inputs: Sequence[Array], outputs: Sequence[Array], *scalars: int
) -> list[Array]:
    """Call a kernel; the outputs (their content is overwritten) are returned as new arrays."""
    results = [tvm.runtime.tensor(np.ascontiguousarray(o).reshape(o.shape)) for o in outputs]
    args = [tvm.runtime.tensor(np.ascontiguousarray(a).reshape(np.shape(a))) for a in inputs]
    library[name](*args, *results, *scalars)
    return [r.numpy() for r in results]


def run_once(
    kernel: Kernel, isa: Isa, inputs: Sequence[Array], outputs: Sequence[Array], *scalars: int
) -> list[Array]:
    """Build one kernel and call it."""
    return run(build({"kernel": kernel}, isa), "kernel", inputs, outputs, *scalars)


def operands(
    rng: np.random.Generator, postops: Sequence[PostOp], shape: Sequence[int], isa: Isa
) -> tuple[list[Array], list[Array]]:
    """Operands of post-ops, by channel and full: as they are, and as kernels read them.

    Args:
        rng: What draws them.
        postops: The post-ops.
        shape: That of the result, channels last.
        isa: The instruction set to pack for.
    """
    raw, packed = [], []
    for post in postops:
        if post.operand:
            each = shape[-1:] if post.operand == "channel" else shape
            raw.append(rng.standard_normal(each).astype(np.float32))
            packed.append(pack_channel(raw[-1], isa) if post.operand == "channel" else raw[-1])
    return raw, packed


def dirty(shape: Sequence[int], dtype: str = "float32") -> Array:
    """An output array whose content would show if an element were not written."""
    return np.full(shape, 1 if dtype == "bool" else 77, dtype)
