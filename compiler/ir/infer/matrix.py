"""Matrix products, norms, attention, recurrent networks."""

from __future__ import annotations

from collections.abc import Sequence

from burnish.errors import ShapeError
from burnish.ir import dims
from burnish.ir.dims import UNKNOWN, Dim
from burnish.ir.graph import Node
from burnish.ir.infer.common import (
    Shape,
    axis_of,
    broadcast,
    broadcast_dim,
    dtype_of,
    required,
    same_dtype,
    shape_of,
    tensor,
    unify,
    unify_shapes,
)
from burnish.ir.infer.registry import Result, infer
from burnish.ir.types import BY_ONNX


def matmul_shape(a: Shape, b: Shape) -> Shape:
    """Numpy's matmul, with its rules for vectors."""
    if not a or not b:
        raise ShapeError("an operand is a scalar")
    left = (1, *a) if len(a) == 1 else a
    right = (*b, 1) if len(b) == 1 else b
    unify(left[-1], right[-2], "inner dims")
    result: list[Dim] = list(broadcast(left[:-2], right[:-2])) if len(left) + len(right) > 4 else []
    if len(a) > 1:
        result.append(left[-2])
    if len(b) > 1:
        result.append(right[-1])
    return tuple(result)


@infer("MatMul")
def matmul(node: Node) -> Sequence[Result]:
    """MatMul(a, b)."""
    return [tensor(same_dtype(node), matmul_shape(shape_of(node, 0), shape_of(node, 1)))]


@infer("MatMulInteger")
def matmul_integer(node: Node) -> Sequence[Result]:
    """MatMulInteger(a, b, a_zero_point?, b_zero_point?): int32."""
    return [tensor("int32", matmul_shape(shape_of(node, 0), shape_of(node, 1)))]


@infer("QLinearMatMul")
def qlinear_matmul(node: Node) -> Sequence[Result]:
    """QLinearMatMul: the dtype of y_zero_point (input 7)."""
    return [tensor(dtype_of(node, 7), matmul_shape(shape_of(node, 0), shape_of(node, 3)))]


@infer("Gemm")
def gemm(node: Node) -> Sequence[Result]:
    """Gemm(a, b, c?; transA, transB): c broadcasts to the product."""
    a, b = shape_of(node, 0), shape_of(node, 1)
    if len(a) != 2 or len(b) != 2:
        raise ShapeError("operands are not matrices")
    a = (a[1], a[0]) if node.int_attr("transA") else a
    b = (b[1], b[0]) if node.int_attr("transB") else b
    unify(a[1], b[0], "inner dims")
    result = (a[0], b[1])
    if node.input(2) is not None:
        spread = broadcast(result, shape_of(node, 2))
        if len(spread) != 2:
            raise ShapeError("C does not broadcast to the product")
        for d, e in zip(spread, result, strict=True):
            unify(d, e, "C")
    return [tensor(same_dtype(node), result)]


@infer("Einsum")
def einsum(node: Node) -> Sequence[Result]:
    """Einsum over explicit and implicit equations, with ``...``."""
    equation = node.str_attr("equation").replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if len(terms) != len(node.inputs):
        raise ShapeError(f"{equation!r} has {len(terms)} operands, not {len(node.inputs)}")
    letters: dict[str, Dim] = {}
    ellipsis: Shape = ()
    for i, term in enumerate(terms):
        source = shape_of(node, i)
        before, dots, after = term.partition("...")
        hidden = len(source) - len(before) - len(after)
        if hidden < 0 or (hidden and not dots):
            raise ShapeError(f"{term!r} does not fit rank {len(source)}")
        ellipsis = broadcast(ellipsis, source[len(before) : len(before) + hidden])
        for letter, d in zip(
            before + after, source[: len(before)] + source[len(before) + hidden :], strict=True
        ):
            letters[letter] = broadcast_dim(letters[letter], d) if letter in letters else d
    if not arrow:
        counts = left.replace("...", "").replace(",", "")
        once = "".join(sorted(c for c in set(counts) if counts.count(c) == 1))
        right = ("..." if "..." in left else "") + once
    before, dots, after = right.partition("...")
    unknown = set(before + after) - set(letters)
    if unknown:
        raise ShapeError(f"{equation!r} has no operand with {sorted(unknown)[0]!r}")
    middle = ellipsis if dots else ()
    result = (*(letters[c] for c in before), *middle, *(letters[c] for c in after))
    return [tensor(same_dtype(node), result)]


@infer("Det")
def det(node: Node) -> Sequence[Result]:
    """Determinant of the last two dims."""
    return [tensor(dtype_of(node), shape_of(node, 0)[:-2])]


