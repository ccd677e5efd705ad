"""Activation functions."""

from __future__ import annotations

import math

from tvm import te

from burnish.ir.types import FLOATS
from burnish.lowering.ops.common import Scalar, as_float, bind, elementwise, like, select
from burnish.lowering.ops.unary import erf, log1p
from burnish.lowering.registry import REAL, te_rule
from burnish.lowering.te_context import Prim, TeContext


def clamp(x: Prim, low: Prim, high: Prim) -> Prim:
    """``x`` within [low, high]; NaN stays; ``high`` wins where they cross."""

    def below(v: Prim) -> Prim:
        return select(v > high, high, v)

    return bind(x, lambda v: bind(select(v < low, low, v), below))


def relu(x: Prim) -> Prim:
    """max(x, 0); NaN stays."""
    return select(x < like(0, x), like(0, x), x)


def sigmoid(x: Prim) -> Prim:
    """1 / (1 + exp(-x))."""
    return te.sigmoid(x)


def softplus(x: Prim) -> Prim:
    """log(1 + exp(x)), without overflow."""
    return bind(x, lambda v: relu(v) + log1p(te.exp(like(0, v) - te.abs(v))))


def softsign(x: Prim) -> Prim:
    """X / (1 + |x|)."""
    return x / (like(1, x) + te.abs(x))


def hard_sigmoid(x: Prim, alpha: float, beta: float) -> Prim:
    """max(0, min(1, alpha * x + beta))."""
    return clamp(x * like(alpha, x) + like(beta, x), like(0, x), like(1, x))


def mish(x: Prim) -> Prim:
    """X * tanh(softplus(x)), with tanh(log(1 + e)) = (e^2 + 2e) / (e^2 + 2e + 2)."""

    def of(e: Prim) -> Prim:
        return bind(e * (e + like(2, e)), lambda n: x * (n / (n + like(2, n))))

    # The quotient is 1 beyond x = 40, even in float64.
    return bind(te.exp(select(x > like(40, x), like(40, x), x)), of)


def gelu(x: Prim) -> Prim:
    """x/2 * (1 + erf(x / sqrt(2)))."""
    return x * like(0.5, x) * (like(1, x) + erf(x * like(math.sqrt(0.5), x)))


def gelu_tanh(x: Prim) -> Prim:
    """x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x**3)))."""
    inner = like(math.sqrt(2 / math.pi), x) * (x + like(0.044715, x) * (x * x * x))
    return x * like(0.5, x) * (like(1, x) + te.tanh(inner))


#: ONNX's attributes are float32, also where they apply to float64.
_SIXTH = 0.1666666716337204

_PLAIN: dict[str, Scalar] = {
    "Mish": mish,
    "Sigmoid": sigmoid,
    "Softplus": softplus,
    "Softsign": softsign,
    "HardSwish": lambda x: x * hard_sigmoid(x, _SIXTH, 0.5),
}


def _add_row(op: str, function: Scalar) -> None:
    @te_rule(op, dtypes=FLOATS)
    def row(ctx: TeContext, x: te.Tensor) -> te.Tensor:
        return elementwise(ctx, function, x)


for _op, _function in _PLAIN.items():
    _add_row(_op, _function)


@te_rule("Relu", dtypes=REAL)
def relu_rule(ctx: TeContext, x: te.Tensor) -> te.Tensor:
    """Relu-14, integers included."""
    return elementwise(ctx, relu, x)


@te_rule("LeakyRelu", dtypes=FLOATS)
def leaky_relu(ctx: TeContext, x: te.Tensor, *, alpha: float = 0.009999999776482582) -> te.Tensor:
    """LeakyRelu-16."""
    return elementwise(ctx, lambda v: select(v < like(0, v), v * like(alpha, v), v), x)


@te_rule("PRelu", dtypes=REAL)
def prelu(ctx: TeContext, x: te.Tensor, slope: te.Tensor) -> te.Tensor:
    """PRelu-16."""
    return elementwise(ctx, lambda v, s: select(v < like(0, v), v * s, v), x, slope)


@te_rule("Elu", dtypes=FLOATS)
def elu(ctx: TeContext, x: te.Tensor, *, alpha: float = 1.0) -> te.Tensor:
    """Elu-22."""

    def of(v: Prim) -> Prim:
        return select(v < like(0, v), like(alpha, v) * (te.exp(v) - like(1, v)), v)

    return elementwise(ctx, of, x)


@te_rule("Selu", dtypes=FLOATS)
def selu(
    ctx: TeContext,
    x: te.Tensor,
    *,
    alpha: float = 1.67326319217681884765625,
    gamma: float = 1.05070102214813232421875,
) -> te.Tensor:
    """Selu-22."""

    def of(v: Prim) -> Prim:
        low = like(alpha, v) * te.exp(v) - like(alpha, v)
        return like(gamma, v) * select(v <= like(0, v), low, v)

    return elementwise(ctx, of, x)


@te_rule("Celu", dtypes=FLOATS)
def celu(ctx: TeContext, x: te.Tensor, *, alpha: float = 1.0) -> te.Tensor:
    """Celu-12: max(0, x) + min(0, alpha * (exp(x / alpha) - 1))."""

    def of(v: Prim) -> Prim:
        low = like(alpha, v) * (te.exp(v / like(alpha, v)) - like(1, v))
        return relu(v) + bind(low, lambda e: select(e > like(0, e), like(0, e), e))

    return elementwise(ctx, of, x)


@te_rule("ThresholdedRelu", dtypes=FLOATS)
def thresholded_relu(ctx: TeContext, x: te.Tensor, *, alpha: float = 1.0) -> te.Tensor:
    """ThresholdedRelu-22."""
    return elementwise(ctx, lambda v: select(v > like(alpha, v), v, like(0, v)), x)


@te_rule("HardSigmoid", dtypes=FLOATS)
def hard_sigmoid_rule(
    ctx: TeContext, x: te.Tensor, *, alpha: float = 0.20000000298023224, beta: float = 0.5
) -> te.Tensor:
    """HardSigmoid-22."""
    return elementwise(ctx, lambda v: hard_sigmoid(v, alpha, beta), x)


@te_rule("Swish", dtypes=FLOATS)
def swish(ctx: TeContext, x: te.Tensor, *, alpha: float = 1.0) -> te.Tensor:
    """Swish-24: x * sigmoid(alpha * x)."""
    return elementwise(ctx, lambda v: v * sigmoid(like(alpha, v) * v), x)


@te_rule("Gelu", dtypes=FLOATS)
def gelu_rule(ctx: TeContext, x: te.Tensor, *, approximate: str = "none") -> te.Tensor:
    """Gelu-20."""
    return elementwise(ctx, gelu_tanh if approximate == "tanh" else gelu, x)


@te_rule("Shrink", dtypes=REAL)
def shrink(ctx: TeContext, x: te.Tensor, *, bias: float = 0.0, lambd: float = 0.5) -> te.Tensor:
    """Shrink-9; integers are compared and shifted as floats."""

    def shrunk(v: Prim) -> Prim:
        high = select(v > like(lambd, v), v - like(bias, v), like(0, v))
        return select(v < like(-lambd, v), v + like(bias, v), high)

    return elementwise(ctx, lambda v: bind(as_float(v), shrunk), x)
