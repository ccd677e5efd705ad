"""What inference rules share: reading inputs, axes, broadcasting, contents."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from burnish.errors import ShapeError
from burnish.ir import dims
from burnish.ir.dims import UNKNOWN, Dim, Expr, nonnegative
from burnish.ir.graph import Node, Value
from burnish.ir.infer.registry import UnknownRankError, demand
from burnish.ir.types import INTEGERS, TensorType

Shape = tuple[Dim, ...]

#: Longest tensor whose elements are tracked as dims.
MAX_CONTENT = 64
_TRACKED = INTEGERS | {"bool"}


def required(node: Node, index: int) -> Value:
    """An input that must be there."""
    value = node.input(index)
    if value is None:
        raise ShapeError(f"input {index} is missing")
    return value


def shape_of(node: Node, index: int) -> Shape:
    """The dims of an input; unknown rank ends the rule."""
    type = required(node, index).t
    if type.shape is None:
        raise UnknownRankError
    return type.shape


def dtype_of(node: Node, index: int = 0) -> str:
    """The dtype of an input."""
    return required(node, index).t.dtype


def rank_of(value: Value) -> int | None:
    """The rank of a typed value."""
    return value.t.rank


def unknown_shape(rank: int) -> Shape:
    """A shape of which only the rank is known."""
    return (UNKNOWN,) * rank


def axis_of(axis: int, rank: int) -> int:
    """An axis in ``[0, rank)``."""
    if not -rank <= axis < rank:
        raise ShapeError(f"axis {axis} is out of range for rank {rank}")
    return axis % rank


def axes_of(axes: Iterable[int], rank: int) -> tuple[int, ...]:
    """Axes in ``[0, rank)``, each at most once."""
    found = tuple(axis_of(a, rank) for a in axes)
    if len(set(found)) != len(found):
        raise ShapeError(f"an axis appears twice in {found}")
    return found


def elements(value: Value | None) -> Shape | None:
    """The elements of a small integer or bool tensor in row-major order, if they are known."""
    if value is None or value.type is None:
        return None
    if value.const is None:
        return value.content
    type = value.const.type
    count = dims.static_product(type.dims)
    if type.dtype not in _TRACKED or count is None or count > MAX_CONTENT:
        return None
    return tuple(int(x) for x in value.const.array.reshape(-1))


def grid(value: Value | None) -> np.ndarray | None:
    """The elements as an array of dims that has the tensor's shape."""
    found = elements(value)
    if found is None or value is None or not value.t.static:
        return None
    return as_grid(found).reshape(value.t.dims)


def as_grid(found: Iterable[Dim]) -> np.ndarray:
    """Dims as a one-dimensional array of objects."""
    items = tuple(found)
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array


def flat(array: np.ndarray | None) -> Shape | None:
    """The content that an array of dims stands for; None for too many elements."""
    if array is None or array.size > MAX_CONTENT:
        return None
    return tuple(array.reshape(-1))


def const_ints(value: Value | None) -> tuple[int, ...] | None:
    """The elements of an integer tensor if all are numbers."""
    found = elements(value)
    if found is None and value is not None and value.const is not None:
        if value.const.type.dtype in INTEGERS:
            return tuple(int(x) for x in value.const.array.reshape(-1))
        return None
    if found is None or not all(isinstance(d, int) for d in found):
        return None
    return tuple(d for d in found if isinstance(d, int))


def const_floats(value: Value | None) -> tuple[float, ...] | None:
    """The elements of a constant as floats, flattened."""
    if value is None or value.const is None:
        return None
    return tuple(float(x) for x in value.const.array.reshape(-1))


def scalar_int(value: Value | None) -> int | None:
    """The one element of a known integer tensor."""
    found = const_ints(value)
    return found[0] if found is not None and len(found) == 1 else None


def length(value: Value) -> int | None:
    """Number of elements of a tensor of rank 1, if known."""
    type = value.t
    if type.shape is None or len(type.shape) != 1 or not isinstance(type.shape[0], int):
        return None
    return type.shape[0]


