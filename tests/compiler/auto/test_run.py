"""What a search holds to before anything is timed: exclusions, and options of 8 bits alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from burnish.auto.evaluation import Evaluator
from burnish.auto.run import _Auto
from burnish.export import save
from burnish.options import CompileOptions
from burnish.passes.quantization import Selection
from burnish.precision.options import QuantizeOptions
from burnish.requests import CompileRequest
from tests.support.golden import parse

NET = """g (float[1,8,64] x) => (float[1,8,64] y) <float[64,64] a, float[64,64] b> {
    p = MatMul(x, a)
    q = Relu(p)
    y = MatMul(q, b)
}"""


def search(folder: Path, **how: Any) -> _Auto:
    """A search that has measured the network."""
    graph = parse(NET, seed=3)
    save(graph, folder / "net.onnx")
    samples = np.random.default_rng(0).standard_normal((12, 8, 64)).astype(np.float32)
    np.savez(folder / "data.npz", x=samples)
    options = CompileOptions(
        precision="auto",
        calibration_data=str(folder / "data.npz"),
        quantization=QuantizeOptions(**how),
    )
    found = _Auto(CompileRequest(str(folder / "net.onnx"), "out", options), folder)
    found._measure()
    return found


def test_what_is_excluded_is_not_stored_in_16_bits_either(tmp_path: Path) -> None:
    everything = search(tmp_path)
    assert len(everything.regions) == 2
    assert everything._assignment(("bf16", "bf16")).high == {}
    first = everything.regions[0].nodes[0]
    some = search(tmp_path, selection=Selection(nodes_to_exclude=(first,)))
    assert len(some.regions) == 1
    assert list(some._assignment(("bf16",)).high) == [first]


@pytest.mark.parametrize("option", ["gptq", "bias_correction", "symmetric"])
def test_options_of_8_bits_leave_4_bits_possible(tmp_path: Path, option: str) -> None:
    found = search(tmp_path, **{option: True}, calibration_method="mse")
    evaluate = Evaluator(
        found.request.model,
        found.reference,
        found.options,
        found.measured,
        found.metric,
        found.chosen_on,
        evaluations=3,
    )
    losses = [evaluate(found._assignment((p, p))).drop for p in ("fp32", "int8", "int4")]
    assert losses[0] < 1e-6 < losses[1] < losses[2] < 0.05
    assert evaluate.left == 0
