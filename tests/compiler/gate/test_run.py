"""The gate on real artifacts: each gate passes and fails, and a row never takes others along."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from burnish.cli.main import main
from tests.support.bundle import Case, model_of

MLP = Case(
    "(float[n,8] x) => (float[n,4] y, float[n,16] r) <float[8,16] w1, float[16] b1, "
    "float[16,4] w2> { h = MatMul(x, w1) a = Add(h, b1) r = Relu(a) z = MatMul(r, w2) "
    "y = Softmax(z) }"
)


def unsupported() -> onnx.ModelProto:
    """A model with an operator that nobody knows."""
    node = helper.make_node("Frobnicate", ["x"], ["z"], domain="com.acme")
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 8]) for n in "xz"]
    graph = helper.make_graph([node], "unsupported", values[:1], values[1:])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.acme", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


HEAD = """
[measure]
time-budget = 20
[[model]]
name = "mlp"
path = "mlp.onnx"
threads = 1
inputs = ["*.npz", "make.py:batches", { samples = 2, shapes = ["m/x:5x8"] }]
"""
SCRIPT = """
import os
import numpy as np
import helper

def batches():
    rng = np.random.default_rng(helper.SEED)
    for n in (1, 6):
        yield {"m/x": rng.standard_normal((n, 8)).astype(np.float32)}

def one():
    return {"m/x": np.ones((2, 8), np.float32)}

def nothing():
    return []

def wrong():
    yield [1, 2]

def broken():
    yield next(batches())
    raise KeyError("image 7")

def crash():
    os.kill(os.getpid(), 11)

def endless():
    while True:
        yield one()

def number():
    return 3
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with samples, and its artifact in the folder ``kept``."""
    path = tmp_path_factory.mktemp("gate")
    rng = np.random.default_rng(3)
    onnx.save(model_of(MLP, "m", rng), path / "mlp.onnx")
    onnx.save(unsupported(), path / "unsupported.onnx")
    np.savez(path / "a.npz", **{"m/x": rng.standard_normal((3, 8)).astype(np.float32)})
    (path / "make.py").write_text(SCRIPT)
    (path / "helper.py").write_text("SEED = 5\n")
    (path / "burnish.toml").write_text(HEAD)
    code = main(["check", str(path / "burnish.toml"), "--keep-artifacts", str(path / "kept"), "-q"])
    assert code == 0
    return path


class Gate:
    """Runs ``burnish check`` on the artifact that is there, with more in the configuration."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys
        self.out = self.err = ""

    def __call__(self, more: str, *options: str, head: str = HEAD, compile: bool = False) -> int:
        (self.folder / "burnish.toml").write_text(head + more)
        taken = [] if compile else ["--artifacts", str(self.folder / "kept")]
        config = str(self.folder / "burnish.toml")
        code = main(["check", config, *taken, "--json", "-", *options])
        self.out, self.err = self.capsys.readouterr()
        return code

    @property
    def rows(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = json.loads(self.out)["rows"]
        return rows

    def check(self, name: str) -> dict[str, Any]:
        """The check of that name in the first row."""
        checks = {f"{c['gate']} {c['subject']}".strip(): c for c in self.rows[0]["checks"]}
        assert name in checks, list(checks)
        return checks[name]


@pytest.fixture
def gate(folder: Path, capsys: pytest.CaptureFixture[str]) -> Gate:
    return Gate(folder, capsys)


def test_all_samples_of_all_sources_are_compared(gate: Gate) -> None:
    assert gate("") == 0
    for output in ("m/y", "m/r"):
        details = gate.check(f"accuracy {output}")["details"]
        assert [sample["shape"][0] for sample in details["samples"]] == [3, 1, 6, 5, 5]
        assert all(sample["elements"] for sample in details["samples"])
        assert details["top1"] == 1.0


def test_limits_of_accuracy_fail_with_10(gate: Gate) -> None:
    limits = "[model.accuracy]\nmin-cosine = 0.99\noutputs.'m/y' = { max-abs = 1e-30 }"
    assert gate(limits) == 10
    failed = gate.check("accuracy m/y")
    assert failed["outcome"] == "failed"
    assert "sample 3: max_abs" in failed["message"]
    assert "max-abs is 1e-30" in failed["message"]
    assert failed["limit"] == "max-abs 1e-30"
    assert gate.check("accuracy m/r")["outcome"] == "passed"


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        ("atol = 1e-12", "beyond the tolerance"),
        ("rtol = 1e-12", "beyond the tolerance"),
        ("max-rel = 1e-12", "max_rel"),
        ("max-rms = 1e-12", "rms"),
        ("max-mean-abs = 1e-12", "mean_abs"),
        ("min-psnr = 400", "psnr"),
    ],
)
def test_each_limit_of_accuracy_is_looked_at(gate: Gate, limit: str, said: str) -> None:
    assert gate(f"[model.accuracy]\n{limit}") == 10
    assert said in gate.check("accuracy m/y")["message"]


