"""Common architectures, as torch exports them, compiled and compared with onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import pytest

import burnish
from burnish.driver import compile_artifact
from burnish.options import CompileOptions
from burnish.requests import CompileRequest

for module in ("torch", "transformers", "onnxscript"):
    pytest.importorskip(module)

from tests.support.architectures import ARCHITECTURES, EXAMPLE  # noqa: E402

if TYPE_CHECKING:
    from tests.support.architectures import Exporter

pytestmark = [pytest.mark.models, pytest.mark.slow]

#: Which exporter spells which network: each was once spelled in a way that nothing was ready for,
#: or says something the others do not.
CASES: list[tuple[str, Exporter]] = [
    ("roberta", "torchscript"),
    ("albert", "dynamo"),
    ("deberta-v2", "dynamo"),
    ("modernbert", "dynamo"),
    ("mistral", "torchscript"),
    ("gemma2", "dynamo"),
    ("t5", "dynamo"),
    ("bart", "torchscript"),
    ("clip", "torchscript"),
    ("swin", "dynamo"),
    ("segformer", "torchscript"),
    ("wav2vec2", "torchscript"),
    ("unet", "dynamo"),
    ("lstm", "torchscript"),
    ("gru", "torchscript"),
    ("nn-transformer", "torchscript"),
]
SIZES = [
    EXAMPLE,
    {"batch": 1, "sequence": 5, "target": 3, "samples": 613},
    {"batch": 3, "sequence": 33, "target": 18, "samples": 1237},
]


@pytest.mark.parametrize(("name", "exporter"), CASES, ids=["-".join(case) for case in CASES])
def test_equal_to_onnxruntime(name: str, exporter: Exporter, tmp_path: Path) -> None:
    architecture = ARCHITECTURES[name]
    model = architecture.export(exporter)
    output = tmp_path / f"{name}.burnish"
    # In this process: a worker would take as long to start as most of these take to compile.
    compile_artifact(CompileRequest(model, str(output), CompileOptions(threads=1, verify_ir=True)))
    inputs = [architecture.feeds(sizes, seed) for seed, sizes in enumerate(SIZES)]
    with burnish.load(output, threads=1) as compiled:
        report = burnish.compare(compiled, onnx.load_from_string(model), inputs)
    report.raise_if_failed()
    assert len(report.outputs) == len(SIZES)
    for result in report.outputs:
        assert result.scale > 1e-3, "the output is all but zero: nothing was compared"
