"""Algebraic simplification: a table of equations, each a function over a node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from burnish.ir import Builder, Graph, Node, Value
from burnish.ir.dims import equal
from burnish.ir.infer.common import const_ints
from burnish.ir.types import to_numpy
from burnish.passes.base import Numerics, Pass, PassContext, all_graphs
from burnish.passes.rewrite import run_rules
from burnish.passes.rows import (
    Merged,
    Outcome,
    RowTable,
    is_float,
    is_uniform,
    made_by,
    reshape,
    same_shape,
    same_type,
    uniform,
)
from burnish.passes.shape_values import expand_to, is_always_true

#: The equations.
TABLE = RowTable()
#: Equations that fusions do not want to see applied before them.
LATE = RowTable()

_REDUCTIONS = ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL2")
#: Larger constants are not combined: they are weights.
_MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class Simplify(Pass):
    """Apply algebraic equations until none applies.

    Before: `a = Mul(x, 2); b = Mul(a, 3); y = Transpose(Transpose(b))`.
    After: `y = Mul(x, 6)`.
    Keeps: what an equation would change for some input (Exp of Log, Sqrt times Sqrt), inner values
        that others use.
    Numerics: reassociates; rows that are exact only with `allow = exact`.

    Attributes:
        allow: Rows that change results more than this are left out.
        late: Apply the rows that must come after the fusions, too.
    """

    name: ClassVar[str] = "simplify"
    numerics: ClassVar[Numerics] = Numerics.REASSOCIATES
    allow: Numerics = Numerics.REASSOCIATES
    late: bool = False

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        """See :class:`Simplify`."""
        rows = TABLE.at_most(self.allow) + (LATE.at_most(self.allow) if self.late else ())
        results = [run_rules(g, rows, ctx) for g in all_graphs(graph)]
        return any(results)


def _kept(x: Value, node: Node) -> Value | None:
    """``x`` if it has the type of the node's result."""
    return x if same_type(x, node.output) else None


def _inner(node: Node, *ops: str, index: int = 0) -> Node | None:
    """The producer of an input if it is one of ``ops`` and only this node uses it."""
    inner = made_by(node.input(index), *ops)
    return inner if inner is not None and inner.output.single_user() is node else None


# --- neutral elements -----------------------------------------------------------------------------


@TABLE.row("Add", "Sub", "Or", "Xor")
def neutral_zero(node: Node, b: Builder) -> Outcome:
    """X + 0 = x, x - 0 = x, x or false = x, x xor false = x."""
    return _kept(node.required(0), node) if is_uniform(node.input(1), 0) else None


@TABLE.row("Mul", "Div", "And")
def neutral_one(node: Node, b: Builder) -> Outcome:
    """X * 1 = x, x / 1 = x, x and true = x."""
    return _kept(node.required(0), node) if is_uniform(node.input(1), 1) else None


@TABLE.row("And")
def and_true(node: Node, b: Builder) -> Outcome:
    """X and true = x, broadcast; GreaterOrEqual(Range(0, n), 0) is true."""
    for x, other in (node.inputs, node.inputs[::-1]):
        if x is not None and is_always_true(other):
            return expand_to(b, x, node.output.shape)
    return None


@TABLE.row("And", "Or")
def absorbing(node: Node, b: Builder) -> Outcome:
    """X and false = false, x or true = true."""
    wanted = node.op == "Or"
    c = node.required(1)
    found = uniform(c)
    return _kept(c, node) if found is not None and bool(found) == wanted else None


@TABLE.row("And", "Or", "Max", "Min")
def idempotent_pair(node: Node, b: Builder) -> Outcome:
    """X and x = x, x or x = x, Max(x, x) = x, Min(x, x) = x."""
    same = len(node.inputs) == 2 and node.input(0) is node.input(1)
    return node.input(0) if same else None


@TABLE.row("Where")
def where_same(node: Node, b: Builder) -> Outcome:
    """Where(c, x, x) = x."""
    x = node.required(1)
    return _kept(x, node) if x is node.input(2) else None


