"""Activation functions that exporters spell out become one operator each.

::

    Gelu(x)          = 0.5 x (1 + erf(x / sqrt 2))
    Gelu(x; tanh)    = 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))
                       (both: Hendrycks and Gimpel, 2016)
    Swish(x)         = x sigmoid(x)                                      (SiLU)
    HardSigmoid(x)   = clip(x / 6 + 1/2, 0, 1)
    HardSwish(x)     = x clip(x + 3, 0, 6) / 6
    Mish(x)          = x tanh(softplus(x))
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from burnish.ir import Builder
from burnish.ir.types import to_numpy
from burnish.passes.base import Numerics
from burnish.passes.patterns import Either, Match, NodePattern, NoMatch, const, either, near, opt
from burnish.passes.patterns import scalar as scalar_of
from burnish.passes.rewrite import PatternRule, Result, RewritePass, Rule

SQRT_HALF = math.sqrt(0.5)
SQRT_2_OVER_PI = math.sqrt(2 / math.pi)


def product3(op: Any, a: Any, b: Any, c: Any) -> Either:
    """``a * b * c`` in any order (Mul commutes, so three groupings are all)."""
    return either(op.Mul(op.Mul(a, b), c), op.Mul(op.Mul(a, c), b), op.Mul(op.Mul(b, c), a))


def _float_input(m: Match) -> NoMatch | None:
    x = m["x"]
    return None if x.dtype.startswith(("float", "bfloat")) else NoMatch("x is no float", x)


class FuseGeluErf(PatternRule):
    """0.5 * x * (1 + erf(x / sqrt 2)) => Gelu(x)."""

    name = "fuse-gelu-erf"
    numerics = Numerics.REASSOCIATES

    def pattern(self, op: Any, x: Any) -> Either:
        """The product of x, 0.5 and the error function, in any order."""
        inner = either(op.Div(x, near(math.sqrt(2))), op.Mul(x, near(SQRT_HALF)))
        gate = op.Add(op.Erf(inner), 1.0)
        halved = op.Add(op.Mul(op.Erf(inner), 0.5), 0.5)
        return either(
            *product3(op, x, gate, 0.5).options,
            op.Div(op.Mul(x, gate), 2.0),
            op.Mul(op.Div(x, 2.0), gate),
            op.Mul(x, op.Div(gate, 2.0)),
            op.Mul(x, halved),
        )

    def rewrite(self, m: Match, b: Builder) -> Result:
        """One Gelu."""
        return _float_input(m) or b.op("Gelu", m["x"], approximate="none")


class FuseGeluTanh(PatternRule):
    """0.5 * x * (1 + tanh(c * (x + 0.044715 * x^3))) => Gelu(x, approximate=tanh)."""

    name = "fuse-gelu-tanh"
    numerics = Numerics.REASSOCIATES

    def pattern(self, op: Any, x: Any) -> Either:
        """All spellings of the cube and of the outer product."""
        k = near(0.044715)
        square = either(op.Mul(x, x), op.Pow(x, 2.0))
        cubic = either(
            op.Mul(op.Pow(x, 3.0), k),
            *product3(op, square, x, k).options,
            op.Mul(op.Mul(op.Mul(k, x), x), x),
        )
        c = near(SQRT_2_OVER_PI)
        plain = op.Mul(op.Add(x, cubic), c)
        # c * x * (1 + 0.044715 * x^2)
        factored = product3(op, x, op.Add(op.Mul(square, k), 1.0), c)
        gate = op.Add(op.Tanh(either(plain, *factored.options)), 1.0)
        return either(
            *product3(op, x, gate, 0.5).options,
            op.Div(op.Mul(x, gate), 2.0),
            op.Mul(x, op.Add(op.Mul(op.Tanh(either(plain, *factored.options)), 0.5), 0.5)),
        )

    def rewrite(self, m: Match, b: Builder) -> Result:
        """One Gelu."""
        return _float_input(m) or b.op("Gelu", m["x"], approximate="tanh")


class FuseSwish(PatternRule):
    """x * sigmoid(x) => Swish(x)."""

    name = "fuse-swish"

    def pattern(self, op: Any, x: Any) -> Either:
        """The product, or the quotient x / (1 + exp(-x))."""
        return either(op.Mul(x, op.Sigmoid(x)), op.Div(x, op.Add(op.Exp(op.Neg(x)), 1.0)))

    def rewrite(self, m: Match, b: Builder) -> Result:
        """One Swish."""
        return _float_input(m) or b.op("Swish", m["x"], alpha=1.0)


class FuseMish(PatternRule):
    """x * tanh(softplus(x)) => Mish(x)."""

    name = "fuse-mish"

    def pattern(self, op: Any, x: Any) -> NodePattern:
        """The product."""
        made: NodePattern = op.Mul(x, op.Tanh(op.Softplus(x)))
        return made

    def rewrite(self, m: Match, b: Builder) -> Result:
        """One Mish."""
        return _float_input(m) or b.op("Mish", m["x"])


def _clip(op: Any, x: Any, low: float, high: float) -> Either:
    relu6 = op.Clip(x, low, high)
    return either(relu6, op.Min(op.Max(x, low), high), op.Max(op.Min(x, high), low))


class FuseHardSwish(PatternRule):
    """x * clip(x + 3, 0, 6) / 6 => HardSwish(x)."""

    name = "fuse-hard-swish"
    numerics = Numerics.REASSOCIATES

    def pattern(self, op: Any, x: Any) -> Either:
        """Division or multiplication by a sixth, at any place; or by way of HardSigmoid."""
        gate = _clip(op, op.Add(x, 3.0), 0.0, 6.0)
        sixth = near(1 / 6)
        scaled = either(op.Div(gate, 6.0), op.Mul(gate, sixth))
        return either(
            op.Div(op.Mul(x, gate), 6.0),
            *product3(op, x, gate, sixth).options,
            op.Mul(x, scaled),
            op.Mul(x, op.HardSigmoid(x, _as="gate")),
        )

    def rewrite(self, m: Match, b: Builder) -> Result:
        """One HardSwish."""
        gate = m.named.get("gate")
        if gate is not None:
            alpha, beta = gate.float_attr("alpha", 0.2), gate.float_attr("beta", 0.5)
            if not math.isclose(alpha, 1 / 6, rel_tol=5e-5) or beta != 0.5:
                return NoMatch(f"the gate's slope is {alpha:g}, not 1/6", gate)
        return _float_input(m) or b.op("HardSwish", m["x"])


class FuseScaledHardSwish(PatternRule):
    """x * clip(x + 3, 0, 6) => 6 * HardSwish(x), where the sixth is part of another factor."""

    name = "fuse-scaled-hard-swish"
    numerics = Numerics.REASSOCIATES

    def pattern(self, op: Any, x: Any) -> NodePattern:
        """The product without the sixth."""
        made: NodePattern = op.Mul(x, _clip(op, op.Add(x, 3.0), 0.0, 6.0))
        return made

    def rewrite(self, m: Match, b: Builder) -> Result:
        """HardSwish and a factor, if a constant factor follows that can take it."""
        follower = m.root.output.single_user()
        if follower is None or follower.key not in ("Mul", "Div"):
            return NoMatch("no constant factor follows", m.root)
        factor = next((f for v in follower.inputs if (f := scalar_of(v)) is not None), None)
        if factor is None:
            return NoMatch("no constant factor follows", m.root)
        if math.isclose(factor, 6 if follower.op == "Div" else 1 / 6, rel_tol=5e-5):
            return NoMatch("the sixth follows", follower)
        six = b.constant(np.asarray(6, to_numpy(m["x"].dtype)))
        return _float_input(m) or b.op("Mul", b.op("HardSwish", m["x"]), six)


class FuseHardSigmoid(PatternRule):
    """clip(x + 3, 0, 6) / 6 and clip(x * a + c, 0, 1) => HardSigmoid(x)."""

    name = "fuse-hard-sigmoid"
    numerics = Numerics.REASSOCIATES

    def pattern(self, op: Any, x: Any) -> Either:
        """The division outside, or the slope and offset inside."""
        gate = _clip(op, op.Add(x, 3.0), 0.0, 6.0)
        line = op.Add(either(op.Mul(x, const("a")), op.Div(x, const("d"))), const("c"))
        return either(
            op.Div(gate, 6.0),
            op.Mul(gate, near(1 / 6)),
            *_clip(op, line, 0.0, 1.0).options,
        )

    def rewrite(self, m: Match, b: Builder) -> Result:
        """One HardSigmoid with the slope and offset found."""
        alpha, beta = 1 / 6, 0.5
        if m.has("c"):
            slope = scalar_of(m.get("a")) if m.has("a") else scalar_of(m.get("d"))
            offset = scalar_of(m["c"])
            if slope is None or offset is None or slope == 0:
                return NoMatch("slope and offset are not single numbers", m["c"])
            alpha, beta = (slope if m.has("a") else 1 / slope), offset
        return _float_input(m) or b.op("HardSigmoid", m["x"], alpha=alpha, beta=beta)


class ClipToRelu(PatternRule):
    """clip(x, 0, inf) => relu(x)."""

    name = "clip-to-relu"

    def pattern(self, op: Any, x: Any) -> NodePattern:
        """A Clip from zero without an upper bound."""
        made: NodePattern = op.Clip(x, 0.0, opt(const("high")))
        return made

    def rewrite(self, m: Match, b: Builder) -> Result:
        """One Relu."""
        high = m.get("high")
        if high is not None and scalar_of(high) != math.inf:
            return NoMatch("there is an upper bound", high)
        return _float_input(m) or b.op("Relu", m["x"])


@dataclass(frozen=True)
class FuseActivations(RewritePass):
    """Recognize activation functions that are spelled out.

    Before: Div, Erf, Add, Mul, Mul (five passes over the memory).
    After: Gelu, Swish, HardSwish, HardSigmoid, Mish, Relu.
    Keeps: other constants than the published ones, values that are used elsewhere.
    Numerics: reassociates.
    """

    name = "fuse-activations"
    numerics = Numerics.REASSOCIATES
    rules: ClassVar[tuple[Rule, ...]] = (
        FuseGeluErf(),
        FuseGeluTanh(),
        FuseSwish(),
        FuseMish(),
        FuseHardSwish(),
        FuseScaledHardSwish(),
        FuseHardSigmoid(),
        ClipToRelu(),
    )
