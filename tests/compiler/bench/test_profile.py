"""Profiles: every kernel call with the user's own nodes and its place under the roofline."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import burnish
from burnish.artifact import NodeInfo
from burnish.bench.profile import Profile, match_nodes, profile
from burnish.bench.roofline import Roofline
from burnish.cli.main import main
from burnish.errors import InvalidInputError, UsageError
from tests.support.bundle import Case, model_of

MLP = Case(
    "(float[batch,256] x) => (float[batch,64] y) <float[256,512] w1, float[512] b1, "
    "float[512,64] w2> { h = MatMul(x, w1) a = Add(h, b1) r = Relu(a) m = MatMul(r, w2) "
    "y = Softmax<axis = -1>(m) }"
)
ROWS = 96
LIMIT = Roofline(1, {"fp32": 1e12}, 1e11, 1e12, 1 << 24)


@pytest.fixture(scope="module")
def model() -> burnish.CompiledModel:
    return burnish.compile(model_of(MLP, "mlp", np.random.default_rng(3)), threads=1)


@pytest.fixture(scope="module")
def result(model: burnish.CompiledModel) -> Profile:
    name = model.get_inputs()[0].name
    x = np.random.default_rng(4).standard_normal((ROWS, 256)).astype(np.float32)
    return profile(model, {name: x}, runs=5, roofline=LIMIT)


def test_calls_are_those_of_the_manifest(model: burnish.CompiledModel, result: Profile) -> None:
    # Sizes are computed first, by a function that is no kernel.
    kernels = [step.kernel for step in result.steps if step.node]
    assert kernels == [n.kernel for n in model.manifest.nodes]
    products = [step for step in result.steps if step.node and step.node.op == "burnish::MatMul"]
    assert [step.flops for step in products] == [2 * ROWS * 256 * 512, 2 * ROWS * 512 * 64]
    # x, w1 and the bias are read, the result is written; weights may be padded to whole vectors.
    assert products[0].nbytes == pytest.approx(
        4 * (ROWS * 256 + 256 * 512 + 512 + ROWS * 512), rel=0.02
    )
    assert products[0].node
    assert {n.split("/")[-1].rstrip("0123456789") for n in products[0].node.nodes} == {
        "MatMul",
        "Add",
        "Relu",
    }


def test_times_are_measured(result: Profile) -> None:
    assert all(step.seconds > 0 for step in result.steps)
    assert result.seconds == pytest.approx(sum(step.seconds for step in result.steps))
    starts = [step.start_us for step in result.steps]
    assert starts == sorted(starts)


def test_share_of_the_limit(result: Profile) -> None:
    step = next(step for step in result.steps if step.node)
    assert step.flops
    # At 1e12 operations a second, and all of it in the cache.
    assert step.limit == pytest.approx(step.flops / 1e12)
    assert step.share_of_limit == pytest.approx(step.limit / step.seconds)


def test_no_runs(model: burnish.CompiledModel) -> None:
    with pytest.raises(UsageError, match="at least one run"):
        profile(model, {}, runs=0)
    with pytest.raises(InvalidInputError):
        profile(model, {}, runs=1)


def _node(kernel: str, name: str) -> NodeInfo:
    return NodeInfo(name, "Op", "fp32", "cpu", kernel, (name,))


@pytest.mark.parametrize(
    ("kernels", "names"),
    [
        # One kernel for equal layers: each call is the next of them.
        (["a", "b", "a", "b"], ["1", "2", "3", "4"]),
        # A branch that was not taken.
        (["a", "a", "b"], ["1", "3", "4"]),
        # A body that runs again.
        (["a", "b", "b", "b"], ["1", "2", "4", "2"]),
        # What the runtime calls besides.
        (["a", "x", "b"], ["1", None, "2"]),
    ],
)
def test_calls_find_their_nodes(kernels: list[str], names: list[str | None]) -> None:
    nodes = [_node("a", "1"), _node("b", "2"), _node("a", "3"), _node("b", "4")]
    assert [node and node.name for node in match_nodes(kernels, nodes)] == names


def test_command(
    model: burnish.CompiledModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(model.save(tmp_path / "mlp.burnish"))
    name = model.get_inputs()[0].name
    options = ["--iterations", "3", "--input-shapes", f"{name}:{ROWS}x256"]
    trace = tmp_path / "trace.json"
    arguments = ["profile", path, *options, "--json", "-", "--trace", str(trace)]
    assert main(arguments) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["schema_version"] == 1
    rates = [call["gflops"] for call in data["calls"] if call["op"] == "burnish::MatMul"]
    assert len(rates) == 2
    assert min(rates) > 0
    assert data["roofline"]["gflops"]["fp32"] > 0
    events = json.loads(trace.read_text())["traceEvents"]
    assert [event["args"]["kernel"] for event in events] == [c["kernel"] for c in data["calls"]]
    assert all(event["dur"] > 0 and event["ph"] == "X" for event in events)

    assert main(["profile", path, *options, "--top", "1"]) == 0
    printed = capsys.readouterr().out
    assert "burnish::MatMul" in printed
    assert "Softmax" not in printed
    assert "limits of" in printed
    assert main(["profile", path, "--iterations", "0"]) == 2
    assert main(["profile", str(tmp_path / "none.onnx")]) == 2