@TABLE.row("Where")
def where_not(node: Node, b: Builder) -> Outcome:
    """Where(not c, x, y) = Where(c, y, x)."""
    negation = made_by(node.required(0), "Not")
    if negation is None:
        return None
    result = b.op("Where", negation.required(0), node.required(2), node.required(1))
    return Merged(result, (negation,))


# --- operations that undo or repeat each other ----------------------------------------------------


@TABLE.row("Not", "Neg")
def double_negation(node: Node, b: Builder) -> Outcome:
    """Not(Not(x)) = x, Neg(Neg(x)) = x."""
    inner = made_by(node.required(0), node.op)
    return inner.required(0) if inner is not None else None


@TABLE.row("Relu", "Abs", "Ceil", "Floor", "Round", "Sign")
def repeated(node: Node, b: Builder) -> Outcome:
    """f(f(x)) = f(x) for Relu, Abs, Ceil, Floor, Round and Sign."""
    return node.required(0) if made_by(node.required(0), node.op) is not None else None


@TABLE.row("Add", "Sub")
def add_negation(node: Node, b: Builder) -> Outcome:
    """X + Neg(y) = x - y, x - Neg(y) = x + y."""
    opposite = "Sub" if node.op == "Add" else "Add"
    pairs = [(0, 1), (1, 0)] if node.op == "Add" else [(0, 1)]
    for first, second in pairs:
        negation = _inner(node, "Neg", index=second)
        if negation is not None:
            made = b.op(opposite, node.required(first), negation.required(0))
            return Merged(made, (negation,))
    return None


@TABLE.row("Transpose")
def transpose_transpose(node: Node, b: Builder) -> Outcome:
    """Transpose(Transpose(x, p), q) = Transpose(x, p[q])."""
    inner = made_by(node.required(0), "Transpose")
    if inner is None:
        return None
    first, second = permutation(inner), permutation(node)
    combined = tuple(first[axis] for axis in second)
    if combined == tuple(range(len(combined))):
        return inner.required(0)
    return Merged(b.op("Transpose", inner.required(0), perm=combined), (inner,))


def permutation(node: Node) -> tuple[int, ...]:
    """The permutation of a Transpose."""
    rank = len(node.required(0).shape)
    return node.ints_attr("perm", tuple(reversed(range(rank))))


@TABLE.row("Reshape")
def reshape_reshape(node: Node, b: Builder) -> Outcome:
    """Reshape(Reshape(x)) = Reshape(x) when the shape can be written with constants."""
    inner = made_by(node.required(0), "Reshape")
    if inner is None:
        return None
    result = reshape(b, inner.required(0), node.output.shape)
    return Merged(result, (inner,)) if result is not None else None


@TABLE.row("Expand")
def expand_expand(node: Node, b: Builder) -> Outcome:
    """Expand(Expand(x, s), t) = Expand(x, t) when t has every axis of the result."""
    inner = made_by(node.required(0), "Expand")
    shape = node.required(1)
    if inner is None or not shape.shape or not equal(shape.shape[0], len(node.output.shape)):
        return None
    if shape.content is None and not shape.is_const:
        return None
    wanted = const_ints(shape) or shape.content
    if wanted is None or not same_shape(wanted, node.output.shape):
        return None
    return Merged(b.op("Expand", inner.required(0), shape), (inner,))


_ORDER = ("bool", "int8", "int16", "int32", "int64")
_UNSIGNED = ("bool", "uint8", "uint16", "uint32", "uint64")
#: (narrow, wide): every value of the narrow dtype is one of the wide dtype.
_WIDENING = frozenset(
    {(a, b) for row in (_ORDER, _UNSIGNED) for i, a in enumerate(row) for b in row[i:]}
    | {(u, s) for i, u in enumerate(_UNSIGNED) for s in _ORDER[i + 1 :]}
    | {("float16", "float32"), ("bfloat16", "float32"), ("float32", "float64")}
    | {("float16", "float64"), ("bfloat16", "float64")}
    | {(i, f) for f in ("float32", "float64") for i in ("bool", "int8", "uint8", "int16", "uint16")}
    | {("int32", "float64"), ("uint32", "float64"), ("bool", "float16"), ("bool", "bfloat16")}
)


