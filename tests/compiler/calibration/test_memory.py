"""Calibration holds one sample at a time, however many there are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from burnish.export import save
from tests.support.golden import parse

LAYERS = 6
ROWS, WIDTH = 1024, 256
#: What the values of one sample take: what a product reads, and what comes out of it.
SAMPLE = ROWS * WIDTH * 4 * 2 * LAYERS

SCRIPT = f"""
import numpy as np
def samples():
    rng = np.random.default_rng(1)
    while True:
        yield rng.standard_normal((1, {ROWS}, {WIDTH}), dtype=np.float32)
"""
RUN = """
import sys
from burnish.cli.main import main
from burnish.driver import peak_memory
code = main(sys.argv[1:])
print(peak_memory())
sys.exit(code)
"""


def peak(folder: Path, samples: int, *options: str) -> int:
    """Bytes that ``burnish quantize`` holds at most."""
    arguments = ["quantize", str(folder / "net.onnx"), str(folder / "int8.onnx"), "-q"]
    arguments += ["--overwrite", "--calibration-data", f"{folder / 'data.py'}:samples"]
    arguments += ["--calibration-samples", str(samples), *options]
    done = subprocess.run(
        [sys.executable, "-c", RUN, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--smooth-quant", "auto", "--bias-correction", "--gptq"]])
def test_memory_does_not_grow_with_the_samples(tmp_path: Path, options: list[str]) -> None:
    weights = ", ".join(f"float[{WIDTH},{WIDTH}] w{i}" for i in range(LAYERS))
    body = "".join(f"p{i} = MatMul(r{i}, w{i}) r{i + 1} = Gelu(p{i}) " for i in range(LAYERS))
    graph = parse(
        f"g (float[1,{ROWS},{WIDTH}] x) => (float[1,{ROWS},{WIDTH}] y) <{weights}> {{"
        f"r0 = Relu(x) {body} y = Relu(r{LAYERS}) }}",
        seed=2,
    )
    save(graph, tmp_path / "net.onnx")
    (tmp_path / "data.py").write_text(SCRIPT)
    few, many = peak(tmp_path, 4, *options), peak(tmp_path, 44, *options)
    # Forty samples more, were they kept, would take 40 times this.
    assert many - few < 4 * SAMPLE, f"{few / 1e6:.0f} MB, {many / 1e6:.0f} MB"
