"""Chooses a precision for each region: the most time that the budget gives back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from burnish.auto.metric import Loss
from burnish.precision.options import Budget

#: From the highest to the lowest.
ORDER = ("fp32", "bf16", "int8", "int4")
#: A lower precision has to be faster by as much, or it is not used.
_FASTER = 0.98
#: Share of the budget that is spent on the samples that are chosen with: others may lose more.
_SHARE = 0.8
#: Beyond so many budgets the drop of all together says little of the parts: it has reached its end.
_FAR = 4.0
#: Evaluations that single regions leave for choosing among sets of them.
_RESERVE = 6

#: What fp32 loses.
_NOTHING = Loss(0.0, 0.0, 0.0)

#: A precision for each region.
Levels = tuple[str, ...]


@dataclass(frozen=True)
class TurnedBack:
    """A precision that a region does not get because it is not faster.

    Attributes:
        region: Index of the region.
        precision: The precision.
        seconds: Time of the region in it.
        higher: The higher precision that is as fast.
        higher_seconds: Time in that.
    """

    region: int
    precision: str
    seconds: float
    higher: str
    higher_seconds: float


@dataclass(frozen=True)
class Point:
    """An assignment that was evaluated.

    Attributes:
        levels: Precision of each region.
        seconds: Sum of the measured times of all kernels in it.
        loss: What it loses on the samples that are chosen with.
    """

    levels: Levels
    seconds: float
    loss: Loss


def ladders(
    times: Mapping[str, Sequence[float]],
) -> tuple[list[tuple[str, ...]], list[TurnedBack]]:
    """Precisions that each region may have, from the lowest to the highest, and those refused.

    Args:
        times: Seconds of each region by precision; has ``fp32``.
    """
    found: list[tuple[str, ...]] = []
    refused: list[TurnedBack] = []
    for region in range(len(times["fp32"])):
        ladder = ["fp32"]
        for precision in ORDER[1:]:
            if precision not in times:
                continue
            best = min(ladder, key=lambda p: times[p][region])
            seconds, higher = times[precision][region], times[best][region]
            if seconds < _FASTER * higher:
                ladder.append(precision)
            else:
                refused.append(TurnedBack(region, precision, seconds, best, higher))
        found.append(tuple(reversed(ladder)))
    return found, refused


@dataclass
class Search:
    """Finds the fastest assignment within a budget.

    Args:
        times: Seconds of each region by precision.
        evaluate: Measures the loss of an assignment.
        left: Tells how many evaluations may still be made.
        budget: What may be lost.
        rest: Seconds of kernels outside of all regions.
    """

    times: Mapping[str, Sequence[float]]
    evaluate: Callable[[Levels], Loss]
    left: Callable[[], int]
    budget: Budget
    rest: float = 0.0
    points: list[Point] = field(default_factory=list)
    #: Loss that a region's lowest precision adds where all others have theirs, by region; where
    #: that is far beyond the budget, where all others are in fp32.
    sensitivity: dict[int, float] = field(default_factory=dict)
    #: The same in shares of the budget, which may be one of errors.
    _added: dict[int, float] = field(default_factory=dict)
    #: Regions to turn back by one step each, the most worthwhile first.
    _steps: list[int] = field(default_factory=list)
    #: Those of them that were turned back.
    _taken: list[int] = field(default_factory=list)

    def run(self) -> Levels:
        """The assignment to build.

        It begins with the lowest precision everywhere, measures what each region adds to the loss,
        and turns back as few as possible, the most sensitive per time first.
        """
        self._ladders, self.turned_back = ladders(self.times)
        lowest = self._point(self._levels(()))
        self._measure_regions(lowest.loss)
        self._steps = self._ordered(lowest.loss)
        if lowest.loss.within(self.budget, _SHARE):
            return lowest.levels
        fails, fits = 0, len(self._steps)
        while fits - fails > 1 and self.left() > 1:
            middle = (fails + fits) // 2
            if self._fits(self._steps[:middle]):
                fits = middle
            else:
                fails = middle
        self._taken = self._steps[:fits]
        self._undo()
        return self._levels(self._taken)

    def _undo(self) -> None:
        """Take single steps back that the budget does not need, those that save most first."""
        for region in sorted(set(self._taken), key=lambda r: (-self._cost(r, 0), r)):
            if self.left() <= 1:
                return
            fewer = list(self._taken)
            fewer.remove(region)
            if len(fewer) < len(self._taken) and self._fits(fewer):
                self._taken = fewer

    def back_off(self) -> Levels | None:
        """A higher assignment than the last one, which lost too much; None above all fp32."""
        rest = list(self._steps)
        for region in self._taken:
            rest.remove(region)
        if not rest:
            return None
        self._taken += rest[: max(1, len(rest) // 2)]
        return self._levels(self._taken)

    def seconds(self, levels: Levels) -> float:
        """Sum of the measured times of an assignment."""
        return self.rest + sum(self.times[p][r] for r, p in enumerate(levels))

    def front(self, built: Levels, loss: Loss) -> list[Point]:
        """Points that no other beats in both, the slowest first, and what was built.

        Args:
            built: The assignment that was built.
            loss: What it loses; taken where it was not evaluated before.
        """
        highest: Levels = ("fp32",) * len(self.times["fp32"])
        known = {p.levels: p for p in self.points}
        known.setdefault(highest, Point(highest, self.seconds(highest), _NOTHING))
        known.setdefault(built, Point(built, self.seconds(built), loss))
        found: list[Point] = []
        best = float("inf")
        for point in sorted(known.values(), key=lambda p: (p.seconds, p.loss.drop)):
            if point.loss.drop < best or point.levels == built:
                found.append(point)
                best = min(best, point.loss.drop)
        return found[::-1]

    def point(self, levels: Levels) -> Point:
        """Evaluate an assignment that somebody else proposes."""
        return self._point(levels)

    def _point(self, levels: Levels) -> Point:
        known = next((p for p in self.points if p.levels == levels), None)
        if known is None:
            known = Point(levels, self.seconds(levels), self.evaluate(levels))
            self.points.append(known)
        return known

    def _measure_regions(self, lowest: Loss) -> None:
        by_time = sorted(
            (r for r, ladder in enumerate(self._ladders) if len(ladder) > 1),
            key=lambda r: -self.times["fp32"][r],
        )
        for region in by_time:
            if self.left() <= _RESERVE:
                break
            if lowest.within(self.budget, _FAR):
                low, high = lowest, self._point(self._levels((region,))).loss
            else:
                alone = [ladder[-1] for ladder in self._ladders]
                alone[region] = self._ladders[region][0]
                low, high = self._point(tuple(alone)).loss, _NOTHING
            self.sensitivity[region] = max(0.0, low.drop - high.drop)
            self._added[region] = max(0.0, low.spent(self.budget) - high.spent(self.budget))

    def _ordered(self, lowest: Loss) -> list[int]:
        """Regions to turn back, step by step: first steps of all, then second steps, ..."""
        typical = lowest.spent(self.budget) / max(1, len(self._ladders))

        def worth(region: int, step: int) -> float:
            return self._added.get(region, typical) / max(self._cost(region, step), 1e-9)

        steps: list[int] = []
        for step in range(max((len(ladder) for ladder in self._ladders), default=1) - 1):
            open_ = [r for r, ladder in enumerate(self._ladders) if len(ladder) > step + 1]
            steps += sorted(open_, key=lambda r: (-worth(r, step), r))
        return steps

    def _cost(self, region: int, step: int) -> float:
        """Seconds that a step upwards takes."""
        ladder = self._ladders[region]
        return self.times[ladder[step + 1]][region] - self.times[ladder[step]][region]

    def _fits(self, steps: Sequence[int]) -> bool:
        return self._point(self._levels(steps)).loss.within(self.budget, _SHARE)

    def _levels(self, steps: Sequence[int]) -> Levels:
        taken = Counter(steps)
        return tuple(ladder[taken[region]] for region, ladder in enumerate(self._ladders))
