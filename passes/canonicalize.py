"""Canonical forms: one spelling for each thing, so that every later pass meets one form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from burnish.ir import Builder, Graph, Node, Value
from burnish.ir.dims import equal
from burnish.ir.infer.common import const_ints, elements
from burnish.ir.types import BY_NAME
from burnish.passes.base import Numerics, Pass, PassContext, all_graphs
from burnish.passes.rewrite import run_rules
from burnish.passes.rows import (
    Merged,
    Outcome,
    RowTable,
    again,
    exact_reciprocal,
    is_float,
    is_uniform,
    made_by,
    only_user,
    reshape,
    same_shape,
    same_type,
    uniform,
)

#: Rows that remove an operation that does nothing.
NO_OPS = RowTable()
#: Rows that give an operation another form.
FORMS = RowTable()

_COMMUTATIVE = ("Add", "Mul", "And", "Or", "Xor", "Equal", "Max", "Min", "Sum")
#: Slice ends at or above this mean "to the end": no axis is that long.
_END = 10**9


@dataclass(frozen=True)
class Canonicalize(Pass):
    """Remove operations that do nothing and give every other one canonical form.

    Before: `a = Identity(x); b = Unsqueeze(a, 1); y = Add(2, b)`.
    After: `b = Reshape(x, [0, 1, -1]); y = Add(b, 2)`.
    Keeps: an Identity that a graph output needs, operations whose no-op condition depends on sizes
        that are not known.
    Numerics: reassociates (a square by Mul instead of Pow differs in the last bit); the other rows
        are exact.
    """

    name: ClassVar[str] = "canonicalize"
    numerics: ClassVar[Numerics] = Numerics.REASSOCIATES

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        """See :class:`Canonicalize`."""
        rules = (*NO_OPS, *FORMS)
        return any([run_rules(g, rules, ctx) for g in all_graphs(graph)])  # noqa: C419


def _unchanged(node: Node) -> Value | None:
    """The first input if the node's output has its type."""
    x = node.required(0)
    return x if same_type(x, node.output) else None


@NO_OPS.row("Identity")
def identity(node: Node, b: Builder) -> Outcome:
    """Identity(x) = x."""
    return node.required(0)


@NO_OPS.row("Dropout")
def dropout(node: Node, b: Builder) -> Outcome:
    """Dropout(x) = x in inference."""
    training = node.input(2)
    mask = node.outputs[1] if len(node.outputs) > 1 else None
    if mask is not None and (mask.uses or mask.is_output):
        return None
    if training is not None and not is_uniform(training, False):
        return None
    return node.required(0)


@NO_OPS.row("Cast", "CastLike")
def cast(node: Node, b: Builder) -> Outcome:
    """Cast(x) = x to the dtype of x."""
    return _unchanged(node)


@NO_OPS.row("Reshape", "Expand", "Tile")
def same_size(node: Node, b: Builder) -> Outcome:
    """Reshape(x), Expand(x), Tile(x) = x when the shape stays."""
    return _unchanged(node)


@NO_OPS.row("Transpose")
def transpose_identity(node: Node, b: Builder) -> Outcome:
    """Transpose(x) = x when the permutation is the identity."""
    x = node.required(0)
    rank = len(x.shape)
    perm = node.ints_attr("perm", tuple(reversed(range(rank))))
    return x if perm == tuple(range(rank)) else None


@NO_OPS.row("Slice")
def slice_all(node: Node, b: Builder) -> Outcome:
    """Slice(x) = x when it takes everything."""
    rows = _slice_rows(node)
    return node.required(0) if rows is not None and all(row.whole for row in rows) else None


@FORMS.row("Slice")
def slice_form(node: Node, b: Builder) -> Outcome:
    """Slice(x) names only the axes that it cuts, and steps only when one is not 1."""
    rows = _slice_rows(node)
    if rows is None or node.input(3) is None:
        return None
    kept = [row for row in rows if not row.whole]
    unit = all(row.step == 1 for row in kept)
    if len(kept) == len(rows) and not (unit and node.input(4) is not None):
        return None
    starts, ends, axes, steps = (
        b.ints(list(column))
        for column in zip(*((r.start, r.end, r.axis, r.step) for r in kept), strict=True)
    )
    return b.op("Slice", node.required(0), starts, ends, axes, *([] if unit else [steps]))


@dataclass(frozen=True)
class _SliceRow:
    """What a Slice does to one axis."""

    axis: int
    start: int
    end: int
    step: int
    whole: bool


