"""Post-operations: what a kernel does to its result before it stores it.

The one vocabulary for epilogues, shared by the composites of the IR (attribute ``postops``, a list
of strings) and by the kernel templates of the backends. The name follows oneDNN's *post-op*.

A post-op is unary (``Relu``, ``Clip:0:6``, ``LeakyRelu:0.1``) or binary with an operand that is a
further input of the node, taken in the order of the post-ops: ``Add:channel`` (shape ``[C]``,
broadcast along the last axis of the stored result), ``Add:full`` (same shape as the result),
``Mul:scalar`` (one element), ``Add:quantized:0.02:3.0`` (same shape as the result, stored in 8 bits
with that scale and zero point). The accumulated value is always the left operand.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Operand = Literal["", "channel", "full", "quantized", "scalar"]

#: Kinds of operands, with the number of float parameters each has.
KINDS: dict[Operand, int] = {"channel": 0, "full": 0, "quantized": 2, "scalar": 0}

#: Unary post-ops by name, with the number of float parameters each takes. Names are those of ONNX
#: operators; ``Gelu`` is the erf form, ``GeluTanh`` the tanh form, ``Silu`` is ``x * Sigmoid(x)``,
#: ``HardSigmoid`` has (alpha, beta), ``Clip`` (min, max), and ``HardSwish`` is
#: ``x * HardSigmoid(x)`` with 1/6 and 0.5.
UNARY: dict[str, int] = {
    "Relu": 0,
    "Sigmoid": 0,
    "Tanh": 0,
    "Gelu": 0,
    "GeluTanh": 0,
    "Silu": 0,
    "HardSwish": 0,
    "HardSigmoid": 2,
    "LeakyRelu": 1,
    "Elu": 1,
    "Clip": 2,
    "Neg": 0,
    "Abs": 0,
    "Sqrt": 0,
    "Exp": 0,
    "Erf": 0,
    "Softplus": 0,
}
BINARY: tuple[str, ...] = ("Add", "Sub", "Mul", "Div", "Max", "Min")


@dataclass(frozen=True)
class PostOp:
    """One step of an epilogue.

    Attributes:
        op: A name of :data:`UNARY` or :data:`BINARY`.
        operand: For a binary op, the kind of its second operand; empty for a unary op.
        params: Float parameters of a unary op, in ONNX attribute order; scale and zero point of a
            ``quantized`` operand.
    """

    op: str
    operand: Operand = ""
    params: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.operand:
            if self.op not in BINARY or len(self.params) != KINDS[self.operand]:
                raise ValueError(f"not a binary post-op: {self.encode()}")
        elif self.op not in UNARY or len(self.params) != UNARY[self.op]:
            raise ValueError(f"not a unary post-op: {self.encode()}")

    def encode(self) -> str:
        """The string form, as stored in a composite's ``postops`` attribute."""
        parts = [self.op]
        if self.operand:
            parts.append(self.operand)
        parts += [repr(float(p)) for p in self.params]
        return ":".join(parts)


def parse_postop(text: str) -> PostOp:
    """Parse the string form of a post-op; raises ValueError when it is not one."""
    op, *rest = text.split(":")
    kind: Operand = ""
    if rest and rest[0] in KINDS:
        kind = rest.pop(0)  # type: ignore[assignment]
    return PostOp(op, kind, tuple(float(p) for p in rest))


def parse_postops(texts: Iterable[str]) -> tuple[PostOp, ...]:
    """Parse a composite's ``postops`` attribute."""
    return tuple(parse_postop(t) for t in texts)


def operands(postops: Sequence[PostOp]) -> tuple[Operand, ...]:
    """Operand kinds of the binary post-ops in order: the extra inputs that the node has."""
    return tuple(p.operand for p in postops if p.operand)
