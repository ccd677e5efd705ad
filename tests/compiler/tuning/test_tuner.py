"""Rounds, duels and the comparison of builds, on models whose times are known."""

from __future__ import annotations

import pytest

from burnish.tuning.timings import Entry
from tests.support.tuned import Model, Node, jitter, tune

#: The third tactic is the best, the second next to it, and the cost table takes the first.
TIMES = {"direct": 100.0, "winograd": 80.0, "onednn": 60.0, "blocked": 120.0}


def test_equal_nodes_try_different_tactics_in_one_round() -> None:
    model = Model([Node("layer", TIMES)] * 12)
    tuner, ledger = tune(model)
    (record,) = ledger.records.values()
    assert tuner.rounds == 1
    assert set(model.built[0]) == set(TIMES)
    assert all(model.built[0].count(name) == 3 for name in TIMES)
    assert record.nodes == 12
    assert record.microseconds == TIMES
    assert record.chosen == "onednn"


def test_one_node_needs_a_round_for_every_tactic() -> None:
    model = Model([Node("stem", TIMES)])
    tuner, ledger = tune(model)
    assert tuner.rounds == 4
    assert [names[0] for names in model.built[:4]] == list(TIMES)
    assert next(iter(ledger.records.values())).microseconds == TIMES


def test_settled_problems_wait_with_their_best_tactic() -> None:
    model = Model([Node("stem", TIMES), *[Node("layer", TIMES)] * 4])
    tuner, _ = tune(model)
    assert tuner.rounds == 4
    assert model.built[1][1:] == ["onednn"] * 4


def test_a_model_without_a_choice_is_not_built() -> None:
    model = Model([Node("only", {"direct": 10.0})])
    tuner, ledger = tune(model)
    assert not model.built
    assert not ledger.records
    assert tuner.rounds == 0
    assert not tuner.verdict


@pytest.mark.parametrize("seed", range(5))
def test_noise_and_outliers_do_not_decide(seed: int) -> None:
    nodes = [Node(f"p{i}", {"direct": 100.0, "winograd": 93.0}) for i in range(6)]
    model = Model(nodes, noise=jitter(seed, 0.05, outliers=0.05), build_seconds=0.1)
    tuner, ledger = tune(model)
    assert [r.chosen for r in ledger.records.values()] == ["winograd"] * 6
    assert not tuner.reverted
    assert "faster" in tuner.verdict


@pytest.mark.parametrize("seed", range(5))
def test_the_cost_table_is_followed_where_nothing_is_faster_beyond_noise(seed: int) -> None:
    nodes = [Node(f"p{i}", {"direct": 100.0, "winograd": 100.0}) for i in range(8)]
    model = Model(nodes, noise=jitter(seed, 0.1), build_seconds=0.1)
    _, ledger = tune(model)
    kept = [r.chosen for r in ledger.records.values()].count("direct")
    assert kept >= 6


def test_a_cold_first_run_does_not_decide() -> None:
    runs = 0

    def cold() -> float:
        nonlocal runs
        runs += 1
        return 50.0 if runs <= 2 else 1.0

    model = Model([Node("stem", {"good": 10.0, "bad": 20.0})], noise=cold)
    _, ledger = tune(model)
    (record,) = ledger.records.values()
    assert record.microseconds == {"good": 10.0, "bad": 20.0}
    assert record.chosen == "good"


def test_the_time_bound_is_kept_and_what_is_left_is_said() -> None:
    times = {f"t{i}": 100.0 - i for i in range(20)}
    model = Model([Node("stem", times)], build_seconds=1.0)
    tuner, ledger = tune(model, budget=10.0)
    (record,) = ledger.records.values()
    assert tuner.rounds < 12
    assert len(record.microseconds) == tuner.rounds
    assert record.unmeasured == tuple(times)[tuner.rounds :]
    # The comparison at the end takes two builds.
    assert tuner.elapsed < 10.0 + 3 * 1.0 + 1.0


def test_one_round_is_made_whatever_the_bound() -> None:
    model = Model([Node("layer", TIMES)] * 4, build_seconds=30.0)
    tuner, ledger = tune(model, budget=1.0)
    assert tuner.rounds == 1
    # Its runs take no turns: a small gain would not be believed.
    assert next(iter(ledger.records.values())).chosen == "onednn"
    model = Model([Node("layer", {"direct": 100.0, "winograd": 97.0})] * 4, build_seconds=30.0)
    assert next(iter(tune(model, budget=1.0)[1].records.values())).chosen == "direct"