def test_generous_limits_pass(gate: Gate) -> None:
    limits = (
        "[model.accuracy]\natol = 0.1\nrtol = 0.1\nmax-abs = 1\nmax-mean-abs = 1\nmax-rel = 1\n"
        "max-rms = 1\nmin-cosine = 0.9\nmin-psnr = 40\nmin-top1 = 1.0"
    )
    assert gate(limits) == 0
    assert "top1 1.0000" in gate.check("accuracy m/y")["measured"]


def test_an_output_that_does_not_exist(gate: Gate) -> None:
    assert gate("[model.accuracy]\noutputs.z = { max-abs = 1 }") == 2
    found = gate.check("accuracy")
    assert found["outcome"] == "error"
    assert "its outputs are m/y, m/r" in found["message"]


def test_a_latency_beyond_its_limit_fails_with_11(gate: Gate) -> None:
    assert gate("latency.max-ratio = { onnxruntime = 0.001 }") == 11
    failed = gate.check("latency / onnxruntime")
    assert failed["outcome"] == "failed"
    assert "with 99.9% confidence, where 0.001 is allowed" in failed["message"]
    details = failed["details"]
    assert details["lower"] > 0.001
    assert details["blocks"] >= 12
    assert [side["runner"] for side in details["sides"]] == ["burnish", "onnxruntime"]


def test_a_latency_within_its_limit_passes(gate: Gate) -> None:
    assert gate("latency.max-ratio = { onnxruntime = 1000 }") == 0
    assert gate.check("latency / onnxruntime")["details"]["upper"] < 1000


def test_what_the_noise_leaves_undecided_is_no_failure_unless_asked(gate: Gate) -> None:
    limit = "latency.max-ratio = { onnxruntime = 1.0 }"
    assert gate(limit, "--time-budget", "0.05") == 0
    found = gate.check("latency / onnxruntime")
    assert found["outcome"] == "inconclusive"
    assert "raise measure.time-budget" in found["message"]
    assert gate(limit, "--time-budget", "0.05", "--fail-on-inconclusive") == 11
    assert gate.check("latency / onnxruntime")["outcome"] == "inconclusive"
    strict = '[check]\ninconclusive = "fail"\n' + HEAD
    assert gate(limit, "--time-budget", "0.05", head=strict) == 11
    assert gate(limit, "--time-budget", "0.05", "--pass-on-inconclusive", head=strict) == 0


def test_size_and_memory_fail_with_12(gate: Gate) -> None:
    assert gate('size.max-bytes = "1 KB"') == 12
    assert "where 1 KB is allowed" in gate.check("size")["message"]
    assert gate('memory.max-run = "1 MB"') == 12
    found = gate.check("memory run")["details"]["bytes"]
    # Python and NumPy, but neither ONNX nor onnxruntime.
    assert 10e6 < found < 100e6
    assert gate('size.max-bytes = "10 MB"\nmemory.max-run = "1 GB"') == 0


def test_precision_and_placement_fail_with_13(gate: Gate) -> None:
    assert gate("placement.min-share = { fp16 = 0.5, fp32 = 1.0 }") == 13
    failed = gate.check("precision compute fp16")
    assert "0 of 3 kernels compute in fp16" in failed["message"]
    assert gate.check("precision compute fp32")["outcome"] == "passed"
    assert gate('placement.devices = ["cuda"]') == 13
    assert "(cpu)" in gate.check("placement devices")["message"]
    assert gate("placement.min-storage = { fp32 = 1.0 }") == 0