def _slice_rows(node: Node) -> list[_SliceRow] | None:
    """The axes of a Slice; None unless starts and steps are numbers and ends are known.

    An end that is a symbol counts only where it is the size of its axis.
    """
    shape = node.required(0).shape
    starts, ends = const_ints(node.input(1)), elements(node.input(2))
    if starts is None or ends is None:
        return None
    axes = const_ints(node.input(3)) if node.input(3) is not None else tuple(range(len(starts)))
    steps = const_ints(node.input(4)) if node.input(4) is not None else (1,) * len(starts)
    if axes is None or steps is None:
        return None
    rows: list[_SliceRow] = []
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        dim = shape[axis]
        number = end if isinstance(end, int) else _END if equal(end, dim) else None
        if number is None:
            return None
        to_end = number >= (min(dim, _END) if isinstance(dim, int) else _END)
        whole = start == 0 and step == 1 and to_end
        rows.append(_SliceRow(axis % len(shape), start, number, step, whole))
    return rows


@NO_OPS.row("Pad")
def pad_nothing(node: Node, b: Builder) -> Outcome:
    """Pad(x, 0) = x."""
    pads = const_ints(node.input(1))
    return node.required(0) if pads is not None and not any(pads) else None


@NO_OPS.row("Concat", "Sum", "Max", "Min", "Mean")
def one_operand(node: Node, b: Builder) -> Outcome:
    """Concat(x), Sum(x), Max(x), Min(x), Mean(x) = x."""
    return node.required(0) if len(node.inputs) == 1 else None


@NO_OPS.row("Split")
def split_into_one(node: Node, b: Builder) -> Outcome:
    """Split(x) = x into one part."""
    return node.required(0) if len(node.outputs) == 1 else None


@NO_OPS.row("ReduceSum", "ReduceMean")
def reduce_nothing(node: Node, b: Builder) -> Outcome:
    """ReduceSum(x, axes=[]) = x when empty axes reduce nothing."""
    axes = const_ints(node.input(1)) if node.input(1) is not None else ()
    nothing = node.int_attr("noop_with_empty_axes") == 1 and axes == ()
    return node.required(0) if nothing else None


@NO_OPS.row("Clip")
def clip_nothing(node: Node, b: Builder) -> Outcome:
    """Clip(x) = x without bounds."""
    return node.required(0) if node.input(1) is None and node.input(2) is None else None


@NO_OPS.row("Max", "Min")
def infinite_bound(node: Node, b: Builder) -> Outcome:
    """Max(x, -inf) = x, Min(x, inf) = x."""
    bound = -np.inf if node.op == "Max" else np.inf
    return _unchanged(node) if len(node.inputs) == 2 and is_uniform(node.input(1), bound) else None


@NO_OPS.row("Where")
def where_constant(node: Node, b: Builder) -> Outcome:
    """Where(true, x, y) = x and Where(false, x, y) = y."""
    condition = uniform(node.input(0))
    if condition is None:
        return None
    chosen = node.required(1 if condition else 2)
    return chosen if same_type(chosen, node.output) else None


@FORMS.row("Concat")
def concat_empty(node: Node, b: Builder) -> Outcome:
    """Concat(x, empty) = Concat(x)."""
    axis = node.int_attr("axis")
    kept = [v for v in node.inputs if v is not None and not equal(v.shape[axis], 0)]
    if len(kept) == len(node.inputs) or not kept:
        return None
    return b.op("Concat", *kept, axis=axis)


@FORMS.row("Flatten", "Squeeze", "Unsqueeze")
def views_as_reshape(node: Node, b: Builder) -> Outcome:
    """Flatten, Squeeze, Unsqueeze(x) = Reshape(x)."""
    return reshape(b, node.required(0), node.output.shape)


@FORMS.row("CastLike")
def cast_like(node: Node, b: Builder) -> Outcome:
    """CastLike(x, y) = Cast(x)."""
    return b.op("Cast", node.required(0), to=BY_NAME[node.required(1).dtype].onnx)


@FORMS.row(*_COMMUTATIVE)
def constant_right(node: Node, b: Builder) -> Outcome:
    """c + x = x + c for commutative operators."""  # noqa: D403
    if len(node.inputs) != 2:
        return None
    left, right = node.required(0), node.required(1)
    if not left.is_const or right.is_const:
        return None
    return again(b, node, right, left)


@FORMS.row("Sum")
def sum_of_two(node: Node, b: Builder) -> Outcome:
    """Sum(x, y) = x + y."""
    return b.op("Add", *node.inputs) if len(node.inputs) == 2 else None


@FORMS.row("Sub")
def subtract_constant(node: Node, b: Builder) -> Outcome:
    """x - c = x + (-c)."""  # noqa: D403
    x, c = node.required(0), node.required(1)
    if x.is_const or c.const is None or not is_float(c) or c.const.nbytes > 1 << 20:
        return None
    return b.op("Add", x, b.constant(-c.array, c.name))


