"""The device runtime on an emulated CUDA device: copies, memory, profile, refusals."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from burnish import load
from burnish.errors import TargetUnavailableError
from tests.support.cuda_emulator.build import missing
from tests.support.cuda_emulator.run import on_device

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())
PRODUCT = "tests.backends.cuda_product"


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A matrix product and a softmax for CUDA."""
    path = tmp_path_factory.mktemp("cuda") / "product.burnish"
    on_device("tests.backends.cuda_programs:build_product", path)
    return path


def test_results_memory_and_times_are_right(artifact: Path) -> None:
    on_device(f"{PRODUCT}:use_product", artifact)


@pytest.mark.parametrize(
    ("device", "environment", "error"),
    [
        (0, {"CUDA_EMULATOR_DEVICES": "0"}, "TargetUnavailableError: there is no CUDA device here"),
        (3, {}, "TargetUnavailableError: there is no CUDA device 3: this machine has 1"),
        (
            0,
            {"CUDA_EMULATOR_CAPABILITY": "75"},
            "ArtifactError: the artifact was compiled for sm_80, and GPU 0 has only sm_75",
        ),
    ],
)
def test_what_cannot_run_is_refused(
    artifact: Path, device: int, environment: dict[str, str], error: str
) -> None:
    with pytest.raises(AssertionError) as caught:
        on_device(f"{PRODUCT}:load_only", artifact, device, **environment)
    assert error in str(caught.value)


def test_a_newer_device_runs_older_code(artifact: Path) -> None:
    on_device(f"{PRODUCT}:run_product", artifact, CUDA_EMULATOR_CAPABILITY="90")


def test_without_a_driver_the_error_names_it(artifact: Path) -> None:
    if shutil.which("nvidia-smi"):
        pytest.skip("this machine has a driver")
    command = [sys.executable, "-m", "burnish", "inspect", str(artifact)]
    assert subprocess.run(command, check=False).returncode == 0  # needs no device
    with pytest.raises(TargetUnavailableError) as caught:
        load(artifact)
    assert "libcuda.so.1" in str(caught.value)
    assert "install the driver" in str(caught.value)
    assert caught.value.exit_code == 5
