"""The way of a model from file to artifact: report, manifest, checks of passes, clean-up."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
import pytest

from burnish import driver
from burnish.artifact import read_manifest
from burnish.check.stages import StageCheck, candidates
from burnish.driver import compile_artifact, model_digest
from burnish.errors import AccuracyError, PassError, UsageError
from burnish.ir import Graph
from burnish.options import CompileOptions
from burnish.passes import pipelines
from burnish.passes.base import Fixpoint, Numerics, Pass, PassContext
from burnish.requests import CompileReport, CompileRequest
from tests.support.bundle import Case, model_of

MLP = Case(
    "(float[batch,8] x) => (float[batch,4] y) <float[8,16] w1, float[16] b1, float[16,4] w2> "
    "{ h = MatMul(x, w1) a = Add(h, b1) r = Relu(a) y = MatMul(r, w2) }"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "mlp.onnx"
    onnx.save(model_of(MLP, "m", np.random.default_rng(1)), path)
    return path


def request(model: Path, output: Path, **options: object) -> CompileRequest:
    return CompileRequest(str(model), str(output), CompileOptions(**options), name=str(model))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def done(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[CompileReport, Path]:
    output = tmp_path_factory.mktemp("out") / "mlp.burnish"
    return compile_artifact(request(model, output, check=True)), output


def test_report(done: tuple[CompileReport, Path]) -> None:
    report, output = done
    assert report.output == str(output)
    assert report.target.startswith("x86-64-v")
    assert set(report.seconds) >= {"import", "optimize", "lower", "generate code", "link", "check"}
    assert report.nodes == {"burnish::MatMul": 2}
    assert report.kernels == 2
    assert report.weight_bytes >= 4 * (8 * 16 + 16 + 16 * 4)
    assert report.peak_memory_bytes > 20e6
    assert report.comparison is not None
    assert report.comparison["passed"]


def test_report_is_plain_data(done: tuple[CompileReport, Path]) -> None:
    data = json.loads(json.dumps(done[0].to_dict()))
    assert data["schema_version"] == 1
    assert data["passes"][0]["name"] == "dead-code"


def test_manifest(done: tuple[CompileReport, Path], model: Path) -> None:
    manifest = read_manifest(done[1])
    assert manifest.model_sha256 == model_digest(str(model))
    assert [(t.name, t.dtype, t.shape) for t in manifest.inputs] == [
        ("m/x", "float32", ("m_batch", 8))
    ]
    assert [n.op for n in manifest.nodes] == ["burnish::MatMul"] * 2
    assert manifest.nodes[0].nodes == ("m/MatMul0", "m/Add1", "m/Relu2")
    assert {n.precision for n in manifest.nodes} == {"fp32"}
    assert manifest.verification is not None
    assert manifest.verification.passed
    assert "dump_ir" not in manifest.options


def test_digest_covers_external_data(model: Path, tmp_path: Path) -> None:
    proto = onnx.load(model)
    path = tmp_path / "m.onnx"
    onnx.save(proto, path, save_as_external_data=True, location="m.bin", size_threshold=0)
    before = model_digest(str(path))
    data = bytearray((tmp_path / "m.bin").read_bytes())
    data[5] ^= 1
    (tmp_path / "m.bin").write_bytes(data)
    assert model_digest(str(path)) != before


def test_nothing_is_left_when_the_check_fails(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def differs(*_: object) -> None:
        raise AccuracyError("outputs differ")

    monkeypatch.setattr(driver, "_checked", differs)
    with pytest.raises(AccuracyError):
        compile_artifact(request(model, tmp_path / "out.burnish", check=True))
    assert list(tmp_path.iterdir()) == []


def test_unknown_pass_is_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="frob") as error:
        compile_artifact(request(model, tmp_path / "out.burnish", skip_passes=("frob",)))
    assert "fold-constants" in str(error.value.hint)


@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_every_level(level: int, model: Path, tmp_path: Path) -> None:
    report = compile_artifact(request(model, tmp_path / "out.burnish", opt_level=level, check=True))
    assert report.comparison is not None
    assert report.comparison["passed"]
    assert ("burnish::MatMul" in report.nodes) == (level >= 2)


# --- every pass against the model ------------------------------------------------------------


@dataclass(frozen=True)
class Scale(Pass):
    """Multiplies a weight, which changes the results."""

    factor: float = 2.0
    name: ClassVar[str] = "scale"
    numerics: ClassVar[Numerics] = Numerics.EXACT

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        """Once: a marked graph stays."""
        node = next(n for n in graph.nodes if n.key == "MatMul")
        if "scaled" in graph.notes:
            return False
        graph.notes.append("scaled")
        weight = node.required(1)
        node.set_input(1, graph.constant(weight.array * np.float32(self.factor)))
        return True


@dataclass(frozen=True)
class Nudge(Scale):
    """Changes the results by no more than a rounding, but calls itself exact."""

    factor: float = 1 + 2**-22
    name: ClassVar[str] = "nudge"


@dataclass(frozen=True)
class HonestNudge(Nudge):
    """The same, and says so."""

    name: ClassVar[str] = "honest-nudge"
    numerics: ClassVar[Numerics] = Numerics.REASSOCIATES


def with_pass(item: Pass) -> object:
    original = pipelines.pipeline

    def pipeline(*args: object, **kwargs: object) -> list[Pass | Fixpoint]:
        first, *rest = original(*args, **kwargs)  # type: ignore[arg-type]
        return [first, item, *rest]

    return pipeline


def optimized(
    model: Path, item: Pass | None, monkeypatch: pytest.MonkeyPatch, **options: object
) -> list[str]:
    if item is not None:
        monkeypatch.setattr(pipelines, "pipeline", with_pass(item))
    chosen = CompileOptions(verify_passes=True, **options)  # type: ignore[arg-type]
    graph, _ = driver.import_model(str(model), chosen)
    records = driver.optimize(graph, chosen, model=str(model), source=str(model))
    return [r.name for r in records if r.changed]


def test_right_passes_are_accepted(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "fuse-epilogues" in optimized(model, None, monkeypatch)


@pytest.mark.parametrize("item", [Scale(), Nudge()])
def test_wrong_pass_is_named(item: Pass, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PassError) as error:
        optimized(model, item, monkeypatch)
    assert f"pass {item.name} changes the results: output m/y: " in error.value.message
    assert error.value.hint is not None
    assert f"burnish optimize {model} OUT.onnx -O3 --verify-passes" in error.value.hint
    assert f"--only-pass {item.name}" in error.value.hint


def test_rounding_is_allowed_to_a_pass_that_says_so(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "honest-nudge" in optimized(model, HonestNudge(), monkeypatch)


def test_passes_are_not_checked_unless_asked(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipelines, "pipeline", with_pass(Scale()))
    options = CompileOptions()
    graph, _ = driver.import_model(str(model), options)
    records = driver.optimize(graph, options, model=str(model), source=str(model))
    assert "scale" in [r.name for r in records]


def test_reproducing_command_has_the_shapes(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PassError) as error:
        optimized(model, Scale(), monkeypatch, input_shapes={"m/x": (3, 8)}, opt_level=2)
    assert "-O2 --input-shapes m/x:3,8 --verify-passes" in str(error.value.hint)


def test_import_that_changes_the_results(model: Path) -> None:
    graph, _ = driver.import_model(str(model), CompileOptions())
    Scale().run(graph, PassContext())
    with pytest.raises(PassError, match="the importer changes the results"):
        StageCheck(str(model), graph)


def test_sizes_that_are_tried() -> None:
    model = model_of(
        Case("(float[b,s] x) => (float[b,s] y) { y = Relu(x) }"), "m", np.random.default_rng(0)
    )

    @dataclass(frozen=True)
    class Input:
        name: str
        shape: tuple[int | str, ...]

    def shapes(shape: tuple[int | str, ...], **bounds: tuple[int, int]) -> list[tuple[int, ...]]:
        found = candidates(model, [Input("m/x", shape)], bounds)
        return [feeds["m/x"].shape for feeds in found]

    assert shapes(("b", "s")) == [(1, 16), (1, 128), (1, 512)]
    assert shapes((2, 3)) == [(2, 3)]
    assert shapes((2, "s"), s=(1, 8)) == [(2, 8)] * 3
    assert shapes((2, "s"), s=(200, 300)) == [(2, 200), (2, 200), (2, 300)]