def test_the_tuned_build_runs_against_the_cost_tables() -> None:
    model = Model([Node("layer", TIMES)] * 4, build_seconds=0.5)
    tuner, _ = tune(model)
    assert model.built[-2:] == [["onednn"] * 4, ["direct"] * 4]
    assert tuner.table_ms == pytest.approx(0.4)
    assert tuner.tuned_ms == pytest.approx(0.24)
    assert tuner.verdict == "the tuned build is 66.7 % faster"
    assert model.loaded == 0


def test_choices_that_make_the_model_slower_are_taken_back() -> None:
    # Alone it is faster, and it spoils the caches of what follows.
    class Spoiled(Model):
        def lower(self, chooser):  # type: ignore[no-untyped-def]
            trial = super().lower(chooser)
            slow = self._names == ["greedy"] * 2
            trial.kernels.append(("rest", 500.0 if slow else 100.0))
            return trial

    model = Spoiled([Node("layer", {"modest": 100.0, "greedy": 90.0})] * 2, build_seconds=0.1)
    tuner, ledger = tune(model)
    assert tuner.reverted
    assert "slower" in tuner.verdict
    assert next(iter(ledger.records.values())).best == "modest"


def test_what_is_known_is_not_measured_again() -> None:
    node = Node("layer", TIMES)
    known = {node.key: Entry("onednn", TIMES)}
    model = Model([node] * 2)
    tuner, ledger = tune(model, known=known)
    (record,) = ledger.records.values()
    assert record.kept
    assert record.best == "onednn"
    assert tuner.rounds == 0


def test_a_later_tuning_goes_on_where_the_time_ended() -> None:
    node = Node("stem", TIMES)
    known = {node.key: Entry("direct", {"direct": 100.0, "winograd": 80.0}, ("onednn", "blocked"))}
    model = Model([node])
    tuner, ledger = tune(model, known=known)
    assert tuner.rounds == 2
    assert [names[0] for names in model.built[:2]] == ["onednn", "blocked"]
    assert next(iter(ledger.records.values())).chosen == "onednn"


@pytest.mark.parametrize(
    "times",
    [{"direct": 1.0, "gone": 0.1}, {"direct": 1.0, "winograd": 2.0}],
    ids=["a tactic that is no more", "a tactic that is new"],
)
def test_entries_of_other_tactics_are_measured_again(times: dict[str, float]) -> None:
    node = Node("layer", TIMES)
    _, ledger = tune(Model([node] * 4), known={node.key: Entry("direct", times)})
    (record,) = ledger.records.values()
    assert record.microseconds == TIMES
    assert record.chosen == "onednn"


def test_progress_grows_to_the_end() -> None:
    model = Model([Node("stem", TIMES)], build_seconds=2.0)
    shares: list[float] = []
    from burnish.lowering.tactics import CostTable
    from burnish.tuning.ledger import Ledger
    from burnish.tuning.tuner import Tuner

    Tuner(model, Ledger(CostTable()), 15.0, shares.append, model.clock).run()
    assert shares == sorted(shares)
    assert shares[-1] > 0.9
    assert max(shares) <= 1.0


def test_equal_problems_may_have_other_tactics() -> None:
    fewer = {"direct": 100.0, "winograd": 80.0}
    model = Model([Node("layer", TIMES), Node("layer", fewer), Node("layer", TIMES)])
    tuner, ledger = tune(model)
    assert model.built[-2] == ["onednn", "winograd", "onednn"]
    assert [r.nodes for r in ledger.records.values()] == [2, 1]
    (entry,) = ledger.entries().values()
    assert entry == Entry("onednn", TIMES)
    assert entry.best(tuple(fewer)) == "winograd"
    assert "faster" in tuner.verdict


def test_a_choice_that_is_kept_was_measured() -> None:
    # The branch with the first node is never taken, and the tuned build is slower.
    class Branched(Model):
        def lower(self, chooser):  # type: ignore[no-untyped-def]
            trial = super().lower(chooser)
            slow = self._names != ["direct", "direct"]
            trial.kernels = [*trial.kernels[1:], ("rest", 500.0 if slow else 100.0)]
            return trial

    model = Branched([Node("layer", {"direct": 100.0, "winograd": 80.0})] * 2)
    tuner, ledger = tune(model)
    assert tuner.reverted
    (entry,) = ledger.entries().values()
    assert entry == Entry("winograd", {"winograd": 80.0}, ("direct",))
