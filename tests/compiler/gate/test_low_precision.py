"""The gate on lower precisions: what their keys mean, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from burnish.cli.main import main
from burnish.errors import UsageError
from burnish.export import save
from burnish.gate.load import load_config
from burnish.gate.precision import compile_options
from tests.support.golden import parse

NET = "g (float[1,64] x) => (float[1,32] y) <float[64,64] a, float[64,32] b> { p = MatMul(x, a) q = Relu(p) y = MatMul(q, b) }"  # noqa: E501
HEAD = """
[[model]]
name = "net"
path = "net.onnx"
threads = 1
calibration-data = "data.npz"
inputs = ["one.npz"]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model, samples, and an input."""
    save(parse(NET, seed=4), tmp_path / "net.onnx")
    x = np.random.default_rng(5).standard_normal((16, 1, 64)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x)
    np.savez(tmp_path / "one.npz", x=x[0])
    return tmp_path


def check(folder: Path, text: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, Any]:
    (folder / "burnish.toml").write_text(HEAD + text)
    code = main(["check", str(folder / "burnish.toml"), "--json", "-"])
    out = capsys.readouterr().out
    return code, json.loads(out)["rows"] if out else None


def test_int8_is_built_with_its_options_and_its_share_demanded(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (
        'precisions = ["int8", "fp32"]\nstrict = true\ncalibration-samples = 12\n'
        'quantization = { calibration-method = "mse", per-channel = false }\n'
        "accuracy.min-cosine = 0.99\n"
        '[[model.when]]\nprecisions = ["int8"]\nplacement.min-operations = { int8 = 1.0 }\n'
    )
    code, rows = check(folder, text, capsys)
    assert code == 0, rows
    assert [row["name"] for row in rows] == ["net-x86-int8", "net-x86-fp32"]
    shares = {c["subject"]: c["measured"] for c in rows[0]["checks"]}
    assert shares["operations int8"] == "100.0% of the operations of products"


def test_a_share_that_is_not_reached_fails_with_13(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (
        'precisions = ["int8"]\nquantization = { op-types-to-exclude = ["MatMul"] }\n'
        "placement.min-operations = { int8 = 0.9 }\n"
    )
    code, rows = check(folder, text, capsys)
    assert code == 2  # nothing is left to quantize
    text = text.replace("op-types-to-exclude", "nodes-to-exclude")
    code, rows = check(folder, text, capsys)
    assert code == 13
    (failed,) = (c for c in rows[0]["checks"] if c["outcome"] == "failed")
    assert "excluded by 'MatMul'" in failed["message"]


def test_each_precision_gets_the_options_that_it_has_a_use_for(folder: Path) -> None:
    (folder / "metric.py").write_text("def f(*_): return 0\n")
    (folder / "burnish.toml").write_text(
        HEAD
        + 'precisions = ["fp32", "bf16", "int8", "auto"]\n'
        + 'quantization = { smooth-quant = 0.5, nodes-to-exclude = "Gemm_1" }\n'
        + 'budget = { metric = "metric.py:f" }\n'
    )
    fp32, bf16, int8, auto = map(compile_options, load_config(folder / "burnish.toml").rows)
    assert fp32.calibration_data is None
    assert bf16.calibration_data == str(folder / "data.npz")
    assert bf16.quantization is not None
    assert bf16.quantization.only_excludes
    assert bf16.quantization.selection.nodes_to_exclude == ("Gemm_1",)
    assert (fp32.quantization, bf16.budget) == (None, None)
    assert int8.quantization is not None
    assert int8.quantization.smooth_quant == 0.5
    assert auto.budget is not None
    assert auto.budget.metric == f"{folder}/metric.py:f"


WRONG = {
    'calibration-data = "no.npz"': "no such file",
    'quantization = { calibration-metod = "mse" }': "unknown key 'calibration-metod'",
    "quantization = { smooth-quant = 7 }": "--smooth-quant takes a share",
    "budget = { max-evals = 1 }": "leaves nothing to choose from",
    'budget = { max-drop = "much" }': "--max-drop takes a number >= 0, not much",
    "quantization = { nodes-to-exclude = [7] }": "nodes_to_exclude takes names, not 7",
    "strict = 1": "true or false",
}


@pytest.mark.parametrize("text", WRONG)
def test_wrong_values_are_named(text: str, folder: Path) -> None:
    head = HEAD.replace('calibration-data = "data.npz"\n', "")
    (folder / "burnish.toml").write_text(head + text)
    with pytest.raises(UsageError) as caught:
        load_config(folder / "burnish.toml")
    assert WRONG[text] in str(caught.value)
