"""Whole networks stored in 16 bits: close to the float32 originals, attested, nothing silent."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import burnish
from burnish.api import checked_options
from burnish.artifact import cpu_features
from burnish.backends.registry import resolve_target
from burnish.driver import compile_artifact
from burnish.errors import AccuracyError, TargetUnavailableError, UsageError
from burnish.options import CompileOptions
from burnish.requests import CompileReport, CompileRequest
from tests.models import ZOO, ModelUnavailable, feeds, model_path
from tests.support.networks import OVERFLOWS, WEIGHTS, inputs, network, overflowing, scale


def build(model: onnx.ModelProto, path: Path, target: str, **options: object) -> CompileReport:
    request = CompileRequest(
        model.SerializeToString(),
        str(path),
        CompileOptions(target=target, threads=1, verify_ir=True, **options),  # type: ignore[arg-type]
    )
    return compile_artifact(request)


@dataclass(frozen=True)
class Way:
    """A target and a precision, with what the manifest attests of products."""

    target: str
    precision: str
    computes: str = "fp32"

    @property
    def noise(self) -> tuple[float, float]:
        """Least and largest mean error relative to the scale."""
        return (1e-6, 3e-3) if self.precision == "fp16" else (1e-4, 2.5e-2)

    def __str__(self) -> str:
        return f"{self.precision}-{self.target}"


WAYS = (
    Way("x86-64-v4", "fp16"),
    Way("x86-64-v3", "fp16"),
    Way("x86-64-v4-bf16", "bf16", "bf16"),
    Way("x86-64-v4", "bf16"),
    Way("x86-64-v3", "bf16"),
)


def attested(manifest: dict[str, Any], way: Way) -> None:
    """Check what is said of every kernel."""
    kernels = [node for node in manifest["nodes"] if node["kernel"]]
    products = [n for n in kernels if any(w in n["op"] for w in ("MatMul", "Conv"))]
    norms = [n for n in kernels if any(w in n["op"] for w in ("Norm", "Pool", "Softmax"))]
    assert len(products) >= 3
    assert norms
    for node in products:
        assert (node["storage"], node["reason"]) == (way.precision, "")
    # Depthwise convolutions have no pairs to multiply.
    assert {n["precision"] for n in products} <= {way.computes, "fp32"}
    assert sum(n["precision"] == way.computes for n in products) >= 2
    for node in norms:
        assert node["precision"] == "fp32", "sums and functions inside"
    for node in kernels:
        assert node["storage"] == way.precision or node["reason"], f"{node['op']} without a reason"


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("name", WEIGHTS)
def test_stored_in_16_bits(way: Way, name: str, tmp_path: Path) -> None:
    model, path = network(name), tmp_path / "a.burnish"
    report = build(model, path, way.target, precision=way.precision)
    manifest = json.loads((path / "manifest.json").read_text())
    assert {i["dtype"] for i in manifest["inputs"] + manifest["outputs"]} == {"float32"}
    attested(manifest, way)
    stored = [w for w in manifest["weights"] if len(w["shape"]) == 1 and w["shape"][0] >= 512]
    assert stored
    assert {w["dtype"] for w in stored} == {{"fp16": "float16", "bf16": "bfloat16"}[way.precision]}
    assert any(f"in {way.precision} (computed in fp32)" in note for note in report.notes)
    if set(resolve_target(way.target).features) - cpu_features():
        pytest.skip("this CPU cannot run it")
    with burnish.load(path, threads=1) as compiled:
        found = burnish.compare(compiled, model, [inputs(name, n) for n in (1, 3)])
        assert compiled.run(None, inputs(name, 2))[0].dtype == np.float32
    found.raise_if_failed()
    least, most = way.noise
    for output in found.outputs:
        assert least < output.rms / output.scale < most, "rounded to 16 bits, and not worse"


def test_kept_nodes_are_reported_by_their_names(tmp_path: Path) -> None:
    report = build(network("mlp"), tmp_path / "a.burnish", "x86-64-v3", precision="fp16")
    assert any("1 x ReduceSum: its result may leave the range" in note for note in report.notes)
    assert list(report.kept.values()).count("its result may leave the range of float16") == 1
    assert report.to_dict()["kept"] == report.kept


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_two_compilations_give_the_same_bytes(precision: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        build(network("cnn"), tmp_path / name, "x86-64-v3", precision=precision)
    for file in ("manifest.json", "model.so", "weights.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_every_pass_is_checked(precision: str, tmp_path: Path) -> None:
    request = CompileRequest(
        network("mlp").SerializeToString(),
        str(tmp_path / "a"),
        CompileOptions(target="x86-64-v3", precision=precision, verify_passes=True),
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


def samples(folder: Path) -> str:
    """24 samples for the models that overflow."""
    path = folder / "samples.npz"
    rng = np.random.default_rng(0)
    np.savez(path, x=rng.standard_normal((24, 4, 16)).astype(np.float32))
    return str(path)


@pytest.mark.parametrize("name", OVERFLOWS)
def test_measured_overflows_stay_in_float32(name: str, tmp_path: Path) -> None:
    model, path = overflowing(name), tmp_path / "a.burnish"
    data = samples(tmp_path)
    report = build(model, path, "x86", precision="fp16", check=True, calibration_data=data)
    limits = ("near the limit of float16", "beyond the range of float16")
    assert any(limit in why for why in report.kept.values() for limit in limits)
    assert any("judged on 3 samples that nothing was measured on" in n for n in report.notes)
    manifest = json.loads((path / "manifest.json").read_text())
    assert {n["storage"] for n in manifest["nodes"] if "MatMul" in n["op"]} == {"fp16", "fp32"}
    x = np.random.default_rng(9).standard_normal((5, 16)).astype(np.float32)
    with burnish.load(path, threads=1) as compiled:
        compared = burnish.compare(compiled, model, {"x": x})
    assert all(o.rms < 5e-3 * o.scale for o in compared.outputs)


def test_overflows_are_not_shipped(tmp_path: Path) -> None:
    model, path = overflowing("channel of activations"), tmp_path / "a.burnish"
    with pytest.raises(AccuracyError, match=r"NaN|infinit") as error:
        build(model, path, "x86", precision="fp16", check=True)
    assert "--calibration-data" in str(error.value)
    assert not path.exists()
    build(model, path, "x86", precision="bf16", check=True)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_what_cannot_run_here_is_judged_as_a_graph(precision: str, tmp_path: Path) -> None:
    """The code is another machine's; NaN is found all the same."""
    model, path = overflowing("channel of activations"), tmp_path / "a.burnish"
    options = {"precision": precision, "check": True}
    if precision == "fp16":
        with pytest.raises(AccuracyError, match=r"NaN|infinit"):
            build(model, path, "arm", **options)
        assert not path.exists()
        options["calibration_data"] = samples(tmp_path)
    report = build(model, path, "arm", **options)
    assert f"the graph in {precision} is like the model on onnxruntime" in report.notes
    assert any("not compared with onnxruntime" in note for note in report.notes), "the code"


