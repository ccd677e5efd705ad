"""Real models on the emulated CUDA device: whole networks at their real sizes, tails and all."""

from __future__ import annotations

import json

import pytest

from tests.models import ModelUnavailable, model_path
from tests.support.cuda_emulator.build import missing
from tests.support.cuda_emulator.run import on_device

pytestmark = [
    pytest.mark.skipif(bool(missing()), reason=missing()),
    pytest.mark.slow,
    pytest.mark.models,
]


@pytest.mark.parametrize(
    ("name", "precision"),
    [("mobilenetv2", "fp16"), ("minilm", "fp16"), ("minilm", "fp32"), ("resnet50", "fp16")],
)
def test_equal_to_onnxruntime(name: str, precision: str) -> None:
    try:
        model_path(name)
    except ModelUnavailable as reason:
        pytest.skip(f"{name}: {reason}")
    printed = on_device("tests.support.cuda_models:run", name, precision, timeout=500)
    outputs = json.loads(printed.splitlines()[-1])
    assert outputs
    for output in outputs:
        assert output["passed"], output
        assert output["scale"] > 1e-3, "all but zero: nothing was compared"
