"""What a tuning knows of every problem: its tactics, what was planned, and what was measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from burnish.lowering.tactics import Choice, CostTable, Problem, Tactic
from burnish.tuning.timings import Entry


@dataclass
class Record:
    """One problem.

    Attributes:
        key: Unique: the problem, and the tactics if other nodes with it have other ones.
        problem: The problem.
        names: Its tactics, the cheapest of the cost table first.
        table: The cost table's choice.
        nodes: Nodes of the model that have the problem.
        microseconds: Least time of a call by tactic, as far as measured.
        planned: How often each tactic was built into the model to be measured.
        chosen: The tactic to take; empty while that is open.
        kept: Whether times and choice are those of an earlier tuning.
        sizes: Shapes of the model's inputs, where the problem's sizes depend on them.
    """

    key: str
    problem: str
    names: tuple[str, ...]
    table: str
    nodes: int = 0
    microseconds: dict[str, float] = field(default_factory=dict)
    planned: dict[str, int] = field(default_factory=dict)
    chosen: str = ""
    kept: bool = False
    sizes: str = ""

    @property
    def unmeasured(self) -> tuple[str, ...]:
        """Tactics without a time."""
        return tuple(n for n in self.names if n not in self.microseconds)

    @property
    def covered(self) -> bool:
        """Whether every tactic was planned once."""
        return all(n in self.planned for n in self.names)

    @property
    def ranked(self) -> list[str]:
        """Measured tactics, the fastest first."""
        return sorted(self.microseconds, key=self.microseconds.__getitem__)

    @property
    def best(self) -> str:
        """What to take as far as is known."""
        return self.chosen or next(iter(self.ranked), self.table)

    def plan(self) -> str:
        """The tactic that was planned least often, of equal ones the cheapest; plans it."""
        name = min(self.names, key=lambda n: self.planned.get(n, 0))
        self.planned[name] = self.planned.get(name, 0) + 1
        return name

    def entry(self) -> Entry:
        """For the timing cache."""
        times = {name: round(time, 3) for name, time in self.microseconds.items()}
        return Entry(self.best, times, self.unmeasured, self.sizes)


@dataclass
class Ledger:
    """All problems of a model.

    Attributes:
        table: The cost table that is to be improved on.
        known: What earlier tunings measured.
        sizes: Shapes of the model's inputs that it is measured with, as text.
        records: By problem, in the order of the model.
    """

    table: CostTable
    known: Mapping[str, Entry] = field(default_factory=dict)
    sizes: str = ""
    records: dict[str, Record] = field(default_factory=dict)

    def record(self, problem: Problem, tactics: Sequence[Tactic], default: Choice) -> Record:
        """The record of a problem; a new one starts with what is known already.

        What a tactic's error is may depend on the weights: equal problems need not have equal
        tactics.
        """
        names = tuple(t.name for t in tactics)
        key = problem.key
        if key in self.records and set(self.records[key].names) != set(names):
            key = f"{problem.key} by {', '.join(names)}"
        if key not in self.records:
            sizes = self.sizes if problem.symbolic else ""
            record = self.records[key] = Record(
                key, problem.key, names, default.tactic.name, sizes=sizes
            )
            entry = self.known.get(problem.key)
            chosen = entry.best(names) if entry is not None else None
            if entry is not None and chosen is not None and entry.sizes == sizes:
                times = entry.microseconds
                record.microseconds = {n: times[n] for n in names if n in times}
                record.planned = dict.fromkeys(record.microseconds, 1)
                if not record.unmeasured:
                    record.chosen, record.kept = chosen, True
        return self.records[key]

    def open(self) -> list[Record]:
        """Problems of which a tactic was not planned yet."""
        return [r for r in self.records.values() if not r.covered]

    def entries(self) -> dict[str, Entry]:
        """What was measured, for the timing cache; of equal problems the most tactics choose."""
        found: dict[str, Entry] = {}
        for record in sorted(self.records.values(), key=lambda r: len(r.names)):
            if record.microseconds:
                entry = record.entry()
                old = found.get(record.problem)
                found[record.problem] = old.merged(entry) if old is not None else entry
        return found

    def add(self, times: Iterable[tuple[str, str, float]]) -> None:
        """Take microseconds of calls by problem and tactic: the least one counts."""
        for key, name, time in times:
            known = self.records[key].microseconds
            known[name] = min(time, known.get(name, time))
