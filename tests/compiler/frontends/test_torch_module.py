"""What torch exports, before it is compiled."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from burnish.check import RecordedReference  # noqa: E402
from burnish.errors import BurnishError, ModelError, TargetUnavailableError, UsageError  # noqa: E402
from burnish.frontends import Exported, frontend, torch_module  # noqa: E402
from burnish.frontends.torch_module import TorchModule  # noqa: E402

X = torch.linspace(-2, 3, 6).reshape(2, 3)


def export(module: Any, folder: Path, inputs: Any, shapes: Any = None) -> Exported:
    return TorchModule(module).export(folder, inputs, shapes, record=True)


def signature(path: Path) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
    graph = onnx.load(path, load_external_data=False).graph
    inputs, outputs = (
        {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}
        for values in (graph.input, graph.output)
    )
    return inputs, outputs


def run(exported: Exported) -> None:
    """onnxruntime computes from the file what the module computed."""
    session = ort.InferenceSession(exported.path)
    assert isinstance(exported.reference, RecordedReference)
    for case in exported.reference.cases:
        found = session.run(None, case.inputs)
        for (name, expected), actual in zip(case.outputs.items(), found, strict=True):
            assert expected.std() > 1e-3, name
            torch.testing.assert_close(torch.from_numpy(actual), torch.from_numpy(expected))


class Nested(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)

    def forward(self, x: Any, pair: Any, scale: Any = None, flag: bool = True) -> Any:
        y = self.norm(self.linear(x)) * (1 if scale is None else scale)
        # The same tensor twice, an input as it came, and nothing.
        more = pair[0] + 1, pair[1] * y if flag else y
        return {"logits": y, "none": None, "same": y, "given": x, "more": more}


def test_names_and_dims(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Nested().train()
    draw = torch.randn
    inputs = {"x": X, "pair": [draw(2, 4), draw(2, 4)], "scale": draw(4)}
    shapes = {"x": {0: "rows"}, "pair": [{0: "rows"}, {0: "rows"}]}
    exported = export(module, tmp_path, inputs, shapes)
    assert signature(exported.path) == (
        {"x": ["rows", 3], "pair_0": ["rows", 4], "pair_1": ["rows", 4], "scale": [4]},
        {
            "logits": ["rows", 4],
            "same": ["rows", 4],
            "given": ["rows", 3],
            "more_0": ["rows", 4],
            "more_1": ["rows", 4],
        },
    )
    run(exported)
    assert module.training
    assert onnx.load(exported.path).graph.name == "Nested"


def test_names_that_the_graph_has_already(tmp_path: Path) -> None:
    class Clash(torch.nn.Module):
        def forward(self, add: Any, linear: Any) -> Any:
            y = add + linear
            return {"mul": torch.tanh(y) + y, "add_1": y * 2, "val_0": y - 1}

    exported = export(Clash(), tmp_path, (X, X + 1))
    assert [list(names) for names in signature(exported.path)] == [
        ["add", "linear"],
        ["mul", "add_1", "val_0"],
    ]
    onnx.checker.check_model(exported.path, full_check=True)
    run(exported)


def test_dims_are_named_beside_arguments_that_are_no_tensors(tmp_path: Path) -> None:
    class Flagged(torch.nn.Module):
        def forward(self, x: Any, y: Any, double: bool = False) -> Any:
            # Nothing here tells torch that the rows of x and y are equal.
            z = torch.cat([x, x], 0)
            return (z * 2 if double else z), y.exp()

    shapes = {"x": {0: "rows"}, "y": {0: "rows", 1: torch.export.Dim("width")}}
    exported = export(Flagged(), tmp_path, {"x": X, "y": X, "double": True}, shapes)
    inputs, outputs = signature(exported.path)
    assert inputs == {"x": ["rows", 3], "y": ["rows", "width"]}
    assert outputs == {"output_0": ["2*rows", 3], "output_1": ["rows", "width"]}
    run(exported)


def test_dims_with_bounds(tmp_path: Path) -> None:
    rows = torch.export.Dim("rows", min=2, max=64)
    exported = export(torch.nn.Linear(3, 4), tmp_path, (X,), ({0: rows},))
    assert signature(exported.path) == ({"input": ["rows", 3]}, {"output": ["rows", 4]})
    run(exported)


def test_large_weights_lie_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_module, "_IN_ONE_FILE", 100)
    exported = export(torch.nn.Linear(3, 400), tmp_path, X)
    assert (tmp_path / "model.onnx.data").stat().st_size >= 4 * 3 * 400
    run(exported)


def test_a_module_that_refuses_drawn_inputs_has_one_case(tmp_path: Path) -> None:
    class Picky(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            if not torch.compiler.is_exporting() and float(x[0, 0]) != -2:
                raise ValueError("not what I want")
            return x * 2

    exported = export(Picky(), tmp_path, X)
    assert isinstance(exported.reference, RecordedReference)
    assert len(exported.reference.cases) == 1


class Branch(torch.nn.Module):
    def forward(self, x: Any) -> Any:
        return x * 2 if x.sum() > 0 else x - 1


class Eigen(torch.nn.Module):
    def forward(self, x: Any) -> Any:
        return torch.view_as_real(torch.linalg.eigvals(x[:, :2]))


class Fixing(torch.nn.Module):
    def forward(self, x: Any) -> Any:
        return x.view(2, 3) + 1


LINEAR = torch.nn.Linear(3, 4)
WRONG: dict[str, tuple[Any, Any, Any, type[BurnishError], str, str]] = {
    "branch": (Branch(), X, None, ModelError, "data-dependent", "torch.where"),
    "operator": (Eigen(), X, None, ModelError, "linalg_eig", "replace that operator"),
    "fixed dim": (Fixing(), X, {"x": {0: "n"}}, ModelError, "static shape of 2", "fixes that size"),
    "unknown input": (LINEAR, X, {"y": {0: "n"}}, UsageError, "names y", "arguments are: input"),
    "no example": (LINEAR, None, None, UsageError, "needs example inputs", "example_inputs="),
    "refused": (LINEAR, X[:, :2], None, UsageError, "fails on these inputs: RuntimeError", "eval"),
}


@pytest.mark.parametrize("name", WRONG)
def test_errors_say_what_torch_says(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    module, inputs, shapes, kind, says, hint = WRONG[name]
    with pytest.raises(kind, match=says) as error:
        export(module, tmp_path, inputs, shapes)
    assert hint in str(error.value.hint)
    assert len(error.value.message) < 700
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr().err == ""


def test_a_size_of_one_is_taken_for_fixed(tmp_path: Path) -> None:
    class Adding(torch.nn.Module):
        def forward(self, x: Any, y: Any) -> Any:
            return x.reshape(1, 3) + y

    shapes = {"x": {0: torch.export.Dim("n")}, "y": None}
    with pytest.raises(ModelError, match="fixes dim 0 of x at 1") as error:
        export(Adding(), tmp_path, (X[:1], X), shapes)
    assert "size of 2 or more" in str(error.value.hint)
    # Where it does not have to be fixed, it is not.
    exported = export(LINEAR, tmp_path, X[:1], {"input": {0: "n"}})
    assert signature(exported.path)[1] == {"output": ["n", 4]}
    auto = {"x": {0: torch.export.Dim.AUTO}, "y": {}}
    export(Adding(), tmp_path, (X[:1], X), auto)


def test_dims_of_nested_arguments_are_checked(tmp_path: Path) -> None:
    class Second(torch.nn.Module):
        def forward(self, pair: Any, more: Any) -> Any:
            return pair[1].reshape(1, 3) + pair[0] + more["k"]

    dim = torch.export.Dim("n")
    shapes = {"pair": [None, {0: dim}], "more": {"k": None}}
    with pytest.raises(ModelError, match="fixes dim 0 of pair_1 at 1"):
        export(Second(), tmp_path, ([X, X[:1]], {"k": X}), shapes)


def test_missing_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(TargetUnavailableError, match="onnxscript") as error:
        export(LINEAR, tmp_path, X)
    assert error.value.hint == "pip install 'burnish[torch]'"
    assert error.value.exit_code == 5
    monkeypatch.undo()
    monkeypatch.setattr(torch, "__version__", "2.4.1")
    with pytest.raises(TargetUnavailableError, match="too old"):
        export(LINEAR, tmp_path, X)


def test_what_has_a_frontend(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(frontend(LINEAR), TorchModule)
    assert frontend("model.onnx") is None
    monkeypatch.setitem(sys.modules, "torch", None)
    assert frontend(LINEAR) is None
