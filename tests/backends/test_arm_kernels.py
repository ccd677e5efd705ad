"""Every kernel rule's cases for ARM, on an emulated core."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.compiler.test_kernel_rules import CASES, QUANTIZED
from tests.support.bundle import Bundle
from tests.support.qemu import emulator, load

pytestmark = pytest.mark.slow

#: Quantized products compute in float32 there.
ALL = CASES | {name: replace(case, operators=()) for name, case in QUANTIZED.items()}


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    emulator()
    target = "arm:neoverse-n1"
    return Bundle(ALL, 0, lambda path, _: load(path, "neoverse-n1"), target=target)


@pytest.mark.parametrize("name", ALL)
def test_equal_to_onnxruntime(bundle: Bundle, name: str) -> None:
    bundle.check(name)
