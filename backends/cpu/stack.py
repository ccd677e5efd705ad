"""Arrays on the stack of a task that are too large for :func:`burnish.backends.cpu.tir.local`.

TVM turns allocations of a kilobyte and more into heap calls. A task that is short needs its
intermediate results without one, in memory that its thread has used before and has in its cache.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T  # noqa: N812

from burnish.backends.cpu.tir import let
from burnish.errors import CompileError

#: Most bytes of one array; threads have a megabyte of stack at least.
STACK_BYTES = 512 * 1024
_LINE = 64
_WORD = 8


def stack(count: int) -> Any:
    """A 1-D float32 array private to the task, at an address that is a multiple of 64.

    Raises:
        CompileError: It is larger than :data:`STACK_BYTES`.
    """
    if 4 * count > STACK_BYTES:
        raise CompileError(f"stack array of {4 * count} bytes", hint=f"at most {STACK_BYTES}")
    words = -(-(4 * count + _LINE) // _WORD)
    # The only typed stack array that TVM leaves alone: "shape" is an array of int64.
    start = T.Bind(tirx.call_intrin("handle", "tirx.tvm_stack_alloca", "shape", words))
    whole = T.decl_buffer((words * _WORD // 4,), "float32", data=start, align=4)
    address = let(tirx.reinterpret("int64", start))
    skip = let(tirx.truncdiv((_LINE - address % _LINE) % _LINE, tirx.const(4, "int64")))
    aligned = T.Bind(tirx.address_of(whole[skip]))
    return T.decl_buffer((count,), "float32", data=aligned, align=4)
