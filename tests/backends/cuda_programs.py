"""What the tests compile for the emulated device, in a process of its own."""

from __future__ import annotations

import importlib
import json
import tempfile
from dataclasses import asdict
from pathlib import Path

import onnx

from burnish import compare, load
from burnish.driver import compile_artifact
from burnish.options import CompileOptions
from burnish.requests import CompileRequest
from tests.support.bundle import Bundle, Case
from tests.support.handmade_cuda import product_artifact

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


def real_model(name: str, precision: str) -> None:
    """Compile a model of the GPU checks and print what is compared, by size."""
    from tests.gpu.models import MODELS

    model = MODELS[name]
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        source, path = f"{folder}/model.onnx", f"{folder}/model.burnish"
        onnx.save(model.onnx(), source)
        compile_artifact(
            CompileRequest(source, path, CompileOptions(target=TARGET, precision=precision))
        )
        with load(path) as compiled:
            # The largest size would take minutes.
            for seed, size in enumerate(model.sizes[:3]):
                report = compare(compiled, source, [model.feeds(size, seed)])
                found[f"{name} {size}"] = [asdict(output) for output in report.outputs]
    print(json.dumps(found))
