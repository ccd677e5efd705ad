"""The emulated CUDA device itself: it runs right kernels, and wrong ones fail on it."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.cuda_emulator.build import missing
from tests.support.cuda_emulator.run import on_device

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())


def launch(kernel: str, threads: int, elements: int, blocks: int = 1) -> np.ndarray:
    printed = on_device("tests.backends.cuda_kernels:launch", kernel, blocks, threads, elements)
    return np.array(printed.split(), dtype=np.float32)


def test_shared_memory_and_barriers() -> None:
    found = launch("rotate", 64, 128, blocks=2)
    given = np.arange(1, 129, dtype=np.float32).reshape(2, 64)
    np.testing.assert_array_equal(found.reshape(2, 64), np.roll(given, -1, axis=1))


def test_a_missing_barrier_shows() -> None:
    assert np.isnan(launch("no barrier", 64, 64)).any()


def test_lanes_exchange_values() -> None:
    np.testing.assert_array_equal(launch("warp sum", 32, 32), np.full(32, 33 * 16))


def test_dynamic_shared_memory() -> None:
    np.testing.assert_array_equal(launch("dynamic", 40, 40), 2 * np.arange(40, 0, -1))


def test_matrix_units() -> None:
    given = np.arange(1, 257, dtype=np.float32).reshape(16, 16)
    found = launch("tensor core", 32, 256).reshape(16, 16)
    np.testing.assert_array_equal(found, given + 2 * given.T)


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        ("exchange in a branch", "lanes of a warp meet at different barriers"),
        ("overrun", "signal SIGSEGV"),
    ],
)
def test_wrong_kernels_end_the_process(kernel: str, message: str) -> None:
    # 64 floats fill the last 256 bytes before the closed page.
    with pytest.raises(AssertionError) as caught:
        launch(kernel, 64, 64)
    assert message in str(caught.value)