def test_the_lowest_gate_gives_the_exit_code_and_all_are_listed(gate: Gate) -> None:
    demands = (
        'size.max-bytes = 10\nplacement.devices = ["cuda"]\naccuracy.max-abs = 1e-30\n'
        "latency.max-ratio = { onnxruntime = 0.001 }"
    )
    assert gate(demands) == 10
    failed = {c["gate"] for c in gate.rows[0]["checks"] if c["outcome"] == "failed"}
    assert failed == {"accuracy", "latency", "size", "placement"}


def test_a_row_that_cannot_be_compiled_does_not_stop_the_others(gate: Gate) -> None:
    more = (
        '[[model]]\npath = "unsupported.onnx"\n'
        '[[model]]\nname = "again"\npath = "mlp.onnx"\nprecisions = ["auto", "fp32"]\n'
        'memory.max-compile = "1 MB"\nplacement.forbid-notes = ["*"]\n'
    )
    assert gate(more, "--only", "unsupported", "--only", "again", compile=True) == 2
    rows = {row["name"]: row for row in gate.rows}
    assert list(rows) == ["unsupported-x86-fp32", "again-x86-auto", "again-x86-fp32"]
    (refused,) = rows["unsupported-x86-fp32"]["checks"]
    assert (refused["outcome"], refused["exit_code"]) == ("error", 3)
    assert "com.acme::Frobnicate" in refused["message"]
    (incomplete,) = rows["again-x86-auto"]["checks"]
    assert incomplete["exit_code"] == 2
    assert "calibration data" in incomplete["message"] or "samples" in incomplete["message"]
    codes = {c["gate"]: c["exit_code"] for c in rows["again-x86-fp32"]["checks"]}
    assert codes == {"compile": 0, "accuracy": 0, "memory": 12, "placement": 0}


def test_limits_that_only_a_compilation_can_check(gate: Gate) -> None:
    assert gate('memory.max-compile = "9 GB"\nplacement.forbid-notes = ["x"]') == 2
    assert "leave --artifacts out" in gate.check("memory compile")["message"]
    assert "leave --artifacts out" in gate.check("placement notes")["message"]


def test_an_artifact_of_another_model_is_refused(gate: Gate, folder: Path) -> None:
    model = onnx.load(folder / "mlp.onnx")
    model.doc_string = "changed"
    onnx.save(model, folder / "other.onnx")
    assert gate("", head=HEAD.replace("mlp.onnx", "other.onnx")) == 2
    assert "was not compiled from" in gate.check("compile")["message"]
    assert gate("", head=HEAD.replace('"mlp"', '"new"')) == 2
    assert "--keep-artifacts writes it" in gate.check("compile")["message"]


def test_baseline(gate: Gate, folder: Path) -> None:
    demands = "latency.max-ratio = { baseline = 3 }\nsize.max-ratio = 1.01\n"
    assert gate(demands) == 2
    assert "none is named" in gate.err
    base = str(folder / "base")
    assert gate(demands, "--baseline", base) == 2
    assert "baseline artifacts are missing" in gate.err
    assert f"{base}/mlp-x86-fp32.burnish" in gate.err
    # What fails does not become the baseline.
    assert gate(demands + "accuracy.max-abs = 1e-30", "--baseline", base, "--update-baseline") == 10
    assert not (folder / "base").exists()
    assert gate(demands, "--baseline", base, "--update-baseline") == 0
    assert gate.rows[0]["baseline_updated"]
    assert not any(c["gate"] in ("latency", "size") for c in gate.rows[0]["checks"])
    assert gate(demands, "--baseline", base) == 0
    assert gate.check("latency / baseline")["details"]["ratio"] == pytest.approx(1, rel=0.5)
    assert gate.check("size / baseline")["details"]["ratio"] == 1.0
    assert gate("size.max-ratio = 0.5", "--baseline", base) == 12
    assert "of the baseline, where 0.5 is allowed" in gate.check("size / baseline")["message"]


