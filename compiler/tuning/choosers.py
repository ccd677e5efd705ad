"""Choosers of tactics: by what was measured, and by the assignments of a tuning."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from burnish.lowering.tactics import Choice, CostTable, Problem, Tactic, permitted
from burnish.tuning.ledger import Ledger, Record
from burnish.tuning.timings import Entry

#: Tactics that the message of a choice names.
_NAMED = 4


@dataclass
class Measured:
    """Takes what was measured to be fastest; the cost table's choice where nothing was.

    Attributes:
        entries: By problem.
        table: Chooses for problems without an entry.
        hits: Problems with a choice among several tactics that were measured.
        misses: Problems with such a choice that were not, with the tactics.
    """

    entries: Mapping[str, Entry]
    table: CostTable
    hits: set[str] = field(default_factory=set)
    misses: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def choose(self, problem: Problem, tactics: Sequence[Tactic]) -> Choice:
        """The tactic of the problem's entry."""
        allowed = {t.name: t for t in permitted(tactics, self.table.library)}
        if len(allowed) == 1:
            return self.table.choose(problem, tactics)
        entry = self.entries.get(problem.key)
        name = entry.best(tuple(allowed)) if entry is not None else None
        if entry is None or name is None:
            self.misses[problem.key] = tuple(allowed)
            return self.table.choose(problem, tactics)
        self.hits.add(problem.key)
        return Choice(allowed[name], describe(entry, name))


def describe(entry: Entry, name: str) -> str:
    """Why a tactic was taken, by the times of it and of others."""
    times = entry.microseconds
    others = sorted((n for n in times if n != name), key=times.__getitem__)
    parts = [f"{n} {times[n] / 1e3:.3g} ms" for n in (name, *others)[:_NAMED]]
    sizes = f" with {entry.sizes}" if entry.sizes else ""
    text = f"measured on this machine{sizes}: {', '.join(parts)}"
    if others and times[others[0]] < times[name]:
        text += f"; {others[0]} is not faster beyond noise"
    if entry.unmeasured:
        text += f"; not measured: {len(entry.unmeasured)} more"
    return text


@dataclass
class Assignment:
    """Gives nodes with equal problems different tactics, and remembers which got what.

    Attributes:
        ledger: Learns of every problem.
        pick: The tactic of a problem's node, which is counted from 0.
        given: Key of the record, and tactic, by the text that stands as the reason of the choice.
    """

    ledger: Ledger
    pick: Callable[[Record, int], str]
    given: dict[str, tuple[str, str]] = field(default_factory=dict)
    _nodes: dict[str, int] = field(default_factory=dict)

    def choose(self, problem: Problem, tactics: Sequence[Tactic]) -> Choice:
        """The tactic that the node is to be measured with."""
        allowed = {t.name: t for t in permitted(tactics, self.ledger.table.library)}
        default = self.ledger.table.choose(problem, tactics)
        if len(allowed) == 1:
            return default
        record = self.ledger.record(problem, sorted(allowed.values(), key=_cost), default)
        node = self._nodes.get(record.key, 0)
        self._nodes[record.key] = node + 1
        record.nodes = max(record.nodes, node + 1)
        name = self.pick(record, node)
        if name not in allowed:  # what a node's weights allow, others of its problem may not
            return default
        label = f"trial {len(self.given)}"
        self.given[label] = (record.key, name)
        return Choice(allowed[name], label)


def _cost(tactic: Tactic) -> float:
    return tactic.cost
