"""Tensor expressions flattened into straight-line scalar programs.

:class:`Flattener` inlines a TE graph (every ``te.compute`` without a reduction) at one point of an
iteration space and leaves a :class:`Program`: an ordered list of steps, each binding one scalar,
whose only memory accesses are loads from flat buffers with simplified linear indices. Such a
program can be analysed (which loops can be collapsed?) and emitted again and again with other
values for its index variables.

Conditional accesses (``if_then_else``, as made by padding, concatenation and slicing) become
guarded loads: only the load is conditional, all arithmetic is not. So the program has no control
flow and LLVM's loop vectorizer can turn the loop around it into vector code with masked loads.
``Select`` evaluates both arms, as TVM defines it: use ``if_then_else`` to guard an access.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
import tvm
from tvm import ir, te, tirx
from tvm.ir.prim import expr as prim
from tvm.tirx.script import builder as T  # noqa: N812
from tvm_ffi import StructuralKey

from burnish.artifact import held_as
from burnish.backends.cpu import bfloat16, te_math, tir
from burnish.errors import LoweringError

Expr = Any
Index = list[Any]

_INDEX_NODES = (
    prim.Add,
    prim.Sub,
    prim.Mul,
    prim.FloorDiv,
    prim.FloorMod,
    prim.Min,
    prim.Max,
)
_INDEX_SET = frozenset(_INDEX_NODES)
_DIVISIONS = frozenset({prim.Div, prim.Mod, prim.FloorDiv, prim.FloorMod})
_BINARY_SET = frozenset(
    {
        *_INDEX_NODES,
        *_DIVISIONS,
        prim.LShift,
        prim.RShift,
        prim.BitwiseAnd,
        prim.BitwiseOr,
        prim.BitwiseXor,
        prim.EQ,
        prim.NE,
        prim.LT,
        prim.LE,
        prim.GT,
        prim.GE,
        prim.And,
        prim.Or,
    }
)
_COMPARISONS = frozenset({prim.EQ, prim.NE, prim.LT, prim.LE, prim.GT, prim.GE})
_CONSTANTS = (prim.IntImm, prim.FloatImm)
#: Its elements are their bits in programs.
_BFLOAT16 = "bfloat16"


def _bits(e: Expr) -> Expr:
    """A constant of bfloat16 as its bits."""
    return tirx.const(int(np.asarray(e.value, ml_dtypes.bfloat16).view(np.uint16)), bfloat16.BITS)


def int64(value: Expr) -> Expr:
    """``value`` (int or integer expression) as an int64 expression."""
    if isinstance(value, int):
        return tirx.IntImm("int64", value)
    if isinstance(value, prim.IntImm):
        return tirx.IntImm("int64", value.value)
    if str(value.ty) == "int64":
        return value
    if isinstance(value, _INDEX_NODES):
        return type(value)(int64(value.a), int64(value.b))
    return tirx.Cast("int64", value)


def static(value: Expr) -> int | None:
    """The value of a constant integer expression, None for a symbolic one."""
    if isinstance(value, int):
        return value
    return int(value.value) if isinstance(value, prim.IntImm) else None


def tensor_key(tensor: te.Tensor) -> tuple[int, int]:
    """What identifies a tensor: ``==`` on TE tensors builds an expression if they have rank 0."""
    return tensor.op.__chandle__(), tensor.value_index


@dataclass(frozen=True)
class Step:
    """Bind ``var`` to ``expr``, or to the math function ``math`` of ``args``.

    ``index`` marks a value that only serves as an index.
    """

    var: ir.Var
    expr: Expr = None
    math: str = ""
    args: tuple[Expr, ...] = ()
    index: bool = False


@dataclass(frozen=True)
class Load:
    """One access of a program: the flat buffer and its linear index."""

    buffer: Any
    index: Expr


@dataclass
class Program:
    """A straight-line scalar computation over index variables.

    Attributes:
        steps: Bindings in order.
        values: The results, one for each flattened expression.
        loads: All loads, guarded ones included.
        opaque: Index variables used otherwise than linearly in a load's index.
        thresholds: For index variables, values at which a condition of an access changes.
    """

    steps: list[Step] = field(default_factory=list)
    values: list[Expr] = field(default_factory=list)
    loads: list[Load] = field(default_factory=list)
    opaque: set[ir.Var] = field(default_factory=set)
    thresholds: dict[ir.Var, set[int]] = field(default_factory=dict)

    @property
    def math_steps(self) -> int:
        """Number of transcendental functions: a measure of the work per element."""
        return sum(1 for s in self.steps if s.math not in ("", te_math.TO_BFLOAT16))


def children(e: Expr) -> tuple[Expr, ...]:
    """Sub-expressions of a scalar expression (the buffer of a load is none)."""
    kind = type(e)
    if kind in _BINARY_SET:
        return (e.a, e.b)
    if kind is prim.Cast:
        return (e.value,)
    if kind is prim.Select:
        return (e.condition, e.true_value, e.false_value)
    if kind in (prim.Not, prim.BitwiseNot):
        return (e.a,)
    if kind is ir.TensorLoad:
        return tuple(e.indices)
    if kind is ir.Call:
        return tuple(a for a in e.args if not isinstance(a, te.Tensor))
    return ()


def rebuild(e: Expr, f: Callable[[Expr], Expr]) -> Expr:
    """``e`` with ``f`` applied to its children."""
    kind = type(e)
    if kind in _BINARY_SET:
        return kind(f(e.a), f(e.b))
    if kind is prim.Cast:
        return prim.Cast(e.ty.dtype, f(e.value))
    if kind is prim.Select:
        return prim.Select(f(e.condition), f(e.true_value), f(e.false_value))
    if kind in (prim.Not, prim.BitwiseNot):
        return kind(f(e.a))
    if kind is ir.TensorLoad:
        return e.source[tuple(f(i) for i in e.indices)]
    if kind is ir.Call:
        return ir.Call(e.op, [f(a) for a in e.args], e.attrs, list(e.ty_args), None, e.ty)
    if isinstance(e, (*_CONSTANTS, ir.Var, ir.StringImm)):
        return e
    raise LoweringError(
        f"the tensor expression contains a {kind.__name__}, which has no scalar lowering",
        hint="reductions must be the root of a te.compute",
    )


def substitute(e: Expr, env: Mapping[ir.Var, Expr]) -> Expr:
    """Replace variables of ``e``."""
    if isinstance(e, ir.Var):
        return env.get(e, e)
    if isinstance(e, _CONSTANTS):
        return e
    return rebuild(e, lambda c: substitute(c, env))


def variables(e: Expr, found: set[ir.Var]) -> None:
    """Add the variables of ``e`` to ``found``."""
    if isinstance(e, ir.Var):
        found.add(e)
    for c in children(e):
        variables(c, found)


def evaluate_once(value: Expr, is_index: bool = False) -> Expr:
    """Evaluate once.

    TVM's simplifier replaces a plain binding by its definition: wanted for indices, exponential in
    chains of arithmetic, and wrong for a division that a condition protects. A stack cell, which
    LLVM turns into a register, keeps it from that.
    """
    dtype = tir.dtype_of(value)
    if is_index or dtype == "bool" or isinstance(value, ir.TensorLoad):
        return T.Bind(value)
    cell = tir.local(1, dtype)
    tir.store(cell, 0, value)
    return T.Bind(tir.load(cell, 0))


def emit(
    program: Program,
    env: Mapping[ir.Var, Expr],
    *,
    math: Callable[[str, Sequence[Expr]], Expr] = te_math.apply,
    once: Callable[[Expr, bool], Expr] = evaluate_once,
) -> list[Expr]:
    """Emit the steps.

    Args:
        program: The steps.
        env: Values of the index variables.
        math: Emits a math function by its name.
        once: Emits a value that is evaluated once; told whether it is an index.

    Returns:
        The values.
    """
    env = dict(env)
    for step in program.steps:
        if step.math:
            value = math(step.math, [substitute(a, env) for a in step.args])
        else:
            value = substitute(step.expr, env)
        env[step.var] = once(value, step.index)
    return [substitute(v, env) for v in program.values]


class Flattener:
    """Inlines tensor expressions at one point of an iteration space.

    Args:
        buffers: Flat buffer of every tensor that lies in memory, by :func:`tensor_key`.
        domain: The index variables (int64, from 0) with their extents.
        within: Narrower ranges, begin and end, of some of them.
    """

    def __init__(
        self,
        buffers: Mapping[tuple[int, int], Any],
        domain: Sequence[tuple[ir.Var, Expr]],
        within: Mapping[ir.Var, tuple[int, int]] | None = None,
    ) -> None:
        self.program = Program()
        self._buffers = buffers
        self._indices = {v for v, _ in domain}
        self._analyzer = tvm.sym.Analyzer()
        for var, extent in domain:
            begin, end = (within or {}).get(var, (0, extent))
            self._analyzer.bind(var, ir.Range(int64(begin), int64(end)))
        self._memo: dict[Any, Expr] = {}

    def add(self, e: Expr, env: Mapping[ir.Var, Expr]) -> None:
        """Flatten ``e``, whose axis variables have the int64 values ``env``, as a further value."""
        self.program.values.append(self._value(e, dict(env), None))

    def load(self, tensor: te.Tensor, index: Sequence[Expr]) -> None:
        """Add an element of a tensor in memory as a further value."""
        self.program.values.append(self._tensor(tensor, list(index), None))

    # -- values ------------------------------------------------------------------------------

    def _value(self, e: Expr, env: dict[ir.Var, Expr], guard: Expr | None) -> Expr:
        kind = type(e)
        if isinstance(e, ir.Var):
            return self._variable(e, env)
        if isinstance(e, _CONSTANTS):
            return _bits(e) if str(e.ty) == _BFLOAT16 else e
        if kind is ir.Call:
            return self._call(e, env, guard)
        if kind is prim.Cast and _BFLOAT16 in (str(e.ty), str(e.value.ty)):
            return self._convert(self._value(e.value, env, guard), str(e.value.ty), str(e.ty))
        if kind in _BINARY_SET and str(e.a.ty) == _BFLOAT16:
            wide = (prim.Cast("float32", c) for c in (e.a, e.b))
            result = kind(*(self._value(c, env, guard) for c in wide))
            return self._convert(result, "float32", str(e.ty)) if str(e.ty) == _BFLOAT16 else result
        if kind is prim.Let:
            env[e.var] = self._bind(self._value(e.value, env, guard))
            return self._value(e.body, env, guard)
        if kind in (prim.EQ, prim.NE) and str(e.a.ty) == "bool":
            # LLVM's code generator compares booleans as if they were floats.
            return kind(*(prim.Cast("int8", self._value(c, env, guard)) for c in (e.a, e.b)))
        if kind in _DIVISIONS and guard is not None and not str(e.ty).startswith("float"):
            # The division is no longer conditional: keep it from trapping where it was not meant
            # to be evaluated.
            a, b = (self._value(c, env, guard) for c in (e.a, e.b))
            divisor = self._bind(prim.Select(guard, b, tirx.const(1, b.ty.dtype)))
            return self._bind(kind(a, divisor))
        return rebuild(e, lambda c: self._value(c, env, guard))

    def _convert(self, value: Expr, source: str, target: str) -> Expr:
        """Cast from or to bfloat16, whose elements are their bits."""
        if source == _BFLOAT16:
            value, source = bfloat16.widen(self._bind(value)), "float32"
        if target != _BFLOAT16:
            return value if target == source else prim.Cast(target, value)
        if source != "float32":
            value = prim.Cast("float32", value)
        var = tirx.Var("v", bfloat16.BITS)
        self.program.steps.append(Step(var, math=te_math.TO_BFLOAT16, args=(self._bind(value),)))
        return var

    def _variable(self, var: ir.Var, env: dict[ir.Var, Expr]) -> Expr:
        if var not in env:
            return var
        value = env[var]
        self._mark_opaque(value)
        same = str(value.ty) == held_as(str(var.ty))
        return value if same else tirx.Cast(var.ty.dtype, value)

    def _call(self, e: Expr, env: dict[ir.Var, Expr], guard: Expr | None) -> Expr:
        name = e.op.name
        if name == "te.tensor_load":
            index = [self._index(i, env, guard) for i in e.args[1:]]
            return self._tensor(e.args[0], index, guard)
        if name.endswith("if_then_else"):
            return self._conditional(e, env, guard)
        if name.endswith("likely"):
            return self._value(e.args[0], env, guard)
        args = [self._value(a, env, guard) for a in e.args]
        math = te_math.lookup(name, str(e.ty))
        if math:
            atoms = tuple(self._bind(a) for a in args)
            var = tirx.Var("v", e.ty.dtype)
            self.program.steps.append(Step(var, math=math, args=atoms))
            return var
        if str(e.ty) == _BFLOAT16:
            raise LoweringError(f"a tensor expression computes {name} in bfloat16")
        return ir.Call(e.op, args, e.attrs, list(e.ty_args), None, e.ty)

    def _conditional(self, e: Expr, env: dict[ir.Var, Expr], guard: Expr | None) -> Expr:
        cond = self._bind(self._condition(e.args[0], env, guard))
        if isinstance(cond, prim.IntImm):
            return self._value(e.args[1 if cond.value else 2], env, guard)
        negated = tirx.Not(cond)
        yes = cond if guard is None else tirx.And(guard, cond)
        no = negated if guard is None else tirx.And(guard, negated)
        then = self._value(e.args[1], env, self._bind(yes))
        other = self._value(e.args[2], env, self._bind(no))
        return prim.Select(cond, then, other)

    def _condition(self, e: Expr, env: dict[ir.Var, Expr], guard: Expr | None) -> Expr:
        """A condition; comparisons of indices are simplified with what is known of the domain."""
        kind = type(e)
        if kind in (prim.And, prim.Or):
            a, b = (self._condition(c, env, guard) for c in (e.a, e.b))
            return self._analyzer.simplify(kind(a, b))
        if kind is prim.Not:
            return self._analyzer.simplify(kind(self._condition(e.a, env, guard)))
        if kind not in _COMPARISONS or str(e.a.ty) not in ("int32", "int64"):
            return self._value(e, env, guard)
        compared = kind(self._index(e.a, env, guard), self._index(e.b, env, guard))
        compared = self._analyzer.simplify(compared)
        self._mark_opaque(compared)
        self._note_threshold(compared)
        return compared

    def _note_threshold(self, e: Expr) -> None:
        """Remember where a comparison of an index variable with a constant changes."""
        if type(e) not in _COMPARISONS:
            return
        a, b = e.a, e.b
        after = type(e) in (prim.LE, prim.GT)
        if isinstance(a, prim.IntImm):
            a, b, after = b, a, not after
        if isinstance(a, ir.Var) and a in self._indices and isinstance(b, prim.IntImm):
            points = self.program.thresholds.setdefault(a, set())
            points.add(int(b.value) + after)
            if type(e) in (prim.EQ, prim.NE):
                points |= {int(b.value), int(b.value) + 1}

    def _bind(self, e: Expr, index: bool = False) -> Expr:
        if isinstance(e, (ir.Var, *_CONSTANTS)):
            return e
        var = tirx.Var("v", e.ty.dtype)
        self.program.steps.append(Step(var, e, index=index))
        return var

    # -- tensors -----------------------------------------------------------------------------

    def _tensor(self, tensor: te.Tensor, index: Index, guard: Expr | None) -> Expr:
        index = [self._analyzer.simplify(i) for i in index]
        key = (
            tensor_key(tensor),
            None if guard is None else guard.__chandle__(),
            tuple(StructuralKey(i) for i in index),
        )
        if key in self._memo:
            return self._memo[key]
        if tensor_key(tensor) in self._buffers:
            value = self._load(tensor, index, guard)
        else:
            op = tensor.op
            if not isinstance(op, te.ComputeOp) or op.reduce_axis:
                raise LoweringError(f"tensor {op.name!r} is neither an input nor inlinable")
            env = {ax.var: i for ax, i in zip(op.axis, index, strict=True)}
            value = self._bind(self._value(op.body[tensor.value_index], env, guard))
        self._memo[key] = value
        return value

    def _load(self, tensor: te.Tensor, index: Index, guard: Expr | None) -> Expr:
        linear: Expr = int64(0)
        for i, extent in zip(index, tensor.shape, strict=True):
            linear = linear * int64(extent) + i
        linear = self._analyzer.simplify(linear)
        buffer = self._buffers[tensor_key(tensor)]
        self.program.loads.append(Load(buffer, linear))
        value = buffer[linear]
        if guard is not None:
            zero = tirx.const(0, value.ty.dtype)
            value = tirx.if_then_else(guard, value, zero)
        return self._bind(value)

    # -- indices -----------------------------------------------------------------------------

    def _index(self, e: Expr, env: dict[ir.Var, Expr], guard: Expr | None) -> Expr:
        """``e`` in int64 arithmetic: what linear analysis and simplification understand."""
        if isinstance(e, int):
            return int64(e)
        if isinstance(e, ir.Var):
            return int64(env.get(e, e))
        if isinstance(e, prim.IntImm):
            return int64(e)
        if type(e) in _INDEX_SET:
            return type(e)(self._index(e.a, env, guard), self._index(e.b, env, guard))
        if type(e) is prim.Cast and str(e.value.ty) in ("int32", "int64"):
            return self._index(e.value, env, guard)
        return int64(self._bind(self._value(e, env, guard), index=True))

    def _mark_opaque(self, e: Expr) -> None:
        found: set[ir.Var] = set()
        variables(e, found)
        self.program.opaque |= found & self._indices