def unify(a: Dim, b: Dim, what: str) -> Dim:
    """The dim of two that ONNX demands to be equal; a number wins over a symbol.

    Raises:
        ShapeError: They are known to differ.
    """
    if dims.equal(a, b):
        return a
    if isinstance(a, int) and isinstance(b, int):
        raise ShapeError(f"{what}: {a} and {b} differ")
    demand("equal", a, b)
    if isinstance(a, int) or b is UNKNOWN:
        return a
    if isinstance(b, int) or a is UNKNOWN:
        return b
    return _simpler(a, b)


def unify_shapes(a: Shape, b: Shape, what: str) -> Shape:
    """:func:`unify` for every axis."""
    if len(a) != len(b):
        raise ShapeError(f"{what}: ranks {len(a)} and {len(b)} differ")
    return tuple(unify(x, y, what) for x, y in zip(a, b, strict=True))


def _simpler(a: Dim, b: Dim) -> Dim:
    return min((a, b), key=lambda d: (len(str(d)), str(d)))


def broadcast_dim(a: Dim, b: Dim) -> Dim:
    """The result of broadcasting two dims.

    ONNX demands that they be equal or that one be 1. A number above 1 wins over a symbol. Two
    different expressions over the same symbols are taken to be equal (sizes that were computed in
    two ways); over different symbols either may be 1, and the result is their maximum. Both cases
    are recorded as guards.
    """
    if dims.equal(a, b) or b == 1:
        return a
    if a == 1:
        return b
    if isinstance(a, int) and isinstance(b, int):
        raise ShapeError(f"sizes {a} and {b} do not broadcast")
    if isinstance(a, int) or isinstance(b, int):
        demand("broadcast", a, b)
        return a if isinstance(a, int) else b
    if not isinstance(a, Expr) or not isinstance(b, Expr):
        return UNKNOWN
    if dims.symbols(a) == dims.symbols(b):
        demand("equal", a, b)
        return _simpler(a, b)
    demand("broadcast", a, b)
    return dims.maximum(a, b)


def broadcast(*shapes: Shape) -> Shape:
    """Multidirectional broadcasting of shapes."""
    rank = max(len(s) for s in shapes)
    result: list[Dim] = [1] * rank
    for shape in shapes:
        offset = rank - len(shape)
        for i, d in enumerate(shape):
            try:
                result[offset + i] = broadcast_dim(result[offset + i], d)
            except ShapeError:
                listed = ", ".join("[" + ",".join(map(str, s)) + "]" for s in shapes)
                raise ShapeError(f"shapes {listed} do not broadcast") from None
    return tuple(result)


def same_dtype(node: Node, indices: Sequence[int] | None = None) -> str:
    """The dtype that inputs must share."""
    present = [
        v.t.dtype
        for i, v in enumerate(node.inputs)
        if v is not None and (indices is None or i in indices)
    ]
    if not present:
        raise ShapeError("an input is missing")
    for dtype in present:
        if dtype != present[0]:
            raise ShapeError(f"dtypes {present[0]} and {dtype} differ")
    return present[0]


def at_least(d: Dim, least: int, what: str) -> None:
    """Demand that a dim be at least a number.

    Raises:
        ShapeError: It is known to be smaller.
    """
    if isinstance(d, int) and d < least:
        raise ShapeError(f"{what}: {d} is less than {least}")
    if isinstance(d, Expr) and not nonnegative(dims.sub(d, least), least=1):
        demand("at_least", d, least)


def not_less(a: Dim, b: Dim, what: str) -> None:
    """Demand that a dim be at least another one.

    Raises:
        ShapeError: It is known to be smaller.
    """
    if isinstance(b, int):
        at_least(a, b, what)
    elif not nonnegative(dims.sub(a, b)):
        demand("at_least", a, b)


def at_least_zero(d: Dim) -> Dim:
    """``max(d, 0)``, without the maximum where it is not needed."""
    return d if nonnegative(d) else dims.maximum(d, 0)


def tensor(dtype: str, shape: Iterable[Dim]) -> TensorType:
    """A tensor type from any iterable of dims."""
    return TensorType(dtype, tuple(shape))
