"""Every row of the operator table as a CUDA kernel, on the emulated device."""

from __future__ import annotations

import json

import pytest

from tests.support.cuda_emulator.build import missing
from tests.support.cuda_emulator.run import on_device

pytestmark = [
    pytest.mark.skipif(bool(missing()), reason=missing()),
    # g++ takes a second for fifty kernels.
    pytest.mark.slow,
]


@pytest.mark.parametrize("table", ["elementwise", "movement", "nn", "reduce"])
def test_rules_equal_the_reference(table: str) -> None:
    printed = on_device("tests.support.cuda_table:run", f"tests.compiler.test_lowering_{table}")
    result = json.loads(printed.splitlines()[-1])
    assert result["cases"] > 50
    assert not result["failed"]
