"""Building for CUDA without a GPU: targets, what is in the artifact, the machine code."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import onnx
import pytest

import burnish
from burnish.backends.cuda import toolkit
from burnish.backends.cuda.arch import ARCHS
from burnish.backends.registry import resolve_target
from burnish.errors import (
    CompileError,
    TargetUnavailableError,
    UnsupportedOpError,
    UsageError,
)
from tests.models import ModelUnavailable, model_path
from tests.support.architectures import ARCHITECTURES
from tests.support.cuda_binary import KernelCode, fat_binaries, kernels, missing_tools
from tests.support.onnx_text import parse

#: Kernel families whose inner loop is a matrix product.
PRODUCTS = ("conv_", "gemm_", "matmul_", "attention_scores_", "attention_values_")
SOURCE = (b"__global__", b'extern "C"', b"((int)blockIdx", b"#include", b"__launch_bounds__")


def has_nvcc() -> bool:
    try:
        toolkit.find_nvcc()
    except TargetUnavailableError:
        return False
    return True


needs_nvcc = pytest.mark.skipif(
    not has_nvcc(), reason="nvcc is not installed (pip install 'burnish[cuda]')"
)
needs_tools = pytest.mark.skipif(bool(missing_tools()), reason=missing_tools())
needs_torch = pytest.mark.skipif(
    any(importlib.util.find_spec(m) is None for m in ("torch", "transformers")),
    reason="torch and transformers are not installed",
)


# --- targets ------------------------------------------------------------------------------------


@needs_nvcc
@pytest.mark.parametrize("name", ARCHS)
def test_architectures_are_targets(name: str) -> None:
    target = resolve_target(f"cuda:{name}", "fp16")
    assert (target.device, target.isa.name, target.machine) == ("cuda", name, "x86_64")
    assert not {"avx", "avx2"} & set(target.features), "the host only launches kernels"


def test_unknown_architecture() -> None:
    with pytest.raises(UsageError, match="unknown GPU architecture 'sm_12'") as caught:
        resolve_target("cuda:sm_12")
    assert "sm_80" in (caught.value.hint or "")


def test_without_a_device_the_architecture_has_to_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_driver(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr("burnish.backends.cuda.device.ctypes.CDLL", no_driver)
    with pytest.raises(TargetUnavailableError, match="no NVIDIA driver") as caught:
        resolve_target("cuda")
    assert caught.value.exit_code == 5
    assert "--target cuda:sm_80" in (caught.value.hint or "")


def test_without_nvcc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.delenv("CUDA_PATH", raising=False)
    monkeypatch.setattr(toolkit, "_DEFAULT_HOME", tmp_path)
    monkeypatch.setattr(toolkit, "_wheel_homes", list)
    with pytest.raises(TargetUnavailableError, match="nvcc, which was not found") as caught:
        resolve_target("cuda:sm_80")
    assert caught.value.exit_code == 5
    assert "pip install 'burnish[cuda]'" in (caught.value.hint or "")


def test_nvcc_of_the_python_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nvcc = tmp_path / "nvidia" / "cu13" / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.touch()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "gone"))
    monkeypatch.delenv("CUDA_PATH", raising=False)
    monkeypatch.setattr(toolkit, "_DEFAULT_HOME", tmp_path)
    monkeypatch.setattr(toolkit, "_wheel_homes", lambda: [tmp_path / "nvidia" / "cu13"])
    assert toolkit.find_nvcc() == nvcc


def test_nvcc_is_told_the_architecture_and_to_be_exact() -> None:
    options = toolkit.nvcc_options("sm_86")
    assert "-gencode=arch=compute_86,code=sm_86" in options
    assert "-gencode=arch=compute_86,code=compute_86" in options, "PTX for newer GPUs"
    assert not any("fast" in option for option in options)


@needs_nvcc
def test_compiled_kernels_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source = 'extern "C" __global__ void twice(float* x) { x[threadIdx.x] *= 2; }'
    first = toolkit.compile_cuda(source, "sm_80")
    (kept,) = (tmp_path / "burnish" / "cuda").iterdir()
    kept.write_bytes(b"kept")
    assert toolkit.compile_cuda(source, "sm_80") == b"kept"
    assert toolkit.compile_cuda(source, "sm_86") not in (b"kept", first)
    with pytest.raises(CompileError, match="nvcc failed") as caught:
        toolkit.compile_cuda("__global__ void f() { return 1 }", "sm_80")
    assert "error" in (caught.value.hint or "")


@needs_nvcc
def test_nvcc_that_fails_is_the_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.parent.mkdir()
    nvcc.write_text("#!/bin/sh\necho no license >&2\nexit 1\n")
    nvcc.chmod(0o755)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model = parse("g (float[3] x) => (float[3] y) { y = Relu(x) }")
    with pytest.raises(CompileError, match="nvcc failed") as caught:
        burnish.compile_to(model, tmp_path / "m.burnish", target="cuda:sm_80")
    assert "no license" in (caught.value.hint or "")
    assert not (tmp_path / "m.burnish").exists()


@needs_nvcc
def test_without_a_host_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    which = toolkit.shutil.which
    monkeypatch.setattr(
        toolkit.shutil, "which", lambda name: None if name == "gcc" else which(name)
    )
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(TargetUnavailableError, match="host compiler gcc") as caught:
        toolkit.compile_cuda("__global__ void f() {}", "sm_80")
    assert caught.value.exit_code == 5


# --- artifacts ----------------------------------------------------------------------------------


def build(model: onnx.ModelProto | Path, folder: Path, target: str, precision: str) -> Path:
    path = folder / "model.burnish"
    report = burnish.compile_to(model, path, target=target, precision=precision)
    (folder / "notes").write_text("\n".join(report.notes))
    return path


def network(name: str) -> onnx.ModelProto:
    return onnx.load_from_string(ARCHITECTURES[name].export("torchscript"))


def assert_no_source(artifact: Path) -> None:
    code = (artifact / "model.so").read_bytes()
    assert list(fat_binaries(artifact / "model.so")), "there is no machine code"
    assert not [text for text in SOURCE if text in code]


def assert_quality(artifact: Path, precision: str) -> dict[str, KernelCode]:
    """Nothing spills, and every product runs where it should."""
    found = kernels(artifact / "model.so")
    assert not {name for name, code in found.items() if code.stack}
    # A second grid of a kernel adds up what the first one computed in parts.
    products = {
        n: code
        for n, code in found.items()
        if n.startswith(PRODUCTS) and not re.search(r"_kernel_\d+$", n)
    }
    assert products
    for name, code in products.items():
        if precision == "fp16":
            # float16 products, float32 sums.
            assert code.count("HMMA") == code.count("HMMA.16816.F32") > 0, name
        else:
            assert code.count("FFMA") > 0, name
            assert code.count("HMMA") == 0, name
        assert code.shared <= 48 * 1024
    return found


def manifest(artifact: Path) -> dict[str, object]:
    content: dict[str, object] = json.loads((artifact / "manifest.json").read_text())
    return content


@needs_nvcc
@needs_tools
@needs_torch
@pytest.mark.parametrize("name", ["cnn", "bert"])
@pytest.mark.parametrize(("target", "precision"), [("cuda:sm_80", "fp16"), ("cuda:sm_90", "fp32")])
def test_networks(name: str, target: str, precision: str, tmp_path: Path) -> None:
    artifact = build(network(name), tmp_path, target, precision)
    assert_no_source(artifact)
    found = assert_quality(artifact, precision)
    written = manifest(artifact)
    assert isinstance(written["target"], dict)
    assert isinstance(written["nodes"], list)
    assert written["target"]["device"] == "cuda"
    assert written["target"]["isa"] == target.removeprefix("cuda:")
    assert {node["placement"] for node in written["nodes"]} == {"cuda"}
    others = (
        "not on tensor cores: 1 x burnish::Conv: a thread for each output (/module/depthwise/Conv)"
    )
    listed = others in (tmp_path / "notes").read_text().splitlines()
    assert listed == (name == "cnn" and precision == "fp16")
    for node in written["nodes"]:
        if node["kernel"].startswith(PRODUCTS):
            assert node["kernel"] in found
            assert ("tensor cores" in node["detail"]) == (precision == "fp16")


@needs_nvcc
def test_same_bytes_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = parse("g (float[n, 24] x) => (float[n, 24] y) { a = Softmax<axis=-1>(x)\n y = Sin(a) }")
    artifacts = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))
        artifacts.append(build(model, tmp_path / name, "cuda:sm_80", "fp32"))
    first, second = ((path / "model.so").read_bytes() for path in artifacts)
    assert first == second


@needs_nvcc
def test_sequential_operators_are_refused_together(tmp_path: Path) -> None:
    model = parse(
        "g (float[n, 24] x, int64[1] k) => (float[n, 24] y, float[n, m] v, int64[n, m] i) {"
        " axis = Constant<value = int64 {1}>()\n y = CumSum(x, axis)\n"
        " three = Constant<value = int64[1] {3}>()\n v, i = TopK(x, three) }"
    )
    with pytest.raises(UnsupportedOpError) as caught:
        build(model, tmp_path, "cuda:sm_80", "fp32")
    assert "1 x CumSum: its kernel is a sequential loop" in str(caught.value)
    assert "1 x TopK" in str(caught.value)


@needs_nvcc
@needs_tools
@pytest.mark.slow
@pytest.mark.models
@pytest.mark.parametrize(
    ("name", "target", "precision"),
    [
        ("resnet50", "cuda:sm_80", "fp16"),
        ("mobilenetv2", "cuda:sm_80", "fp16"),
        ("bert", "cuda:sm_80", "fp16"),
        ("minilm", "cuda:sm_80", "fp16"),
        ("resnet50", "cuda:sm_90", "fp32"),
        ("minilm", "cuda:sm_90", "fp32"),
    ],
)
def test_real_models(name: str, target: str, precision: str, tmp_path: Path) -> None:
    try:
        path = model_path(name)
    except ModelUnavailable as reason:
        pytest.skip(f"{name}: {reason}")
    artifact = build(path, tmp_path, target, precision)
    assert_no_source(artifact)
    assert_quality(artifact, precision)
