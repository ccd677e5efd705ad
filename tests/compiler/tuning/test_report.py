"""What the user reads of a tuning."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from burnish.cli import progress
from burnish.report.tuning import print_tuning
from burnish.tuning.result import TuningReport, problems_of
from tests.support.tuned import Model, Node, jitter, tune

TIMES = {"direct": 100.0, "winograd": 60.0}


def report(model: Model, budget: float = 60.0) -> TuningReport:
    """Tune a model."""
    tuner, ledger = tune(model, budget)
    return TuningReport(
        seconds=tuner.elapsed,
        budget=budget,
        sizes="",
        environment="this CPU",
        cache="cache/timing.json",
        rounds=tuner.rounds,
        problems=problems_of(ledger.records.values()),
        table_ms=tuner.table_ms,
        tuned_ms=tuner.tuned_ms,
        verdict=tuner.verdict,
        reverted=tuner.reverted,
    )


def test_gains_and_the_whole_model(capsys: pytest.CaptureFixture[str]) -> None:
    found = report(Model([Node("layer", TIMES)] * 3 + [Node("right", {"a": 1.0, "b": 2.0})]))
    data = json.loads(json.dumps(found.to_dict()))
    print_tuning(data)
    out = capsys.readouterr().out
    assert "2 problems, 4 tactics measured in 2 rounds; times are in cache/timing.json" in out
    assert "120.0" in out  # three nodes win 40 us each
    assert "right" not in out
    assert "whole model: 0.301 ms by the cost table, 0.181 ms tuned: the tuned build is" in out
    print_tuning(data, verbose=True)
    assert "right" in capsys.readouterr().out


def test_shapes_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    print_tuning(report(Model([Node("float32[s0,s1,512]", TIMES)])).to_dict())
    assert "float32[s0,s1,512]" in capsys.readouterr().out


def test_what_was_not_reached_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    times = {f"t{i}": 10.0 + i for i in range(9)}
    print_tuning(report(Model([Node("stem", times)]), budget=5.0).to_dict())
    out = capsys.readouterr().out
    assert "not measured: 6 tactics of 1 problem, since 5 s were not enough" in out
    assert "the cost table's choices stay" in out


def test_nothing_to_tune(capsys: pytest.CaptureFixture[str]) -> None:
    print_tuning(report(Model([Node("only", {"direct": 1.0})])).to_dict())
    assert capsys.readouterr().out == "nothing to tune: no composite has several tactics\n"


@pytest.fixture
def draw(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], list[float]]:
    """Positions of the bar while phases go by."""

    def run(seconds: float) -> list[float]:
        found: list[float] = []

        class Bar:
            def __init__(self, *columns: object, **options: object) -> None:
                self.total = 0.0

            def __enter__(self) -> Bar:
                return self

            def __exit__(self, *arguments: object) -> None:
                return None

            def add_task(self, name: str, total: float) -> int:
                self.total = total
                return 0

            def update(self, task: int, description: str, completed: float) -> None:
                found.append(completed / self.total)

        monkeypatch.setattr("rich.progress.Progress", Bar)
        monkeypatch.setattr(progress, "on_terminal", lambda: True)
        weights = progress.compile_weights(tune_seconds=seconds)
        with progress.show_progress(weights=weights) as update:
            for phase in ("import", "optimize", "load compiler"):
                update(phase, 0, 1)
            if seconds:
                for share in range(0, 1001, 250):
                    update("tune", share, 1000)
            for phase in ("lower", "generate code", "link", "check", "write"):
                update(phase, 0, 1)
        return found

    return run


def test_the_bar_grows_and_tuning_has_its_share(draw: Callable[[float], list[float]]) -> None:
    plain, tuned = draw(0), draw(60)
    assert plain == sorted(plain)
    assert tuned == sorted(tuned)
    begin, end = tuned[3], tuned[7]
    assert end - begin > 0.8


def test_equal_noise_gives_no_verdict_of_slower_builds() -> None:
    nodes = [Node(f"p{i}", {"direct": 100.0, "winograd": 99.9}) for i in range(5)]
    for seed in range(5):
        found = report(Model(nodes, noise=jitter(seed, 0.2), build_seconds=0.1))
        for p in found.problems:
            if p.chosen != p.table and not found.reverted:
                assert p.gain_us > 0
