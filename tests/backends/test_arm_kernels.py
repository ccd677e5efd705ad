"""Every kernel rule's cases for ARM, on an emulated core."""

from __future__ import annotations

import pytest

from tests.compiler.test_kernel_rules import CASES
from tests.support.bundle import Bundle
from tests.support.qemu import emulator, load

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    emulator()
    target = "arm:neoverse-n1"
    return Bundle(CASES, 0, lambda path, _: load(path, "neoverse-n1"), target=target)


@pytest.mark.parametrize("name", CASES)
def test_equal_to_onnxruntime(bundle: Bundle, name: str) -> None:
    bundle.check(name)
