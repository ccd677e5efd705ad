"""``burnish optimize --precision``: typed ONNX that other runtimes take, and no NaN ever."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnx.reference
import onnxruntime as ort
import pytest

from burnish.check import compare
from burnish.errors import AccuracyError, UsageError
from burnish.optimization import optimize_model
from burnish.options import CompileOptions
from tests.support.cli import Cli
from tests.support.networks import OVERFLOWS, WEIGHTS, inputs, network, overflowing

PRECISIONS = pytest.mark.parametrize("precision", ["fp16", "bf16"])
TYPES = {"fp16": onnx.TensorProto.FLOAT16, "bf16": onnx.TensorProto.BFLOAT16}
#: Root-mean-square error relative to the output's scale, a few times what was measured.
NOISE = {"fp16": 3e-3, "bf16": 2.5e-2}


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Cli:
    return Cli(capfd)


def written(name: str, folder: Path, **options: object) -> Path:
    """A small network after ``optimize``."""
    source, out = folder / f"{name}.onnx", folder / f"{name}_out.onnx"
    onnx.save(network(name), source)
    optimize_model(str(source), out, CompileOptions(opt_level=1, check=True, **options))  # type: ignore[arg-type]
    return out


def error(found: np.ndarray, wanted: np.ndarray) -> float:
    """Root-mean-square error relative to the scale."""
    difference = np.asarray(found, np.float64) - wanted
    return float(np.sqrt(np.mean(difference**2)) / np.sqrt(np.mean(np.float64(wanted) ** 2)))


def expected(name: str, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    session = ort.InferenceSession(network(name).SerializeToString())
    return list(session.run(None, feeds))


@PRECISIONS
@pytest.mark.parametrize("name", WEIGHTS)
def test_the_model_is_typed_and_valid(name: str, precision: str, tmp_path: Path) -> None:
    path = written(name, tmp_path, precision=precision, verify_passes=True)
    onnx.checker.check_model(path, full_check=True)
    model = onnx.load(path)
    assert {o.domain: o.version for o in model.opset_import} == {"": 23}
    assert not model.functions
    types = [t.data_type for t in model.graph.initializer if len(t.dims) > 1]
    assert set(types) == {TYPES[precision]}
    ends = [*model.graph.input, *model.graph.output]
    assert {e.type.tensor_type.elem_type for e in ends} == {onnx.TensorProto.FLOAT}
    typed = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    found = {v.name: v.type.tensor_type.elem_type for v in typed.graph.value_info}
    for node in model.graph.node:
        kind = found.get(node.output[0], onnx.TensorProto.FLOAT)
        if node.op_type in ("Softmax", "LayerNormalization", "ReduceSum", "GlobalAveragePool"):
            assert kind == onnx.TensorProto.FLOAT, "sums are computed in float32"
        if node.op_type in ("Conv", "MatMul"):
            assert kind == TYPES[precision]


@PRECISIONS
@pytest.mark.parametrize("name", WEIGHTS)
def test_openvino_runs_it(name: str, precision: str, tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    feeds = inputs(name, 2)
    path = written(name, tmp_path, precision=precision)
    model = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    results = model(feeds)
    for output, wanted in zip(model.outputs, expected(name, feeds), strict=True):
        assert 1e-5 < error(results[output], wanted) < NOISE[precision]


@pytest.mark.parametrize("name", WEIGHTS)
def test_onnxruntime_runs_float16(name: str, tmp_path: Path) -> None:
    feeds = inputs(name, 2)
    session = ort.InferenceSession(written(name, tmp_path, precision="fp16"))
    for found, wanted in zip(session.run(None, feeds), expected(name, feeds), strict=True):
        assert 1e-6 < error(found, wanted) < NOISE["fp16"]


def test_onnx_reference_runs_bfloat16(tmp_path: Path) -> None:
    feeds = inputs("mlp", 2)
    path = written("mlp", tmp_path, precision="bf16")
    evaluator = onnx.reference.ReferenceEvaluator(str(path))
    for found, wanted in zip(evaluator.run(None, feeds), expected("mlp", feeds), strict=True):
        assert 1e-4 < error(found, wanted) < NOISE["bf16"]


def test_comparisons_run_bfloat16(tmp_path: Path) -> None:
    """onnxruntime has no kernels; ``compare`` computes in float32 and rounds."""
    path = written("cnn", tmp_path, precision="bf16")
    with pytest.raises(Exception, match="Could not find an implementation"):
        ort.InferenceSession(path)
    report = compare(str(path), network("cnn"), inputs("cnn", 2))
    report.raise_if_failed()
    assert all(1e-4 < o.rms / o.scale < NOISE["bf16"] for o in report.outputs)


# --- numbers that leave the range -----------------------------------------------------------------


def planted(name: str, folder: Path) -> tuple[Path, Path]:
    """The model, and 24 samples."""
    model, samples = folder / "planted.onnx", folder / "samples.npz"
    onnx.save(overflowing(name), model)
    rng = np.random.default_rng(0)
    np.savez(samples, x=rng.standard_normal((24, 4, 16)).astype(np.float32))
    return model, samples


@pytest.mark.parametrize("name", OVERFLOWS)
def test_an_overflow_is_found_and_kept_high(name: str, tmp_path: Path, cli: Cli) -> None:
    model, samples = planted(name, tmp_path)
    out = tmp_path / "out.onnx"
    data = ("--precision", "fp16", "--calibration-data", str(samples))
    report = cli.json("optimize", str(model), str(out), *data)
    limits = ("near the limit of float16", "beyond the range of float16")
    assert any(limit in why for why in report["kept"].values() for limit in limits)
    assert any("judged on 3 samples that nothing" in note for note in report["notes"])
    x = np.random.default_rng(9).standard_normal((5, 16)).astype(np.float32)
    (found,) = onnx.reference.ReferenceEvaluator(str(out)).run(None, {"x": x})
    (wanted,) = ort.InferenceSession(str(model)).run(None, {"x": x})
    assert error(found, wanted) < 5e-3


@pytest.mark.parametrize("name", ["pow", "channel of activations"])
def test_without_samples_an_overflow_fails(name: str, tmp_path: Path, cli: Cli) -> None:
    model, _ = planted(name, tmp_path)
    out = tmp_path / "out.onnx"
    text = cli("optimize", str(model), str(out), "--precision", "fp16", code=10)
    assert "NaN" in text
    assert "--calibration-data" in text
    assert not out.exists()
    cli("optimize", str(model), str(out), "--precision", "bf16")
    x = np.random.default_rng(9).standard_normal((5, 16)).astype(np.float32)
    (found,) = onnx.reference.ReferenceEvaluator(str(out)).run(None, {"x": x})
    (wanted,) = ort.InferenceSession(str(model)).run(None, {"x": x})
    assert error(found, wanted) < 5e-2, "bfloat16 has the range"


def test_only_larger_numbers_than_the_samples_have_could_overflow(tmp_path: Path) -> None:
    """Samples that are judged are others than those measured; a NaN in them fails the build."""
    model, samples = planted("channel of activations", tmp_path)
    x = np.load(samples)["x"] * np.float32(1e-3)
    x[7::8] *= np.float32(1e3)
    np.savez(samples, x=x)
    options = CompileOptions(
        opt_level=1, precision="fp16", calibration_data=str(samples), check=True
    )
    with pytest.raises(AccuracyError, match="outputs differ"):
        optimize_model(str(model), tmp_path / "out.onnx", options)
    assert not (tmp_path / "out.onnx").exists()


# --- the command ----------------------------------------------------------------------------------


def test_wrong_uses(tmp_path: Path, cli: Cli) -> None:
    model, samples = planted("pow", tmp_path)
    out = str(tmp_path / "out.onnx")
    text = cli("optimize", str(model), out, "--precision", "int8", code=2)
    assert "burnish quantize" in text
    text = cli("optimize", str(model), out, "--calibration-data", str(samples), code=2)
    assert "--precision" in text
    text = cli(
        *("optimize", str(model), out, "--precision", "fp16", "--calibration-data", str(samples)),
        *("--calibration-samples", "25"),
        code=2,
    )
    assert "24 samples, 25 were asked for" in text
    np.savez(samples, x=np.zeros((4, 3), np.float32))
    data = ("--precision", "fp16", "--calibration-data", str(samples))
    assert "has shape [4, 3]" in cli("optimize", str(model), out, *data, code=2)
    assert not Path(out).exists()


def test_exclusions(tmp_path: Path, cli: Cli) -> None:
    model = network("mlp")
    for node in model.graph.node:
        node.name = f"node_{node.output[0]}"
    source, out = tmp_path / "mlp.onnx", tmp_path / "out.onnx"
    onnx.save(model, source)
    choice = ("--nodes-to-exclude", "node_[uo]", "--op-types-to-exclude", "Gelu")
    report = cli.json("optimize", str(source), str(out), "--precision", "bf16", *choice)
    kept = report["kept"]
    assert kept["node_u"] == kept["node_o"] == "excluded by 'node_[uo]'"
    assert kept["node_e"] == "Gelu is excluded"
    text = cli("optimize", str(source), str(out), "--overwrite", *choice, code=2)
    assert "an exclusion of nodes is of no use with precision fp32" in text


def test_skipping_the_check_is_possible_and_said(tmp_path: Path, cli: Cli) -> None:
    model, _ = planted("pow", tmp_path)
    out = tmp_path / "out.onnx"
    report = cli.json("optimize", str(model), str(out), "--precision", "fp16", "--no-check")
    assert report["comparison"] is None
    assert out.exists()
    json.dumps(report)
    with pytest.raises(UsageError, match="optimize writes no auto"):
        optimize_model(str(model), out, CompileOptions(precision="auto", calibration_data="x.npz"))


# --- models that come quantized -------------------------------------------------------------------


@pytest.mark.parametrize("options", [(), ("-O", "2"), ("--precision", "fp16")], ids=" ".join)
@pytest.mark.parametrize("form", [("--weights-only", "int4"), ()], ids=["int4", "int8"])
def test_quantized_weights_stay_as_they_are_stored(
    form: tuple[str, ...], options: tuple[str, ...], tmp_path: Path, cli: Cli
) -> None:
    source, stored, out = (tmp_path / f"{n}.onnx" for n in ("net", "stored", "out"))
    onnx.save(network("mlp"), source)
    feeds = inputs("mlp", 2)
    if not form:
        np.savez(tmp_path / "data.npz", **feeds)
        form = ("--calibration-data", str(tmp_path / "data.npz"))
    cli("quantize", str(source), str(stored), *form)
    cli("optimize", str(stored), str(out), *options)
    onnx.checker.check_model(out, full_check=True)
    assert weights(out) == weights(stored)
    assert len(weights(out)) == 4
    session, reference = ort.InferenceSession(out), ort.InferenceSession(stored)
    for found, wanted in zip(session.run(None, feeds), reference.run(None, feeds), strict=True):
        assert error(found, wanted) < 5e-2


def weights(path: Path) -> list[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the matrices of 8 and 4 bits."""
    kinds = {getattr(onnx.TensorProto, name) for name in ("INT8", "UINT8", "INT4", "UINT4")}
    found = onnx.load(path).graph.initializer
    stored = sorted(
        (t.name, tuple(t.dims)) for t in found if t.data_type in kinds and len(t.dims) == 2
    )
    return [(name, shape) for name, shape in stored if min(shape) >= 32]
