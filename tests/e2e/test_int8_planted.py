"""Numbers that 8 bits cannot hold are found: kept in float32 with the reason, or refused."""

# ruff: noqa: E501 (graphs are easier to read unbroken)

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

import burnish
from burnish.cli.main import main
from burnish.export import save
from tests.support.golden import parse

CHANNELS = """g (float[n,16] x) => (float[n,8] y) <float[16,32] v, float[32,8] w> {
    p = MatMul(x, v)
    r = Relu(p)
    y = MatMul(r, w)
}"""
OVERFLOW = """g (float[n,16] x) => (float[n,8] y) <float power = {120.0}, float[16,8] v, float[16,8] w> {
    big = Pow(x, power)
    p = MatMul(big, v)
    bounded = Tanh(p)
    q = MatMul(x, w)
    y = Add(q, bounded)
}"""


def write(folder: Path, text: str, inputs: np.ndarray, **weights: Any) -> None:
    """A model and samples of its input."""
    graph = parse(text, seed=2)
    for value in graph.constants():
        if value.name in weights:
            value.array[...] *= weights[value.name]
    save(graph, folder / "net.onnx")
    np.savez(folder / "data.npz", x=inputs)


def quantize(folder: Path, *options: str) -> int:
    """The exit code of ``burnish quantize``."""
    return main(
        [
            *("quantize", str(folder / "net.onnx"), str(folder / "int8.onnx"), "-q"),
            *("--calibration-data", str(folder / "data.npz"), *options),
        ]
    )


def error(folder: Path, inputs: np.ndarray) -> float:
    """Error of the quantized model, relative to the results."""
    found, wanted = (
        ort.InferenceSession(folder / name).run(None, {"x": inputs})[0]
        for name in ("int8.onnx", "net.onnx")
    )
    assert np.isfinite(found).all()
    return float(np.sqrt(((found - wanted) ** 2).mean() / (wanted**2).mean()))


def normal(rows: int = 64) -> np.ndarray:
    """Standard normal inputs."""
    return np.random.default_rng(6).standard_normal((rows, 16), dtype=np.float32)


def test_an_outlier_among_channels_of_weights_has_its_own_scale(tmp_path: Path) -> None:
    factor = np.ones(8)
    factor[3] = 1e6
    write(tmp_path, CHANNELS, normal(), w=factor)
    assert quantize(tmp_path, "--min-cosine", "0.999") == 0
    found, wanted = (
        ort.InferenceSession(tmp_path / name).run(None, {"x": normal()})[0]
        for name in ("int8.onnx", "net.onnx")
    )
    # Each channel by its own size: those beside the outlier are as near as it is.
    each = np.sqrt(((found - wanted) ** 2).mean(axis=0) / (wanted**2).mean(axis=0))
    assert each.max() < 0.03


def test_an_outlier_among_channels_of_an_activation_is_refused_by_compile(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x, back = normal(), np.ones((16, 1))
    x[:, 5] *= 1e6
    back[5] = 1e-6  # so that all channels count alike
    write(tmp_path, CHANNELS, x, v=back)
    arguments = ["compile", str(tmp_path / "net.onnx"), "-o", str(tmp_path / "net.burnish")]
    arguments += ["--precision", "int8", "--calibration-data", str(tmp_path / "data.npz")]
    assert main(arguments) == 10
    assert not (tmp_path / "net.burnish").exists()
    capsys.readouterr()
    assert quantize(tmp_path, "--min-cosine", "0.99") == 10
    assert not (tmp_path / "int8.onnx").exists()
    # Left out, it does no harm.
    assert main([*arguments, "--nodes-to-exclude", "MatMul", "--json", "-"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert "excluded by 'MatMul'" in report["kept"].values()
    with burnish.load(tmp_path / "net.burnish", threads=1) as compiled:
        (found,) = compiled.run(None, {"x": x[:3]})
    (wanted,) = ort.InferenceSession(tmp_path / "net.onnx").run(None, {"x": x[:3]})
    assert np.abs(found - wanted).max() < 0.05 * np.abs(wanted).max()


def test_what_overflows_on_the_samples_stays_in_float32(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x = np.clip(normal(), -1.5, 1.5)
    x[7, 0] = 3.0  # its power is infinite, and the only one in its row
    write(tmp_path, OVERFLOW, x)
    assert quantize(tmp_path, "--json", str(tmp_path / "report.json")) == 0
    kept = json.loads((tmp_path / "report.json").read_text())["kept"]
    assert list(kept.values()) == ["big has no finite range on the calibration data"]
    assert error(tmp_path, x[:16]) < 0.05
