"""A thin layer over TVM's IRBuilder, in which the CPU kernel templates are written.

A kernel is a destination-passing TIR PrimFunc: inputs, outputs, then one int64 parameter for each
shape symbol that no argument has as a bare dimension. Arguments are compact and 4-byte aligned at
least (the address of a NumPy array may be no better), so vector accesses are emitted unaligned,
which costs nothing where the address is aligned.

All index arithmetic is int64. Everything here must be called between ``with kernel(...)`` and its
end, in program order: calls append statements to the function being built.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, TypeAlias

from tvm import tirx
from tvm.ir.expr import TensorLoad
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T  # noqa: N812

from burnish.artifact import held_as
from burnish.backends.cpu import bfloat16
from burnish.backends.cpu.coded import Coded
from burnish.backends.cpu.isa import Isa
from burnish.backends.cpu.narrow import NARROW, Narrow
from burnish.errors import CompileError

#: A TIR expression. TVM ships no type information.
Expr: TypeAlias = Any
#: A size or index: a Python int when it is static.
Index: TypeAlias = Any

#: TVM turns an allocation of this many bytes or more into a heap call (``kMaxStackAlloca``).
_STACK_LIMIT = 1024


@dataclass(frozen=True)
class Kernel:
    """A finished kernel.

    Attributes:
        func: The private PrimFunc.
        scalars: Symbols that are no bare dimension of any argument: the trailing int64
            parameters, in order.
    """

    func: Any
    scalars: tuple[Any, ...]


@dataclass(frozen=True)
class Tensor:
    """An argument of a kernel.

    Attributes:
        name: Parameter name.
        shape: Dimensions: ints, and int64 expressions where symbolic.
        dtype: Element type, for instance ``float32``.
        buffer: The N-D TIR buffer.
        flat: 1-D alias of ``buffer``, perhaps :class:`Narrow`; vectors are read and written
            through it.
        size: Number of elements.
    """

    name: str
    shape: tuple[Index, ...]
    dtype: str
    buffer: Any
    flat: Any
    size: Index

    @property
    def strides(self) -> tuple[Index, ...]:
        """Elements between neighbours, for each dimension (row-major)."""
        out: list[Index] = []
        step: Index = 1
        for dim in reversed(self.shape):
            out.insert(0, step)
            step = step * dim
        return tuple(out)

    def offset(self, *index: Index) -> Index:
        """Flat offset of an element; missing trailing indices count as 0."""
        return total(i * s for i, s in zip(index, self.strides, strict=False))

    def load(self, offset: Index, lanes: int = 1, valid: int | None = None) -> Expr:
        """``lanes`` elements from flat ``offset`` on; see :func:`load`."""
        return load(self.flat, offset, lanes, valid)

    def store(self, offset: Index, value: Expr, valid: int | None = None) -> None:
        """Write a vector or scalar at flat ``offset``; see :func:`store`."""
        store(self.flat, offset, value, valid)


@dataclass
class KernelBuilder:
    """What ``with kernel(name, isa) as k`` yields: declares arguments, holds the result.

    Attributes:
        name: For people.
        isa: Instruction set.
        storage: Element type of arguments that name none: ``float32``, or one of ``NARROW``, which
            is converted where it is read and written.
    """

    name: str
    isa: Isa
    storage: str = "float32"
    _params: list[Any] = field(default_factory=list)
    _dims: list[Any] = field(default_factory=list)
    _exprs: list[Any] = field(default_factory=list)
    _result: Kernel | None = None

    def input(self, name: str, shape: Sequence[Index], dtype: str | None = None) -> Tensor:
        """Declare the next input, of the kernel's storage type if no dtype is given."""
        return self._argument(name, shape, dtype)

    def output(self, name: str, shape: Sequence[Index], dtype: str | None = None) -> Tensor:
        """Declare the next output; outputs come after all inputs."""
        return self._argument(name, shape, dtype)

    def symbols(self, *exprs: Index) -> None:
        """Make the symbols in ``exprs`` known to the kernel even if no argument shape has them."""
        self._exprs += [e for e in exprs if not isinstance(e, int)]

    def _argument(self, name: str, shape: Sequence[Index], given: str | None) -> Tensor:
        dtype = given or self.storage
        dims = tuple(static(d) for d in shape)
        for dim in dims:
            (self._dims if isinstance(dim, tirx.Var) else self._exprs).append(dim)
        # Without align=4 TVM promises LLVM 64-byte addresses, and emits instructions that fault.
        kind = held_as(dtype)
        buffer = T.buffer([i64(d) for d in dims], kind, align=4, buffer_name=name)
        self._params.append(buffer)
        size = product(dims)
        flat = T.decl_buffer((i64(size),), kind, data=buffer.data, align=4)
        if given is None and dtype in NARROW:
            flat = Narrow(flat, dtype)
        return Tensor(name, dims, dtype, buffer, flat, size)

    @property
    def result(self) -> Kernel:
        """The finished kernel; only after the ``with`` block."""
        if self._result is None:
            raise CompileError(f"kernel {self.name!r} read before it was finished")
        return self._result


