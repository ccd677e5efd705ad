"""Ratios of times: the turns are fair, and the verdict is right on a busy machine."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import burnish
from burnish.bench import BurnishRunner, RatioPlan, RatioResult, Runner, measure_ratio
from burnish.bench.runners import Feeds
from burnish.errors import UsageError
from tests.support.load import chain, cpu_load

FEEDS = {"x": np.arange(60, dtype=np.float32).reshape(3, 20), "n": np.array(7)}


class Spin:
    """Keeps a CPU busy for a time, and writes down what happened."""

    version, threads = "1.0", 1

    def __init__(self, name: str, seconds: float, log: list[Any]) -> None:
        self.name, self.seconds, self.log = name, seconds, log

    def prepare(self, feeds: Feeds) -> Callable[[], object]:
        self.log.append((self.name, dict(feeds)))

        def call() -> None:
            self.log.append(self.name)
            end = time.perf_counter() + self.seconds
            while time.perf_counter() < end:
                pass

        return call


def spin(a: float, b: float, limit: float, **plan: Any) -> tuple[RatioResult, list[Any]]:
    log: list[Any] = []

    def opener(name: str, seconds: float) -> Callable[[], Runner]:
        def load() -> Runner:
            log.append(f"load {name}")
            return Spin(name, seconds, log)

        return load

    settings = RatioPlan(**{"time_budget": 60.0, **plan})
    result = measure_ratio(opener("a", a), opener("b", b), FEEDS, limit, settings)
    return result, log


def test_programs_are_loaded_anew_in_random_order_for_every_block() -> None:
    result, log = spin(2e-4, 1e-4, 4.0)
    loads = [entry[-1] for entry in log if isinstance(entry, str) and entry.startswith("load")]
    pairs = ["".join(loads[i : i + 2]) for i in range(0, len(loads), 2)]
    assert len(pairs) == result.verdict.blocks >= 12
    assert set(pairs) == {"ab", "ba"}


def test_both_make_as_many_calls_in_turns() -> None:
    _, log = spin(2e-4, 1e-4, 4.0)
    counts = Counter(entry for entry in log if entry in ("a", "b"))
    assert counts["a"] == counts["b"]
    turns = [entry for i, entry in enumerate(log) if entry in ("a", "b") and log[i - 1] != entry]
    assert len(turns) > 12 * 5


def test_inputs_lie_elsewhere_each_time_with_the_same_values() -> None:
    _, log = spin(1e-4, 1e-4, 4.0)
    prepared: list[dict[str, NDArray[Any]]] = [e[1] for e in log if isinstance(e, tuple)]
    for feeds in prepared:
        for name, array in FEEDS.items():
            assert feeds[name] is not array
            assert feeds[name].dtype == array.dtype
            np.testing.assert_array_equal(feeds[name], array)
    places = {feeds["x"].ctypes.data % 4096 for feeds in prepared}
    assert len(places) > 5
    assert all(place % 64 == 0 for place in places)


def test_a_clear_ratio_is_decided_early() -> None:
    result, _ = spin(3e-4, 1e-4, 1.5)
    assert result.verdict.decision == "failed"
    assert result.verdict.lower > 1.5
    assert result.verdict.ratio == pytest.approx(3, rel=0.3)
    assert (result.subject.name, result.peer.name) == ("a", "b")
    plain = result.to_dict()
    assert plain["decision"] == "failed"
    assert plain["sides"][0]["median_ms"] > plain["sides"][1]["median_ms"] > 0


def test_the_end_of_the_time_is_no_verdict() -> None:
    result, log = spin(1e-4, 1e-4, 1.0, time_budget=0.1)
    assert result.verdict.decision == "inconclusive"
    assert result.verdict.blocks < 12
    plain = result.to_dict()
    assert (plain["lower"], plain["upper"]) == (None, None)
    assert math.isfinite(plain["ratio"])
    assert result.seconds < 2
    assert len(log) > 10


def test_more_repeats_make_more_blocks() -> None:
    result, _ = spin(1e-4, 3e-4, 1.5, repeats=20)
    assert result.verdict.decision == "passed"
    assert result.verdict.blocks >= 20


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        ({"time_budget": 0.0}, "time budget"),
        ({"statistic": "mean"}, "statistic"),
        ({"warmup": 0}, "warm up"),
        ({"confidence": 1.0}, "confidence"),
    ],
)
def test_wrong_plans_are_refused(plan: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        spin(1e-4, 1e-4, 1.0, **plan)


X = {"x": np.random.default_rng(2).standard_normal((64, 256)).astype(np.float32)}


@pytest.fixture(scope="module")
def chains(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Artifacts of a model, and of one that does a fifth more work."""
    folder = tmp_path_factory.mktemp("chains")
    paths = {}
    for layers in (10, 12):
        paths[layers] = folder / f"{layers}.burnish"
        with burnish.compile(chain(layers), threads=1) as model:
            model.save(paths[layers])
    return paths


def compare(
    subject: Path, peer: Path, limit: float, seed: int, budget: float, threads: int = 1
) -> RatioResult:
    def opener(path: Path, name: str) -> Callable[[], Runner]:
        return lambda: BurnishRunner(burnish.load(path, threads=threads), name)

    plan = RatioPlan(time_budget=budget, seed=seed)
    return measure_ratio(opener(subject, "now"), opener(peer, "before"), X, limit, plan)


@pytest.mark.timing
@pytest.mark.slow
def test_the_same_artifact_never_fails_beside_a_load(chains: dict[int, Path]) -> None:
    # At a limit of 1 the truth lies on the limit: nothing is harder to judge.
    with cpu_load():
        results = [compare(chains[10], chains[10], 1.0, seed, 2.5) for seed in range(50)]
    ratios = [result.verdict.ratio for result in results]
    decisions = Counter(result.verdict.decision for result in results)
    assert decisions["failed"] == 0, (decisions, ratios)
    # Most had enough blocks to fail, had there been a reason.
    assert sum(math.isfinite(result.verdict.upper) for result in results) > 25
    assert 0.95 < float(np.median(ratios)) < 1.05


@pytest.mark.timing
@pytest.mark.slow
def test_the_same_artifact_passes_a_real_limit_beside_a_load(chains: dict[int, Path]) -> None:
    with cpu_load():
        results = [compare(chains[10], chains[10], 1.1, seed, 20) for seed in range(10)]
    assert all(r.verdict.decision == "passed" for r in results), [r.verdict for r in results]


@pytest.mark.timing
@pytest.mark.slow
@pytest.mark.parametrize(("threads", "processes"), [(1, 0), (1, 2), (2, 2)])
def test_a_fifth_more_work_is_always_caught(
    chains: dict[int, Path], threads: int, processes: int
) -> None:
    with cpu_load(processes):
        results = [compare(chains[12], chains[10], 1.1, seed, 60, threads) for seed in range(10)]
    assert all(r.verdict.decision == "failed" for r in results), [r.verdict for r in results]
