from __future__ import annotations

import io
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console

import burnish
from burnish.bench import ThroughputResult, peer, throughput
from burnish.bench.runners import Feeds
from burnish.bench.streams import StreamedRunner, StreamTiming, cpus_of_streams, measure_streams
from burnish.bench.throughput import batched_shapes
from burnish.errors import InvalidInputError, UsageError
from burnish.report.timing import throughput_table
from burnish.runtime import CompiledModel
from tests.support.onnx_text import parse

MODEL = parse(
    """
    g (float[batch, 8] x, float[batch, 8] z, float[8] w) => (float[batch, 8] y) {
        a = Softmax(x)
        b = Add(a, z)
        y = Mul(b, w)
    }
    """
)


@pytest.fixture(scope="module")
def model() -> Iterator[CompiledModel]:
    with burnish.compile(MODEL, target="x86", threads=1, check=False) as compiled:
        yield compiled


class Sleeper:
    """Sleeps, and writes down who called it with what and where."""

    version, threads = "1.0", 1

    def __init__(self, name: str, seconds: float) -> None:
        self.name, self.seconds = name, seconds
        self.calls: list[tuple[str, int, set[int]]] = []
        self.together = 0
        self._running = 0

    def prepare(self, feeds: Feeds) -> Callable[[], object]:
        (own,) = feeds

        def call() -> None:
            self._running += 1
            self.together = max(self.together, self._running)
            self.calls.append((own, threading.get_ident(), os.sched_getaffinity(0)))
            time.sleep(self.seconds)
            self._running -= 1

        return call


FEEDS: list[Feeds] = [{"first": np.ones(1)}, {"second": np.ones(1)}]


def test_streams_run_at_once_on_threads_of_their_own() -> None:
    runner = Sleeper("a", 0.01)
    cpu = min(os.sched_getaffinity(0))
    (timing,) = measure_streams([StreamedRunner(runner, FEEDS, [[cpu], [cpu]])], duration=0.3)
    assert runner.together == 2
    assert len({(own, thread) for own, thread, _ in runner.calls}) == 2
    assert all(cpus == {cpu} for _, _, cpus in runner.calls)
    assert len(timing.latencies) == 2
    # Two streams of at most 100 calls a second each.
    assert 60 < timing.median <= timing.max <= 200
    assert all(0.01 <= seconds < 0.1 for seconds in timing.samples)


def test_runners_take_turns() -> None:
    log: list[str] = []

    class Logger(Sleeper):
        def prepare(self, feeds: Feeds) -> Callable[[], object]:
            call = super().prepare(feeds)

            def logged() -> None:
                log.append(self.name)
                call()

            return logged

    runners = [StreamedRunner(Logger(name, 0.01), FEEDS[:1], None) for name in "ab"]
    a, b = measure_streams(runners, duration=0.3, warmup=1)
    turns = [name for i, name in enumerate(log[2:]) if i == 0 or log[i + 1] != name]
    assert len(turns) >= 4  # a b(b) a(a) b: in turns, not one after the other
    assert len(a.rates) == len(b.rates) >= 3


def test_a_failing_stream_is_an_error() -> None:
    class Failing(Sleeper):
        def prepare(self, feeds: Feeds) -> Callable[[], object]:
            raise InvalidInputError("no")

    with pytest.raises(InvalidInputError):
        StreamedRunner(Failing("a", 0), FEEDS, None)


def test_cpus_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {8, 2, 3, 5})
    assert cpus_of_streams(2, 2) == [[2, 3], [5, 8]]
    assert cpus_of_streams(3, 1) == [[2], [3], [5]]
    assert cpus_of_streams(3, 2) is None


def test_a_compiled_model_beside_onnxruntime(model: CompiledModel) -> None:
    free = os.sched_getaffinity(0)
    result = throughput(model, MODEL, streams=2, batch=3, duration=0.2, percentiles=(50.0,))
    assert os.sched_getaffinity(0) == free
    assert [t.runner for t in result.timings] == ["burnish", "onnxruntime"]
    assert result.shapes == {"x": (3, 8), "z": (3, 8), "w": (8,)}
    data = json.loads(json.dumps(result.to_dict()))
    assert (data["mode"], data["streams"], data["batch"]) == ("throughput", 2, 3)
    for timing in data["timings"]:
        assert timing["items_per_s_max"] == pytest.approx(3 * timing["calls_per_s_max"])
        assert timing["items_per_s_max"] >= timing["items_per_s_median"] > 0
        assert len(timing["streams"]) == 2
        assert sum(s["calls"] for s in timing["streams"]) == timing["latency"]["calls"]
        assert timing["latency"]["percentiles_ms"]["50"] > 0


