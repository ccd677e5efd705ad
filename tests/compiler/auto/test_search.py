"""The choice of precisions, on made-up times and losses."""

from __future__ import annotations

import numpy as np
import pytest

from burnish.auto.metric import Loss
from burnish.auto.search import Levels, Search, ladders
from burnish.precision.options import Budget

#: Seconds of four regions; the last is no faster in 8 bits.
TIMES = {
    "fp32": (4.0, 4.0, 2.0, 1.0),
    "bf16": (2.2, 2.2, 1.2, 0.9),
    "int8": (1.2, 1.2, 0.7, 0.95),
}
#: What each region loses in 8 bits.
LOST = (0.001, 0.02, 0.0005, 0.5)


class Model:
    """Losses that add up; 16 bits lose a hundredth."""

    def __init__(self, evaluations: int) -> None:
        self.left = evaluations
        self.seen: list[Levels] = []

    def __call__(self, levels: Levels) -> Loss:
        self.left -= 1
        self.seen.append(levels)
        parts = {"fp32": 0.0, "bf16": 0.01, "int8": 1.0}
        drop = sum(lost * parts[p] for lost, p in zip(LOST, levels, strict=True))
        return Loss(drop, 2 * drop, 10 * drop)


def search(budget: Budget, evaluations: int = 20) -> tuple[Search, Model]:
    model = Model(evaluations)
    return Search(TIMES, model, lambda: model.left, budget, rest=0.5), model


def test_a_precision_that_is_not_faster_is_turned_back() -> None:
    found, refused = ladders(TIMES)
    assert found[0] == ("int8", "bf16", "fp32")
    assert found[3] == ("bf16", "fp32")
    (only,) = refused
    assert (only.region, only.precision, only.higher) == (3, "int8", "bf16")


def test_the_most_sensitive_region_is_turned_back_alone() -> None:
    found, model = search(Budget(max_drop=0.01))
    assert found.run() == ("int8", "bf16", "int8", "bf16")
    assert found.sensitivity[1] == pytest.approx(0.02 * 0.99)
    assert len(model.seen) == len(set(model.seen))


def test_parts_are_measured_alone_where_all_together_lose_everything() -> None:
    model = Model(20)

    def saturated(levels: Levels) -> Loss:
        loss = model(levels)
        # Nothing is left of the results once two sensitive regions have lost theirs.
        return loss if levels.count("int8") < 2 else Loss(1.0, 1.0, 10.0)

    found = Search(TIMES, saturated, lambda: model.left, Budget(max_drop=0.03), rest=0.5)
    chosen = found.run()
    assert found.sensitivity[1] == pytest.approx(0.02)
    assert found.sensitivity[2] == pytest.approx(0.0005)
    assert max(found.sensitivity.values()) == found.sensitivity[1]
    assert chosen.count("int8") == 1


def test_the_fastest_is_taken_where_it_is_good_enough() -> None:
    found, _ = search(Budget(max_drop=0.1))
    assert found.run() == ("int8", "int8", "int8", "bf16")


@pytest.mark.parametrize("bound", [0.05, 0.01, 0.0015, 1e-5, 0.0])
@pytest.mark.parametrize("evaluations", [1, 3, 9, 20])
def test_every_choice_is_within_the_budget(bound: float, evaluations: int) -> None:
    budget = Budget(max_drop=bound)
    found, model = search(budget, evaluations)
    chosen = found.run()
    assert model.left >= 0
    assert Model(1)(chosen).within(budget, 0.8)


def test_the_largest_error_is_a_bound_of_its_own() -> None:
    found, _ = search(Budget(atol=0.05))
    assert "int8" in found.run()
    assert Model(1)(found.run()).error <= 0.05


def test_regions_are_ordered_by_what_the_budget_bounds() -> None:
    model = Model(20)

    def loss(levels: Levels) -> Loss:
        drop = model(levels).drop
        # The first region makes the largest errors, although the second loses more on average.
        return Loss(drop, drop, 9.0 if levels[0] == "int8" else 0.01 * drop)

    found = Search(TIMES, loss, lambda: model.left, Budget(atol=1.0), rest=0.5)
    assert found.run() == ("bf16", "int8", "int8", "bf16")
    assert found._steps[0] == 0
    assert found.sensitivity[1] > found.sensitivity[0]


def test_backing_off_ends_at_fp32() -> None:
    found, _ = search(Budget(max_drop=0.1))
    levels: Levels | None = found.run()
    seen = []
    while levels is not None:
        seen.append(found.seconds(levels))
        levels = found.back_off()
    assert seen == sorted(seen)
    assert seen[-1] == pytest.approx(0.5 + sum(TIMES["fp32"]))


def test_the_front_has_no_point_that_another_beats() -> None:
    found, _ = search(Budget(max_drop=0.001))
    chosen = found.run()
    front = found.front(chosen, Loss(1.0, 1.0, 1.0))
    assert chosen in [point.levels for point in front]
    assert front[0].levels == ("fp32",) * 4
    times, drops = [p.seconds for p in front], [p.loss.drop for p in front]
    assert times == sorted(times, reverse=True)
    assert drops == sorted(drops)


def test_what_is_no_number_is_within_no_budget() -> None:
    assert not Loss(float("nan"), 0.0, 0.0).within(Budget(max_drop=1.0))
    assert not Loss(0.0, 0.0, float("inf")).within(Budget(atol=np.finfo(float).max))
