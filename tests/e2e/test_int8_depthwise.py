"""A depthwise network trained here: equalization and bias correction bring int8 nearer to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from burnish.check.reference import Reference
from burnish.precision.options import QuantizeOptions
from burnish.quantization import quantize_model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray, np.ndarray]:
    """A network trained on digits, pictures to calibrate with, and pictures it has not seen."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    pictures, labels = datasets.load_digits(return_X_y=True)
    x = torch.from_numpy(pictures).float().reshape(-1, 1, 8, 8) / 16
    y = torch.from_numpy(labels)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = _train(torch, _network(torch), x[:1200], y[:1200])
    path = tmp_path_factory.mktemp("depthwise") / "digits.onnx"
    torch.onnx.export(
        model,
        (x[:2],),
        str(path),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        external_data=False,
        verbose=False,
    )
    return path, x[:256].numpy(), x[1200:].numpy()


def _network(torch: Any) -> Any:
    """Two depthwise-separable blocks, whose channels differ in size as those of MobileNets do."""
    nn = torch.nn

    def block(inputs: int, outputs: int, **options: int) -> list[Any]:
        norm = nn.BatchNorm2d(outputs)
        nn.init.normal_(norm.weight, 0.0, 1.2)
        norm.weight.data.exp_()
        return [nn.Conv2d(inputs, outputs, bias=False, **options), norm, nn.ReLU()]

    layers = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU()]
    for channels in (32, 48):
        layers += block(layers[-2].num_features if len(layers) > 2 else 16, channels, kernel_size=1)
        layers += block(channels, channels, kernel_size=3, padding=1, groups=channels)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 10))


def _train(torch: Any, model: Any, x: Any, y: Any) -> Any:
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(8):
        for rows in torch.randperm(len(x)).split(64):
            loss = torch.nn.functional.cross_entropy(model(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


def test_equalization_and_bias_correction_help(
    trained: tuple[Path, np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    path, calibration, unseen = trained
    feeds = {_input(path): unseen}
    with Reference(str(path)) as reference:
        (wanted,) = reference.run(None, feeds)

    def error(**options: Any) -> tuple[float, float]:
        how = QuantizeOptions(per_channel=False, **options)
        quantize_model(str(path), str(tmp_path / "int8.onnx"), [calibration], how)
        with Reference(str(tmp_path / "int8.onnx")) as quantized:
            (found,) = quantized.run(None, feeds)
        agreement = np.mean(found.argmax(1) == wanted.argmax(1))
        return float(np.sqrt(np.mean((found - wanted) ** 2) / np.mean(wanted**2))), agreement

    plain, equalized = error(), error(equalize=True)

    corrected, both = error(bias_correction=True), error(equalize=True, bias_correction=True)
    assert equalized[0] < 0.7 * plain[0]
    assert corrected[0] < 0.9 * plain[0]
    assert both[0] <= min(equalized[0], corrected[0])
    assert both[1] >= max(0.98, plain[1])


def _input(path: Path) -> str:
    with Reference(str(path)) as reference:
        name: str = reference.get_inputs()[0].name
    return name
