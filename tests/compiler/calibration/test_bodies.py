"""Values inside If, Loop and Scan, nested ones too, are measured by their extremes."""

from __future__ import annotations

import numpy as np
import pytest

from burnish.calibration import Histogram, measure
from burnish.calibration.bodies import extremes
from burnish.ir import Graph, Value
from burnish.passes.base import all_graphs, defined
from tests.support.golden import parse

RNG = np.random.default_rng(5)

BRANCHES = """g (float[n,4] x, bool c) => (float[n,4] y) {
    y = If (c) <then_branch = t () => (float[n,4] a) { m = Mul(x, x) a = Neg(m) },
                else_branch = e () => (float[n,4] b) { e1 = Exp(x) b = Log(e1) }>
}"""
#: A loop with a branch in it: the branch is taken or not, the loop may run no time at all.
NESTED = """g (float[n,4] x, bool c, int64 trips) => (float[n,4] y, float[k,n,4] states)
<bool yes = {1}> {
    y, states = Loop (trips, yes, x) <body = l (int64 i, bool go, float[n,4] h)
            => (bool stay, float[n,4] h2, float[n,4] s) {
        stay = Identity(go)
        f = Cast<to=1>(i)
        g = Add(h, f)
        h2 = If (c) <then_branch = t () => (float[n,4] u) { d = Add(g, g) u = Neg(d) },
                     else_branch = e () => (float[n,4] v) { v = Sigmoid(g) }>
        s = Neg(h2)
    }>
}"""
SCANNED = """g (float[n,4] x) => (float[n,4] y, float[n,k] z) <int64[1] ax = {1}> {
    start = Neg(x)
    y, z = Scan <num_scan_inputs=1, scan_input_axes=[1], scan_output_axes=[1],
            scan_output_directions=[1],
            body = b (float[n,4] state, float[n] col) => (float[n,4] state2, float[n] out) {
        state2 = Mul(state, state)
        top = ReduceMax<keepdims=0>(state2, ax)
        out = Add(top, col)
    }> (start, x)
}"""


def measured(text: str, samples: list[dict[str, np.ndarray]]) -> dict[str, Histogram]:
    """Histograms of all float32 values of a graph and its bodies."""
    graph = parse(text)
    before = _names(graph)
    values = [v for g in all_graphs(graph) for v in defined(g) if v.dtype == "float32"]
    found = measure(graph, values, samples)
    assert _names(graph) == before, "the graph is as it was"
    assert set(found) == {v.name for v in values}
    return found


def _names(graph: Graph) -> list[list[str]]:
    def named(values: list[Value]) -> list[str]:
        return [v.name for v in values]

    return [named([*defined(g), *g.outputs]) for g in all_graphs(graph)]


def _sample(rows: int, **others: object) -> dict[str, np.ndarray]:
    x = RNG.standard_normal((rows, 4), dtype=np.float32)
    return {"x": x, **{name: np.asarray(value) for name, value in others.items()}}


def _check(found: Histogram, *arrays: np.ndarray) -> None:
    all_numbers = np.concatenate([array.reshape(-1) for array in arrays])
    assert found.low == pytest.approx(float(all_numbers.min()), rel=1e-5)
    assert found.high == pytest.approx(float(all_numbers.max()), rel=1e-5)
    assert not found.infinite


def test_each_branch_is_measured_on_the_samples_that_take_it() -> None:
    samples = [_sample(2, c=True), _sample(3, c=False), _sample(5, c=True)]
    found = measured(BRANCHES, samples)
    taken = [s["x"] ** 2 for s in samples if s["c"]]
    _check(found["m"], *taken)
    _check(found["a"], *(-array for array in taken))
    _check(found["e1"], np.exp(samples[1]["x"]))
    _check(found["y"], *(-array for array in taken), samples[1]["x"])


def test_nothing_is_known_of_a_branch_that_no_sample_takes() -> None:
    found = measured(BRANCHES, [_sample(2, c=True), _sample(2, c=True)])
    assert found["e1"].total == found["b"].total == 0
    assert found["m"].total


def test_all_iterations_count_and_branches_in_them() -> None:
    samples = [_sample(n, c=c, trips=t) for n, c, t in ((2, True, 3), (3, True, 0), (1, False, 2))]
    want: dict[str, list[np.ndarray]] = {name: [] for name in ("h", "g", "h2", "u", "v")}
    for sample in samples:
        h = sample["x"]
        for i in range(int(sample["trips"])):
            g = h + np.float32(i)
            h2 = -2 * g if sample["c"] else 1 / (1 + np.exp(-g))
            for name, array in (("h", h), ("g", g), ("h2", h2), ("u" if sample["c"] else "v", h2)):
                want[name].append(array)
            h = h2
    found = measured(NESTED, samples)
    for name, arrays in want.items():
        _check(found[name], *arrays)


def test_steps_of_a_scan_count() -> None:
    samples = [_sample(3), _sample(2)]
    found = measured(SCANNED, samples)
    powers = [s["x"] ** (2 ** (t + 1)) for s in samples for t in range(4)]
    _check(found["state2"], *powers)
    _check(found["top"], *(p.max(axis=1) for p in powers))
    _check(found["col"], *(s["x"] for s in samples))


def test_numbers_that_are_not_finite_are_told() -> None:
    sample = _sample(2, c=False)
    sample["x"][0, 0] = 1000.0  # exp(1000) is infinite
    found = measured(BRANCHES, [sample])["e1"]
    assert found.infinite == 1
    assert found.high == pytest.approx(float(np.exp(np.delete(sample["x"].reshape(-1), 0)).max()))


@pytest.mark.parametrize(
    ("row", "numbers"),
    [
        ((3.0, 2.0, 0.0), [-3.0, 2.0]),
        ((-1.0, 1.0, 1.0), [1.0, 1.0, np.inf]),
        ((-3.4028235e38, -3.4028235e38, 0.0), []),
        ((-3.4028235e38, -3.4028235e38, 1.0), [np.inf]),
    ],
)
def test_rows(row: tuple[float, ...], numbers: list[float]) -> None:
    np.testing.assert_array_equal(extremes(np.array(row, np.float32)), np.float32(numbers))
