"""Post-operations on one float32 element, before it is stored."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import tirx

from burnish.backends.cuda.tir import Expr, Index, KernelBuilder, Tensor, name, read, write
from burnish.ir.postops import PostOp


def number(value: float) -> Expr:
    """A float32 constant."""
    return tirx.const(float(value), "float32")


def _sigmoid(x: Expr) -> Expr:
    return number(1.0) / (number(1.0) + tirx.exp(number(0.0) - x))


def _clip(x: Expr, low: float, high: float) -> Expr:
    return tirx.Min(tirx.Max(x, number(low)), number(high))


def _gelu(x: Expr) -> Expr:
    return number(0.5) * x * (number(1.0) + tirx.erf(x * number(math.sqrt(0.5))))


def _gelu_tanh(x: Expr) -> Expr:
    inner = number(math.sqrt(2.0 / math.pi)) * (x + number(0.044715) * x * x * x)
    return number(0.5) * x * (number(1.0) + tirx.tanh(inner))


def _hard_sigmoid(x: Expr, alpha: float = 1.0 / 6.0, beta: float = 0.5) -> Expr:
    return _clip(number(alpha) * x + number(beta), 0.0, 1.0)


def _softplus(x: Expr) -> Expr:
    # log(1 + exp(x)) without overflow.
    positive = tirx.Max(x, number(0.0))
    return positive + tirx.log1p(tirx.exp(number(0.0) - tirx.abs(x)))


def _relu(x: Expr) -> Expr:
    return tirx.Select(x < number(0.0), number(0.0), x)


def _elu(x: Expr, alpha: float) -> Expr:
    return tirx.Select(x < number(0.0), number(alpha) * (tirx.exp(x) - number(1.0)), x)


#: Unary post-ops; ONNX's definitions.
UNARY: dict[str, Callable[..., Expr]] = {
    "Relu": _relu,
    "Sigmoid": _sigmoid,
    "Tanh": tirx.tanh,
    "Gelu": _gelu,
    "GeluTanh": _gelu_tanh,
    "Silu": lambda x: x * _sigmoid(x),
    "HardSwish": lambda x: x * _hard_sigmoid(x),
    "HardSigmoid": _hard_sigmoid,
    "LeakyRelu": lambda x, a: tirx.Select(x < number(0.0), number(a) * x, x),
    "Elu": _elu,
    "Clip": _clip,
    "Neg": lambda x: number(0.0) - x,
    "Abs": tirx.abs,
    "Sqrt": tirx.sqrt,
    "Exp": tirx.exp,
    "Erf": tirx.erf,
    "Softplus": _softplus,
}
_BINARY: dict[str, Callable[[Expr, Expr], Expr]] = {
    "Add": lambda a, b: a + b,
    "Sub": lambda a, b: a - b,
    "Mul": lambda a, b: a * b,
    "Div": lambda a, b: a / b,
    "Max": tirx.Max,
    "Min": tirx.Min,
}


@dataclass(frozen=True)
class Epilogue:
    """The post-operations of one kernel with their operands, and the output."""

    steps: tuple[tuple[PostOp, Tensor | None], ...]

    @classmethod
    def declare(
        cls,
        k: KernelBuilder,
        postops: Sequence[PostOp],
        dtypes: Sequence[str],
        shape: Sequence[Index],
    ) -> Epilogue:
        """Declare the operands as the next inputs of ``k``, in the order of the post-ops.

        A ``full`` operand has the result's ``shape``, a ``channel`` operand the size of its last
        dimension, a ``scalar`` operand one element.
        """
        shapes = {"full": tuple(shape), "channel": (shape[-1],), "scalar": (1,)}
        kinds = iter(dtypes)
        steps = tuple(
            (p, k.input(f"operand{i}", shapes[p.operand], next(kinds)) if p.operand else None)
            for i, p in enumerate(postops)
        )
        return cls(steps)

    def apply(self, value: Expr, offset: Index, channel: Index) -> Expr:
        """The steps on a value that will be stored at a flat offset."""
        for post, operand in self.steps:
            if operand is None:
                value = name(UNARY[post.op](value, *post.params))
                continue
            at = {"channel": channel, "scalar": 0, "full": offset}[post.operand]
            value = name(_BINARY[post.op](value, read(operand, at)))
        return value

    def store(self, output: Tensor, value: Expr, offset: Index, channel: Index) -> None:
        """Apply the steps and store."""
        write(output, offset, self.apply(value, offset, channel))
