"""Drops: what each metric says of known differences, and what functions of users may do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from burnish.auto.metric import Loss, Metric
from burnish.errors import BurnishError, UsageError
from burnish.precision.options import Budget

RNG = np.random.default_rng(3)
WANTED = {"y": RNG.standard_normal((5, 7)).astype(np.float32), "label": np.arange(5)}
INPUTS = {"x": np.ones(3, np.float32)}


def drop(metric: str, found: dict[str, np.ndarray]) -> float:
    loss = Metric(Budget(metric=metric)).loss([found, WANTED], [WANTED, WANTED], [INPUTS, INPUTS])
    assert loss.drop == pytest.approx(loss.worst / 2, abs=1e-12)
    return loss.worst


def test_nothing_is_lost_by_what_is_equal() -> None:
    for metric in ("cosine", "l2", "top1"):
        assert drop(metric, WANTED) == pytest.approx(0, abs=1e-7)


def test_cosine_and_l2_of_known_differences() -> None:
    y = WANTED["y"]
    assert drop("cosine", {**WANTED, "y": 3 * y}) == pytest.approx(0, abs=1e-6)
    assert drop("l2", {**WANTED, "y": 3 * y}) == pytest.approx(2, rel=1e-5)
    assert drop("cosine", {**WANTED, "y": -y}) == pytest.approx(2, rel=1e-5)


def test_top1_counts_rows_that_are_decided_otherwise() -> None:
    y = WANTED["y"].copy()
    y[1] = -y[1]
    y[3] += 100  # all of a row: the decision stays
    assert drop("top1", {**WANTED, "y": y}) == pytest.approx(0.2)
    y[4] = np.nan
    assert drop("top1", {**WANTED, "y": y}) == pytest.approx(0.4)


def test_nan_loses_all() -> None:
    y = WANTED["y"].copy()
    y[0, 0] = np.nan
    for metric in ("cosine", "l2"):
        assert drop(metric, {**WANTED, "y": y}) == np.inf
    loss = Metric(Budget()).loss([{**WANTED, "y": y}], [WANTED], [INPUTS])
    assert loss.error == np.inf
    assert not loss.within(Budget(max_drop=1e9))


def test_integers_count_where_there_is_nothing_else() -> None:
    wanted = {"label": np.array([1, 2, 3])}
    loss = Metric(Budget(metric="l2")).loss([{"label": np.array([1, 2, 4])}], [wanted], [INPUTS])
    assert loss.drop == pytest.approx(1 / np.sqrt(14))


def test_the_largest_error_is_in_units_of_the_scale() -> None:
    y = WANTED["y"].copy()
    y[2, 2] += 5
    loss = Metric(Budget()).loss([{**WANTED, "y": y}], [WANTED], [INPUTS])
    assert loss.error == pytest.approx(5 / np.sqrt(np.mean(WANTED["y"] ** 2)), rel=1e-4)


def test_the_bound_that_more_is_taken_of_counts() -> None:
    loss = Loss(drop=0.002, worst=0.004, error=0.5)
    assert loss.spent(Budget(max_drop=0.01)) == pytest.approx(0.2)
    assert loss.spent(Budget(max_drop=0.01, atol=1.0)) == pytest.approx(0.5)
    assert loss.spent(Budget(atol=0.25)) == pytest.approx(2.0)
    assert Loss(0.0, 0.0, 0.0).spent(Budget(max_drop=0.0)) == 0
    assert loss.spent(Budget(max_drop=0.0)) > 1e6


SCRIPT = """
import beside

def score(outputs, reference, inputs):
    assert list(inputs) == ["x"]
    return beside.FULL - abs(outputs["y"] - reference["y"]).max()

def broken(outputs, reference, inputs):
    return outputs["z"]
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    (tmp_path / "beside.py").write_text("FULL = 10\n")
    (tmp_path / "metric.py").write_text(SCRIPT)
    return tmp_path / "metric.py"


def test_a_function_gives_a_score_and_its_loss_counts(script: Path) -> None:
    found = {**WANTED, "y": WANTED["y"] + 2}
    assert drop(f"{script}:score", found) == pytest.approx(2, rel=1e-5)


def test_wrong_functions(script: Path) -> None:
    with pytest.raises(UsageError, match="failed: KeyError"):
        drop(f"{script}:broken", WANTED)
    with pytest.raises(UsageError, match="no function 'missing'"):
        drop(f"{script}:missing", WANTED)
    with pytest.raises(BurnishError, match="no such script"):
        drop("nowhere.py:f", WANTED)
