"""Group normalization that is spelled with instance normalization becomes one operator.

::

    GroupNormalization(x) = scale * (x - mean_g) / sqrt(var_g + epsilon) + bias   (Wu and He, 2018)

PyTorch writes reshape, InstanceNormalization over the groups, reshape back, Mul and Add.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from burnish.ir import Builder, Value, equal
from burnish.ir.types import to_numpy
from burnish.passes.base import Numerics
from burnish.passes.patterns import Match, NodePattern, NoMatch, const
from burnish.passes.rewrite import PatternRule, Result, RewritePass, Rule


class FuseGroupNorm(PatternRule):
    """reshape(instancenorm(reshape(x, [N, G, -1]))) * s + c => GroupNormalization(x, s, c)."""

    name = "fuse-group-norm"
    numerics = Numerics.REASSOCIATES

    def pattern(self, op: Any, x: Any, s1: Any, s2: Any) -> NodePattern:
        """With the affine part that PyTorch always writes."""
        grouped = op.Reshape(x, s1, _as="groups")
        plain = op.InstanceNormalization(grouped, const("ones"), const("zeros"), _as="norm")
        back = op.Reshape(plain, s2, _as="back")
        made: NodePattern = op.Add(op.Mul(back, const("s")), const("c"))
        return made

    def rewrite(self, m: Match, b: Builder) -> Result:
        """Check the groups; the inner scale and bias must be one and zero."""
        x, grouped = m["x"], m.node("groups").output
        if len(x.shape) < 3 or len(grouped.shape) != 3:
            return NoMatch("the groups do not have the shape [N, G, -1]", m.node("groups"))
        channels, groups = x.shape[1], grouped.shape[1]
        if not isinstance(channels, int) or not isinstance(groups, int) or channels % groups:
            return NoMatch("the channels do not split into the groups", m.node("groups"))
        if not equal(x.shape[0], grouped.shape[0]) or not m.node("back").output.t.same_shape(x.t):
            return NoMatch("the reshapes do not undo each other", m.node("back"))
        if np.any(m["ones"].array != 1) or np.any(m["zeros"].array != 0):
            return NoMatch("the groups have a scale or bias of their own", m.node("norm"))
        parts = [_by_channel(m[name], len(x.shape), channels) for name in ("s", "c")]
        if parts[0] is None or parts[1] is None:
            return NoMatch("scale or bias does not lie along the channels", m.root)
        dtype = to_numpy(x.dtype)
        scale, bias = (b.constant(np.ascontiguousarray(p, dtype)) for p in parts if p is not None)
        epsilon = m.node("norm").float_attr("epsilon", 1e-5)
        return b.op("GroupNormalization", x, scale, bias, num_groups=groups, epsilon=epsilon)


def _by_channel(value: Value, rank: int, channels: int) -> np.ndarray | None:
    """A constant as [C], if it broadcasts along axis 1 only."""
    array = value.array
    if array.size == 1:
        return np.broadcast_to(array.reshape(()), (channels,))
    shape = (1,) * (rank - array.ndim) + array.shape
    along = len(shape) == rank and shape[1] == channels and array.size == channels
    return array.reshape(-1) if along else None


@dataclass(frozen=True)
class FuseGroupNormalization(RewritePass):
    """Recognize group normalization that is spelled with instance normalization.

    Before: Reshape -> InstanceNormalization -> Reshape -> Mul -> Add.
    After: GroupNormalization.
    Keeps: groups with a scale of their own, run-time scales.
    Numerics: reassociates.
    """

    name = "fuse-group-normalization"
    numerics = Numerics.REASSOCIATES
    rules: ClassVar[tuple[Rule, ...]] = (FuseGroupNorm(),)