@FORMS.row("Div")
def divide_by_power_of_two(node: Node, b: Builder) -> Outcome:
    """x / c = x * (1/c) when c is a power of two."""  # noqa: D403
    x, c = node.required(0), node.required(1)
    if x.is_const or c.const is None or not is_float(c) or c.const.nbytes > 1 << 20:
        return None
    reciprocal = exact_reciprocal(c.array)
    return b.op("Mul", x, b.constant(reciprocal, c.name)) if reciprocal is not None else None


@FORMS.row("Pow")
def first_power(node: Node, b: Builder) -> Outcome:
    """Pow(x, 1) = x."""
    return _unchanged(node) if is_uniform(node.input(1), 1) else None


@FORMS.row("Pow", numerics=Numerics.REASSOCIATES)
def square(node: Node, b: Builder) -> Outcome:
    """Pow(x, 2) = x * x."""
    x = node.required(0)
    if not is_uniform(node.input(1), 2) or not same_type(x, node.output):
        return None
    return b.op("Mul", x, x)


@FORMS.row("Pow", numerics=Numerics.REASSOCIATES)
def square_root(node: Node, b: Builder) -> Outcome:
    """Pow(x, 0.5) = Sqrt(x)."""
    x = node.required(0)
    if not is_uniform(node.input(1), 0.5) or not is_float(x) or not same_type(x, node.output):
        return None
    return b.op("Sqrt", x)


@FORMS.row("Pow", numerics=Numerics.REASSOCIATES)
def reciprocal_power(node: Node, b: Builder) -> Outcome:
    """Pow(x, -1) = 1 / x."""
    x = node.required(0)
    if not is_uniform(node.input(1), -1) or not is_float(x) or not same_type(x, node.output):
        return None
    return b.op("Reciprocal", x)


@FORMS.row("Clip", "Max")
def clip_as_relu(node: Node, b: Builder) -> Outcome:
    """Clip(x, 0) = Relu(x) and Max(x, 0) = Relu(x)."""
    x = node.required(0)
    if len(node.inputs) > 2 and node.input(2) is not None:
        return None
    if not is_float(x) or not is_uniform(node.input(1), 0) or not same_type(x, node.output):
        return None
    return b.op("Relu", x)


@FORMS.row("MatMul")
def matmul_of_vectors(node: Node, b: Builder) -> Outcome:
    """MatMul(vector, m) = Reshape(MatMul(Reshape(vector), m))."""
    x, y = node.required(0), node.required(1)
    if len(x.shape) > 1 and len(y.shape) > 1:
        return None
    left = reshape(b, x, (1, *x.shape)) if len(x.shape) == 1 else x
    right = reshape(b, y, (*y.shape, 1)) if len(y.shape) == 1 else y
    if left is None or right is None:
        return None
    return reshape(b, b.op("MatMul", left, right), node.output.shape)


@FORMS.row("Gemm")
def gemm_without_bias(node: Node, b: Builder) -> Outcome:
    """Gemm(a, b, c, beta=0) = Gemm(a, b)."""
    if node.input(2) is None or node.float_attr("beta", 1.0) != 0.0:
        return None
    attrs = {k: v for k, v in node.attrs.items() if k != "beta"}
    return b.node("Gemm", node.inputs[:2], attrs).output


@FORMS.row("Gemm")
def gemm_transposed(node: Node, b: Builder) -> Outcome:
    """Gemm(a, b, transA=1) = Gemm(Transpose(a), b)."""
    if not node.int_attr("transA"):
        return None
    attrs = {k: v for k, v in node.attrs.items() if k != "transA"}
    left = b.op("Transpose", node.required(0), perm=(1, 0))
    return b.node("Gemm", (left, *node.inputs[1:]), attrs).output


@FORMS.row("Reshape")
def flattened_product(node: Node, b: Builder) -> Outcome:
    """Reshape(Gemm(Reshape(x), w, c)) = MatMul(Reshape(x), w) + c, and without c for MatMul.

    A product over the last axis, for which exporters merge all other axes into one.
    """
    product = only_user(node, "Gemm", "MatMul")
    flat = made_by(product.required(0), "Reshape") if product is not None else None
    lead = node.output.shape[:-1]
    if product is None or flat is None or len(lead) < 2 or len(flat.output.shape) != 2:
        return None
    if any(product.float_attr(key, 1.0) != 1.0 for key in ("alpha", "beta")):
        return None
    w, c = product.required(1), product.input(2)
    if len(w.shape) != 2 or not equal(node.output.shape[-1], product.output.shape[-1]):
        return None
    if c is not None and not (len(c.shape) <= 1 or equal(c.shape[0], 1)):
        return None
    x = reshape(b, flat.required(0), (*lead, flat.output.shape[-1]))
    if x is None:
        return None
    if product.int_attr("transB"):
        w = b.op("Transpose", w, perm=(1, 0))
    made = b.op("MatMul", x, w)
    nodes = (flat, product) if flat.output.single_user() is product else (product,)
    return Merged(b.op("Add", made, c) if c is not None else made, nodes)


