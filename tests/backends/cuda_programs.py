"""What the tests of the emulated device run in a process of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from burnish import load
from tests.support.handmade_cuda import INNER, product_artifact, product_reference


def build_product(path: str) -> None:
    """Write the handmade artifact."""
    product_artifact(Path(path))


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


def profile_product(path: str) -> None:
    """Profile a run: each kernel has a time on the device, in order."""
    with load(path, threads=1) as model:
        calls = model.profile({"x": np.ones((37, INNER), np.float32)})
    assert any("matmul" in call.name for call in calls), calls
    assert all(call.duration_us > 0 for call in calls), calls
    starts = [call.start_us for call in calls]
    assert starts == sorted(starts)
    assert starts[0] >= 0


def load_only(path: str) -> None:
    """Load it, which should be refused."""
    load(path)
