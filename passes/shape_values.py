"""Shape operands built from the sizes of graph inputs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from burnish.ir import Builder, Dim, Expr, Graph, Node, Value
from burnish.ir.dims import equal
from burnish.ir.types import BY_NAME, to_numpy
from burnish.passes.rows import made_by, same_shape


def shape_value(
    b: Builder, dims: Sequence[Dim], *, rank: int = 1, dtype: str = "int64"
) -> Value | None:
    """A value whose elements are ``dims``, made of constants and sizes of graph inputs.

    Args:
        b: Builder of the graph that needs it.
        dims: The elements.
        rank: 1, or 0 for a single element as a scalar.
        dtype: An integer dtype.

    Returns:
        None when a dim is neither a number nor a symbol that is the size of a graph input.
    """
    numbers = [d for d in dims if isinstance(d, int)]
    if len(numbers) == len(dims):
        array = np.array(numbers, dtype=to_numpy(dtype))
        return b.constant(array.reshape(()) if rank == 0 else array, "shape")
    parts = _parts(b, dims)
    if parts is None:
        return None
    result = parts[0] if len(parts) == 1 else b.op("Concat", *parts, axis=0)
    if dtype != "int64":
        result = b.op("Cast", result, to=BY_NAME[dtype].onnx)
    return b.op("Reshape", result, b.ints([])) if rank == 0 else result


def _parts(b: Builder, dims: Sequence[Dim]) -> list[Value] | None:
    """Constants, and slices of the shapes of graph inputs, as few as possible."""
    parts: list[Value] = []
    position = 0
    while position < len(dims):
        numbers = _leading_numbers(dims[position:])
        if numbers:
            parts.append(b.ints(numbers, "shape"))
            position += len(numbers)
            continue
        source = _longest_run(b.graph.root, dims[position:])
        if source is None:
            return None
        value, start, length = source
        parts.append(b.op("Shape", value, start=start, end=start + length))
        position += length
    return parts


def _leading_numbers(dims: Sequence[Dim]) -> list[int]:
    numbers: list[int] = []
    for d in dims:
        if not isinstance(d, int):
            break
        numbers.append(d)
    return numbers


def _longest_run(root: Graph, dims: Sequence[Dim]) -> tuple[Value, int, int] | None:
    """The graph input, first axis and number of axes that begin ``dims``, without numbers."""
    best: tuple[Value, int, int] | None = None
    for value in root.inputs:
        shape = value.t.shape or ()
        for start in range(len(shape)):
            length = 0
            while (
                start + length < len(shape)
                and length < len(dims)
                and isinstance(dims[length], Expr)
                and equal(shape[start + length], dims[length])
            ):
                length += 1
            if length and (best is None or length > best[2]):
                best = (value, start, length)
    return best


def is_direct(value: Value) -> bool:
    """Whether a value has the form that :func:`shape_value` builds."""
    if value.is_const:
        return True
    node = value.producer
    if node is None or node.domain:
        return False
    if node.op == "Shape":
        source = node.required(0)
        return source.producer is None and not source.is_const
    if node.op == "Identity":
        # Stays only where a graph output needs a value of its own.
        return is_direct(node.required(0))
    if node.op == "Concat":
        return all(v is not None and is_direct(v) for v in node.inputs)
    if node.op in ("Reshape", "Cast"):
        return value.t.rank == (0 if node.op == "Reshape" else 1) and is_direct(node.required(0))
    return False


def is_size(dim: Dim, root: Graph) -> bool:
    """Whether a dim is a number, or a symbol that is the size of a graph input."""
    if isinstance(dim, int):
        return True
    return any(equal(dim, d) for v in root.inputs for d in v.t.shape or ())


def expand_to(b: Builder, x: Value, dims: Sequence[Dim]) -> Value | None:
    """``x`` broadcast to ``dims``; None when the shape operand cannot be built."""
    if same_shape(x.shape, dims):
        return x
    own: list[Dim] = [1] * (len(dims) - len(x.shape)) + list(x.shape)
    target = [1 if equal(have, want) else want for have, want in zip(own, dims, strict=True)]
    shape = shape_value(b, target)
    return b.op("Expand", x, shape) if shape is not None else None


def is_never_negative(value: Value) -> bool:
    """Whether every element of an integer tensor is known to be at least 0: a Range from 0."""
    if value.const is not None:
        small = value.const.nbytes <= 1 << 16 and to_numpy(value.dtype).kind in "iu"
        return small and bool(np.all(value.array >= 0))
    views = made_by(value, "Reshape", "Expand", "Transpose", "Slice", "Identity")
    if views is not None:
        return is_never_negative(views.required(0))
    made = made_by(value, "Range")
    if made is None or to_numpy(value.dtype).kind not in "iu":
        return False
    start, delta = made.input(0), made.input(2)
    return all(v is not None and v.is_const and is_never_negative(v) for v in (start, delta))


def is_always_true(value: Value | None) -> bool:
    """Whether every element of a bool tensor is known to be true."""
    if value is None or value.dtype != "bool":
        return False
    if value.const is not None:
        return value.const.nbytes <= 1 << 20 and bool(np.all(value.array))
    node: Node | None = made_by(value, "GreaterOrEqual")
    if node is not None:
        bound = node.required(1)
        at_most_zero = bound.const is not None and to_numpy(bound.dtype).kind in "iu"
        return (
            at_most_zero and bool(np.all(bound.array <= 0)) and is_never_negative(node.required(0))
        )
    view = made_by(value, "Reshape", "Expand", "Transpose", "Slice", "Identity")
    return view is not None and is_always_true(view.required(0))
