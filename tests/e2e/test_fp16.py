"""Whole networks stored in float16: close to the float32 originals, attested, nothing silent."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

import burnish
from burnish.artifact import cpu_features
from burnish.backends.registry import resolve_target
from burnish.driver import compile_artifact
from burnish.errors import AccuracyError, TargetUnavailableError
from burnish.options import CompileOptions
from burnish.requests import CompileReport, CompileRequest
from tests.models import ZOO, ModelUnavailable, feeds, model_path
from tests.support.networks import WEIGHTS, inputs, network, scale

TARGETS = pytest.mark.parametrize("target", ["x86-64-v4", "x86-64-v3"])


def build(model: onnx.ModelProto, path: Path, target: str, **options: object) -> CompileReport:
    request = CompileRequest(
        model.SerializeToString(),
        str(path),
        CompileOptions(target=target, threads=1, verify_ir=True, **options),  # type: ignore[arg-type]
    )
    return compile_artifact(request)


@TARGETS
@pytest.mark.parametrize("name", WEIGHTS)
def test_stored_in_float16_computed_in_float32(target: str, name: str, tmp_path: Path) -> None:
    model, path = network(name), tmp_path / "a.burnish"
    report = build(model, path, target, precision="fp16")
    manifest = json.loads((path / "manifest.json").read_text())
    assert {i["dtype"] for i in manifest["inputs"] + manifest["outputs"]} == {"float32"}
    kernels = [node for node in manifest["nodes"] if node["kernel"]]
    products = [n for n in kernels if any(w in n["op"] for w in ("MatMul", "Conv", "Norm"))]
    assert len(products) >= 3
    for node in products:
        assert (node["precision"], node["storage"], node["reason"]) == ("fp32", "fp16", "")
    for node in kernels:
        assert node["storage"] == "fp16" or node["reason"], f"{node['op']} is fp32 without a reason"
    stored = [w for w in manifest["weights"] if len(w["shape"]) == 1 and w["shape"][0] >= 512]
    assert stored
    assert {w["dtype"] for w in stored} == {"float16"}
    assert any("in fp16 (computed in fp32)" in note for note in report.notes)
    if set(resolve_target(target).features) - cpu_features():
        pytest.skip("this CPU cannot run it")
    with burnish.load(path, threads=1) as compiled:
        found = burnish.compare(compiled, model, [inputs(name, n) for n in (1, 3)])
        assert compiled.run(None, inputs(name, 2))[0].dtype == np.float32
    found.raise_if_failed()
    for output in found.outputs:
        assert 1e-6 < output.rms / output.scale < 3e-3, "rounded to float16, and not worse"


def test_kept_nodes_are_reported_by_their_names(tmp_path: Path) -> None:
    report = build(network("mlp"), tmp_path / "a.burnish", "x86-64-v3", precision="fp16")
    assert any("1 x ReduceSum: its result may leave the range" in note for note in report.notes)
    assert list(report.kept.values()).count("its result may leave the range of float16") == 1
    assert report.to_dict()["kept"] == report.kept


def test_two_compilations_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        build(network("cnn"), tmp_path / name, "x86-64-v3", precision="fp16")
    for file in ("manifest.json", "model.so", "weights.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_every_pass_is_checked(tmp_path: Path) -> None:
    request = CompileRequest(
        network("mlp").SerializeToString(),
        str(tmp_path / "a"),
        CompileOptions(target="x86-64-v3", precision="fp16", verify_passes=True),
    )
    names = [record.name for record in compile_artifact(request).passes]
    assert "mixed-precision" in names


def test_an_overflow_fails_the_check(tmp_path: Path) -> None:
    model = network("mlp")
    scale(model, c=1e4, d=1e-4)
    build(model, tmp_path / "within", "x86", precision="fp16", check=True)
    scale(model, gain=100, d=1e-2)
    build(model, tmp_path / "original", "x86", check=True)
    with pytest.raises(AccuracyError):
        build(model, tmp_path / "beyond", "x86", precision="fp16", check=True)
    assert not (tmp_path / "beyond").exists()


def test_a_precision_without_kernels_is_refused() -> None:
    with pytest.raises(
        TargetUnavailableError, match="arm has no kernels for precision bf16"
    ) as error:
        resolve_target("arm", "bf16")
    assert "fp32 or fp16" in str(error.value)


#: Root-mean-square error relative to the scale, about twice what was measured.
NOISE = {
    # Of random weights: it multiplies the rounding of its input alone by 14.
    "resnet50": 5e-2,
    "mobilenetv2": 2.5e-2,
    "minilm": 3e-3,
    "ppocr_cls": 2.5e-2,
    "opennsfw": 1e-3,
    "silero_sequence": 1e-2,
    "basic_pitch": 5e-3,
    "dnsmos": 5e-3,
    "bert_dynamic": 2e-3,
    "convnext": 2e-3,
}


@pytest.mark.models
@pytest.mark.slow
@pytest.mark.parametrize("name", NOISE)
def test_real_networks(name: str, tmp_path: Path) -> None:
    try:
        source = model_path(name)
    except ModelUnavailable as reason:
        pytest.skip(f"{name}: {reason}")
    zoo = ZOO[name]
    with burnish.compile(source, target="x86", precision="fp16", threads=1) as compiled:
        sets = [feeds(zoo, size, seed=seed) for seed, size in enumerate(zoo.sizes)]
        report = burnish.compare(compiled, source, sets)
    report.raise_if_failed()
    for output in report.outputs:
        assert output.scale > 1e-3, "the output is all but zero: nothing was compared"
        assert output.rms <= NOISE[name] * output.scale, (output.name, output.rms / output.scale)
