"""The folder for a bare GPU machine, made here and run on the emulated device."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.gpu import compact
from tests.gpu.measure import compare_output
from tests.gpu.pack import run
from tests.support.cuda_emulator.build import missing
from tests.support.cuda_emulator.run import environment, on_device


def test_weights_come_back_bit_by_bit(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tensors = {
        "half": compact.random_signs(rng.standard_normal((65, 33), np.float32), 1).astype("f2"),
        "single": rng.standard_normal((7, 3)).astype(np.float32),
        "padded": np.pad(rng.standard_normal((5, 5)).astype(np.float32), 2),
        "ids": rng.integers(-9, 9, 11),
        "empty": np.zeros((0, 4), np.float32),
    }
    save_file(tensors, tmp_path / compact.WEIGHTS)
    before = (tmp_path / compact.WEIGHTS).read_bytes()
    compact.shrink(tmp_path)
    assert not (tmp_path / compact.WEIGHTS).exists()
    compact.restore(tmp_path)
    assert (tmp_path / compact.WEIGHTS).read_bytes() == before
    np.testing.assert_array_equal(load_file(tmp_path / compact.WEIGHTS)["half"], tensors["half"])


def test_a_weight_takes_about_a_bit(tmp_path: Path) -> None:
    weight = compact.random_signs(np.ones((512, 1024), np.float32), 0)
    save_file({"w": weight}, tmp_path / compact.WEIGHTS)
    compact.shrink(tmp_path)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 1.1 * weight.size / 8


@pytest.mark.parametrize("change", [0.0, 1e-3, 0.1, float("nan")])
def test_wrong_outputs_are_noticed(change: float) -> None:
    wanted = np.random.default_rng(0).standard_normal((4, 50)).astype(np.float32)
    found = wanted.copy()
    found[2, 7] += change
    row = compare_output(found, wanted, {"atol": 2e-3, "rtol": 0.0, "rms": 1e-3})
    assert row["passed"] == (change in (0.0, 1e-3))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small pack, its kernels built for the emulated device."""
    if missing():
        pytest.skip(missing())
    folder = tmp_path_factory.mktemp("gpu") / "pack"
    only = ("--models", "smoke", "--precisions", "fp32", "--target", "cuda:sm_80")
    on_device("tests.gpu.pack:main", folder, *only)
    return folder


def emulated(folder: Path) -> dict[str, Any]:
    return run(folder, "--seconds", "0", "--peer-seconds", "0", env=environment())


def test_everything_runs_from_the_folder_alone(folder: Path) -> None:
    report = emulated(folder)
    (case,) = report["cases"]
    assert case["passed"]
    # Two sizes, each twice, and the program without Python.
    assert [(o["size"], o["attempt"]) for o in case["outputs"]] == [
        *((size, attempt) for size in (0, 1) for attempt in (0, 1)),
        (0, "burnish_run"),
    ]
    assert all(output["scale"] > 1e-3 for output in case["outputs"])
    assert case["milliseconds"] > 0
    assert case["kernels_ms"] > 0
    assert any("conv" in kernel["name"] for kernel in case["kernels"])


def test_a_wrong_result_fails(folder: Path) -> None:
    file = folder / "models" / "smoke-fp32" / "expected1.npz"
    right = file.read_bytes()
    expected = dict(np.load(file))
    np.savez_compressed(file, **{name: data + 0.1 for name, data in expected.items()})
    try:
        with pytest.raises(AssertionError, match="DIFFERS"):
            emulated(folder)
    finally:
        file.write_bytes(right)
    (case,) = json.loads((folder / "results.json").read_text())["cases"]
    assert not case["passed"]
    assert {o["size"] for o in case["outputs"] if not o["passed"]} == {1}


def test_without_a_device_every_case_says_why(folder: Path) -> None:
    with pytest.raises(AssertionError, match="there is no CUDA device here"):
        run(folder, "--peer-seconds", "0", env=environment(CUDA_EMULATOR_DEVICES="0"))
