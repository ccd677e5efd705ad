"""burnish.compile, load and compare from Python."""

from __future__ import annotations

import pickle
import platform
from pathlib import Path

import numpy as np
import onnx
import pytest

import burnish
from burnish.errors import UsageError
from tests.support.bundle import Case, model_of

MLP = Case(
    "(float[batch,8] x) => (float[batch,4] y, float[batch,4] z) <float[8,4] w, float[4] b> "
    "{ h = MatMul(x, w) y = Add(h, b) z = Tanh(y) }"
)
X = np.random.default_rng(2).standard_normal((3, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def proto() -> onnx.ModelProto:
    return model_of(MLP, "m", np.random.default_rng(1))


@pytest.fixture(scope="module")
def model(proto: onnx.ModelProto) -> burnish.CompiledModel:
    return burnish.compile(proto, threads=1)


def test_run_is_that_of_onnxruntime(model: burnish.CompiledModel, proto: onnx.ModelProto) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(proto.SerializeToString())
    for names in (None, ["m/z"], ["m/z", "m/y"]):
        expected, found = session.run(names, {"m/x": X}), model.run(names, {"m/x": X})
        assert len(expected) == len(found)
        for e, f in zip(expected, found, strict=True):
            np.testing.assert_allclose(f, e, rtol=1e-4, atol=1e-5)
    for ours, theirs in (
        (model.get_inputs(), session.get_inputs()),
        (model.get_outputs(), session.get_outputs()),
    ):
        assert [(v.name, list(v.shape), v.type) for v in ours] == [
            (v.name, list(v.shape), v.type) for v in theirs
        ]


def test_call_by_name(model: burnish.CompiledModel) -> None:
    outputs = model(**{"m/x": X})
    assert list(outputs) == ["m/y", "m/z"]
    y = np.from_dlpack(outputs["m/y"])
    np.testing.assert_allclose(np.tanh(y), np.from_dlpack(outputs["m/z"]), rtol=1e-4, atol=1e-5)


def test_any_size_of_a_symbolic_dim(model: burnish.CompiledModel) -> None:
    for size in (1, 2, 33):
        assert model.run(None, {"m/x": np.ones((size, 8), np.float32)})[0].shape == (size, 4)


def test_save_and_load(model: burnish.CompiledModel, tmp_path: Path) -> None:
    saved = model.save(tmp_path / "m.burnish")
    with burnish.load(saved, threads=2) as again:
        assert again.threads == 2
        np.testing.assert_array_equal(
            again.run(None, {"m/x": X})[0], model.run(None, {"m/x": X})[0]
        )


def test_compare(model: burnish.CompiledModel, proto: onnx.ModelProto) -> None:
    report = burnish.compare(model, proto, {"m/x": X})
    assert report
    assert [o.name for o in report.outputs] == ["m/y", "m/z"]
    assert report.cases == ({"m/x": (3, 8)},)
    other = model_of(MLP, "m", np.random.default_rng(7))
    assert not burnish.compare(model, other, {"m/x": X})
    assert burnish.compare(model, other, {"m/x": X}, atol=100.0)


def test_options_and_progress(proto: onnx.ModelProto, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(proto, path)
    phases: list[str] = []
    with burnish.compile(
        path,
        threads=1,
        input_shapes={"m/x": (5, 8)},
        opt_level=2,
        check=True,
        progress=lambda phase, done, total: phases.append(phase),
    ) as compiled:
        assert list(compiled.get_inputs()[0].shape) == [5, 8]
        assert compiled.manifest.verification is not None
    assert phases.index("import") < phases.index("lower") < phases.index("check")


def test_large_model_goes_by_file(
    model: burnish.CompiledModel, proto: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("burnish.api._FILE_SIZE", 10)
    with burnish.compile(proto, threads=1) as compiled:
        assert compiled.manifest.model_sha256 == model.manifest.model_sha256
        for found, expected in zip(
            compiled.run(None, {"m/x": X}), model.run(None, {"m/x": X}), strict=True
        ):
            np.testing.assert_array_equal(found, expected)


WRONG = {
    "unknown option": ({"speed": 11}, "speed"),
    "unknown target": ({"target": "z80"}, "z80"),
    "precision": ({"precision": "int4"}, "unknown precision 'int4'"),
    "budget": ({"precision": "int8", "max_drop": 0.1}, "a budget is of no use"),
    "quantization": ({"nodes_to_exclude": ["x"]}, "an exclusion of nodes is of no use"),
    "number": ({"precision": "auto", "max_drop": "much"}, "max-drop takes a number >= 0, not much"),
    "count": ({"precision": "auto", "max_evals": 5.5}, "max-evals 5.5 leaves nothing"),
    "names": ({"precision": "int8", "nodes_to_exclude": 5}, "takes names, not 5"),
    "metric": ({"precision": "auto", "metric": 3}, "unknown metric 3"),
    "samples": (
        {"precision": "int8", "calibration_data": [], "calibration_samples": "all"},
        "must be at least 1, not all",
    ),
    "threads": ({"threads": 0}, "threads"),
    "shape": ({"input_shapes": {"m/x": (5, 9)}}, "9"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_option(name: str, proto: onnx.ModelProto) -> None:
    options, says = WRONG[name]
    with pytest.raises(UsageError, match=says):
        burnish.compile(proto, **options)  # type: ignore[arg-type]


def test_not_a_model() -> None:
    with pytest.raises(UsageError, match="not a model: list"):
        burnish.compile([1, 2])  # type: ignore[arg-type]
    with pytest.raises(burnish.BurnishError, match="no such file") as error:
        burnish.compile("no/such/model.onnx")
    assert error.value.exit_code == 2


def test_errors_survive_the_worker() -> None:
    error = UsageError("what", at="where", hint="how")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (UsageError, str(error))


@pytest.mark.skipif(platform.machine() == "aarch64", reason="the target is this machine's")
def test_another_machines_target(proto: onnx.ModelProto, tmp_path: Path) -> None:
    """It can be compiled for, but not loaded; that is said before any work is done."""
    from burnish.backends.arm import MACHINE
    from burnish.errors import TargetUnavailableError

    try:
        with pytest.raises(UsageError, match="cannot be loaded here: it is for aarch64") as error:
            burnish.compile(proto, target="arm")
        assert "burnish.compile_to" in str(error.value.hint)
        report = burnish.compile_to(proto, tmp_path / "m.burnish", target="arm", check=True)
    except TargetUnavailableError as missing:
        pytest.skip(str(missing))
    assert any("not compared" in note for note in report.notes)
    with pytest.raises(burnish.BurnishError, match=f"for {MACHINE}"):
        burnish.load(tmp_path / "m.burnish")


def test_compile_to(proto: onnx.ModelProto, tmp_path: Path) -> None:
    report = burnish.compile_to(proto, tmp_path / "m.burnish", threads=1)
    assert report.output == str(tmp_path / "m.burnish")
    assert burnish.load(report.output).run(None, {"m/x": X})[0].shape == (3, 4)
    with pytest.raises(burnish.BurnishError, match="exists"):
        burnish.compile_to(proto, tmp_path / "m.burnish")
    burnish.compile_to(proto, tmp_path / "m.burnish", overwrite=True)
