"""What the backends of generated CPU kernels share: they differ in targets only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from burnish.backends.base import Backend, KernelRule, TableEmitter, Target

if TYPE_CHECKING:
    from burnish.errors import BurnishError
    from burnish.lowering.tactics import Source

#: Loads further tactics by composite (late: they need TVM).
Tactics: TypeAlias = "Callable[[], Mapping[str, Sequence[Source]]]"

#: Why libraries cannot be used here, by name.
Libraries: TypeAlias = "Mapping[str, Callable[[], BurnishError | None]]"

#: The CPU kernels store tensors in either. They compute in fp32, for which they convert 16 bits,
#: but for products where the CPU multiplies them as they are.
PRECISIONS = ("fp32", "fp16", "bf16")
COMPUTES = {"float16": "fp32", "bfloat16": "fp32"}


def cpu_backend(
    name: str,
    specs: Mapping[str, str],
    resolve: Callable[[str], Target],
    tactics: Tactics = dict,
    libraries: Libraries | None = None,
) -> Backend:
    """A backend with the kernels of :mod:`burnish.backends.cpu`; see :class:`Backend`.

    Args:
        name: As in :class:`Backend`.
        specs: As in :class:`Backend`.
        resolve: As in :class:`Backend`.
        tactics: What the backend has besides the generated kernels.
        libraries: As in :class:`Backend`.
    """

    def rules() -> Mapping[str, KernelRule]:
        from burnish.backends.cpu.rules import rules_with

        return rules_with(tactics())

    return Backend(
        name,
        specs,
        resolve,
        rules=rules,
        table=_table,
        codegen=_codegen,
        libraries=libraries or {},
        # LLVM starts at once, and one changed kernel leaves the others in a compile cache.
        kernels_per_build=1,
        lacks=frozenset(),
        host_sizes=True,
    )


def _table() -> TableEmitter:
    from burnish.backends.cpu.rules.table import TABLE

    return TABLE


def _codegen() -> Callable[[Any, Any], Any]:
    from burnish.backends.cpu.codegen import build_kernels

    return build_kernels
