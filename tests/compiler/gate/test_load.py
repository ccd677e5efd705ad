"""Reading burnish.toml: defaults, overrides, and all errors at once with their place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from burnish.errors import InputFileError, UsageError
from burnish.gate.config import DrawnInputs, FileInputs, GateConfig, ScriptInputs
from burnish.gate.load import load_config
from burnish.gate.units import format_size, parse_size

EVERYTHING = """
[check]
baseline = "base"
inconclusive = "fail"
unrunnable = "skip"
[measure]
confidence = 0.99
time-budget = 5
repeats = 20
statistic = "min"
warmup = 1
seed = 4
[[model]]
name = "first"
path = "a.onnx"
targets = ["x86-64-v3", "arm"]
precisions = ["fp32", "fp16"]
threads = 2
opt-level = 1
skip-passes = ["dead-code"]
input-shapes = ["x:1..8x3", "y:nx4"]
inputs = ["s*.npz", "make.py:samples", { samples = 2, seed = 9, shapes = ["x:2x3"] }]
[model.accuracy]
atol = 1e-3
min-top1 = 0.9
outputs.y = { max-abs = 0.5, min-psnr = 40 }
[model.latency]
max-ratio = { onnxruntime = 0.9, baseline = 1.1 }
[model.size]
max-bytes = "1.5 MiB"
max-ratio = 1.05
[model.memory]
max-compile = "4GB"
max-run = 1000000
[model.placement]
min-share = { fp32 = 1.0 }
min-storage = { fp16 = 0.5 }
devices = ["cpu"]
forbid-notes = ["plain operators"]
"""

WRONG = """
[chek]
[check]
inconclusive = "maybe"
[measure]
confidence = 1
repeats = 0
time_budget = 3
[defaults]
precisions = ["fp31"]
[[model]]
path = "missing.onnx"
targets = ["x68"]
thread = 2
opt-level = true
input-shapes = ["x"]
inputs = ["none*.npz", "make.py:1", "make.txt", { shapes = ["x:nx3"] }]
[model.accuracy]
atol = -1
min-cosine = "high"
cosine = 0.9
outputs.y = 3
[model.latency]
max-ratio = { onnxrutime = 1.0 }
[model.size]
max-bytes = "2 apples"
[[model]]
name = ""
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.onnx").write_bytes(b"not read here")
    (tmp_path / "make.py").write_text("def samples():\n    yield {}\n")
    for i in range(3):
        np.savez(tmp_path / f"s{i}.npz", x=np.ones(i + 1))
    return tmp_path


def load(folder: Path, text: str) -> GateConfig:
    (folder / "burnish.toml").write_text(text)
    return load_config(folder / "burnish.toml")


def problems(folder: Path, text: str) -> list[str]:
    with pytest.raises(UsageError) as caught:
        load(folder, text)
    assert caught.value.exit_code == 2
    assert caught.value.at is not None
    lines = [line.strip() for line in caught.value.at.splitlines()]
    assert f"{len(lines)} error" in caught.value.message
    return lines


def test_the_least_configuration(folder: Path) -> None:
    config = load(folder, '[[model]]\npath = "a.onnx"\n')
    (row,) = config.rows
    model = row.model
    assert (model.name, model.path) == ("a", folder / "a.onnx")
    assert (row.target, row.precision) == ("x86", "fp32")
    assert model.inputs == (DrawnInputs(1, 0),)
    assert not model.accuracy.limits.given
    assert not model.latency.max_ratio
    assert config.baseline is None
    assert not config.fail_on_inconclusive
    assert config.measure.confidence == 0.999


def test_everything_that_can_be_said(folder: Path) -> None:
    config = load(folder, EVERYTHING)
    model = config.rows[0].model
    assert (config.baseline, config.fail_on_inconclusive) == (folder / "base", True)
    assert config.skip_unrunnable
    assert (config.measure.time_budget, config.measure.repeats) == (5, 20)
    assert (config.measure.statistic, config.measure.warmup, config.measure.seed) == (
        "min",
        1,
        4,
    )
    assert [row.name for row in config.rows] == [
        "first-x86-64-v3-fp32",
        "first-x86-64-v3-fp16",
        "first-arm-fp32",
        "first-arm-fp16",
    ]
    assert model.input_shapes == {"x": ((1, 8), 3), "y": ("n", 4)}
    files, script, drawn = model.inputs
    assert isinstance(files, FileInputs)
    assert [path.name for path in files.paths] == ["s0.npz", "s1.npz", "s2.npz"]
    assert script == ScriptInputs(folder / "make.py", "samples")
    assert drawn == DrawnInputs(2, 9, {"x": (2, 3)})
    assert model.accuracy.of("z").min_top1 == 0.9
    # What is said of one output replaces what is said of all.
    assert model.accuracy.of("y").max_abs == 0.5
    assert model.accuracy.of("y").min_top1 is None
    assert model.latency.max_ratio == {"onnxruntime": 0.9, "baseline": 1.1}
    assert (model.size.max_bytes, model.size.max_ratio) == (1572864, 1.05)
    assert (model.memory.max_compile, model.memory.max_run) == (4 * 10**9, 10**6)
    assert model.placement.min_storage == {"fp16": 0.5}