@FORMS.row("Add", "Sub", "Mul", "Div",
           "Where", "And", "Or", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual",
           "Max", "Min", "Pow", "Mod")  # fmt: skip
def implied_expand(node: Node, b: Builder) -> Outcome:
    """op(Expand(x), y) = op(x, y) when y has the shape already."""
    for index, value in enumerate(node.inputs):
        source = _before_broadcast(value, b)
        if source is None:
            continue
        others = [v for i, v in enumerate(node.inputs) if i != index and v is not None]
        if not any(same_shape(v.shape, node.output.shape) for v in others):
            continue
        inputs = [source if i == index else v for i, v in enumerate(node.inputs)]
        return again(b, node, *inputs)
    return None


@FORMS.row("Conv", "ConvInteger", "MaxPool", "AveragePool")
def explicit_padding(node: Node, b: Builder) -> Outcome:
    """Conv with auto_pad = Conv with the pads that it stands for."""
    pads = _automatic_pads(node)
    if pads is None or len(node.outputs) > 1:
        return None
    kept = {k: v for k, v in node.attrs.items() if k not in ("auto_pad", "pads")}
    return b.node(node.op, node.inputs, {**kept, "pads": pads}).output


def _automatic_pads(node: Node) -> tuple[int, ...] | None:
    """The pads of ``auto_pad`` (ONNX Conv-11); None where there is none or sizes are not known."""
    mode = node.str_attr("auto_pad", "NOTSET")
    if mode == "NOTSET" or node.int_attr("ceil_mode"):
        return None
    sizes = node.required(0).shape[2:]
    convolution = node.op in ("Conv", "ConvInteger")
    kernel = node.required(1).shape[2:] if convolution else node.ints_attr("kernel_shape")
    ones = (1,) * len(sizes)
    strides, dilations = node.ints_attr("strides", ones), node.ints_attr("dilations", ones)
    begins: list[int] = []
    ends: list[int] = []
    for size, width, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        total = 0
        if mode != "VALID":
            if not isinstance(width, int):
                return None
            covered = (width - 1) * dilation + 1
            if isinstance(size, int):
                total = max((-(-size // stride) - 1) * stride + covered - size, 0)
            elif stride == 1:
                total = covered - 1
            else:
                return None
        # An odd element goes to the end for SAME_UPPER, to the beginning for SAME_LOWER.
        begin = (total + 1) // 2 if mode == "SAME_LOWER" else total // 2
        begins.append(begin)
        ends.append(total - begin)
    return (*begins, *ends)


@FORMS.row("Gather")
def gather_before_conversion(node: Node, b: Builder) -> Outcome:
    """Gather(Cast(w), i) = Cast(Gather(w, i)), also for Mul and Add with one number.

    Only for constant w: a table that is stored in a small dtype stays small, and what is looked up
    is converted.
    """
    data, indices = node.required(0), node.required(1)
    inner = made_by(data, "Cast", "Mul", "Add")
    if inner is None or indices.is_const or data.single_user() is not node:
        return None
    if not _is_converted_constant(data):
        return None
    axis = node.int_attr("axis")
    looked_up = b.op("Gather", inner.required(0), indices, axis=axis)
    if inner.op == "Cast":
        return Merged(again(b, inner, looked_up), (inner,))
    factor = inner.required(1)
    if len(factor.shape) == len(data.shape) and factor.shape[axis] != 1:
        factor = b.op("Gather", factor, indices, axis=axis)
    elif any(d != 1 for d in factor.shape):
        return None
    return Merged(b.op(inner.op, looked_up, factor), (inner,))


def _is_converted_constant(value: Value) -> bool:
    """Whether a value is a constant of a smaller dtype, cast, scaled and shifted by constants."""
    cast_node = made_by(value, "Cast")
    if cast_node is not None:
        x = cast_node.required(0)
        return x.is_const and BY_NAME[x.dtype].bits < BY_NAME[value.dtype].bits
    node = made_by(value, "Mul", "Add")
    return (
        node is not None and node.required(1).is_const and _is_converted_constant(node.required(0))
    )


def _before_broadcast(value: Value | None, b: Builder) -> Value | None:
    """What Expand or ConstantOfShape broadcasts."""
    expand = made_by(value, "Expand")
    if expand is not None:
        return expand.required(0)
    filled = made_by(value, "ConstantOfShape")
    if filled is None:
        return None
    from burnish.ir import Constant

    fill = filled.attrs.get("value")
    number = fill.array.reshape(()) if isinstance(fill, Constant) else np.zeros((), np.float32)
    return b.constant(number, "fill")
