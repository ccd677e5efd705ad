"""Modules of torch compiled in the middle of their training."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

import burnish  # noqa: E402
from burnish.errors import AccuracyError, ModelError, UsageError  # noqa: E402
from burnish.integrations import compile_checkpoint  # noqa: E402

pytestmark = pytest.mark.slow


class Cnn(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = torch.nn.Conv2d(1, 8, 3, padding=1), torch.nn.BatchNorm2d(8)
        self.drop, self.linear = torch.nn.Dropout(0.5), torch.nn.Linear(8 * 36, 10)

    def forward(self, image: Any, gain: Any = None) -> Any:
        x = torch.relu(self.norm(self.conv(image)))
        x = self.linear(self.drop(x).flatten(1))
        return {"logits": x if gain is None else x * gain, "image": image}


class Lying(torch.nn.Module):
    """Exports as something else than it is."""

    def forward(self, x: Any) -> Any:
        return x * (1.01 if torch.compiler.is_exporting() else 1.0)


def step(module: Any) -> None:
    """One step of training, which leaves gradients and running statistics."""
    module.train()
    module(torch.randn(4, 1, 6, 6))["logits"].square().mean().backward()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter -= 0.1 * parameter.grad


@pytest.fixture(scope="module")
def module() -> Any:
    torch.manual_seed(0)
    module = Cnn()
    step(module)
    return module


@pytest.fixture(scope="module")
def compiled(module: Any) -> Iterator[burnish.CompiledModel]:
    example = torch.randn(2, 1, 6, 6)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    gradients = [parameter.grad.clone() for parameter in module.parameters()]
    numbers, threads = torch.get_rng_state(), torch.get_num_threads()
    with burnish.compile(
        module,
        example_inputs=(example,),
        dynamic_shapes={"image": {0: "batch"}},
        threads=1,
        check=True,
    ) as compiled:
        assert all(part.training for part in module.modules())
        assert torch.equal(torch.get_rng_state(), numbers)
        assert torch.get_num_threads() == threads
        for name, value in module.state_dict().items():
            assert torch.equal(value, before[name])
        for parameter, gradient in zip(module.parameters(), gradients, strict=True):
            assert torch.equal(parameter.grad, gradient)
        yield compiled


def test_names_dims_and_attestation(compiled: burnish.CompiledModel) -> None:
    assert [(i.name, list(i.shape)) for i in compiled.get_inputs()] == [
        ("image", ["batch", 1, 6, 6])
    ]
    assert [o.name for o in compiled.get_outputs()] == ["logits", "image_output"]
    verification = compiled.manifest.verification
    assert verification is not None
    assert verification.passed
    assert verification.reference.startswith(f"torch {torch.__version__}, the module itself")
    assert compiled.manifest.model_name == "Cnn"


def test_any_batch_equals_the_module(compiled: burnish.CompiledModel, module: Any) -> None:
    images = [torch.randn(n, 1, 6, 6) for n in (1, 3, 17)]
    report = burnish.compare(compiled, module, images)
    assert report
    assert [dict(case) for case in report.cases] == [{"image": (n, 1, 6, 6)} for n in (1, 3, 17)]
    assert report.reference.startswith("torch ")
    assert report.model == "torch module Cnn"
    assert all(output.scale > 1e-2 for output in report.outputs)
    assert module.training
    # As a tuple, as a dict, and as arrays.
    for inputs in ((images[1],), {"image": images[1]}, {"image": images[1].numpy()}):
        assert burnish.compare(compiled, module, inputs).outputs[0].shape == (3, 10)
    outputs = compiled(image=images[2])
    module.eval()
    with torch.no_grad():
        torch.testing.assert_close(outputs["logits"], module(images[2])["logits"])
    module.train()


def test_inputs_are_drawn_like_the_example(compiled: burnish.CompiledModel, module: Any) -> None:
    report = burnish.compare(compiled, module, seed=5)
    assert report
    assert (report.seed, report.cases) == (5, ({"image": (2, 1, 6, 6)},))
    assert report.outputs[0].scale > 1e-2
    bounds = {"image": (4, 1, 6, 6)}
    assert burnish.compare(compiled, module, input_shapes=bounds).cases == (bounds,)


def test_artifact_and_module(compiled: burnish.CompiledModel, module: Any, tmp_path: Path) -> None:
    path = compiled.save(tmp_path / "cnn.burnish")
    assert burnish.compare(path, module, torch.randn(3, 1, 6, 6))
    # Nothing is known of an example: by name.
    assert burnish.compare(path, module)
    torch.manual_seed(1)
    assert not burnish.compare(path, Cnn(), torch.randn(3, 1, 6, 6))


def test_comparisons_that_do_not_fit(compiled: burnish.CompiledModel, module: Any) -> None:
    image = torch.randn(3, 1, 6, 6)
    with pytest.raises(UsageError, match=r"has 1 inputs \(image\), the reference 2"):
        burnish.compare(compiled, module, (image, torch.ones(1)))
    with pytest.raises(UsageError, match=r"do not fit Cnn\.forward"):
        burnish.compare(compiled, module, {"picture": image})
    with pytest.raises(UsageError, match=r"2 outputs \(logits, image_output\), the reference 1"):
        burnish.compare(compiled, torch.nn.Flatten(), image)


def test_example_inputs_belong_to_modules() -> None:
    proto = onnx.ModelProto()
    with pytest.raises(UsageError, match="belong to a torch or Keras model"):
        burnish.compile(proto, example_inputs=(1,))
    with pytest.raises(UsageError, match="needs example inputs"):
        burnish.compile(Cnn())


def test_check_compares_with_the_module() -> None:
    with pytest.raises(AccuracyError, match=r"differ from torch .* the module itself"):
        burnish.compile(Lying(), example_inputs=torch.randn(2, 3), threads=1, check=True)


def test_what_the_compiler_refuses_is_a_model_error() -> None:
    class Sampling(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return torch.rand_like(x) + x

    with pytest.raises(ModelError, match=r"RandomUniform|random") as error:
        burnish.compile(Sampling(), example_inputs=torch.randn(2, 3))
    assert error.value.exit_code == 3


# --- at checkpoints ---------------------------------------------------------------------------


def test_checkpoint(module: Any, tmp_path: Path) -> None:
    example, path = torch.randn(2, 1, 6, 6), tmp_path / "epoch-1.burnish"
    threads = torch.get_num_threads()
    for _ in range(2):  # the second replaces the first
        result = compile_checkpoint(module, path, example, threads=1, timing_seconds=0.02)
    assert result
    assert result.path == path
    assert result.error is None
    assert module.training
    assert torch.get_num_threads() == threads
    metrics = result.metrics
    assert 0 <= metrics["max_abs_err"] < 1e-4
    assert metrics["speedup"] == pytest.approx(metrics["torch_latency_ms"] / metrics["latency_ms"])
    assert metrics["size_mb"] > 4e-6 * sum(p.numel() for p in module.parameters())
    with burnish.load(path, threads=1) as compiled:
        found = compiled(image=example)["logits"]
    module.eval()
    with torch.no_grad():
        torch.testing.assert_close(found, module(example)["logits"])
    module.train()


def test_failures_are_warnings(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="burnish"):
        result = compile_checkpoint(Lying(), tmp_path / "m.burnish", torch.randn(2, 3), threads=1)
    assert not result
    assert isinstance(result.error, AccuracyError)
    assert (result.path, result.metrics) == (None, {})
    assert list(tmp_path.iterdir()) == []
    (record,) = caplog.records
    assert "m.burnish: accuracy gate failed: 2 of 2 outputs differ" in record.getMessage()


def test_failures_are_raised_if_asked(tmp_path: Path) -> None:
    example = np.zeros((2, 4), np.float32)
    with pytest.raises(UsageError, match="module fails on these inputs"):
        compile_checkpoint(
            torch.nn.Linear(3, 3), tmp_path / "m.burnish", example, stop_on_error=True
        )
