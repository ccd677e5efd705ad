"""The CUDA backend: generated kernels for NVIDIA GPUs, built without a GPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from burnish.backends.base import Backend, KernelRule, TableEmitter, Target
from burnish.backends.cuda.arch import ARCHS, HOST_FEATURES, TENSOR_CORES
from burnish.backends.cuda.device import device_arch
from burnish.backends.cuda.toolkit import find_nvcc
from burnish.errors import UsageError, first_few

if TYPE_CHECKING:
    from burnish.lowering.context import KernelCall

#: Operators of the table that multiply matrices, and count no operations.
_PRODUCTS = frozenset({"Conv", "ConvTranspose", "Einsum", "Gemm", "GRU", "LSTM", "MatMul", "RNN"})


def _resolve(spec: str) -> Target:
    _, _, name = spec.partition(":")
    if not name:
        name = device_arch()
    if name not in ARCHS:
        raise UsageError(
            f"unknown GPU architecture {name!r}", at=spec, hint=f"one of: {', '.join(ARCHS)}"
        )
    find_nvcc()
    arch = ARCHS[name]
    return Target(
        f"cuda:{name}",
        CUDA,
        arch.target,
        "x86_64",
        HOST_FEATURES,
        arch,
        device="cuda",
        precisions=("fp32", "fp16"),
    )


def _rules() -> Mapping[str, KernelRule]:
    from burnish.backends.cuda.rules import RULES

    return RULES


def _table() -> TableEmitter:
    from burnish.backends.cuda.rules.table import TABLE

    return TABLE


def _codegen() -> Callable[[Any, Any], Any]:
    from burnish.backends.cuda.codegen import build_kernels

    return build_kernels


def _remarks(calls: Sequence[KernelCall]) -> list[str]:
    """Which products of a float16 model do not run on tensor cores."""
    if not any(call.detail.startswith(TENSOR_CORES) for call in calls):
        return []
    others: dict[str, list[str]] = {}
    for call in calls:
        is_product = call.flops != 0 or call.node in _PRODUCTS
        if is_product and not call.detail.startswith(TENSOR_CORES):
            how = call.detail or f"scheduled for {call.dtype}"
            others.setdefault(f"{call.node}: {how}", []).append(" + ".join(call.names))
    return [
        f"not on tensor cores: {len(names)} x {what} ({first_few(names)})"
        for what, names in others.items()
    ]


CUDA = Backend(
    name="cuda",
    specs={
        "cuda": "this machine's NVIDIA GPU",
        **{f"cuda:{arch.name}": arch.about for arch in ARCHS.values()},
    },
    resolve=_resolve,
    rules=_rules,
    table=_table,
    codegen=_codegen,
    kernels_per_build=32,
    tools=lambda: [str(find_nvcc())],
    remarks=_remarks,
    sequential=False,
)
