"""The CUDA backend, end to end on the emulated device: what onnxruntime computes, at every size.

Compiled in a process of its own, from the generated CUDA C++ that nvcc would get, by g++.
"""

from __future__ import annotations

import importlib.util
import json
from functools import cache
from typing import Any

import pytest

from tests.models import ModelUnavailable, model_path
from tests.support.cuda_emulator.build import missing
from tests.support.cuda_emulator.run import on_device

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())
PROGRAMS = "tests.backends.cuda_programs"


@cache
def results(program: str, *arguments: str) -> dict[str, list[dict[str, Any]]]:
    """What a program printed: the compared outputs by case."""
    printed = on_device(f"{PROGRAMS}:{program}", *arguments)
    found: dict[str, list[dict[str, Any]]] = json.loads(printed.splitlines()[-1])
    return found


def assert_all_passed(found: dict[str, list[dict[str, Any]]]) -> None:
    wrong = [
        f"{case}: {output['name']}: {output['reason']}"
        for case, outputs in found.items()
        for output in outputs
        if not output["passed"]
    ]
    assert not wrong, "\n".join(wrong)
    for case, outputs in found.items():
        assert outputs, f"{case}: nothing was compared"
        for output in outputs:
            assert output["scale"] > 1e-3 or output["dtype"] == "bool", f"{case} is all but zero"


@pytest.mark.parametrize("table", ["test_kernel_rules", "test_lowering_module"])
def test_small_graphs(table: str) -> None:
    assert_all_passed(results("small_graphs", f"tests.compiler.{table}"))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", ["cnn", "bert"])
def test_networks(name: str, precision: str) -> None:
    for module in ("torch", "transformers", "onnxscript"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    found = results("networks", precision, "cnn", "bert")
    mine = {case: outputs for case, outputs in found.items() if case.startswith(name)}
    assert len(mine) == 3
    assert_all_passed(mine)


@pytest.mark.slow
@pytest.mark.models
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", ["resnet50", "mobilenetv2", "bert", "minilm"])
def test_real_models(name: str, precision: str) -> None:
    try:
        model_path(name)
    except ModelUnavailable as error:
        pytest.skip(str(error))
    assert_all_passed(results("real_model", name, precision))
