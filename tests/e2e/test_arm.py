"""Small networks compiled for ARM, run on emulated cores and compared with onnxruntime."""

from __future__ import annotations

import subprocess
from pathlib import Path

import onnx
import pytest

import burnish
from burnish.artifact import cross_compiler
from burnish.cli.main import main
from burnish.driver import compile_artifact
from burnish.errors import ArtifactError
from burnish.options import CompileOptions
from burnish.requests import CompileRequest
from tests.models.store import cache_dir
from tests.support.qemu import call, emulator, load

for module in ("torch", "transformers", "onnxscript"):
    pytest.importorskip(module)

from tests.support.architectures import ARCHITECTURES  # noqa: E402

pytestmark = pytest.mark.slow

SIZES = {
    "cnn": [{"batch": 2}, {"batch": 1}],
    "lstm": [{"batch": 2, "sequence": 7}, {"batch": 1, "sequence": 20}],
    "bert": [{"batch": 2, "sequence": 12}, {"batch": 1, "sequence": 19}],
}
#: A target, a precision, and a core that has no more than it needs, as far as QEMU knows one.
CASES = [
    ("arm", "fp32", "cortex-a53"),
    ("arm", "fp16", "cortex-a53"),
    ("arm", "bf16", "cortex-a53"),
    ("arm:neoverse-n1", "fp32", "neoverse-n1"),
    ("arm:neoverse-n1", "fp16", "neoverse-n1"),
    ("arm:neoverse-v1", "fp32", "max"),
    ("arm:neoverse-v1", "fp16", "max"),
]

#: What LLVM calls once for each lane where a kernel has no polynomial of its own, or no instruction
#: converts.
SCALAR_MATH = {
    *("expf", "exp2f", "logf", "powf", "tanhf", "erff", "sqrtf", "fmaf", "fmaxf", "fminf"),
    *("__extendhfsf2", "__truncsfhf2", "__gnu_h2f_ieee", "__gnu_f2h_ieee"),
}


@pytest.fixture(scope="module")
def models() -> dict[str, bytes]:
    emulator()
    return {name: ARCHITECTURES[name].export("dynamo") for name in SIZES}


def imported(library: Path) -> set[str]:
    """Functions that a library calls in others."""
    tool = (cross_compiler("aarch64") or "g++").replace("g++", "nm")
    command = [tool, "-D", "--undefined-only", "--format=just-symbols", str(library)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {line.partition("@")[0] for line in done.stdout.split()}


def build(model: bytes, path: Path, target: str, precision: str = "fp32") -> Path:
    options = CompileOptions(target=target, precision=precision, verify_ir=True)
    compile_artifact(CompileRequest(model, str(path), options))
    return path


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize(("target", "precision", "cpu"), CASES, ids=str)
def test_equal_to_onnxruntime(
    target: str, precision: str, cpu: str, name: str, models: dict[str, bytes], tmp_path: Path
) -> None:
    path = build(models[name], tmp_path / "model.burnish", target, precision)
    assert not imported(path / "model.so") & SCALAR_MATH
    inputs = [ARCHITECTURES[name].feeds(sizes, seed) for seed, sizes in enumerate(SIZES[name])]
    emulated = load(path, cpu, threads=2)
    report = burnish.compare(emulated, onnx.load_from_string(models[name]), inputs)
    report.raise_if_failed()
    assert len(report.cases) == len(inputs)


@pytest.mark.parametrize("target", ["arm:neoverse-v1", "arm:neoverse-v2"])
def test_a_core_without_the_features_refuses(
    target: str, models: dict[str, bytes], tmp_path: Path
) -> None:
    """With a message, not an illegal instruction."""
    path = build(models["cnn"], tmp_path / "model.burnish", target)
    done = call([path], "neoverse-n1")
    assert done.returncode == 2
    assert "this CPU lacks what the artifact was compiled for (neon): " in done.stderr
    assert "i8mm" in done.stderr
    assert "bf16" in done.stderr
    with pytest.raises(ArtifactError, match=r"this CPU lacks .*i8mm"):
        load(path, "neoverse-n1").run(None, ARCHITECTURES["cnn"].feeds({"batch": 1}, 0))
    # Where they are there, the next check speaks.
    done = call([path], "max")
    assert done.returncode == 2
    assert "no file for the input 'image'" in done.stderr


def test_the_command_compares(
    models: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With an emulator only, and says what to install for one."""
    monkeypatch.setattr("burnish.runtime.emulated.default_cache", cache_dir)
    path = build(models["cnn"], tmp_path / "model.burnish", "arm")
    (tmp_path / "model.onnx").write_bytes(models["cnn"])
    command = ["compare", str(path), str(tmp_path / "model.onnx"), "--emulate", "cortex-a53"]
    assert main(command) == 0
    assert "equal" in capsys.readouterr().out
    assert main([*command, "--atol", "1e-12", "--rtol", "0"]) == 10
    native = build(models["cnn"], tmp_path / "native.burnish", "x86-64-v3")
    assert main(["compare", str(native), *command[2:]]) == 2
    assert "only artifacts for aarch64 are emulated" in capsys.readouterr().err
    monkeypatch.setenv("PATH", "/nowhere")
    assert main(command) == 5
    assert "hint: install it (Debian, Ubuntu: apt install qemu-user)" in capsys.readouterr().err
