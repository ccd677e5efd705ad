"""Models that onnxruntime's tools quantized run in integers, as onnxruntime computes them."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import burnish
from burnish.artifact import NodeInfo
from tests.models import ALL, ModelUnavailable, model_path
from tests.models import feeds as zoo_feeds
from tests.support.quantized_models import FORMS, feeds, quantize, quantized, reference

#: Cases that run always; all others take as long to compile, and less is new in them.
QUICK = {
    ("convolutional", "qdq"),
    ("convolutional", "qoperator-unsigned"),
    ("convolutional", "dynamic-unsigned"),
    ("transformer", "dynamic"),
    ("recurrent", "dynamic-unsigned"),
}
CASES = [
    pytest.param(net, form, marks=() if (net, form) in QUICK else pytest.mark.slow)
    for net in ("convolutional", "transformer", "recurrent")
    for form in FORMS
    if net != "recurrent" or form.startswith("dynamic")
]
_PRODUCT = re.compile(r"conv|gemm|matmul|attention", re.IGNORECASE)


def in_floating_point(nodes: tuple[NodeInfo, ...]) -> dict[tuple[str, str], str]:
    """Products that compute in floating point, by operator and names, with their reasons."""
    return {
        (node.op, " ".join(node.nodes)): node.reason
        for node in nodes
        if _PRODUCT.search(node.op) and node.kernel and node.precision not in ("int8", "uint8")
    }


@pytest.mark.parametrize(("net", "form"), CASES)
def test_products_compute_in_integers(net: str, form: str, tmp_path: Path) -> None:
    source = quantized(net, form, tmp_path)
    with burnish.compile(source, target="x86", threads=1) as compiled:
        floating = in_floating_point(compiled.manifest.nodes)
        for seed in range(3):
            inputs = feeds(net, seed)
            (found,), expected = compiled.run(None, inputs), reference(source, inputs)
            # A number in the middle of two codes may go to either, and so on.
            scale = np.abs(expected).max()
            np.testing.assert_allclose(found, expected, rtol=0, atol=0.04 * scale)
            assert np.sqrt(np.mean((found - expected) ** 2)) < 0.015 * scale
    if form == "qdq-16":
        assert floating
        assert set(floating.values()) == {"the type is uint16"}
    elif net == "transformer" and form.startswith("dynamic"):
        # The model itself leaves attention's two products of activations in float32.
        assert len(floating) <= 2
        assert not any("quant" in names for _, names in floating)
    else:
        assert not floating


def zoo_path(name: str) -> Path:
    """A real model; skips the test if it cannot be had."""
    try:
        return model_path(name)
    except ModelUnavailable as reason:
        pytest.skip(f"{name}: {reason}")


@pytest.mark.models
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "form"),
    [("mobilenetv2", "qdq"), ("minilm", "dynamic-unsigned"), ("ppocr_cls", "dynamic")],
)
def test_real_models_compute_in_integers(name: str, form: str, tmp_path: Path) -> None:
    model = ALL[name]
    samples = [zoo_feeds(model, model.sizes[0], seed=seed) for seed in range(5)]
    source = tmp_path / f"{name}.onnx"
    quantize(zoo_path(name), source, form, samples[1:])
    with burnish.compile(source, target="x86", threads=1) as compiled:
        floating = in_floating_point(compiled.manifest.nodes)
        burnish.compare(compiled, source, samples[:1]).raise_if_failed()
    # quantize_dynamic leaves attention's products, of activations, and weights that are no
    # initializers but outputs of Constant nodes.
    graph = onnx.load(source).graph
    constants = {node.output[0] for node in graph.node if node.op_type == "Constant"}
    left = [n for n in graph.node if n.op_type == "MatMul" and constants & set(n.input)]
    assert {op for op, _ in floating} <= {"burnish::Attention", *["burnish::MatMul"] * len(left)}
    assert sum(op == "burnish::MatMul" for op, _ in floating) == len(left)


@pytest.mark.models
def test_weights_with_cast_and_scale_stay_in_8_bits() -> None:
    source = zoo_path("minilm_int8w")
    model = ALL["minilm_int8w"]
    with burnish.compile(source, target="x86", threads=1) as compiled:
        stored = [n for n in compiled.manifest.nodes if n.op == "burnish::MatMulNBits"]
        weights = {w.name: w for w in compiled.manifest.weights}
        burnish.compare(compiled, source, zoo_feeds(model, model.sizes[0])).raise_if_failed()
    assert len(stored) == 36
    assert {n.weights for n in stored} == {"int8"}
    largest = max(weights.values(), key=lambda w: np.prod(w.shape))
    assert largest.dtype == "int8", "the table of embeddings is read as it is stored"


@pytest.mark.parametrize("dynamo", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_fake_quantization_of_pytorch(dynamo: bool, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    if dynamo:
        pytest.importorskip("onnxscript")
    quantize_tensor = torch.fake_quantize_per_tensor_affine
    quantize_channels = torch.fake_quantize_per_channel_affine

    class Net(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(8, 16, 3, padding=1)
            self.linear = torch.nn.Linear(16, 10)

        def weights(self, w: Any) -> Any:
            scale = w.detach().abs().flatten(1).max(1)[0] / 127
            zero = torch.zeros(w.shape[0], dtype=torch.int32)
            return quantize_channels(w, scale, zero, 0, -128, 127)

        def forward(self, x: Any) -> Any:
            x, w = quantize_tensor(x, 0.03, 0, -128, 127), self.weights(self.conv.weight)
            y = torch.relu(torch.nn.functional.conv2d(x, w, self.conv.bias, padding=1))
            y = quantize_tensor(y.mean((2, 3)), 0.01, 0, -128, 127)
            w = self.weights(self.linear.weight)
            return torch.nn.functional.linear(y, w, self.linear.bias)

    torch.manual_seed(0)
    source = tmp_path / "torch.onnx"
    x = torch.randn(1, 8, 12, 12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(Net().eval(), (x,), source, opset_version=18, dynamo=dynamo)
    with burnish.compile(source, target="x86", threads=1) as compiled:
        assert not in_floating_point(compiled.manifest.nodes)
        (name,) = (i.name for i in compiled.get_inputs())
        (found,), inputs = compiled.run(None, {name: x.numpy()}), {name: x.numpy()}
    expected = reference(source, inputs)
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.01 * np.abs(expected).max())
