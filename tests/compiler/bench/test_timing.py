from __future__ import annotations

import gc
import io
import json
import time
from collections.abc import Callable

import numpy as np
import pytest
from rich.console import Console

from burnish.bench import BenchResult, OnnxRuntimeRunner, Timing, measure, peer
from burnish.bench.runners import Feeds
from burnish.errors import TargetUnavailableError, UsageError
from burnish.report.timing import timing_table
from tests.support.onnx_text import parse

FEEDS = {"x": np.ones(3, np.float32)}


class Fake:
    """Sleeps, and writes down when it ran."""

    version, threads = "1.0", 1

    def __init__(self, name: str, seconds: float, log: list[str]) -> None:
        self.name, self.seconds, self.log = name, seconds, log

    def prepare(self, feeds: Feeds) -> Callable[[], object]:
        assert feeds is FEEDS

        def call() -> None:
            assert not gc.isenabled() or len(self.log) < 10
            self.log.append(self.name)
            time.sleep(self.seconds)

        return call


def test_runners_take_turns_and_the_order_alternates() -> None:
    log: list[str] = []
    result = measure([Fake("a", 0.03, log), Fake("b", 0.03, log)], FEEDS, iterations=4, warmup=1)
    assert "".join(log[4:]) == "abbaabba"  # after a warm-up and a trial of each
    assert [len(t.samples) for t in result.timings] == [4, 4]
    assert all(0.03 <= s < 0.2 for t in result.timings for s in t.samples)
    assert gc.isenabled()


def test_short_calls_are_timed_in_slices_after_a_settling_call() -> None:
    log: list[str] = []
    result = measure([Fake("a", 0.004, log), Fake("b", 0.004, log)], FEEDS, iterations=5, warmup=0)
    text = "".join(log[2:])
    assert "a" * 4 in text
    assert "b" * 4 in text
    assert text.count("a") > len(result.timings[0].samples) == 5


def test_duration_ends_the_measurement_after_five_calls() -> None:
    log: list[str] = []
    result = measure([Fake("a", 0.03, log)], FEEDS, duration=0.001, warmup=0)
    assert len(result.timings[0].samples) == 5
    result = measure([Fake("a", 0.002, log)], FEEDS, duration=0.1, warmup=0)
    assert 0.1 <= sum(result.timings[0].samples) < 0.2


def result_of(**samples: tuple[float, ...]) -> BenchResult:
    timings = tuple(Timing(name, "1", 2, taken) for name, taken in samples.items())
    return BenchResult(timings, {"x": (3,)}, 1, (50.0, 90.0, 100.0))


def test_statistics() -> None:
    slow = tuple(i / 1000 for i in range(11, 1, -1))
    result = result_of(burnish=(0.001, 0.003, 0.002), peer=slow)
    mine, other = result.timings
    assert (mine.min, mine.median) == (0.001, 0.002)
    assert (other.min, other.median) == (0.002, pytest.approx(0.0065))
    assert [other.percentile(p) for p in (10, 50, 90, 91, 100)] == [
        0.002,
        0.006,
        0.010,
        0.011,
        0.011,
    ]
    assert result.ratio(other) == 2.0
    assert result.ratio(other, "median") == pytest.approx(3.25)


def test_result_is_json_and_a_table() -> None:
    result = result_of(burnish=(0.001, 0.003), peer=(0.0021, 0.0041))
    data = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert data["schema_version"] == 1
    assert data["timings"][1]["min_ms"] == pytest.approx(2.1)
    assert data["timings"][1]["ratio_min"] == pytest.approx(2.1)
    assert data["timings"][1]["percentiles_ms"]["100"] == pytest.approx(4.1)
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(timing_table(result))
    text = console.export_text()
    assert "2.10x" in text
    assert "peer 1" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"iterations": 0}, "iterations"),
        ({"duration": 0.0}, "duration"),
        ({"duration": float("inf")}, "duration"),
        ({"warmup": -1}, "warmup"),
        ({"percentiles": (101.0,)}, "percentile"),
    ],
)
def test_numbers_out_of_range(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        measure([Fake("a", 0, [])], FEEDS, **options)  # type: ignore[arg-type]


def test_nothing_and_the_same_thing_twice() -> None:
    with pytest.raises(UsageError, match="nothing to time"):
        measure([], FEEDS)
    with pytest.raises(UsageError, match="twice"):
        measure([Fake("a", 0, []), Fake("a", 0, [])], FEEDS)


def small_model() -> bytes:
    model = parse("g (float[3] x) => (float[3] y) { y = Exp(x) }")
    return model.SerializeToString()


def test_onnxruntime_runs_the_model_with_the_threads_given() -> None:
    runner = OnnxRuntimeRunner(small_model(), 1)
    (y,) = runner.prepare({"x": np.array([0.0, 1.0, 2.0], np.float32)})()  # type: ignore[misc]
    assert np.allclose(y, np.exp([0.0, 1.0, 2.0]))
    assert runner.threads == 1
    result = measure([runner], FEEDS, iterations=20)
    assert result.timings[0].runner == "onnxruntime"
    assert 0 < result.timings[0].min <= result.timings[0].median


def test_openvino_runs_the_model() -> None:
    pytest.importorskip("openvino")
    runner = peer("openvino", small_model(), 1)
    result = runner.prepare({"x": np.array([0.0, 1.0, 2.0], np.float32)})()
    assert np.allclose(result[0], np.exp([0.0, 1.0, 2.0]))  # type: ignore[index]


def test_peer_that_is_unknown_or_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="unknown peer 'tensorrt'"):
        peer("tensorrt", small_model(), 1)
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    with pytest.raises(TargetUnavailableError) as error:
        peer("openvino", small_model(), 1)
    assert error.value.exit_code == 5