@contextmanager
def kernel(name: str, isa: Isa, storage: str = "float32") -> Iterator[KernelBuilder]:
    """Build one PrimFunc; ``name`` is for people, the lowering makes it unique."""
    k = KernelBuilder(name, isa, storage)
    with bfloat16.building(native=isa.bf16) as building, IRBuilder() as builder:
        with T.prim_func(s_tir=True, is_private=True):
            T.func_name(name)
            T.func_attr({"tirx.noalias": True})
            yield k
        built = builder.get()
    scalars: list[Any] = []
    for expr in k._exprs:
        for var in free_symbols(expr):
            if not any(var.same_as(v) for v in (*k._dims, *scalars)):
                scalars.append(var)
    # The builder takes parameters before the first statement only; these are known now.
    body = building.finish(built.body)
    func = tirx.PrimFunc([*k._params, *scalars], body, built.ret_type, built.attrs)
    k._result = Kernel(func, tuple(scalars))


def free_symbols(expr: Index) -> list[Any]:
    """Variables of a shape expression, in the order of their names."""
    if isinstance(expr, int):
        return []
    return sorted(tirx.analysis.undefined_vars(tirx.Evaluate(expr), []), key=lambda v: str(v.name))


# --- sizes and indices ---------------------------------------------------------------------------


def static(value: Index) -> Index:
    """A Python int if ``value`` is a constant, else ``value``."""
    return int(value.value) if isinstance(value, tirx.IntImm) else value


def i64(value: Index) -> Expr:
    """An int64 expression."""
    return tirx.const(value, "int64") if isinstance(value, int) else value


def total(values: Any) -> Index:
    """Sum; a Python int if all are."""
    return reduce(lambda a, b: a + b, values, 0)


def product(values: Any) -> Index:
    """Product; a Python int if all are."""
    return reduce(lambda a, b: a * b, values, 1)


def floordiv(a: Index, b: Index) -> Index:
    """``a // b`` for a >= 0, b > 0: plain division, without the sign correction of floor."""
    if isinstance(a, int) and isinstance(b, int):
        return a // b
    return tirx.truncdiv(i64(a), i64(b))


def floormod(a: Index, b: Index) -> Index:
    """``a % b`` for a >= 0, b > 0."""
    if isinstance(a, int) and isinstance(b, int):
        return a % b
    return tirx.truncmod(i64(a), i64(b))


def ceildiv(a: Index, b: Index) -> Index:
    """``a / b`` rounded up, for a >= 0, b > 0."""
    return floordiv(a + (b - 1), b)


def minimum(a: Index, b: Index) -> Index:
    """Smaller of two integers; a Python int if both are."""
    return min(a, b) if isinstance(a, int) and isinstance(b, int) else T.min(i64(a), i64(b))


def maximum(a: Index, b: Index) -> Index:
    """Larger of two integers; a Python int if both are."""
    return max(a, b) if isinstance(a, int) and isinstance(b, int) else T.max(i64(a), i64(b))


# --- control flow --------------------------------------------------------------------------------


@contextmanager
def serial(start: Index, stop: Index | None = None) -> Iterator[Index]:
    """A loop with an int64 variable; a loop of one static iteration is no loop."""
    lo, hi = (0, start) if stop is None else (start, stop)
    if isinstance(lo, int) and isinstance(hi, int) and hi - lo == 1:
        yield lo
    else:
        with T.serial(i64(lo), i64(hi)) as i:
            yield i


@contextmanager
def parallel(count: Index) -> Iterator[Index]:
    """A loop over independent tasks, shared out to the pool's threads in contiguous chunks."""
    if isinstance(count, int) and count == 1:
        yield 0
    else:
        with T.parallel(i64(count)) as i:
            yield i


@contextmanager
def when(condition: Expr) -> Iterator[None]:
    """Statements that run only if the condition holds."""
    with T.If(condition), T.Then():
        yield


