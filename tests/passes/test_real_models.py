"""The pipeline on every real model: what is left, and that onnxruntime computes the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from burnish.export import save
from burnish.importers.onnx_model import load
from burnish.ir import Graph
from burnish.passes.manager import PassManager
from burnish.passes.pipelines import pipeline
from tests.models import ALL, feeds

pytestmark = [pytest.mark.models, pytest.mark.slow]

#: What the clean-up removes from every model.
GONE = {"Constant", "Dropout", "Flatten", "Identity", "Squeeze", "Unsqueeze", "CastLike"}
#: Operators that compute shapes, with how many a model may keep because its data need them:
#: positions (Range of a size, Slice of a table of positions to a size).
SHAPE_ARITHMETIC = {"ConstantOfShape": 0, "GatherND": 0, "Range": 1, "Shape": 2, "Size": 0}


def _session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _optimized(path: Path, level: int) -> Graph:
    graph = load(path)
    PassManager(pipeline(level), verify_ir=True).run(graph)
    return graph


@pytest.mark.parametrize("name", ALL)
def test_nothing_superfluous_is_left(name: str, zoo_file: Path) -> None:
    graph = _optimized(zoo_file, 1)
    found = [node.op for node in graph.walk() if not node.domain]
    assert not GONE & set(found)
    left = {op: found.count(op) for op in SHAPE_ARITHMETIC}
    assert all(left[op] <= most for op, most in SHAPE_ARITHMETIC.items()), left
    constants = {v for node in graph.walk() for v in node.inputs if v is not None and v.is_const}
    alone = [n for n in graph.walk() if n.inputs and all(v in constants for v in n.inputs)]
    assert not alone, "constant nodes are folded"


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("level", [1, 3])
def test_onnxruntime_computes_the_same(
    name: str, level: int, zoo_file: Path, tmp_path: Path
) -> None:
    model = ALL[name]
    inputs = [feeds(model, size, seed=seed) for seed, size in enumerate(model.sizes)]
    session = _session(zoo_file)
    names = [output.name for output in session.get_outputs()]
    wanted = [session.run(names, given) for given in inputs]
    del session
    save(_optimized(zoo_file, level), tmp_path / "optimized.onnx")
    session = _session(tmp_path / "optimized.onnx")
    assert [output.name for output in session.get_outputs()] == names
    for given, expected in zip(inputs, wanted, strict=True):
        for output, e, got in zip(names, expected, session.run(names, given), strict=True):
            assert got.dtype == e.dtype
            assert got.shape == e.shape
            scale = float(np.sqrt(np.mean(np.square(e, dtype=np.float64))))
            error = float(np.sqrt(np.mean(np.square(got.astype(np.float64) - e))))
            assert scale > 1e-3, f"{output} is all but zero: nothing was compared"
            assert error <= model.noise * scale, (output, error / scale)