@TABLE.row("Cast")
def cast_cast(node: Node, b: Builder) -> Outcome:
    """Cast(Cast(x, wide), t) = Cast(x, t) when every x is one of the wide dtype."""
    inner = made_by(node.required(0), "Cast")
    if inner is None:
        return None
    x = inner.required(0)
    if (x.dtype, inner.output.dtype) not in _WIDENING:
        return None
    if x.dtype == node.output.dtype:
        return x
    return Merged(b.op("Cast", x, **node.attrs), (inner,))


@TABLE.row("Concat")
def concat_concat(node: Node, b: Builder) -> Outcome:
    """Concat(Concat(x, y), z) = Concat(x, y, z) on one axis."""
    rank = len(node.output.shape)
    axis = node.int_attr("axis") % rank
    operands: list[Value | None] = []
    merged: list[Node] = []
    for value in node.inputs:
        inner = made_by(value, "Concat")
        if (
            inner is None
            or inner.int_attr("axis") % rank != axis
            or inner.output.single_user() is not node
        ):
            operands.append(value)
        else:
            operands += inner.inputs
            merged.append(inner)
    if not merged:
        return None
    return Merged(b.op("Concat", *operands, axis=axis), tuple(merged))


@TABLE.row("Slice")
def slice_slice(node: Node, b: Builder) -> Outcome:
    """Slice(Slice(x)) = Slice(x) when all bounds are numbers."""
    inner = _inner(node, "Slice")
    if inner is None:
        return None
    first, second = _bounds(inner), _bounds(node)
    if first is None or second is None:
        return None
    for axis, (start, end, step) in second.items():
        if axis in first:
            start0, end0, step0 = first[axis]
            if min(start, end, start0, end0) < 0 or (step, step0) != (1, 1):
                return None
            first[axis] = (start0 + start, min(end0, start0 + end), 1)
        else:
            first[axis] = (start, end, step)
    axes = sorted(first)
    columns = [[first[a][k] for a in axes] for k in range(3)]
    starts, ends, steps = (b.ints(column) for column in columns)
    return Merged(b.op("Slice", inner.required(0), starts, ends, b.ints(axes), steps), (inner,))


def _bounds(node: Node) -> dict[int, tuple[int, int, int]] | None:
    """(start, end, step) of a Slice by axis if all are numbers."""
    rank = len(node.required(0).shape)
    starts, ends = const_ints(node.input(1)), const_ints(node.input(2))
    if starts is None or ends is None:
        return None
    axes = const_ints(node.input(3)) if node.input(3) is not None else tuple(range(len(starts)))
    steps = const_ints(node.input(4)) if node.input(4) is not None else (1,) * len(starts)
    if axes is None or steps is None:
        return None
    rows = zip(starts, ends, steps, strict=True)
    return {axis % rank: row for axis, row in zip(axes, rows, strict=True)}


@TABLE.row("Gather")
def gather_range(node: Node, b: Builder) -> Outcome:
    """Gather(x, [i, i+1, ...]) = Slice(x, i), and x when it takes all."""
    indices = node.required(1)
    x = node.required(0)
    if indices.const is None or len(indices.shape) != 1 or indices.const.nbytes > _MAX_BYTES:
        return None
    array = indices.array.astype(np.int64)
    axis = node.int_attr("axis") % len(x.shape)
    if (
        array.size == 0
        or array[0] < 0
        or not np.array_equal(array, array[0] + np.arange(array.size))
    ):
        return None
    if array[0] == 0 and equal(x.shape[axis], array.size):
        return x
    start, end = int(array[0]), int(array[0]) + array.size
    return b.op("Slice", x, b.ints([start]), b.ints([end]), b.ints([axis]))


