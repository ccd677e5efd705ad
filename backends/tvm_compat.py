"""What burnish uses of TVM beyond its public API, in one place: it moves between releases."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tvm
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


def object_code(library: Any) -> bool:
    """Whether all of a library is in the object file that it writes."""
    return library.kind == "llvm" and not library.imports


def static_library(path: Path, functions: Sequence[str]) -> Any:
    """A library of an object file, which is read at once."""
    return tvm.runtime.load_static_library(str(path), list(functions))


def empty_library(target: Any) -> Any:
    """A library without a kernel: what else is linked takes the form of its code from it."""
    host = target.host or target
    return tvm.get_global_func(f"target.build.{host.kind.name}")(tvm.IRModule({}), host)


__all__ = ["empty_library", "object_code", "relax_codegen", "relax_link", "static_library"]