def test_defaults_hold_key_by_key(folder: Path) -> None:
    config = load(
        folder,
        """
        [defaults]
        threads = 2
        accuracy = { atol = 0.1, rtol = 0.2 }
        latency.max-ratio = { onnxruntime = 1.0 }
        [[model]]
        path = "a.onnx"
        accuracy.rtol = 0.3
        [[model]]
        name = "b"
        path = "a.onnx"
        threads = 1
        latency.max-ratio = { openvino = 2 }
        """,
    )
    a, b = (row.model for row in config.rows)
    assert (a.threads, b.threads) == (2, 1)
    assert (a.accuracy.limits.atol, a.accuracy.limits.rtol) == (0.1, 0.3)
    assert (b.accuracy.limits.atol, b.accuracy.limits.rtol) == (0.1, 0.2)
    assert a.latency.max_ratio == {"onnxruntime": 1.0}
    assert b.latency.max_ratio == {"openvino": 2.0}


def test_demands_of_some_targets_and_precisions(folder: Path) -> None:
    config = load(
        folder,
        """
        [defaults]
        threads = 1
        [[defaults.when]]
        precisions = ["fp16"]
        threads = 2
        accuracy.min-cosine = 0.9
        [[model]]
        path = "a.onnx"
        targets = ["x86", "arm"]
        precisions = ["fp32", "fp16"]
        accuracy.atol = 0.1
        [[model.when]]
        precisions = ["fp16"]
        targets = ["arm"]
        accuracy.atol = 0.2
        """,
    )
    found = {
        row.name: (row.model.threads, limits.atol, limits.min_cosine)
        for row in config.rows
        for limits in [row.model.accuracy.limits]
    }
    assert found == {
        "a-x86-fp32": (1, 0.1, None),
        "a-x86-fp16": (2, 0.1, 0.9),
        "a-arm-fp32": (1, 0.1, None),
        "a-arm-fp16": (2, 0.2, 0.9),
    }
    (wrong,) = problems(folder, '[[model]]\npath = "a.onnx"\nwhen = [{ targets = ["x68"] }]\n')
    assert wrong == "model[0].when[0]: no row has such a target and precision"


def test_all_errors_are_said_at_once_with_their_place(folder: Path) -> None:
    found = problems(folder, WRONG)
    expected = [
        ("chek", "did you mean 'check'"),
        ("check.inconclusive", "'maybe' is none of pass, fail"),
        ("measure.confidence", "1 is not at least 0.5 and below 1"),
        ("measure.repeats", "0 is not at least 1"),
        ("measure.time_budget", "did you mean 'time-budget'"),
        ("defaults.precisions[0]", "did you mean 'fp32'"),
        ("model[0].path", "no such file"),
        ("model[0].targets[0]", "unknown target"),
        ("model[0].thread", "did you mean 'threads'"),
        ("model[0].opt-level", "whole number"),
        ("model[0].input-shapes", "not an input shape"),
        ("model[0].inputs[0]", "no such file"),
        ("model[0].inputs[1]", "not the name of a function"),
        ("model[0].inputs[2]", "no such file"),
        ("model[0].inputs[3].shapes", "have to be numbers"),
        ("model[0].accuracy.atol", "-1 is not at least 0"),
        ("model[0].accuracy.min-cosine", "has to be a number, not a string"),
        ("model[0].accuracy.cosine", "did you mean 'min-cosine'"),
        ("model[0].accuracy.outputs.y", "has to be a table, not a number"),
        ("model[0].latency.max-ratio.onnxrutime", "did you mean 'onnxruntime'"),
        ("model[0].size.max-bytes", "not a size: '2 apples'"),
        ("model[1].name", "is empty"),
        ("model[1]", "the key 'path' is missing"),
    ]
    assert len(found) == len(expected), found
    for line, (place, said) in zip(found, expected, strict=True):
        assert line.startswith(f"{place}: "), line
        assert said in line


def test_two_models_of_one_name(folder: Path) -> None:
    (found,) = problems(folder, '[[model]]\npath = "a.onnx"\n[[model]]\npath = "a.onnx"\n')
    assert found.startswith("model.name: two rows would be called a-x86-fp32")


def test_nothing_to_check(folder: Path) -> None:
    assert problems(folder, "[check]\n") == ["there is no [[model]]: nothing would be checked"]


def test_a_known_target_that_cannot_be_built_is_the_business_of_its_row(folder: Path) -> None:
    config = load(folder, '[[model]]\npath = "a.onnx"\ntargets = ["cuda"]\n')
    assert config.rows[0].target == "cuda"


def test_a_file_that_is_no_toml(folder: Path) -> None:
    with pytest.raises(InputFileError, match=r"line 2, column 3"):
        load(folder, "[check]\na b\n")
    with pytest.raises(InputFileError, match="no such file") as caught:
        load_config(folder / "other.toml")
    assert "--init" in (caught.value.hint or "")
    (folder / "burnish.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InputFileError, match="cannot be read"):
        load_config(folder / "burnish.toml")


@pytest.mark.parametrize(
    ("spelled", "size"),
    [
        (17, 17),
        ("17", 17),
        ("17 B", 17),
        ("2 KB", 2000),
        ("2kib", 2048),
        ("1.5 MB", 1_500_000),
        (" .5GiB ", 2**29),
        ("3 TB", 3 * 10**12),
    ],
)
def test_sizes(spelled: str | int, size: int) -> None:
    assert parse_size(spelled) == size


@pytest.mark.parametrize("spelled", ["", "MB", "1 QB", "-3 KB", "1,5 MB", "0", 0])
def test_wrong_sizes(spelled: str | int) -> None:
    with pytest.raises(ValueError, match="size"):
        parse_size(spelled)


def test_sizes_for_people() -> None:
    assert [format_size(n) for n in (12, 1234, 2_041_000, 7_500_000_000)] == [
        "12 B",
        "1.23 KB",
        "2.04 MB",
        "7.5 GB",
    ]
