"""What a search for the best precisions found. Plain data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class RegionChoice:
    """A region, and the precision that it got.

    Attributes:
        name: What it is called.
        nodes: Original names of its products.
        precision: The precision.
        reason: Why it has no lower one; empty where it has the lowest.
        sensitivity: What its lowest precision adds to the drop; None if it was not measured.
        seconds: Times of its kernels by precision.
    """

    name: str
    nodes: tuple[str, ...]
    precision: str
    reason: str
    sensitivity: float | None
    seconds: dict[str, float]


@dataclass(frozen=True)
class FrontPoint:
    """One point of the front of accuracy against latency.

    Attributes:
        label: How many regions have which precision.
        seconds: Sum of the measured times of its kernels.
        drop: Mean drop on the samples that were chosen with.
        chosen: Whether it is what was built.
    """

    label: str
    seconds: float
    drop: float
    chosen: bool


@dataclass(frozen=True)
class AutoReport:
    """What was found, and what it loses on samples that nothing was chosen with.

    Attributes:
        metric: What a drop is.
        bound: The largest drop that was allowed; None: not bounded.
        atol: The largest error that was allowed.
        drop: Mean drop of the artifact on the samples that were held out.
        worst: Largest drop of one of them.
        error: Largest error of an element, in units of its output's root mean square.
        chosen_on: Samples that were chosen with.
        judged_on: Samples that were held out.
        evaluations: Assignments that were evaluated.
        seconds: Shortest calls of builds that were timed in turns; ``auto`` is the artifact.
        below_fp32: Share of the operations of all products that are computed below fp32.
        regions: The regions.
        turned_back: Precisions that were not used because they are not faster.
        front: The front, the slowest first.
    """

    metric: str
    bound: float | None
    atol: float | None
    drop: float
    worst: float
    error: float
    chosen_on: int
    judged_on: int
    evaluations: int
    seconds: dict[str, float]
    below_fp32: float
    regions: tuple[RegionChoice, ...]
    turned_back: tuple[str, ...]
    front: tuple[FrontPoint, ...]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {"schema_version": 1, **asdict(self)}
