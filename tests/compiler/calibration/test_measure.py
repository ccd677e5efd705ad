"""Values of any stage of a model are measured, in as many passes as memory asks for."""

from __future__ import annotations

import numpy as np
import pytest

from burnish.calibration import measure, open_data
from burnish.calibration.measure import group_values
from burnish.check.inputs import InputRange
from burnish.errors import CalibrationError
from tests.support.golden import parse

TEXT = """g (float[n,4] x) => (float[n,2] y) <float[4,2] w> {
    a = Relu(x)
    b = MatMul(a, w)
    y = Exp(b)
}"""
X = InputRange("x", np.dtype(np.float32), ("n", 4))
RNG = np.random.default_rng(11)
SAMPLES = [{"x": RNG.standard_normal((n, 4), dtype=np.float32)} for n in (2, 5, 3)]


@pytest.mark.parametrize("memory", [1 << 20, 1])
def test_histograms_of_inputs_and_values(memory: int) -> None:
    graph = parse(TEXT, seed=1)
    values = {v.name: v for v in (*graph.inputs, *(n.output for n in graph.nodes))}
    before = graph.outputs
    runs: list[tuple[int, int]] = []
    found = measure(
        graph,
        list(values.values()),
        open_data(SAMPLES, (X,)),
        memory=memory,
        progress=lambda done, total: runs.append((done, total)),
    )
    x = np.concatenate([s["x"] for s in SAMPLES])
    w = graph.constants()[0].array
    expected = {"x": x, "a": np.maximum(x, 0), "b": np.maximum(x, 0) @ w}
    expected["y"] = np.exp(expected["b"])
    for name, array in expected.items():
        assert found[name].total == array.size
        assert found[name].low == pytest.approx(float(array.min()), rel=1e-5, abs=1e-6)
        assert found[name].high == pytest.approx(float(array.max()), rel=1e-5)
    assert graph.outputs == before
    passes = 1 if memory > 1 else 3
    assert runs[-1] == (3 * passes, 3 * passes)


def test_groups_respect_the_sizes_of_a_sample() -> None:
    graph = parse(TEXT)
    values = [n.output for n in graph.nodes]
    # Relu has 16 bytes for each row, the others 8.
    names = [[v.name for v in g] for g in group_values(values, {"n": 10}, 240)]
    assert names == [["a", "b"], ["y"]]
    assert group_values([], {}, 1) == [[]]


def test_a_sample_that_the_model_refuses_is_named() -> None:
    graph = parse(
        "g (float[n,4] x, float[m,4] z) => (float[n,4] y) { y = Add(x, z) }",
    )
    z = InputRange("z", np.dtype(np.float32), ("m", 4))
    bad = [{"x": SAMPLES[0]["x"], "z": SAMPLES[1]["x"]}]
    with pytest.raises(CalibrationError, match="fails on calibration sample 0"):
        measure(graph, [graph.nodes[0].output], open_data(bad, (X, z)))