@TABLE.row("Reshape")
def transpose_of_merged_axes(node: Node, b: Builder) -> Outcome:
    """Reshape(Transpose(Reshape(x))) = Transpose(x) when axes are merged and split again.

    An exporter that knows matrix transposition for rank 3 only merges the axes before the last two
    into one, transposes, and splits them again.
    """
    transpose = _inner(node, "Transpose")
    merge = made_by(transpose.required(0), "Reshape") if transpose is not None else None
    if transpose is None or merge is None:
        return None
    x, perm = merge.required(0), permutation(transpose)
    kept = len(perm) - 1
    lead = len(x.shape) - kept
    if perm[0] != 0 or lead < 1 or not same_shape(merge.output.shape[1:], x.shape[lead:]):
        return None
    full = (*range(lead), *(axis - 1 + lead for axis in perm[1:]))
    if not same_shape(node.output.shape, [x.shape[axis] for axis in full]):
        return None
    return Merged(b.op("Transpose", x, perm=full), (merge, transpose))


_SINKABLE = ("Cast", "Where", "Add", "Sub", "Mul", "Div", "Not", "Neg", "Equal", "Exp", "Sqrt")


@TABLE.row(*_SINKABLE)
def expand_last(node: Node, b: Builder) -> Outcome:
    """f(Expand(x), c) = Expand(f(x, c)) when c is one number."""
    for index, value in enumerate(node.inputs):
        expand = made_by(value, "Expand")
        if value is None or expand is None or value.single_user() is not node:
            continue
        others = [v for i, v in enumerate(node.inputs) if i != index and v is not None]
        if any(any(d != 1 for d in v.shape) or not v.is_const for v in others):
            return None
        if not same_shape(value.shape, node.output.shape):
            return None
        inputs = [expand.required(0) if i == index else v for i, v in enumerate(node.inputs)]
        inner = b.op(node.op, *inputs, **node.attrs)
        return Merged(b.op("Expand", inner, expand.required(1)), (expand,))
    return None


@TABLE.row("Reshape")
def reshape_of_reduction(node: Node, b: Builder) -> Outcome:
    """Reshape(Reduce(x)) = Reduce(x) with the other keepdims, when that gives the shape."""
    inner = _inner(node, *_REDUCTIONS)
    if inner is None:
        return None
    x = inner.required(0)
    rank = len(x.shape)
    found = const_ints(inner.input(1)) if inner.input(1) is not None else tuple(range(rank))
    if not found:
        return None
    axes = {axis % rank for axis in found}
    keep = 1 - inner.int_attr("keepdims", 1)
    shape = [1 if i in axes else d for i, d in enumerate(x.shape) if keep or i not in axes]
    if not same_shape(shape, node.output.shape):
        return None
    attrs = {**inner.attrs, "keepdims": keep}
    return Merged(b.op(inner.op, *inner.inputs, **attrs), (inner,))


# --- constants ------------------------------------------------------------------------------------


def _pair(node: Node, op: str) -> tuple[Node, np.ndarray, np.ndarray] | None:
    """(inner node, its constant, the outer constant) of op'(op(x, c1), c2), both small floats."""
    inner = _inner(node, op)
    if inner is None or inner.required(0).is_const:
        return None
    first, second = inner.required(1), node.required(1)
    if first.const is None or second.const is None or not is_float(first):
        return None
    if max(first.const.nbytes, second.const.nbytes) > _MAX_BYTES:
        return None
    return inner, first.array, second.array


def _combined(node: Node, b: Builder, op: str, inner: Node, array: np.ndarray) -> Outcome:
    """op(x, array) for the x of the inner node, unless the constant grew by broadcasting."""
    sizes = (inner.required(1).array.size, node.required(1).array.size)
    if array.size > max(sizes) or not np.all(np.isfinite(array)):
        return None
    constant = b.constant(array.astype(to_numpy(node.output.dtype)), "combined")
    return Merged(b.op(op, inner.required(0), constant), (inner,))


@TABLE.row("Mul", numerics=Numerics.REASSOCIATES)
def mul_mul(node: Node, b: Builder) -> Outcome:
    """(x * c1) * c2 = x * (c1 * c2)."""
    found = _pair(node, "Mul")
    return _combined(node, b, "Mul", found[0], found[1] * found[2]) if found else None


