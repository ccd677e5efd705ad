"""What a tuning found, as plain data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from burnish.tuning.ledger import Record


@dataclass(frozen=True)
class TunedProblem:
    """One problem. Times are those of one call, in microseconds.

    Attributes:
        problem: Composite, instruction set, operands and attributes.
        nodes: Nodes of the model that have it.
        table: The cost table's choice.
        table_us: Its time; None if it was not measured.
        chosen: What is taken.
        chosen_us: Its time; None likewise.
        microseconds: Times of all tactics that were measured.
        unmeasured: Tactics that were not.
        kept: Whether the timing cache had it all.
        gain_us: What the choice saves in one run of the model against the cost table's.
    """

    problem: str
    nodes: int
    table: str
    table_us: float | None
    chosen: str
    chosen_us: float | None
    microseconds: dict[str, float]
    unmeasured: tuple[str, ...]
    kept: bool
    gain_us: float


@dataclass(frozen=True)
class TuningReport:
    """A tuning.

    Attributes:
        seconds: Time that it took.
        budget: Time that it was to take.
        sizes: Shapes of inputs with symbolic dims that were measured with.
        environment: What the times depend on besides the problem.
        cache: The file that keeps them.
        rounds: Builds of the model in which tactics were measured.
        problems: In the order of the model.
        table_ms: Least time of a run of the cost table's build; None if the choices are the same.
        tuned_ms: Least time of a run of the tuned build, interleaved with the other; None likewise.
        verdict: What the comparison of the two says.
        reverted: Whether the cost table's choices were kept because the tuned build was slower.
    """

    seconds: float
    budget: float
    sizes: str
    environment: str
    cache: str
    rounds: int
    problems: tuple[TunedProblem, ...]
    table_ms: float | None = None
    tuned_ms: float | None = None
    verdict: str = ""
    reverted: bool = False

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)


def problems_of(records: Iterable[Record]) -> tuple[TunedProblem, ...]:
    """What is known of problems."""
    return tuple(map(_problem, records))


def _problem(record: Record) -> TunedProblem:
    times = record.microseconds
    table, chosen = times.get(record.table), times.get(record.best)
    gain = 0.0 if table is None or chosen is None else record.nodes * (table - chosen)
    return TunedProblem(
        problem=record.problem,
        nodes=record.nodes,
        table=record.table,
        table_us=table,
        chosen=record.best,
        chosen_us=chosen,
        microseconds=dict(times),
        unmeasured=record.unmeasured,
        kept=record.kept,
        gain_us=gain,
    )
