"""``compile --precision auto`` from end to end: what it chooses, says, writes and refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

import burnish
from burnish.artifact import is_artifact, read_manifest
from burnish.cli.main import main
from burnish.errors import AccuracyError, BurnishError
from burnish.export import save
from burnish.ir import Constant
from tests.support.golden import parse

#: Between the second and the third product, one channel is 300 times larger than the others: eight
#: bits for all of them leave little of the others.
NET = """g (float[1,64,256] x) => (float[1,64,32] y)
<float[256,512] a, float[512,512] b, float[512] s, float[512,256] c, float[256,32] d> {
    p = MatMul(x, a)
    q = Relu(p)
    r = MatMul(q, b)
    t = Relu(r)
    u = Mul(t, s)
    v = MatMul(u, c)
    w = Relu(v)
    y = MatMul(w, d)
}"""
X = np.random.default_rng(0).standard_normal((24, 1, 64, 256)).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network and samples."""
    folder = tmp_path_factory.mktemp("auto")
    graph = parse(NET, seed=2)
    scale = np.ones(512, np.float32)
    scale[3] = 300
    (value,) = (v for v in graph.constants() if v.shape == (512,))
    value.const = Constant(scale)
    save(graph, folder / "net.onnx")
    np.savez(folder / "data.npz", x=X)
    return folder


@pytest.fixture(scope="module")
def built(folder: Path) -> dict[str, Any]:
    """What a search within 0.001 of the cosine similarity found, by the times it measured."""
    report = folder / "report.json"
    command = ["compile", str(folder / "net.onnx"), "-o", str(folder / "net.burnish"), "--best"]
    command += ["--calibration-data", str(folder / "data.npz"), "--max-drop", "0.001", "--strict"]
    command += ["--report", str(report), "--report", str(folder / "front.svg"), "--threads", "1"]
    assert main(command) == 0
    return dict(json.loads(report.read_text()))


@pytest.mark.timing
def test_it_keeps_the_budget_on_unseen_samples(built: dict[str, Any], folder: Path) -> None:
    assert built["drop"] <= 0.001
    assert (built["chosen_on"], built["judged_on"]) == (16, 6)
    assert built["evaluations"] <= 32
    unseen = np.random.default_rng(99).standard_normal((1, 64, 256)).astype(np.float32)
    found = burnish.compare(folder / "net.burnish", folder / "net.onnx", {"x": unseen})
    assert 1 - found.outputs[0].cosine <= 0.001


@pytest.mark.timing
def test_the_sensitive_product_alone_stays_higher(built: dict[str, Any], folder: Path) -> None:
    precisions = [region["precision"] for region in built["regions"]]
    assert precisions[0] == precisions[1] == "int8"
    assert precisions[2] in ("bf16", "fp32")
    added = [region["sensitivity"] for region in built["regions"]]
    assert max(added) == added[2]
    assert built["below_fp32"] > 0.7
    name = built["regions"][2]["nodes"][0]
    (node,) = (
        n for n in read_manifest(folder / "net.burnish").nodes if name in n.nodes and n.flops != "0"
    )
    assert node.precision == precisions[2]
    assert "the budget leaves it" in built["regions"][2]["reason"]


@pytest.mark.timing
def test_the_front_goes_from_fp32_to_the_fastest(built: dict[str, Any], folder: Path) -> None:
    front = built["front"]
    assert front[0]["label"] == "4 x fp32"
    assert front[0]["drop"] == 0
    assert len(front) >= 3
    assert sum(point["chosen"] for point in front) == 1
    assert built["seconds"]["auto"] < built["seconds"]["fp32"]
    picture = ElementTree.parse(folder / "front.svg").getroot()
    circles = [e for e in picture.iter() if e.tag.endswith("circle")]
    assert len(circles) == len(front)


def test_a_budget_of_nothing_ships_fp32(folder: Path) -> None:
    report = burnish.compile_to(
        folder / "net.onnx",
        folder / "exact.burnish",
        precision="auto",
        calibration_data=X,
        max_drop=1e-9,
        max_evals=8,
        check=True,
        threads=1,
    )
    assert report.precision is not None
    assert {r["precision"] for r in report.precision["regions"]} == {"fp32"}
    assert report.precision["below_fp32"] == 0
    assert report.precision["evaluations"] <= 8
    manifest = read_manifest(folder / "exact.burnish")
    assert all("int8" not in node.precision for node in manifest.nodes)


SCRIPT = """
import numpy as np

def agreement(outputs, reference, inputs):
    assert set(inputs) == {"x"}
    return -float(np.abs(outputs["y"] - reference["y"]).mean() / np.abs(reference["y"]).mean())

def impossible(outputs, reference, inputs):
    return 1.0 if outputs["y"] is reference["y"] else 0.0

def undefined(outputs, reference, inputs):
    return float("nan")
"""


def test_a_metric_of_the_users_that_fp32_fails_too(folder: Path) -> None:
    (folder / "metric.py").write_text(SCRIPT)
    with pytest.raises(AccuracyError, match="not even fp32 is within the budget") as caught:
        burnish.compile_to(
            folder / "net.onnx",
            folder / "no.burnish",
            precision="auto",
            calibration_data=X[:8],
            metric=f"{folder / 'metric.py'}:impossible",
            max_evals=4,
            threads=1,
        )
    assert caught.value.exit_code == 10
    assert not is_artifact(folder / "no.burnish")


REFUSED = {
    "too few": ({"calibration_data": X[:7]}, "precision auto needs 8 samples, .* there are 7"),
    "metric": ({"metric": "nowhere.py:f"}, "no such script"),
    "function": ({"metric": "metric.py:g"}, "has no function 'g'"),
    "score": ({"metric": "metric.py:undefined"}, "model's own outputs are not within the budget"),
    "operator": ({"op_types_to_exclude": "Matmul"}, "there is no operator 'Matmul'"),
    "weights": ({"weights_only": "int4"}, "--weights-only chooses the precision"),
    "nothing": ({"nodes_to_exclude": [".*"]}, "no products to choose precisions for"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(case: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "metric.py").write_text(SCRIPT)
    monkeypatch.chdir(folder)
    options, message = REFUSED[case]
    with pytest.raises(BurnishError, match=message) as caught:
        burnish.compile_to(
            folder / "net.onnx",
            folder / "no.burnish",
            **{"precision": "auto", "calibration_data": X, **options},
        )
    assert caught.value.exit_code == 2
    assert not (folder / "no.burnish").exists()


def test_reports_have_names_that_say_what_they_are(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, data = str(folder / "net.onnx"), str(folder / "data.npz")
    assert main(["compile", model, "--best", "--calibration-data", data, "--report", "x.pdf"]) == 2
    assert "name it F.json or F.svg" in capsys.readouterr().err
    assert main(["compile", model, "--report", "x.svg"]) == 2
    assert "--report is about the search" in capsys.readouterr().err
