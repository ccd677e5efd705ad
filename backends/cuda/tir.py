"""What CUDA kernel templates are written with: grids, shared memory, predicated accesses.

Arguments are declared as in :mod:`burnish.backends.cpu.tir`. Block, thread and everything inside a
tile is counted in int32, which GPUs divide several times as fast; offsets into tensors are int64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T  # noqa: N812

from burnish.backends.cpu import tir as base
from burnish.backends.cpu.isa import Isa
from burnish.backends.cpu.tir import (
    Expr,
    Index,
    Kernel,
    KernelBuilder,
    Tensor,
    ceildiv,
    dtype_of,
    i64,
    product,
    when,
)

#: Threads of a warp.
WARP = 32
#: What a thread computes with: no vectors.
_SCALAR = Isa("cuda", lanes=1, registers=255, target={})


@contextmanager
def kernel(name: str) -> Iterator[KernelBuilder]:
    """Build one PrimFunc that launches grids, whose threads synchronize by themselves."""
    with base.kernel(name, _SCALAR) as k:
        yield k


@contextmanager
def grid(blocks: Index, threads: int) -> Iterator[tuple[Expr, Expr]]:
    """Launch ``blocks`` blocks of ``threads`` threads; yields the indices of both, int32.

    CUDA refuses grids without blocks, so there is no launch for tensors without elements.
    """
    some = i64(blocks) > i64(0)
    with (
        when(some),
        T.launch_thread("blockIdx.x", i32(blocks)) as block,
        T.launch_thread("threadIdx.x", i32(threads)) as thread,
    ):
        yield block, thread


def i32(value: Index) -> Expr:
    """An int32 expression."""
    if isinstance(value, int):
        return tirx.const(value, "int32")
    return value if dtype_of(value) == "int32" else tirx.Cast("int32", value)


def _matched(a: Index, b: Index) -> tuple[Expr, Expr]:
    """Both of one type: int64 if either is."""
    wide = any(not isinstance(v, int) and dtype_of(v) == "int64" for v in (a, b))
    if not wide:
        return i32(a), i32(b)
    first, second = (
        v if isinstance(v, int) or dtype_of(v) == "int64" else tirx.Cast("int64", v) for v in (a, b)
    )
    return i64(first), i64(second)


def floordiv(a: Index, b: Index) -> Index:
    """``a // b`` for a >= 0, b > 0."""
    if isinstance(b, int) and b == 1:
        return a
    if isinstance(a, int) and isinstance(b, int):
        return a // b
    return tirx.truncdiv(*_matched(a, b))


def floormod(a: Index, b: Index) -> Index:
    """``a % b`` for a >= 0, b > 0."""
    if isinstance(b, int) and b == 1:
        return 0
    if isinstance(a, int) and isinstance(b, int):
        return a % b
    return tirx.truncmod(*_matched(a, b))


@contextmanager
def loop(start: Index, stop: Index | None = None) -> Iterator[Expr]:
    """A loop; its variable is int32."""
    first, last = (0, start) if stop is None else (start, stop)
    with T.serial(i32(first), i32(last)) as i:
        yield i


@contextmanager
def unrolled(count: int) -> Iterator[Expr]:
    """A loop that the CUDA compiler unrolls: its variable may index registers."""
    with T.unroll(i32(0), i32(count)) as i:
        yield i


def shared(count: int, dtype: str) -> Any:
    """A 1-D array in the block's shared memory."""
    return T.alloc_buffer((count,), dtype, scope="shared")


def registers(count: int, dtype: str) -> Any:
    """A 1-D array of the thread; it lies in registers when every index is a constant."""
    return T.alloc_buffer((count,), dtype, scope="local")


def sync() -> None:
    """Wait for all threads of the block."""
    T.evaluate(T.tvm_storage_sync("shared"))


def sync_warp() -> None:
    """Wait for all threads of the warp."""
    T.evaluate(tirx.call_extern("void", "__syncwarp"))


def name(value: Expr) -> Expr:
    """Evaluate once and give the value a name."""
    return value if isinstance(value, int) else T.Bind(value)


