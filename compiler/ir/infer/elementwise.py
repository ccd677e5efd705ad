"""Elementwise operators: broadcasting types, and arithmetic on contents."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from burnish.errors import ShapeError
from burnish.ir import dims
from burnish.ir.dims import UNKNOWN, Dim, Expr, nonnegative
from burnish.ir.graph import Node
from burnish.ir.infer.common import (
    MAX_CONTENT,
    Shape,
    broadcast,
    dtype_of,
    elements,
    flat,
    grid,
    required,
    same_dtype,
    shape_of,
)
from burnish.ir.infer.registry import Result, infer
from burnish.ir.types import BY_ONNX, FLOATS, INTEGERS, TensorType

# fmt: off
_SAME = (
    "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BitwiseNot", "Ceil", "Celu", "Cos",
    "Cosh", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "Hardmax", "LRN",
    "LeakyRelu", "Log", "LogSoftmax", "LpNormalization", "MeanVarianceNormalization", "Mish",
    "Neg", "Not", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin",
    "Sinh", "Softmax", "Softplus", "Softsign", "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu",
    "CumSum", "CumProd", "Trilu", "InstanceNormalization", "GroupNormalization", "ReverseSequence",
    "RotaryEmbedding",
)
# fmt: on

Unary = Callable[[Dim], Dim]
Binary = Callable[[Dim, Dim], Dim]

_UNARY: dict[str, Unary] = {
    "Neg": lambda a: dims.mul(a, -1),
    "Abs": lambda a: abs(a) if isinstance(a, int) else (a if nonnegative(a) else UNKNOWN),
    "Sign": lambda a: (a > 0) - (a < 0) if isinstance(a, int) else UNKNOWN,
    "Not": lambda a: int(not a) if isinstance(a, int) else UNKNOWN,
}


@infer(*_SAME)
def same_type(node: Node) -> Sequence[Result]:
    """The type of the first input."""
    x = required(node, 0)
    content = elements(x)
    fn = _UNARY.get(node.op)
    if fn is None or content is None or not _is_integral(x.t.dtype):
        return [x.t]
    return [(x.t, tuple(map(fn, content)))]


@infer("Identity")
def identity(node: Node) -> Sequence[Result]:
    """The input itself, content included."""
    x = required(node, 0)
    return [(x.t, elements(x))]


@infer("Clip")
def clip(node: Node) -> Sequence[Result]:
    """Clip(x, min?, max?)."""
    x = required(node, 0)
    content = elements(x)
    if content is not None and _is_integral(x.t.dtype):
        for index, fn in ((1, dims.maximum), (2, dims.minimum)):
            if node.input(index) is None:
                continue
            bound = elements(node.input(index))
            content = tuple(fn(c, bound[0] if bound else UNKNOWN) for c in content)
        return [(x.t, content)]
    return [x.t]


@infer("PRelu")
def prelu(node: Node) -> Sequence[Result]:
    """PRelu: the slope broadcasts to x, never the other way."""
    same_dtype(node)
    broadcast(shape_of(node, 0), shape_of(node, 1))
    return [required(node, 0).t]


@infer("IsNaN", "IsInf")
def predicate(node: Node) -> Sequence[Result]:
    """A bool for each element."""
    return [TensorType("bool", shape_of(node, 0))]


def _is_integral(dtype: str) -> bool:
    return dtype in INTEGERS or dtype == "bool"


def _truncated_division(a: Dim, b: Dim) -> Dim:
    """ONNX divides integers towards zero; floor division agrees only on non-negative numbers."""
    if b == 0:
        return UNKNOWN
    if isinstance(a, int) and isinstance(b, int):
        quotient = abs(a) // abs(b)
        return quotient if (a < 0) == (b < 0) else -quotient
    # A size of 0 in (size - 1) / 2 is taken to be of no interest.
    if nonnegative(a, least=1) and nonnegative(b):
        return dims.floordiv(a, b)
    exact = dims.floordiv(a, b)
    return exact if dims.equal(dims.mul(exact, b), a) else UNKNOWN


def _modulo(a: Dim, b: Dim) -> Dim:
    if b == 0 or not nonnegative(a) or not nonnegative(b):
        return UNKNOWN
    return dims.mod(a, b)


def _power(a: Dim, b: Dim) -> Dim:
    if isinstance(b, int) and 0 <= b <= 8:
        return dims.product([a] * b)
    return UNKNOWN


def _equality(a: Dim, b: Dim) -> Dim:
    if dims.equal(a, b):
        return 1
    difference = dims.sub(a, b)
    if isinstance(difference, int):
        return 0
    for d in (difference, dims.mul(difference, -1)):
        # Symbols are at least 0, so that a size is never equal to a negative number.
        if isinstance(d, Expr) and nonnegative(dims.sub(d, 1)):
            return 0
    return UNKNOWN


def _less(a: Dim, b: Dim, *, or_equal: bool) -> Dim:
    difference = dims.sub(b, a)
    if nonnegative(dims.sub(difference, 0 if or_equal else 1)):
        return 1
    if nonnegative(dims.sub(dims.mul(difference, -1), 1 if or_equal else 0)):
        return 0
    return UNKNOWN


def _and(a: Dim, b: Dim) -> Dim:
    if 0 in (a, b):
        return 0
    return 1 if a == 1 and b == 1 else UNKNOWN


def _or(a: Dim, b: Dim) -> Dim:
    if 1 in (a, b):
        return 1
    return 0 if a == 0 and b == 0 else UNKNOWN


def _xor(a: Dim, b: Dim) -> Dim:
    return a ^ b if isinstance(a, int) and isinstance(b, int) else UNKNOWN


_BINARY: dict[str, Binary] = {
    "Add": dims.add,
    "Sub": dims.sub,
    "Mul": dims.mul,
    "Div": _truncated_division,
    "Mod": _modulo,
    "Pow": _power,
    "Max": dims.maximum,
    "Min": dims.minimum,
    "Sum": dims.add,
    "Equal": _equality,
    "Less": lambda a, b: _less(a, b, or_equal=False),
    "LessOrEqual": lambda a, b: _less(a, b, or_equal=True),
    "Greater": lambda a, b: _less(b, a, or_equal=False),
    "GreaterOrEqual": lambda a, b: _less(b, a, or_equal=True),
    "And": _and,
    "Or": _or,
    "Xor": _xor,
}


def _content(node: Node, fn: Binary, shape: Shape) -> Shape | None:
    """Elements of the result from those of the inputs, folded from the left."""
    parts = _grids(node)
    if not parts or not _small(shape):
        return None
    total: np.ndarray = np.broadcast_to(parts[0], shape)  # type: ignore[arg-type]
    apply = np.frompyfunc(fn, 2, 1)
    for part in parts[1:]:
        total = np.asarray(apply(total, part), dtype=object)
    return flat(total)


def _grids(node: Node) -> list[np.ndarray]:
    """The elements of all inputs, or nothing when those of one are not known."""
    parts = [grid(v) for v in node.inputs]
    known = [p for p in parts if p is not None]
    return known if len(known) == len(parts) else []


def _small(shape: Shape) -> bool:
    count = dims.static_product(shape)
    return count is not None and count <= MAX_CONTENT


def _broadcast_node(node: Node) -> Shape:
    if not node.inputs:
        raise ShapeError("it has no inputs")
    return broadcast(*(shape_of(node, i) for i in range(len(node.inputs))))


@infer("Add", "Sub", "Mul", "Div", "Mod", "Max", "Min", "Sum", "Mean", "BitShift")
@infer("BitwiseAnd", "BitwiseOr", "BitwiseXor")
def arithmetic(node: Node) -> Sequence[Result]:
    """Broadcasting operators whose inputs and output share the dtype."""
    dtype = same_dtype(node)
    shape = _broadcast_node(node)
    fn = _BINARY.get(node.op)
    content = _content(node, fn, shape) if fn is not None and _is_integral(dtype) else None
    if node.op == "Mod" and node.int_attr("fmod"):
        content = None
    return [(TensorType(dtype, shape), content)]


@infer("Pow")
def power(node: Node) -> Sequence[Result]:
    """Pow: the exponent may have another dtype."""
    dtype, shape = dtype_of(node), _broadcast_node(node)
    integral = _is_integral(dtype) and _is_integral(dtype_of(node, 1))
    return [(TensorType(dtype, shape), _content(node, _power, shape) if integral else None)]


@infer("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "And", "Or", "Xor")
def comparison(node: Node) -> Sequence[Result]:
    """Broadcasting operators with a bool result."""
    dtype = same_dtype(node)
    shape = _broadcast_node(node)
    content = _content(node, _BINARY[node.op], shape) if _is_integral(dtype) else None
    return [(TensorType("bool", shape), content)]


@infer("Where")
def where(node: Node) -> Sequence[Result]:
    """Where(condition, x, y); the content follows a condition that is decided."""
    if dtype_of(node, 0) != "bool":
        raise ShapeError("the condition is not bool")
    dtype, shape = same_dtype(node, (1, 2)), _broadcast_node(node)
    content: Shape | None = None
    parts = _grids(node)
    if _is_integral(dtype) and _small(shape) and len(parts) == 3:
        content = flat(np.asarray(np.frompyfunc(_select, 3, 1)(*parts), dtype=object))
    return [(TensorType(dtype, shape), content)]


def _select(condition: Dim, a: Dim, b: Dim) -> Dim:
    if dims.equal(a, b):
        return a
    if isinstance(condition, int):
        return a if condition else b
    return UNKNOWN


@infer("Cast")
def cast(node: Node) -> Sequence[Result]:
    """Cast; contents survive between integers and bool."""
    x = required(node, 0)
    to = node.int_attr("to")
    if to not in BY_ONNX:
        raise ShapeError(f"unknown element type {to}")
    return [_cast(x.t, elements(x), BY_ONNX[to].name)]


@infer("CastLike")
def cast_like(node: Node) -> Sequence[Result]:
    """CastLike: the dtype of the second input."""
    x = required(node, 0)
    return [_cast(x.t, elements(x), dtype_of(node, 1))]


def _cast(type: TensorType, content: Shape | None, dtype: str) -> Result:
    if content is not None and _is_integral(type.dtype):
        if dtype == "bool":
            content = tuple(
                int(c != 0)
                if isinstance(c, int)
                else (1 if nonnegative(dims.sub(c, 1)) else UNKNOWN)
                for c in content
            )
        elif dtype not in ("int64", "int32"):
            content = None
    else:
        content = None
    return TensorType(dtype, type.shape), content


@infer("QuantizeLinear")
def quantize(node: Node) -> Sequence[Result]:
    """QuantizeLinear: the zero point or ``output_dtype`` gives the dtype, uint8 by default."""
    zero_point = node.input(2)
    code = node.int_attr("output_dtype")
    if zero_point is not None:
        dtype = zero_point.t.dtype
    else:
        dtype = BY_ONNX[code].name if code else "uint8"
    return [TensorType(dtype, shape_of(node, 0))]


@infer("DequantizeLinear")
def dequantize(node: Node) -> Sequence[Result]:
    """DequantizeLinear: the dtype of the scale, or ``output_dtype``."""
    code = node.int_attr("output_dtype")
    dtype = BY_ONNX[code].name if code else dtype_of(node, 1)
    return [TensorType(dtype, shape_of(node, 0))]


@infer("DynamicQuantizeLinear")
def dynamic_quantize(node: Node) -> Sequence[Result]:
    """Y (uint8), y_scale (float32 scalar), y_zero_point (uint8 scalar)."""
    return [
        TensorType("uint8", shape_of(node, 0)),
        TensorType("float32", ()),
        TensorType("uint8", ()),
    ]


@infer("Dropout")
def dropout(node: Node) -> Sequence[Result]:
    """Output and mask."""
    x = required(node, 0)
    return [x.t, TensorType("bool", x.t.shape)]


@infer("Bernoulli", "RandomNormalLike", "RandomUniformLike")
def like(node: Node) -> Sequence[Result]:
    """The shape of the input; the dtype of the attribute or the input."""
    x = required(node, 0)
    code = node.int_attr("dtype")
    dtype = BY_ONNX[code].name if code else x.t.dtype
    if node.op != "Bernoulli" and dtype not in FLOATS:
        raise ShapeError(f"dtype {dtype} is not a float")
    return [TensorType(dtype, x.t.shape)]
