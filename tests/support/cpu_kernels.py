"""Build kernels and run them on NumPy arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm

from burnish.backends.cpu.codegen import build_kernels
from burnish.backends.cpu.isa import Isa
from burnish.backends.cpu.tir import Kernel

Array = npt.NDArray[Any]


def build(kernels: dict[str, Kernel], isa: Isa) -> Any:
    """Compile kernels into one module."""
    funcs = {name: k.func.with_attr("global_symbol", name) for name, k in kernels.items()}
    return build_kernels(tvm.IRModule(funcs), isa.target)


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


def dirty(shape: Sequence[int], dtype: str = "float32") -> Array:
    """An output array whose content would show if an element were not written."""
    return np.full(shape, 1 if dtype == "bool" else 77, dtype)
