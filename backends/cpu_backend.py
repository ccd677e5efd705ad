"""What the backends of generated CPU kernels share: they differ in targets only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from burnish.backends.base import Backend, KernelRule, TableEmitter, Target

#: The CPU kernels store tensors in either; they compute in fp32.
PRECISIONS = ("fp32", "fp16")
COMPUTES = {"float16": "fp32"}


def cpu_backend(name: str, specs: Mapping[str, str], resolve: Callable[[str], Target]) -> Backend:
    """A backend with the kernels of :mod:`burnish.backends.cpu`; see :class:`Backend`."""
    return Backend(
        name, specs, resolve, rules=_rules, table=_table, codegen=_codegen, host_sizes=True
    )


def _rules() -> Mapping[str, KernelRule]:
    from burnish.backends.cpu.rules import RULES

    return RULES


def _table() -> TableEmitter:
    from burnish.backends.cpu.rules.table import TABLE

    return TABLE


def _codegen() -> Callable[[Any, Any], Any]:
    from burnish.backends.cpu.codegen import build_kernels

    return build_kernels
