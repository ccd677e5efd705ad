"""``cache_dir`` through a whole compilation: unchanged models, new weights, other options."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import burnish
from burnish import compilation
from burnish.backends.registry import resolve_target
from burnish.cache import stable_digest
from burnish.check.recorded import RecordedCase, RecordedReference
from burnish.cli.main import main
from burnish.options import CompileOptions
from burnish.precision.options import Budget
from burnish.requests import CompileReport, CompileRequest
from tests.support.bundle import Case, model_of

NET = Case(
    "(float[1,8,12,12] x) => (float[1,8] y) <float[8,8,3,3] w1, float[8] b1, float[8,8] w2> "
    "{ c = Conv<pads=[1,1,1,1]>(x, w1, b1) r = Relu(c) p = GlobalAveragePool(r) f = Flatten(p)"
    " m = MatMul(f, w2) y = Softmax(m) }"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "net.onnx"
    onnx.save(model_of(NET, "net", np.random.default_rng(3)), path)
    return path


@pytest.fixture(scope="module")
def filled(
    model: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path, CompileReport]:
    """A cache with the model in it, the artifact, and the report of the compilation."""
    folder = tmp_path_factory.mktemp("filled")
    report = burnish.compile_to(model, folder / "a", cache_dir=folder / "cache", check=True)
    return folder / "cache", folder / "a", report


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _json(value: Any) -> Any:
    return json.loads(json.dumps(value, default=vars))


def edited(model: Path, path: Path, factor: float = 1.25) -> Path:
    """The model with other weights."""
    proto = onnx.load(model)
    for tensor in proto.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype == np.float32:
            tensor.CopyFrom(numpy_helper.from_array(array * factor - 0.01, tensor.name))
    onnx.save(proto, path)
    return path


def test_the_first_compilation_builds_everything(
    filled: tuple[Path, Path, CompileReport], model: Path, tmp_path: Path
) -> None:
    _, artifact, report = filled
    assert not report.cached
    assert report.kernels_reused == 0
    assert report.kernels_built is not None
    assert report.kernels_built >= report.kernels >= 3
    plain = burnish.compile_to(model, tmp_path / "plain", check=True)
    assert plain.kernels_reused is None
    assert contents(tmp_path / "plain") == contents(artifact)


def test_an_unchanged_model_is_copied(
    filled: tuple[Path, Path, CompileReport], model: Path, tmp_path: Path
) -> None:
    cache, artifact, first = filled
    report = burnish.compile_to(model, tmp_path / "b", cache_dir=cache, check=True)
    assert report.cached
    assert (report.kernels_reused, report.kernels_built) == (first.kernels_built, 0)
    assert list(report.seconds) == ["copy from cache"]
    assert contents(tmp_path / "b") == contents(artifact)
    same = {"seconds", "output", "peak_memory_bytes", "cached", "kernels_reused", "kernels_built"}
    for field in fields(CompileReport):
        if field.name not in same:
            assert _json(getattr(report, field.name)) == _json(getattr(first, field.name)), (
                field.name
            )
    assert report.comparison is not None


def test_new_weights_reuse_every_kernel(
    filled: tuple[Path, Path, CompileReport], model: Path, tmp_path: Path
) -> None:
    cache, artifact, first = filled
    other = edited(model, tmp_path / "other.onnx")
    report = burnish.compile_to(other, tmp_path / "b", cache_dir=cache, check=True)
    assert not report.cached
    assert (report.kernels_reused, report.kernels_built) == (first.kernels_built, 0)
    assert report.comparison is not None
    assert report.comparison["passed"]
    burnish.compile_to(other, tmp_path / "plain", check=True)
    ours = contents(tmp_path / "b")
    assert ours == contents(tmp_path / "plain")
    assert ours["model.so"] == (artifact / "model.so").read_bytes()
    assert ours["weights.safetensors"] != (artifact / "weights.safetensors").read_bytes()


def test_a_changed_layer_is_all_that_is_built(
    filled: tuple[Path, Path, CompileReport], model: Path, tmp_path: Path
) -> None:
    proto = onnx.load(model)
    (softmax,) = (node for node in proto.graph.node if node.op_type == "Softmax")
    softmax.op_type = "Sigmoid"
    onnx.save(proto, tmp_path / "other.onnx")
    report = burnish.compile_to(
        tmp_path / "other.onnx", tmp_path / "b", cache_dir=filled[0], check=True
    )
    assert report.kernels_built == 1
    assert report.kernels_reused is not None
    assert report.kernels_reused >= 2


def test_kernels_are_those_of_one_target(
    filled: tuple[Path, Path, CompileReport], model: Path, tmp_path: Path
) -> None:
    report = burnish.compile_to(model, tmp_path / "b", cache_dir=filled[0], target="x86-64-v3")
    assert not report.cached
    assert report.kernels_reused == 0


def test_a_damaged_kernel_is_built_again(model: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    burnish.compile_to(model, tmp_path / "a", cache_dir=cache)
    for path in (cache / "kernels").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:-1])
    other = edited(model, tmp_path / "other.onnx")
    report = burnish.compile_to(other, tmp_path / "b", cache_dir=cache, check=True)
    assert report.kernels_reused == 0
    assert sum("damaged" in note for note in report.notes) == report.kernels_built
    again = burnish.compile_to(model, tmp_path / "c", cache_dir=cache, check=True)
    assert again.kernels_built == 0


def test_two_processes_at_once(model: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    command = [sys.executable, "-m", "burnish", "compile", str(model), "--cache-dir", str(cache)]
    running = [
        subprocess.Popen([*command, "-o", str(tmp_path / name)], stdout=subprocess.DEVNULL)
        for name in ("a", "b")
    ]
    assert [process.wait(timeout=300) for process in running] == [0, 0]
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    report = burnish.compile_to(model, tmp_path / "c", cache_dir=cache, check=True)
    assert report.cached
    assert not [note for note in report.notes if "compile cache" in note]
    assert contents(tmp_path / "c") == contents(tmp_path / "a")


#: Options that change nothing of what is built, but for the times that tuning measures: these count
#: by themselves.
UNRELATED = {
    *("verify_ir", "verify_passes", "dump_ir", "cache_dir"),
    *("tune", "tune_seconds", "tune_shapes"),
}


#: Values of options that have to make sense.
OTHERS = {
    "target": "x86-64-v3",
    "budget": Budget(max_evals=16),
    "calibration_data": f"{__file__}:samples",
}


def ingredients(request: CompileRequest) -> str:
    target = resolve_target(request.options.target)
    return stable_digest(compilation._ingredients(request, target))


def test_every_option_counts() -> None:
    request = CompileRequest("m.onnx", "out", CompileOptions(cache_dir="c"))
    names = {field.name for field in fields(CompileOptions)}
    found = {ingredients(request)}
    for name in sorted(names - UNRELATED):
        options = replace(request.options)
        object.__setattr__(options, name, OTHERS.get(name, "another value"))
        found.add(ingredients(replace(request, options=options)))
    assert len(found) == 1 + len(names - UNRELATED)
    assert names > UNRELATED


def test_what_else_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    def recorded(value: float) -> RecordedReference:
        case = RecordedCase({"x": np.full(3, value)}, {"y": np.full(3, value)})
        return RecordedReference("m", "torch", (case,))

    request = CompileRequest("m.onnx", "out", CompileOptions(check=True, cache_dir="c"))
    found = [
        ingredients(request),
        *(ingredients(replace(request, reference=recorded(v))) for v in (1, 2)),
    ]
    same = replace(request, output="other", overwrite=True, name="another")
    assert ingredients(same) == found[0]
    assert ingredients(replace(request, reference=recorded(1))) == found[1]
    monkeypatch.setenv("CXX", "g++ -O1")
    found.append(ingredients(request))
    monkeypatch.undo()
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(77)))
    found.append(ingredients(request))
    assert len(set(found)) == len(found)


def test_who_asks_for_a_check_of_the_passes_gets_it(
    filled: tuple[Path, Path, CompileReport], model: Path, tmp_path: Path
) -> None:
    report = burnish.compile_to(
        model,
        tmp_path / "b",
        cache_dir=filled[0],
        check=True,
        verify_ir=True,
        dump_ir=str(tmp_path / "dump"),
    )
    assert not report.cached
    assert report.kernels_built == 0
    assert list((tmp_path / "dump").glob("*.onnx"))
    assert contents(tmp_path / "b") == contents(filled[1])


def test_command_line(
    filled: tuple[Path, Path, CompileReport],
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["compile", str(model), "-o", str(tmp_path / "b"), "--cache-dir", str(filled[0])]
    assert main(arguments) == 0
    assert "from the cache: nothing has changed" in capsys.readouterr().out
    assert main([*arguments, "--overwrite", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["cached"] is True
    other = edited(model, tmp_path / "other.onnx", factor=1.5)
    assert main(["compile", str(other), *arguments[2:], "--overwrite"]) == 0
    assert f"kernels: {filled[2].kernels_built} reused, 0 built" in capsys.readouterr().out


def test_a_file_instead_of_a_folder(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "b"
    assert main(["compile", str(model), "-o", str(out), "--cache-dir", str(model)]) == 2
    error = capsys.readouterr().err
    assert "the cache is a file" in error
    assert "hint: name a folder with --cache-dir" in error
    assert not out.exists()


def test_modules(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 4))
    example = torch.randn(2, 8)

    def compiled(name: str) -> CompileReport:
        return burnish.compile_to(
            module,
            tmp_path / name,
            example_inputs=example,
            cache_dir=tmp_path / "cache",
            check=True,
        )

    first = compiled("a")
    assert first.kernels_built
    # It is exported anew, to a file of another name.
    assert compiled("b").cached
    with torch.no_grad():
        module[0].weight += 0.1
    trained = compiled("c")
    assert not trained.cached
    assert (trained.kernels_reused, trained.kernels_built) == (first.kernels_built, 0)
    assert trained.comparison is not None
    assert trained.comparison["passed"]
