"""What the post-ops of a composite mean, in ONNX operators."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from burnish.ir.builder import Builder
from burnish.ir.graph import Attr, Node, Value
from burnish.ir.postops import PostOp, parse_postops
from burnish.ir.types import to_numpy

#: ONNX operator, attribute names in the order of the post-op's parameters, fixed attributes.
_UNARY: dict[str, tuple[str, tuple[str, ...], dict[str, Attr]]] = {
    "Relu": ("Relu", (), {}),
    "Sigmoid": ("Sigmoid", (), {}),
    "Tanh": ("Tanh", (), {}),
    "Gelu": ("Gelu", (), {"approximate": "none"}),
    "GeluTanh": ("Gelu", (), {"approximate": "tanh"}),
    "HardSwish": ("HardSwish", (), {}),
    "HardSigmoid": ("HardSigmoid", ("alpha", "beta"), {}),
    "LeakyRelu": ("LeakyRelu", ("alpha",), {}),
    "Elu": ("Elu", ("alpha",), {}),
    "Neg": ("Neg", (), {}),
    "Abs": ("Abs", (), {}),
    "Sqrt": ("Sqrt", (), {}),
    "Exp": ("Exp", (), {}),
    "Erf": ("Erf", (), {}),
    "Softplus": ("Softplus", (), {}),
}


def scalar_constant(b: Builder, value: float, dtype: str) -> Value:
    """A rank-0 constant of a dtype."""
    return b.constant(np.asarray(value, dtype=to_numpy(dtype)))


def dequantized(b: Builder, x: Value, scale: float, zero: float) -> Value:
    """A tensor of 8 bits as float32 (ONNX DequantizeLinear-25)."""
    zero_point = b.constant(np.asarray(int(zero), to_numpy(x.dtype)))
    return b.op("DequantizeLinear", x, scalar_constant(b, scale, "float32"), zero_point)


def _unary(b: Builder, y: Value, post: PostOp) -> Value:
    if post.op == "Silu":
        return b.op("Mul", y, b.op("Sigmoid", y))
    if post.op == "Clip":
        low, high = (scalar_constant(b, p, y.dtype) for p in post.params)
        return b.op("Clip", y, low, high)
    op, names, fixed = _UNARY[post.op]
    params = dict(zip(names, post.params, strict=True))
    return b.node(op, [y], {**fixed, **params}).output


def apply_postops(
    b: Builder, node: Node, y: Value, operands: Sequence[Value | None], channel_axis: int = -1
) -> Value:
    """Apply the ``postops`` of a composite to its core result.

    Args:
        b: Builds the body.
        node: The composite.
        y: The core result.
        operands: Operands of the binary post-ops in order.
        channel_axis: Axis of ``y`` that ``channel`` operands lie along.
    """
    rest = iter(operands)
    for post in parse_postops(node.strs_attr("postops")):
        if not post.operand:
            y = _unary(b, y, post)
            continue
        operand = next(rest)
        assert operand is not None, f"{node!r} lacks an operand of {post.encode()}"
        if post.operand == "quantized":
            operand = dequantized(b, operand, *post.params)
        if post.operand == "channel":
            trailing = len(y.shape) - 1 - channel_axis % len(y.shape)
            if trailing:
                axes = b.ints([1 + i for i in range(trailing)])
                operand = b.op("Unsqueeze", operand, axes)
        y = b.op(post.op, y, operand)
    return y
