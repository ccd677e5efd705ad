"""Every example runs as its README says."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*/run.py"))


def run(script: Path, *options: str) -> str:
    done = subprocess.run(
        [sys.executable, str(script), *options], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_examples_are_complete() -> None:
    assert SCRIPTS
    for folder in (path for path in EXAMPLES.iterdir() if path.is_dir()):
        readme = (folder / "README.md").read_text()
        assert f"python examples/{folder.name}/run.py" in readme


def test_model_is_the_file_of_the_package() -> None:
    folder = EXAMPLES / "01_compile_and_check"
    stated = re.search(r"sha256 `(\w{64})`", (folder / "README.md").read_text())
    content = (folder / "text_direction.onnx").read_bytes()
    assert stated
    assert hashlib.sha256(content).hexdigest() == stated[1]
    assert f"({len(content):,} bytes)" in (folder / "README.md").read_text()


def test_compile_and_check() -> None:
    printed = run(EXAMPLES / "01_compile_and_check" / "run.py", "--duration", "0.2")
    sure = re.findall(r"upright: ([\d.]+)% upright; turned: ([\d.]+)% upside down", printed)
    assert len(sure) == 3
    assert min(float(value) for pair in sure for value in pair) > 95
    assert re.search(r"\bequal\b", printed)
    assert re.search(r"onnxruntime \d.*x", printed)


def test_dynamic_shapes() -> None:
    printed = run(EXAMPLES / "02_dynamic_shapes" / "run.py")
    assert re.findall(r"(\d+ x \d+): .*, equal", printed) == [
        "1 x 1",
        "1 x 7",
        "2 x 37",
        "5 x 128",
    ]
    assert "refused: " in printed


def test_backend_of_ones_own() -> None:
    printed = run(EXAMPLES / "05_c_backend" / "run.py")
    own = re.findall(r"^(.*): (\d+) kernel calls, (\d+) of .* equal to onnxruntime$", printed, re.M)
    assert [name for name, _, _ in own] == ["text direction", "perceptron"]
    # Two MatMul composites of the perceptron's four kernels: the rule was used.
    assert own[1][1:] == ("4", "2")


@pytest.mark.slow
def test_training(tmp_path: Path) -> None:
    for package in ("torch", "onnxscript", "sklearn"):
        pytest.importorskip(package)
    script = EXAMPLES / "04_training" / "run.py"
    printed = run(script, "--epochs", "3", "--output", str(tmp_path))
    rows = re.findall(r"epoch (\d): .*torch ([\d.]+) %, burnish ([\d.]+) %", printed)
    assert [(number, torch == ours) for number, torch, ours in rows] == [
        ("1", True),
        ("2", True),
        ("3", True),
    ]
    assert float(rows[-1][2]) > 85
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"epoch-{number}.burnish" for number in (1, 2, 3)
    ]
    assert len(re.findall(r"per sample torch [\d.]+ us, burnish [\d.]+ us", printed)) == 3


@pytest.mark.slow
def test_quantize(tmp_path: Path) -> None:
    for package in ("torch", "onnxscript", "sklearn"):
        pytest.importorskip(package)
    printed = run(EXAMPLES / "06_quantize" / "run.py", "--output", str(tmp_path))
    rows = re.findall(
        r"(\w+): accuracy ([\d.]+) % of 899 pictures, weights (\d+) kB, ([\d.]+) us", printed
    )
    assert [row[0] for row in rows] == ["fp32", "int8"]
    fp32, int8 = (tuple(map(float, row[1:])) for row in rows)
    assert fp32[0] > 96
    assert int8[0] >= fp32[0] - 0.2
    assert int8[1] < 0.3 * fp32[1], "size of the weights"
    assert "int8: 4 products quantized, 0 kept in fp32" in printed
    assert (tmp_path / "int8.burnish" / "manifest.json").exists()


@pytest.mark.slow
def test_ci_gate() -> None:
    printed = run(EXAMPLES / "03_ci_gate" / "run.py")
    assert re.findall(r"^exit code (\d+)$", printed, re.M) == ["0", "0", "10", "11", "12", "13"]
    assert "## ✅ burnish check" in printed


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.parent.name)
def test_every_script_has_a_test(script: Path) -> None:
    source = Path(__file__).read_text()
    assert f'"{script.parent.name}" / "run.py"' in source