@infer("BatchNormalization")
def batch_normalization(node: Node) -> Sequence[Result]:
    """Inference form: one output; statistics have the length of the channel axis."""
    x = required(node, 0)
    source = shape_of(node, 0)
    if len(source) > 1:
        for i in range(1, 5):
            unify_shapes(shape_of(node, i), (source[1],), "channels")
    return [x.t]


@infer("LayerNormalization")
def layer_normalization(node: Node) -> Sequence[Result]:
    """LayerNormalization: y, mean, 1/std; the last two are float32 by ``stash_type``."""
    x = required(node, 0)
    source = shape_of(node, 0)
    axis = axis_of(node.int_attr("axis", -1), len(source))
    for i in (1, 2):
        if node.input(i) is not None:
            _fits(source, shape_of(node, i))
    stash = BY_ONNX[node.int_attr("stash_type", 1)].name
    statistics = tensor(stash, (*source[:axis], *(1 for _ in source[axis:])))
    return [x.t, statistics, statistics]


@infer("RMSNormalization")
def rms_normalization(node: Node) -> Sequence[Result]:
    """RMSNormalization(x, scale), opset 23."""
    _fits(shape_of(node, 0), shape_of(node, 1))
    return [required(node, 0).t]


def _fits(source: Shape, scale: Shape) -> None:
    if len(scale) > len(source):
        raise ShapeError(f"a scale of rank {len(scale)} for rank {len(source)}")
    for d, e in zip(reversed(source), reversed(scale), strict=False):
        if isinstance(e, int) and isinstance(d, int) and e not in (1, d):
            raise ShapeError(f"a scale of size {e} for size {d}")


@infer("LSTM", "GRU", "RNN")
def recurrent(node: Node) -> Sequence[Result]:
    """Y [T, directions, B, hidden], Y_h and Y_c [directions, B, hidden]; layout 1: batch first."""
    x, weights, recurrence = (shape_of(node, i) for i in range(3))
    if len(x) != 3 or len(weights) != 3 or len(recurrence) != 3:
        raise ShapeError("X, W and R must have rank 3")
    dtype = dtype_of(node)
    directions = 2 if node.str_attr("direction", "forward") == "bidirectional" else 1
    hidden = recurrence[2]
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[node.op]
    unify(weights[0], directions, "directions of W")
    unify(weights[1], dims.mul(hidden, gates), "gates of W")
    unify(weights[2], x[2], "input size of W")
    batch_first = node.int_attr("layout") == 1
    time, batch = (x[1], x[0]) if batch_first else (x[0], x[1])
    sequence: Shape = (time, directions, batch, hidden)
    state: Shape = (directions, batch, hidden)
    if batch_first:
        sequence, state = (batch, time, directions, hidden), (batch, directions, hidden)
    for i in (5, 6) if node.op == "LSTM" else (5,):
        if node.input(i) is not None:
            unify_shapes(shape_of(node, i), state, "initial state")
    return [tensor(dtype, sequence), tensor(dtype, state), tensor(dtype, state)]


@infer("Attention")
def attention(node: Node) -> Sequence[Result]:
    """Attention, opset 23: Y, present_key, present_value, qk_matmul_output."""
    q, k, v = (shape_of(node, i) for i in range(3))
    dtype = dtype_of(node)
    if len(q) == 3:
        heads, kv_heads = node.int_attr("q_num_heads"), node.int_attr("kv_num_heads")
        if not heads or not kv_heads:
            raise ShapeError("q_num_heads and kv_num_heads are needed for inputs of rank 3")
        k = (k[0], kv_heads, k[1], dims.floordiv(k[2], kv_heads))
        v = (v[0], kv_heads, v[1], dims.floordiv(v[2], kv_heads))
        result: Shape = (q[0], q[1], dims.mul(v[3], heads))
        rows: Shape = (q[0], heads, q[1])
    elif len(q) == 4:
        result = (q[0], q[1], q[2], v[3])
        rows = (q[0], q[1], q[2])
    else:
        raise ShapeError(f"Q has rank {len(q)}")
    total = k[2]
    if node.input(4) is not None:
        total = dims.add(total, shape_of(node, 4)[2])
    return [
        tensor(dtype, result),
        tensor(dtype_of(node, 1), (k[0], k[1], total, k[3])),
        tensor(dtype_of(node, 2), (v[0], v[1], total, v[3])),
        tensor(dtype, (*rows, total)),
    ]


@infer("NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss")
def loss(node: Node) -> Sequence[Result]:
    """A scalar, or the shape of the targets with reduction ``none``; log-probabilities."""
    target = shape_of(node, 1)
    kept = target if node.str_attr("reduction", "mean") == "none" else ()
    return [tensor(dtype_of(node), kept), required(node, 0).t]


@infer("NonMaxSuppression")
def non_max_suppression(node: Node) -> Sequence[Result]:
    """[selected, 3] int64."""
    return [tensor("int64", (UNKNOWN, 3))]
