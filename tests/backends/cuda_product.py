"""What the tests of the device runtime run, in a process that has an emulated device.

It imports neither TVM nor ONNX: it would start three seconds later.
"""

from __future__ import annotations

import ctypes
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from burnish.runtime import load
from tests.support.product import INNER, product_reference


def run_product(path: str) -> None:
    """Load it and run it at several sizes, twice each."""
    rng = np.random.default_rng(1)
    with load(path, threads=1) as model:
        for rows in (1, 37, 64, 129, 1):
            x = rng.standard_normal((rows, INNER)).astype(np.float32)
            kept = x.copy()
            first = model.run(None, {"x": x})
            again = model.run(None, {"x": x})
            for found, repeated, wanted in zip(first, again, product_reference(x), strict=True):
                np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=2e-6)
                np.testing.assert_array_equal(found, repeated)
            # What is handed out belongs to the caller, an output that is an input too.
            first[1][:] = 7
            np.testing.assert_array_equal(x, kept)
        assert model.memory > 0


def run_product_at_once(path: str) -> None:
    """Run it from four threads at different sizes: they share the device's memory."""

    def run(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for rows in (3 + seed, 40 * seed, 128):
            x = rng.standard_normal((rows, INNER)).astype(np.float32)
            for found, wanted in zip(model.run(None, {"x": x}), product_reference(x), strict=True):
                np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=2e-6)

    with load(path, threads=1) as model, ThreadPoolExecutor(4) as pool:
        list(pool.map(run, range(1, 9)))


def free_memory(path: str) -> None:
    """Load, run and close it: all of the device's memory is given back, outputs stay."""
    x = np.random.default_rng(2).standard_normal((50, INNER)).astype(np.float32)
    before = _free_bytes()
    with load(path, threads=1) as model:
        found = model.run(None, {"x": x})
        held = before - _free_bytes()
        assert held >= model.memory // 2 > 0
    assert _free_bytes() == before
    np.testing.assert_allclose(found[0], product_reference(x)[0], rtol=2e-5, atol=2e-6)


def _free_bytes() -> int:
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    runtime = ctypes.CDLL("libcudart.so.13")
    assert runtime.cudaMemGetInfo(ctypes.byref(free), ctypes.byref(total)) == 0
    return free.value


def profile_product(path: str) -> None:
    """Profile a run: each kernel has a time on the device, in order."""
    with load(path, threads=1) as model:
        calls = model.profile({"x": np.ones((37, INNER), np.float32)})
    assert any("matmul" in call.name for call in calls), calls
    assert all(call.duration_us > 0 for call in calls), calls
    starts = [call.start_us for call in calls]
    assert starts == sorted(starts)
    assert starts[0] >= 0


def use_product(path: str) -> None:
    """All of the above in one process, which takes seconds to start."""
    for use in (run_product, run_product_at_once, free_memory, profile_product):
        use(path)


def load_only(path: str, device: str) -> None:
    """Load it, which should be refused."""
    load(path, device=int(device))
