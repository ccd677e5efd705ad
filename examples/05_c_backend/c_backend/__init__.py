"""A backend that writes C: the kernels of a model as plain C source, compiled by the C++ compiler.

It is here to show what a backend is made of, not to be fast: no operator has a kernel of its own
but MatMul, composites are run as the operators that they stand for, and loops are serial.
"""

from __future__ import annotations

import platform
import shlex
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from burnish.backends.base import Backend, KernelRule, TableEmitter, Target
from burnish.backends.cpu.isa import Isa
from burnish.errors import UsageError

#: The row of the instruction-set table: C without vectors. It runs on any machine.
C99 = Isa(name="c99", lanes=1, registers=16, target={"kind": "c"})


def _resolve(spec: str) -> Target:
    if spec != "c":
        raise UsageError(f"unknown target {spec!r}", hint="the C backend has no variants: c")
    return Target(
        spec=spec,
        backend=C,
        tvm=dict(C99.target),
        machine=platform.machine(),
        features=(),
        isa=C99,
        linker=shlex.join(["g++", "-O2", *_includes()]),
    )


def _includes() -> list[str]:
    """Where the headers of TVM lie that the generated source includes."""
    folders = []
    for package in ("tvm", "tvm_ffi"):
        spec = find_spec(package)
        assert spec is not None
        assert spec.origin is not None
        folders.append(f"-I{Path(spec.origin).parent / 'include'}")
    return folders


def _rules() -> Mapping[str, KernelRule]:
    from c_backend.rules import MATMUL

    return {MATMUL.key: MATMUL}


def _table() -> TableEmitter:
    # The operator table of the CPU backends writes loops; without vectors, they are plain C.
    from burnish.backends.cpu.rules.table import TABLE

    return TABLE


def _codegen() -> Callable[[Any, Any], Any]:
    from c_backend.codegen import write_source

    return write_source


C = Backend(
    name="c",
    specs={"c": "plain C source, compiled for this machine"},
    resolve=_resolve,
    rules=_rules,
    table=_table,
    codegen=_codegen,
)
