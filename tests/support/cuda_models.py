"""Real models on the emulated CUDA device."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict

from burnish import compare, load
from burnish.driver import compile_artifact
from burnish.options import CompileOptions
from burnish.requests import CompileRequest
from tests.models import ALL, feeds, model_path


def run(name: str, precision: str) -> None:
    """Compile a model of the zoo, and print what is compared at each of its sizes but the last."""
    model, path = ALL[name], str(model_path(name))
    with tempfile.TemporaryDirectory() as folder:
        options = CompileOptions(threads=1, target="cuda:sm_80", precision=precision)
        compile_artifact(CompileRequest(path, f"{folder}/model.burnish", options))
        # The last size is the largest, and threads of the device are slow here.
        sizes = model.sizes[:-1] or model.sizes
        inputs = [feeds(model, size, seed=seed) for seed, size in enumerate(sizes)]
        with load(f"{folder}/model.burnish", threads=1) as compiled:
            report = compare(compiled, path, inputs)
    print(json.dumps([asdict(output) for output in report.outputs]))