def test_inputs_that_are_given(model: CompiledModel) -> None:
    inputs = {n: np.ones(s, np.float32) for n, s in (("x", (2, 8)), ("z", (2, 8)), ("w", (8,)))}
    result = throughput(model, streams=1, against=(), inputs=inputs, duration=0.1)
    assert result.batch == 2
    with pytest.raises(UsageError, match="of the inputs given"):
        throughput(model, streams=1, batch=2, against=(), inputs=inputs, duration=0.1)
    with pytest.raises(InvalidInputError, match="wrong input names"):
        throughput(model, streams=1, against=(), inputs={}, duration=0.1)


def test_batch(model: CompiledModel) -> None:
    shapes = {"x": (1, 8), "z": (1, 8), "w": (8,)}
    assert batched_shapes(model, shapes, 5) == {"x": (5, 8), "z": (5, 8), "w": (8,)}
    with pytest.raises(UsageError, match="at least 1"):
        batched_shapes(model, shapes, 0)


def test_a_batch_that_is_fixed() -> None:
    fixed = onnx.ModelProto()
    fixed.CopyFrom(MODEL)
    for value in (*fixed.graph.input[:2], *fixed.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 2
    with burnish.compile(fixed, target="x86", threads=1, check=False) as compiled:
        result = throughput(compiled, streams=1, batch=2, against=(), duration=0.1)
        assert result.batch == 2
        with pytest.raises(UsageError, match="fixed at 2") as caught:
            throughput(compiled, streams=1, batch=3, against=(), duration=0.1)
        assert "symbolic first dimension" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"streams": 0}, "streams must be at least 1"),
        ({"duration": 0}, "duration"),
        ({"against": ("abacus",)}, "unknown peer"),
        ({"against": ("onnxruntime",)}, "needs the ONNX model"),
    ],
)
def test_wrong_use(model: CompiledModel, change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"streams": 1, "against": (), "duration": 0.1} | change
    with pytest.raises(UsageError, match=message):
        throughput(model, **arguments)


def test_table() -> None:
    mine = StreamTiming("burnish", "1", 2, (100.0, 90.0, 95.0), ((0.02, 0.03), (0.021,)))
    other = StreamTiming("peer", "2", 2, (50.0, 30.0, 40.0), ((0.04,), (0.05,)))
    result = ThroughputResult((mine, other), 2, 4, 2, {"x": (4, 8)}, (90.0,))
    assert result.oversubscribed
    out = io.StringIO()
    Console(file=out, width=150).print(throughput_table(result))
    text = out.getvalue()
    assert "2 stream(s), 2 thread(s) each, batch 4" in text
    row = next(line for line in text.splitlines() if "burnish" in line).split()
    assert row == ["burnish", "1", "3", "400", "380", "20", "21", "30"]
    assert "2.00x" in text


def test_openvino_computes_in_fp32() -> None:
    """Also where the weights are int8: it would round the activations to int8 by default."""
    pytest.importorskip("openvino")
    rng = np.random.default_rng(1)
    weights = rng.integers(-127, 128, (256, 256), dtype=np.int8)
    graph = helper.make_graph(
        [
            helper.make_node("DequantizeLinear", ["q", "s"], ["w"]),
            helper.make_node("MatMul", ["x", "w"], ["y"]),
        ],
        "int8_weights",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [32, 256])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [32, 256])],
        [
            numpy_helper.from_array(weights, "q"),
            numpy_helper.from_array(np.float32(0.01), "s"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    x = rng.standard_normal((32, 256), dtype=np.float32)
    expected = x @ (weights * np.float32(0.01))
    for streams in (None, 2):
        found: Any = peer("openvino", model, 1, streams).prepare({"x": x})()
        error = np.abs(found[0] - expected).max() / np.sqrt((expected**2).mean())
        assert error < 1e-5
