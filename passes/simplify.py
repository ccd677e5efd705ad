"""Algebraic simplification: a table of equations, each a function over a node."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from burnish.ir import Builder, Graph, Node, Value
from burnish.ir.dims import static_product
from burnish.ir.infer.common import const_ints
from burnish.ir.types import to_numpy
from burnish.passes.base import Numerics, Pass, PassContext, all_graphs
from burnish.passes.rewrite import run_rules
from burnish.passes.rows import (
    Merged,
    Outcome,
    RowTable,
    again,
    is_float,
    is_uniform,
    made_by,
    only_user,
    same_type,
    uniform,
)
from burnish.passes.shape_values import expand_to, is_always_true
from burnish.passes.simplify_movement import MOVEMENT

#: The equations.
TABLE = RowTable()
#: Equations that fusions do not want to see applied before them.
LATE = RowTable()

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
        rows = TABLE.at_most(self.allow) + MOVEMENT.at_most(self.allow)
        rows += LATE.at_most(self.allow) if self.late else ()
        results = [run_rules(g, rows, ctx) for g in all_graphs(graph)]
        return any(results)


def _kept(x: Value, node: Node) -> Value | None:
    """``x`` if it has the type of the node's result."""
    return x if same_type(x, node.output) else None


# --- neutral elements -----------------------------------------------------------------------------


@TABLE.row("Add", "Sub", "Or", "Xor")
def neutral_zero(node: Node, b: Builder) -> Outcome:
    """x + 0 = x, x - 0 = x, x or false = x, x xor false = x."""  # noqa: D403
    return _kept(node.required(0), node) if is_uniform(node.input(1), 0) else None


@TABLE.row("Mul", "Div", "And")
def neutral_one(node: Node, b: Builder) -> Outcome:
    """x * 1 = x, x / 1 = x, x and true = x."""  # noqa: D403
    return _kept(node.required(0), node) if is_uniform(node.input(1), 1) else None


@TABLE.row("And")
def and_true(node: Node, b: Builder) -> Outcome:
    """x and true = x, broadcast; GreaterOrEqual(Range(0, n), 0) is true."""  # noqa: D403
    for x, other in (node.inputs, node.inputs[::-1]):
        if x is not None and is_always_true(other):
            return expand_to(b, x, node.output.shape)
    return None


@TABLE.row("And", "Or")
def absorbing(node: Node, b: Builder) -> Outcome:
    """x and false = false, x or true = true."""  # noqa: D403
    wanted = node.op == "Or"
    c = node.required(1)
    found = uniform(c)
    return _kept(c, node) if found is not None and bool(found) == wanted else None


@TABLE.row("And", "Or", "Max", "Min")
def idempotent_pair(node: Node, b: Builder) -> Outcome:
    """x and x = x, x or x = x, Max(x, x) = x, Min(x, x) = x."""  # noqa: D403
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
    """x + Neg(y) = x - y, x - Neg(y) = x + y."""  # noqa: D403
    opposite = "Sub" if node.op == "Add" else "Add"
    pairs = [(0, 1), (1, 0)] if node.op == "Add" else [(0, 1)]
    for first, second in pairs:
        negation = only_user(node, "Neg", index=second)
        if negation is not None:
            made = b.op(opposite, node.required(first), negation.required(0))
            return Merged(made, (negation,))
    return None


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
    return Merged(again(b, node, x), (inner,))


# --- constants ------------------------------------------------------------------------------------


def _pair(node: Node, op: str) -> tuple[Node, np.ndarray, np.ndarray] | None:
    """(inner node, its constant, the outer constant) of op'(op(x, c1), c2), both small floats."""
    inner = only_user(node, op)
    if inner is None or inner.required(0).is_const:
        return None
    first, second = inner.required(1), node.required(1)
    if first.const is None or second.const is None or not is_float(first):
        return None
    if max(first.const.nbytes, second.const.nbytes) > _MAX_BYTES:
        return None
    return inner, first.array, second.array


def _quiet(function: np.ufunc, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """``function(a, b)``; an overflow shows in the result."""
    with np.errstate(all="ignore"):
        return np.asarray(function(a, b))


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
    return _combined(node, b, "Mul", found[0], _quiet(np.multiply, *found[1:])) if found else None


@TABLE.row("Add", numerics=Numerics.REASSOCIATES)
def add_add(node: Node, b: Builder) -> Outcome:
    """(x + c1) + c2 = x + (c1 + c2)."""
    found = _pair(node, "Add")
    return _combined(node, b, "Add", found[0], _quiet(np.add, *found[1:])) if found else None


@TABLE.row("Div", numerics=Numerics.REASSOCIATES)
def mul_div(node: Node, b: Builder) -> Outcome:
    """(x * c1) / c2 = x * (c1 / c2)."""
    found = _pair(node, "Mul")
    if found is None or np.any(found[2] == 0):
        return None
    return _combined(node, b, "Mul", found[0], _quiet(np.divide, *found[1:]))


@TABLE.row("Mul", numerics=Numerics.REASSOCIATES)
def div_mul(node: Node, b: Builder) -> Outcome:
    """(x / c1) * c2 = x * (c2 / c1)."""
    found = _pair(node, "Div")
    if found is None or np.any(found[1] == 0):
        return None
    return _combined(node, b, "Mul", found[0], _quiet(np.divide, *found[:0:-1]))


@TABLE.row("Mul", "Div", numerics=Numerics.REASSOCIATES)
def mean(node: Node, b: Builder) -> Outcome:
    """ReduceSum(x) * (1 / n) = ReduceMean(x) over n elements, ReduceSum(x) / n likewise."""
    total = only_user(node, "ReduceSum")
    factor = uniform(node.input(1))
    if total is None or not factor or not same_type(total.output, node.output):
        return None
    shape = total.required(0).shape
    axes = const_ints(total.input(1)) if total.input(1) is not None else tuple(range(len(shape)))
    count = static_product(shape[axis] for axis in axes) if axes else None
    if count is None or not is_float(node.output):
        return None
    wanted = 1 / count if node.op == "Mul" else count
    if not math.isclose(factor, wanted, rel_tol=1e-6):
        return None
    made = b.node("ReduceMean", total.inputs, {"keepdims": total.int_attr("keepdims", 1)})
    return Merged(made.output, (total,))


@TABLE.row("Div")
def one_over(node: Node, b: Builder) -> Outcome:
    """1 / x = Reciprocal(x)."""
    x = node.required(1)
    ones = is_float(x) and is_uniform(node.input(0), 1) and same_type(x, node.output)
    return b.op("Reciprocal", x) if ones else None


@LATE.row("Div", numerics=Numerics.REASSOCIATES)
def divide_by_constant(node: Node, b: Builder) -> Outcome:
    """x / c = x * (1 / c)."""  # noqa: D403
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
    inner = only_user(node, "Relu", "Clip", "Min", "Max")
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
