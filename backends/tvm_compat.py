"""What burnish uses of TVM beyond its public API, in one place: it moves between releases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm.relax import vm_build


def relax_codegen(builder: Any, mod: Any) -> Any:
    """Generate bytecode for the Relax functions of a module; returns the module of the rest."""
    return vm_build._vmcodegen(builder, mod, "bytecode")


def relax_link(builder: Any, target: Any, libraries: Sequence[Any]) -> Any:
    """Make one executable of bytecode and libraries of kernels."""
    root, *others = libraries
    for library in others:
        root.import_module(library)
    return vm_build.VMExecutable(vm_build._ffi_api.VMLink(builder, target, root, [], {}))


__all__ = ["relax_codegen", "relax_link"]
