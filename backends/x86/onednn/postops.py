"""Post-ops in oneDNN's terms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from burnish.backends.base import Refused
from burnish.ir.postops import PostOp


@dataclass(frozen=True)
class Step:
    """One of oneDNN's post-ops.

    Attributes:
        algorithm: Its name in oneDNN without ``eltwise_`` or ``binary_``.
        alpha: First parameter of an elementwise step.
        beta: Second parameter.
        operand: Kind of the second operand of a binary step: ``channel``, ``full``, ``scalar``.
        type: Element type of that operand, by oneDNN's name.
    """

    algorithm: str
    alpha: float = 0.0
    beta: float = 0.0
    operand: str = ""
    type: str = "f32"


#: Unary post-ops by name, made of their parameters. oneDNN has no ``Erf``.
_UNARY: dict[str, Callable[..., Step]] = {
    "Relu": lambda: Step("relu"),
    "LeakyRelu": lambda alpha: Step("relu", alpha),
    "Elu": lambda alpha: Step("elu", alpha),
    "Clip": lambda low, high: Step("clip", low, high),
    "Sigmoid": lambda: Step("logistic"),
    "HardSigmoid": lambda alpha, beta: Step("hardsigmoid", alpha, beta),
    "HardSwish": lambda: Step("hardswish", 1 / 6, 0.5),
    "Silu": lambda: Step("swish", 1.0),
    "Tanh": lambda: Step("tanh"),
    "Gelu": lambda: Step("gelu_erf"),
    "GeluTanh": lambda: Step("gelu_tanh"),
    "Softplus": lambda: Step("soft_relu", 1.0),
    "Neg": lambda: Step("linear", -1.0),
    "Abs": lambda: Step("abs"),
    "Sqrt": lambda: Step("sqrt"),
    "Exp": lambda: Step("exp"),
}


def refuse_postops(postops: Sequence[PostOp]) -> Refused | None:
    """Refuse what oneDNN has no post-op for."""
    missing = [p.op for p in postops if not p.operand and p.op not in _UNARY]
    return Refused(f"oneDNN has no post-op for {missing[0]}") if missing else None


def epilogue(
    postops: Sequence[PostOp], *, bias: bool, dtype: str = "f32"
) -> tuple[bool, tuple[Step, ...]]:
    """Whether the first post-op is a bias, where there may be one, and the steps after that.

    Args:
        postops: Without quantized operands.
        bias: Whether there may be a bias.
        dtype: Element type of the operands, by oneDNN's name.
    """
    first = bias and bool(postops) and postops[0] == PostOp("Add", "channel")
    return first, tuple(step(p, dtype) for p in postops[first:])


def step(postop: PostOp, dtype: str) -> Step:
    """One post-op whose operand, if it has one, is of a type."""
    if postop.operand:
        return Step(postop.op.lower(), operand=postop.operand, type=dtype)
    return _UNARY[postop.op](*postop.params)
