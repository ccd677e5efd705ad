"""On a machine with an NVIDIA GPU: equality with onnxruntime, and times beside torch's."""

from __future__ import annotations

from typing import Any

import pytest

from burnish.artifact import TargetInfo
from burnish.errors import BurnishError
from burnish.runtime import missing_device
from tests.gpu import pack
from tests.gpu.models import MODELS

#: The oldest architecture that burnish builds for.
OLDEST = "sm_75"


def _missing() -> str:
    try:
        return missing_device(TargetInfo(f"cuda:{OLDEST}", OLDEST, "x86_64", (), device="cuda"))
    except BurnishError as error:
        return str(error)


WHY = _missing()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.models,
    pytest.mark.skipif(bool(WHY), reason=f"no GPU to run on: {WHY}"),
]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """All cases, compiled and run, by name."""
    folder = tmp_path_factory.mktemp("gpu") / "pack"
    pack.main(str(folder), "--target", "cuda")
    return {case["name"]: case for case in pack.run(folder)["cases"]}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("model", MODELS)
def test_equal_to_onnxruntime(
    model: str, precision: str, report: dict[str, dict[str, Any]]
) -> None:
    case = report[f"{model}-{precision}"]
    assert not case["error"]
    wrong = [output for output in case["outputs"] if not output["passed"]]
    assert not wrong
    assert len(case["outputs"]) >= 2 * len(MODELS[model].sizes)
    assert case["kernels_ms"] > 0