def branch(condition: Expr, then: Callable[[], None], otherwise: Callable[[], None]) -> None:
    """An if-else; a Python bool as condition is decided now."""
    if isinstance(condition, bool):
        (then if condition else otherwise)()
        return
    with T.If(condition):
        with T.Then():
            then()
        with T.Else():
            otherwise()


def let(value: Expr) -> Expr:
    """Evaluate once and give the value a name.

    TVM's simplifier puts the definition of a variable in every place that uses it, if the
    definition is pure: good for an index, exponential for a chain of vector operations. So
    everything that is no index goes through a stack cell, which LLVM turns into a register.
    """
    if isinstance(value, int | float):
        return value
    if dtype_of(value) == "int64" or isinstance(value, TensorLoad | tirx.Broadcast):
        return T.Bind(value)
    return hold(value)


def hold(value: Expr) -> Expr:
    """Like :func:`let`, but opaque to TVM's simplifier for an index too.

    For bounds made of minima, maxima and divisions: inlined, they make simplification of all
    that depends on them slow.
    """
    if isinstance(value, int | float):
        return value
    base, _, lanes = dtype_of(value).partition("x")
    cell = local(int(lanes or 1), base)
    store(cell, 0, value)
    return T.Bind(load(cell, 0, int(lanes or 1)))


# --- vectors -------------------------------------------------------------------------------------


def dtype_of(value: Expr) -> str:
    """Type of an expression, as ``float32`` or ``float32x16``."""
    return str(value.ty.dtype)


def lanes_of(value: Expr) -> int:
    """Lanes of an expression; 1 for a scalar."""
    _, _, lanes = dtype_of(value).partition("x")
    return int(lanes or 1)


def with_lanes(dtype: str, lanes: int) -> str:
    """``float32`` and 16 make ``float32x16``."""
    return dtype if lanes == 1 else f"{dtype}x{lanes}"


def splat(value: Expr, lanes: int) -> Expr:
    """A scalar in every lane."""
    return value if lanes == 1 else T.broadcast(value, lanes)


def lane_everywhere(vector: Expr, lane: int) -> Expr:
    """One element of a vector in every lane."""
    return tirx.Shuffle([vector], [tirx.const(lane, "int32")] * lanes_of(vector))


def constant(value: float, lanes: int = 1, dtype: str = "float32") -> Expr:
    """A constant in every lane."""
    return splat(tirx.const(value, dtype), lanes)


def first_lanes(count: Index, lanes: int) -> Expr:
    """A mask of ``lanes`` booleans of which the first ``count`` are true."""
    ramp = tirx.Ramp(tirx.const(0, "int64"), tirx.const(1, "int64"), lanes)
    return ramp < T.broadcast(i64(count), lanes)


def load(
    buffer: Any,
    offset: Index,
    lanes: int = 1,
    valid: Index | None = None,
    fill: float = 0.0,
) -> Expr:
    """Read ``lanes`` neighbours from a 1-D buffer.

    Args:
        buffer: The 1-D buffer (``Tensor.flat``).
        offset: Element to start at.
        lanes: Vector width; 1 reads a scalar.
        valid: Only the first ``valid`` lanes are touched (an int64 expression is allowed).
        fill: What the other lanes get.
    """
    if isinstance(buffer, Coded):
        return buffer.load(offset, lanes, valid)
    if isinstance(buffer, Narrow):
        return buffer.widen(_load_half(buffer, offset, lanes, valid, fill), lanes)
    if lanes == 1:
        return buffer[i64(offset)]
    if not _partial(valid, lanes):
        return buffer[T.ramp(i64(offset), i64(1), lanes)]
    return let(_masked_load(buffer, offset, str(buffer.dtype), lanes, valid, fill))


def _partial(valid: Index | None, lanes: int) -> bool:
    return valid is not None and not (isinstance(valid, int) and valid >= lanes)


def _masked_load(
    buffer: Any, offset: Index, kind: str, lanes: int, valid: Index | None, fill: float
) -> Expr:
    return tirx.call_llvm_intrin(
        with_lanes(kind, lanes),
        "llvm.masked.load",
        tirx.address_of(buffer[i64(offset)]),
        first_lanes(valid, lanes),
        constant(fill, lanes, kind),
    )


