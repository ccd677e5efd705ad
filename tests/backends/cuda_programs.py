"""What the tests of the emulated device run in a process of its own."""

from __future__ import annotations

import importlib
import json
import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx

from burnish import compare, load
from burnish.driver import CompileRequest, compile_artifact
from burnish.options import CompileOptions
from tests.support.bundle import Bundle, Case
from tests.support.handmade_cuda import INNER, product_artifact, product_reference

TARGET = "cuda:sm_80"
RECURRENT = {"LSTM", "GRU", "RNN"}
#: Besides the sizes of the export: the smallest, and such that nothing divides.
SIZES = (
    {"batch": 1, "sequence": 1},
    {"batch": 3, "sequence": 33},
)


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


def small_graphs(table: str) -> None:
    """Compile the cases of a test module's table as one, and print what is compared by case."""
    cases: dict[str, Case] = {
        name: case
        for name, case in importlib.import_module(table).CASES.items()
        # The kernels of recurrent layers are sequential loops, which the backend refuses.
        if not RECURRENT & set(case.operators)
    }
    bundle = Bundle(cases, target=TARGET)
    print(json.dumps({name: [asdict(o) for o in bundle.outputs(name)] for name in cases}))


def networks(precision: str, *names: str) -> None:
    """Compile networks and print what is compared, by network and sizes."""
    from tests.support.architectures import ARCHITECTURES, EXAMPLE

    found = {}
    for name in names:
        network = ARCHITECTURES[name]
        model = network.export("torchscript")
        with tempfile.TemporaryDirectory() as folder:
            options = CompileOptions(threads=1, target=TARGET, precision=precision)
            path = f"{folder}/{name}.burnish"
            compile_artifact(CompileRequest(model, path, options))
            with load(path, threads=1) as compiled:
                for sizes in (EXAMPLE, *SIZES):
                    feeds = [network.feeds(sizes, seed=3)]
                    report = compare(compiled, onnx.load_from_string(model), feeds)
                    found[f"{name} {sizes}"] = [asdict(output) for output in report.outputs]
    print(json.dumps(found))