@pytest.mark.parametrize(
    ("function", "said", "code"),
    [
        ("nothing", "it yields no samples", 2),
        ("wrong", "it yields list, not arrays by input name", 2),
        ("broken", "it fails in line 22: KeyError: 'image 7'", 2),
        ("number", "it returned int", 2),
        ("missing", "no function 'missing'", 2),
        ("endless", "more than 1000 samples", 2),
        ("crash", "the process that ran the model was killed by SIGSEGV", 4),
    ],
)
def test_functions_that_go_wrong(gate: Gate, function: str, said: str, code: int) -> None:
    head = HEAD.split("inputs")[0] + f'inputs = "make.py:{function}"\n'
    assert gate("", head=head) == code
    found = gate.check("accuracy")
    assert found["outcome"] == "error"
    assert said in found["message"]


def test_a_function_may_return_one_sample(gate: Gate) -> None:
    assert gate("", head=HEAD.split("inputs")[0] + 'inputs = "make.py:one"\n') == 0
    assert len(gate.check("accuracy m/y")["details"]["samples"]) == 1


def test_what_this_machine_cannot_run(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("burnish.gate.row.unfit", lambda target: "it is for another CPU")
    more = "latency.max-ratio = { onnxruntime = 1 }"
    assert gate(more) == 5
    assert "it is for another CPU" in gate.check("accuracy")["message"]
    assert gate(more, head='[check]\nunrunnable = "skip"\n' + HEAD) == 0
    assert gate.check("latency / onnxruntime")["outcome"] == "skipped"


def test_only_takes_models_and_rows(gate: Gate) -> None:
    assert gate("", "--only", "mlp-x86-fp32") == 0
    assert len(gate.rows) == 1
    assert gate("", "--only", "mpl") == 2
    assert "the models are mlp" in gate.err


def test_reports_go_where_they_are_asked_for(
    gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = tmp_path / "step.md"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    options = ["--output", str(tmp_path / "out"), "--junit", str(tmp_path / "j.xml")]
    assert gate("size.max-bytes = 10", *options, "--markdown", str(summary)) == 12
    assert summary.read_text().startswith("before\n## ❌")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["junit.xml", "report.json", "summary.md"]
    assert (tmp_path / "j.xml").read_text() == (tmp_path / "out" / "junit.xml").read_text()
    assert json.loads((tmp_path / "out" / "report.json").read_text())["exit_code"] == 12
    # stdout is JSON alone; annotations go to stderr.
    assert json.loads(gate.out)["exit_code"] == 12
    assert "::error title=mlp-x86-fp32%3A size::" in gate.err
    assert gate("", "--junit", str(tmp_path / "none" / "j.xml")) == 2


def test_init_writes_a_configuration_that_passes_the_reader(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from burnish.gate.load import load_config

    path = tmp_path / "burnish.toml"
    assert main(["check", str(path), "--init", str(folder / "mlp.onnx")]) == 0
    config = load_config(path)
    assert config.rows[0].model.path.resolve() == (folder / "mlp.onnx").resolve()
    assert config.rows[0].model.latency.max_ratio == {"onnxruntime": 1.0}
    # What is commented out is right as well.
    lines = path.read_text().splitlines()
    (tmp_path / "samples").mkdir()
    np.savez(tmp_path / "samples" / "1.npz", x=np.ones(1))
    (tmp_path / "inputs.py").write_text("def samples(): ...\n")
    keys = [
        line[2:] if line[:3] == "# [" or (" = " in line and line[0] == "#") else line
        for line in lines
    ]
    drawn = next(i for i, line in enumerate(keys) if line.startswith("inputs = [{"))
    del keys[drawn]  # given again below, with all sources
    path.write_text("\n".join(keys))
    full = load_config(path).rows[0].model
    assert len(full.inputs) == 3
    assert full.accuracy.outputs["m/y"].max_abs == 0.01
    assert full.placement.min_storage == {"fp16": 0.9}
    assert full.accuracy.limits.atol == 1e-5  # what the last table says of fp32
    capsys.readouterr()
    assert main(["check", str(path), "--init", str(folder / "mlp.onnx")]) == 2
    assert "the file exists" in capsys.readouterr().err