def test_excluded_nodes_stay_in_float32(tmp_path: Path) -> None:
    model = network("mlp")
    for node in model.graph.node:
        node.name = f"node_{node.output[0]}"
    path = tmp_path / "a.burnish"
    options = checked_options(
        target="x86",
        precision="bf16",
        nodes_to_exclude=["node_[qk]"],
        op_types_to_exclude="Softmax",
    )
    report = compile_artifact(CompileRequest(model.SerializeToString(), str(path), options))
    assert report.kept["node_q"] == report.kept["node_k"] == "excluded by 'node_[qk]'"
    assert report.kept["node_p"] == "Softmax is excluded"
    manifest = json.loads((path / "manifest.json").read_text())
    products = [n for n in manifest["nodes"] if "MatMul" in n["op"]]
    storage = {name: n["storage"] for n in products for name in n["nodes"]}
    assert (storage["node_q"], storage["node_k"], storage["node_u"]) == ("fp32", "fp32", "bf16")


def test_wrong_exclusions() -> None:
    with pytest.raises(UsageError, match="an exclusion of nodes is of no use with precision fp32"):
        checked_options(nodes_to_exclude=["a"])
    with pytest.raises(UsageError, match="an option of quantization is of no use with"):
        checked_options(precision="bf16", nodes_to_exclude=["a"], bias_correction=True)
    options = checked_options(precision="bf16", nodes_to_exclude=["nobody"])
    with pytest.raises(UsageError, match="no node is called 'nobody'"):
        compile_artifact(CompileRequest(network("mlp").SerializeToString(), "unused", options))


def test_a_precision_without_kernels_is_refused() -> None:
    with pytest.raises(
        TargetUnavailableError, match="cuda:sm_90 has no kernels for precision bf16"
    ) as error:
        resolve_target("cuda:sm_90", "bf16")
    assert "fp32 or fp16" in str(error.value)
    assert error.value.exit_code == 5


#: Root-mean-square error relative to the scale, about twice what was measured: fp16, bf16.
NOISE = {
    # Of random weights: they multiply the rounding of their inputs alone by 14.
    "resnet50": (5e-2, 2.2e-1),
    "mobilenetv2": (2.5e-2, 1.6e-1),
    "minilm": (3e-3, 2.4e-2),
    "ppocr_cls": (2.5e-2, 6.5e-2),
    "opennsfw": (1e-3, 3e-3),
    "silero_sequence": (1e-2, 4.6e-2),
    "basic_pitch": (5e-3, 1.2e-2),
    "dnsmos": (5e-3, 1.1e-2),
    "bert_dynamic": (2e-3, 1.3e-2),
    "convnext": (2e-3, 1e-2),
}


@pytest.mark.models
@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("name", NOISE)
def test_real_networks(name: str, precision: str, tmp_path: Path) -> None:
    try:
        source = model_path(name)
    except ModelUnavailable as reason:
        pytest.skip(f"{name}: {reason}")
    zoo = ZOO[name]
    with burnish.compile(source, target="x86", precision=precision, threads=1) as compiled:
        sets = [feeds(zoo, size, seed=seed) for seed, size in enumerate(zoo.sizes)]
        report = burnish.compare(compiled, source, sets)
    report.raise_if_failed()
    bound = NOISE[name][precision == "bf16"]
    for output in report.outputs:
        assert output.scale > 1e-3, "the output is all but zero: nothing was compared"
        assert output.rms <= bound * output.scale, (output.name, output.rms / output.scale)
