"""Is a ratio of times beyond its limit? Decided as early as the noise allows, or not at all.

Each block of a measurement gives one logarithm of the ratio. Where two programs meet the same noise
in random order, the difference of their logarithms is symmetric about the true ratio, whatever the
noise is: that is all that the signed-rank bounds need. The bounds are looked at again and again
while blocks come in, and whoever looks often enough sees something: so the k-th look may err with
a probability of ``alpha / (k (k + 1))`` only, which adds up to ``alpha`` over any number of looks.

References: T. Kalibera and R. Jones, "Rigorous benchmarking in reasonable time", ISMM 2013
(confidence intervals of ratios, repetition of what is random); K. K. G. Lan and D. L. DeMets,
"Discrete sequential boundaries for clinical trials", Biometrika 70, 1983 (spending alpha).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from burnish.bench.signed_rank import bounds, centre, walsh_averages
from burnish.errors import UsageError

Decision = Literal["passed", "failed", "inconclusive"]

#: Growth of the number of blocks from one look to the next.
_GROWTH = 4 / 3


@dataclass(frozen=True)
class Verdict:
    """What is known of a ratio after a look.

    Attributes:
        decision: ``passed``: the upper bound is within the limit; ``failed``: the lower bound is
            beyond it; ``inconclusive``: the limit lies between the two.
        ratio: Estimate of the ratio.
        lower: It is at least this, with the confidence that was asked for.
        upper: It is at most this, likewise.
        blocks: Blocks that it rests on.
        looks: How often the bounds were looked at.
    """

    decision: Decision
    ratio: float
    lower: float
    upper: float
    blocks: int
    looks: int


@dataclass
class SequentialTest:
    """Compares a ratio with a limit, block by block.

    Attributes:
        limit: The largest ratio that passes.
        confidence: Probability that neither ``passed`` nor ``failed`` is said wrongly.
        first: Blocks before the first look.

    Raises:
        UsageError: A number is out of range.
    """

    limit: float
    confidence: float = 0.999
    first: int = 12
    values: list[float] = field(default_factory=list)
    looks: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.limit < math.inf:
            raise UsageError(f"the limit of a ratio must be a positive number, not {self.limit}")
        if not 0.5 <= self.confidence < 1:
            raise UsageError(f"confidence must lie in [0.5, 1): {self.confidence}")
        if self.first < 1:
            raise UsageError(f"at least one block has to be measured, not {self.first}")
        self._next = self.first

    def add(self, log_ratio: float) -> None:
        """Take the natural logarithm of one block's ratio."""
        self.values.append(log_ratio)

    @property
    def due(self) -> bool:
        """Whether there are enough new blocks for a look."""
        return len(self.values) >= self._next

    def look(self) -> Verdict:
        """Judge what is there; every look costs some of the certainty of those that follow.

        Raises:
            UsageError: No block was measured.
        """
        count = len(self.values)
        if not count:
            raise UsageError("nothing was measured", hint="raise the time budget")
        self.looks += 1
        self._next = max(count + 1, math.ceil(count * _GROWTH))
        alpha = (1 - self.confidence) / (self.looks * (self.looks + 1))
        averages = walsh_averages(self.values)
        lower, upper = bounds(averages, count, alpha)
        limit = math.log(self.limit)
        decision: Decision = "inconclusive"
        if upper <= limit:
            decision = "passed"
        elif lower > limit:
            decision = "failed"
        return Verdict(
            decision,
            math.exp(centre(averages)),
            math.exp(lower),
            math.exp(upper),
            count,
            self.looks,
        )
