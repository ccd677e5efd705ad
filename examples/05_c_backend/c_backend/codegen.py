"""From kernels to C source."""

from __future__ import annotations

import re
from typing import Any

import tvm

from burnish.backends.cpu.codegen import build_kernels

#: TVM spells infinities as numbers and adds an f to floats; in C they are macros.
_NUMBERS = {"inf": "INFINITY", "inff": "INFINITY", "nan": "NAN", "nanf": "NAN"}
#: TVM gives a library its context through this variable, which each source file defines.
_CONTEXT = "void* __tvm_ffi__library_ctx"


def write_source(mod: Any, target: Any) -> Any:
    """C source of a module of kernels, as a module that the linker's compiler compiles.

    Args:
        mod: An ``IRModule`` of PrimFuncs with global symbols.
        target: What ``tvm.target.Target`` takes.
    """
    names = [str(var.name_hint) for var in mod.functions]
    source = str(build_kernels(mod, target).inspect_source())
    source = re.sub(rf"(?<![\w.])({'|'.join(_NUMBERS)})\b", lambda m: _NUMBERS[m[1]], source)
    source = source.replace(_CONTEXT, f"__attribute__((weak)) {_CONTEXT}")
    return tvm.get_global_func("runtime.CSourceModuleCreate")(source, "c", names, [])