def _load_half(half: Narrow, offset: Index, lanes: int, valid: Index | None, fill: float) -> Expr:
    buffer = half.buffer
    if lanes == 1 or not _partial(valid, lanes):
        return load(buffer, offset, lanes)
    # Masks are for 16-bit integers, where there is no arithmetic on float16.
    masked = let(_masked_load(buffer, offset, "int16", lanes, valid, half.bits(fill)))
    return tirx.reinterpret(with_lanes(str(buffer.dtype), lanes), masked)


def store(buffer: Any, offset: Index, value: Expr, valid: Index | None = None) -> None:
    """Write a vector or scalar to a 1-D buffer; only its first ``valid`` lanes if given."""
    lanes = lanes_of(value)
    if isinstance(buffer, Coded):
        return buffer.store(offset, value, valid)
    if isinstance(buffer, Narrow):
        buffer, value = buffer.buffer, buffer.round(let(value), lanes)
        if lanes > 1 and _partial(valid, lanes):
            value = tirx.reinterpret(with_lanes("int16", lanes), value)
    if lanes == 1:
        T.buffer_store(buffer, value, [i64(offset)])
    elif not _partial(valid, lanes):
        T.buffer_store(buffer, value, [T.ramp(i64(offset), i64(1), lanes)])
    else:
        where, mask = tirx.address_of(buffer[i64(offset)]), first_lanes(valid, lanes)
        T.evaluate(tirx.call_llvm_intrin("void", "llvm.masked.store", value, where, mask))


def prefetch(buffer: Any, offset: Index) -> None:
    """Ask for the cache line at an offset, which may lie outside, in the second-level cache."""
    buffer = buffer.buffer if isinstance(buffer, (Coded, Narrow)) else buffer
    where, how = tirx.address_of(buffer[i64(offset)]), (tirx.const(v, "int32") for v in (0, 2, 1))
    T.evaluate(tirx.call_llvm_intrin("void", "llvm.prefetch", where, *how))


def select(condition: Expr, then: Expr, otherwise: Expr) -> Expr:
    """Lane by lane ``condition ? then : otherwise``; both are evaluated."""
    return tirx.Select(condition, then, otherwise)


def local(count: int, dtype: str = "float32") -> Any:
    """A 1-D stack array private to the task; raises ``CompileError`` at 1 KiB and more."""
    itemsize = int("".join(c for c in dtype if c.isdigit())) // 8
    if count * itemsize >= _STACK_LIMIT:
        raise CompileError(
            f"stack array of {count * itemsize} bytes",
            hint="split it into arrays of less than 1 KiB or use scratch()",
        )
    # TVM puts scope "local" on the heap, even if it is small.
    return T.alloc_buffer((count,), dtype, scope="global")


def scratch(count: Index, dtype: str = "float32") -> Any:
    """A 1-D heap array (``TVMBackendAllocWorkspace``): once per task, never in an inner loop."""
    return T.alloc_buffer((i64(count),), dtype, scope="global")


class Acc:
    """Vector accumulators that LLVM keeps in registers.

    Each is a stack array of its own: one array for all of them would pass TVM's stack limit and
    move to the heap, where LLVM stores every partial sum.
    """

    def __init__(self, count: int, lanes: int, dtype: str = "float32") -> None:
        self.lanes = lanes
        self.dtype = dtype
        self._slots = [local(lanes, dtype) for _ in range(count)]

    def __len__(self) -> int:
        return len(self._slots)

    def __getitem__(self, index: int) -> Expr:
        return load(self._slots[index], 0, self.lanes)

    def __setitem__(self, index: int, value: Expr) -> None:
        store(self._slots[index], 0, value)

    def fill(self, value: float = 0.0) -> None:
        """Set every accumulator to a constant."""
        for i in range(len(self)):
            self[i] = constant(value, self.lanes, self.dtype)


def _fold(vector: Expr, combine: Callable[[Expr, Expr], Expr]) -> Expr:
    """Combine the halves of a vector until one element is left."""
    lanes = lanes_of(vector)
    base = dtype_of(vector).partition("x")[0]
    while lanes > 1:
        lanes //= 2
        whole = let(vector)
        kind = with_lanes(base, lanes)
        vector = combine(tirx.vectorlow(kind, whole), tirx.vectorhigh(kind, whole))
    return let(vector)


def reduce_add(vector: Expr) -> Expr:
    """Sum of the lanes, added as a tree."""
    return _fold(vector, lambda a, b: a + b)


def reduce_max(vector: Expr) -> Expr:
    """Largest lane."""
    return _fold(vector, T.max)


def reduce_min(vector: Expr) -> Expr:
    """Smallest lane."""
    return _fold(vector, T.min)