def pin(value: Expr) -> Expr:
    """Evaluate once, also where the simplifier could put the definition into every use.

    It does so with pure definitions of integers; divisions by symbolic sizes are not worth it.
    """
    return value if isinstance(value, int) else T.Bind(cell(value)[0])


def cell(value: Expr) -> Any:
    """A variable with a first value: an array of one element."""
    buffer = registers(1, dtype_of(value))
    T.buffer_store(buffer, value, [0])
    return buffer


def widen(value: Expr) -> Expr:
    """A float16 value as float32: what kernels compute with."""
    return tirx.Cast("float32", value) if dtype_of(value) == "float16" else value


def narrow(value: Expr, dtype: str) -> Expr:
    """A value as it is stored."""
    return value if dtype_of(value) == dtype else tirx.Cast(dtype, value)


def read(tensor: Tensor, offset: Index) -> Expr:
    """One element at a flat offset, float16 as float32."""
    return widen(tensor.flat[i64(offset)])


def write(tensor: Tensor, offset: Index, value: Expr) -> None:
    """Store one element at a flat offset."""
    T.buffer_store(tensor.flat, narrow(value, tensor.dtype), [i64(offset)])


def vector(buffer: Any, offset: Index, lanes: int) -> Expr:
    """``lanes`` neighbours; the address is a multiple of their size."""
    return buffer[i64(offset)] if lanes == 1 else buffer[T.ramp(i64(offset), i64(1), lanes)]


def put(buffer: Any, offset: Index, value: Expr, lanes: int) -> None:
    """Store ``lanes`` neighbours; the address is a multiple of their size."""
    index = i64(offset) if lanes == 1 else T.ramp(i64(offset), i64(1), lanes)
    T.buffer_store(buffer, value, [index])


def zeros(dtype: str, lanes: int) -> Expr:
    """A vector of zeros."""
    zero = tirx.const(0.0, dtype)
    return zero if lanes == 1 else T.broadcast(zero, lanes)


def common_lanes(dtype: str, *numbers: Index) -> int:
    """Elements of the widest access whose size divides all numbers (16 bytes at most)."""
    widest = 16 // (2 if dtype == "float16" else 4)
    if not all(isinstance(n, int) for n in numbers):
        return 1
    lanes = math.gcd(widest, *numbers)
    # TVM has no code for 8-byte vectors of float16.
    return 2 if dtype == "float16" and lanes == 4 else lanes


def conjunction(conditions: Sequence[Expr]) -> Expr | None:
    """All of the conditions; None for none."""
    result: Expr | None = None
    for condition in conditions:
        result = condition if result is None else tirx.And(result, condition)
    return result


def below(value: Index, bound: Index) -> list[Expr]:
    """The condition ``value < bound``; nothing where it is known to hold."""
    if isinstance(value, int) and isinstance(bound, int):
        return [] if value < bound else [tirx.const(False, "bool")]
    first, second = _matched(value, bound)
    return [first < second]


def when_all(conditions: Sequence[Expr], then: Callable[[], None]) -> None:
    """Statements that run if all conditions hold."""
    condition = conjunction(conditions)
    if condition is None:
        then()
        return
    with when(condition):
        then()


def unravel(index: Expr, extents: Sequence[Index]) -> list[Index]:
    """Row-major coordinates of a flat index."""
    found: list[Index] = []
    rest: Index = index
    for i, extent in enumerate(reversed(extents)):
        last = i == len(extents) - 1
        found.insert(0, rest if last else pin(floormod(rest, extent)))
        if not last:
            rest = pin(floordiv(rest, extent))
    return found


__all__ = [
    "WARP",
    "Expr",
    "Index",
    "Kernel",
    "KernelBuilder",
    "Tensor",
    "below",
    "ceildiv",
    "cell",
    "common_lanes",
    "conjunction",
    "dtype_of",
    "floordiv",
    "floormod",
    "grid",
    "i32",
    "i64",
    "kernel",
    "loop",
    "name",
    "narrow",
    "pin",
    "product",
    "put",
    "read",
    "registers",
    "shared",
    "sync",
    "sync_warp",
    "unravel",
    "unrolled",
    "vector",
    "when",
    "when_all",
    "widen",
    "write",
    "zeros",
]
