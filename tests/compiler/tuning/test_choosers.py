"""What is taken where something was measured, and what nodes are measured with."""

from __future__ import annotations

from collections import Counter

from burnish.lowering.tactics import CostTable, Problem, Tactic
from burnish.tuning.choosers import Assignment, Measured
from burnish.tuning.ledger import Ledger
from burnish.tuning.timings import Entry

PROBLEM = Problem("burnish::Conv", "avx512", "float32[1]")
OTHER = Problem("burnish::Conv", "avx512", "float32[2]")


def tactic(name: str, cost: float, library: str = "") -> Tactic:
    """A tactic that is never emitted."""
    return Tactic(name, cost, lambda: None, library)


TACTICS = [tactic("direct", 3e3), tactic("winograd", 2e3), tactic("onednn", 1e3, "onednn")]
TIMES = {"direct": 830.0, "winograd": 410.0, "onednn": 520.0}


def test_the_measured_choice_is_taken_with_its_times() -> None:
    chooser = Measured({PROBLEM.key: Entry("winograd", TIMES)}, CostTable())
    choice = chooser.choose(PROBLEM, TACTICS)
    assert choice.tactic.name == "winograd"
    assert choice.why == (
        "measured on this machine: winograd 0.41 ms, onednn 0.52 ms, direct 0.83 ms"
    )
    assert chooser.hits == {PROBLEM.key}
    assert not chooser.misses


def test_a_choice_within_noise_says_so() -> None:
    chooser = Measured({PROBLEM.key: Entry("onednn", TIMES)}, CostTable())
    assert chooser.choose(PROBLEM, TACTICS).why == (
        "measured on this machine: onednn 0.52 ms, winograd 0.41 ms, direct 0.83 ms; "
        "winograd is not faster beyond noise"
    )


def test_what_was_not_measured_is_a_miss_and_the_cost_tables_choice() -> None:
    chooser = Measured({PROBLEM.key: Entry("winograd", TIMES)}, CostTable())
    choice = chooser.choose(OTHER, TACTICS)
    assert choice.tactic.name == "onednn"
    assert choice.why.startswith("cost table")
    assert chooser.misses == {OTHER.key: ("direct", "winograd", "onednn")}


def test_a_new_tactic_makes_an_entry_a_miss() -> None:
    chooser = Measured({PROBLEM.key: Entry("winograd", TIMES)}, CostTable())
    chooser.choose(PROBLEM, [*TACTICS, tactic("blocked", 9e9)])
    assert list(chooser.misses) == [PROBLEM.key]


def test_tactics_left_out_by_the_time_bound_are_no_miss() -> None:
    entry = Entry("direct", {"direct": 830.0}, ("winograd", "onednn"))
    chooser = Measured({PROBLEM.key: entry}, CostTable())
    choice = chooser.choose(PROBLEM, TACTICS)
    assert choice.tactic.name == "direct"
    assert choice.why == "measured on this machine: direct 0.83 ms; not measured: 2 more"


def test_the_library_option_limits_what_was_measured() -> None:
    entry = Entry("onednn", {"direct": 830.0, "winograd": 410.0, "onednn": 300.0})
    none = Measured({PROBLEM.key: entry}, CostTable("none"))
    assert none.choose(PROBLEM, TACTICS).tactic.name == "winograd"
    forced = Measured({PROBLEM.key: Entry("winograd", TIMES)}, CostTable("onednn"))
    assert forced.choose(PROBLEM, TACTICS).tactic.name == "onednn"
    assert not forced.hits  # there was nothing to choose


def test_a_single_tactic_is_neither_hit_nor_miss() -> None:
    chooser = Measured({}, CostTable())
    assert chooser.choose(PROBLEM, TACTICS[:1]).why == "the only tactic"
    assert not chooser.hits
    assert not chooser.misses


def test_an_assignment_covers_the_tactics_evenly_and_tells_its_labels() -> None:
    ledger = Ledger(CostTable())
    given = Assignment(ledger, lambda record, node: record.plan())
    choices = [given.choose(PROBLEM, TACTICS) for _ in range(7)]
    counts = Counter(c.tactic.name for c in choices)
    assert counts == {"onednn": 3, "winograd": 2, "direct": 2}
    assert choices[0].tactic.name == "onednn"  # the cost table's comes first
    assert [given.given[c.why] for c in choices] == [(PROBLEM.key, c.tactic.name) for c in choices]
    assert ledger.records[PROBLEM.key].nodes == 7
    assert not ledger.open()


def test_an_assignment_respects_the_library_option() -> None:
    given = Assignment(Ledger(CostTable("none")), lambda record, node: record.plan())
    names = {given.choose(PROBLEM, TACTICS).tactic.name for _ in range(6)}
    assert names == {"direct", "winograd"}


def test_a_node_without_a_tactic_that_its_problem_has_is_not_measured_with_it() -> None:
    given = Assignment(Ledger(CostTable()), lambda record, node: "winograd")
    assert given.choose(PROBLEM, TACTICS).tactic.name == "winograd"
    choice = given.choose(PROBLEM, [t for t in TACTICS if t.name != "winograd"])
    assert choice.tactic.name == "onednn"
    assert choice.why not in given.given