@TABLE.row("Add", numerics=Numerics.REASSOCIATES)
def add_add(node: Node, b: Builder) -> Outcome:
    """(x + c1) + c2 = x + (c1 + c2)."""
    found = _pair(node, "Add")
    return _combined(node, b, "Add", found[0], found[1] + found[2]) if found else None


@TABLE.row("Div", numerics=Numerics.REASSOCIATES)
def mul_div(node: Node, b: Builder) -> Outcome:
    """(x * c1) / c2 = x * (c1 / c2)."""
    found = _pair(node, "Mul")
    if found is None or np.any(found[2] == 0):
        return None
    return _combined(node, b, "Mul", found[0], found[1] / found[2])


@TABLE.row("Mul", numerics=Numerics.REASSOCIATES)
def div_mul(node: Node, b: Builder) -> Outcome:
    """(x / c1) * c2 = x * (c2 / c1)."""
    found = _pair(node, "Div")
    if found is None or np.any(found[1] == 0):
        return None
    return _combined(node, b, "Mul", found[0], found[2] / found[1])


@TABLE.row("Div")
def one_over(node: Node, b: Builder) -> Outcome:
    """1 / x = Reciprocal(x)."""
    x = node.required(1)
    ones = is_float(x) and is_uniform(node.input(0), 1) and same_type(x, node.output)
    return b.op("Reciprocal", x) if ones else None


@LATE.row("Div", numerics=Numerics.REASSOCIATES)
def divide_by_constant(node: Node, b: Builder) -> Outcome:
    """X / c = x * (1 / c)."""
    x, c = node.required(0), node.required(1)
    if x.is_const or c.const is None or not is_float(c) or c.const.nbytes > _MAX_BYTES:
        return None
    with np.errstate(all="ignore"):
        reciprocal = (1 / c.array.astype(np.float64)).astype(c.array.dtype)
    tiny = np.finfo(reciprocal.dtype).tiny if reciprocal.dtype.kind == "f" else 0
    if not np.all(np.isfinite(reciprocal)) or np.any(np.abs(reciprocal) < tiny):
        return None
    return b.op("Mul", x, b.constant(reciprocal, c.name))


# --- bounds ---------------------------------------------------------------------------------------


def _clip_bounds(node: Node | None) -> tuple[float, float] | None:
    """The bounds that Relu, Clip, or Min or Max with a constant impose, if they are numbers."""
    if node is None or not is_float(node.output):
        return None
    if not same_type(node.required(0), node.output):
        return None
    low, high = -np.inf, np.inf
    if node.op == "Relu":
        return 0.0, high
    if node.op in ("Min", "Max"):
        bound = uniform(node.input(1)) if len(node.inputs) == 2 else None
        if bound is None:
            return None
        return (low, float(bound)) if node.op == "Min" else (float(bound), high)
    for index in (1, 2):
        if node.input(index) is None:
            continue
        bound = uniform(node.input(index))
        if bound is None:
            return None
        low, high = (float(bound), high) if index == 1 else (low, float(bound))
    return low, high


@TABLE.row("Relu", "Clip", "Min", "Max")
def clip_clip(node: Node, b: Builder) -> Outcome:
    """Clip(Clip(x, a, b), c, d) = Clip(x, max(a, c), min(b, d)), also for Relu, Min and Max."""
    inner = _inner(node, "Relu", "Clip", "Min", "Max")
    first, second = _clip_bounds(inner), _clip_bounds(node)
    if inner is None or first is None or second is None:
        return None
    low, high = max(first[0], second[0]), min(first[1], second[1])
    # Bounds that do not overlap give a constant, whose value depends on the order.
    if low > high:
        return None
    x = inner.required(0)
    dtype = to_numpy(x.dtype)
    if (low, high) == (0.0, np.inf):
        return Merged(b.op("Relu", x), (inner,))
    bounds = [
        b.constant(np.asarray(v, dtype), "bound") if np.isfinite(v) else None for v in (low, high)
    ]
    return Merged(b.op("Clip", x, *bounds), (inner,))
