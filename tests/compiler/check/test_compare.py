from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from rich.console import Console

from burnish.check import Reference, compare, load_inputs, tolerance
from burnish.errors import (
    AccuracyError,
    InputFileError,
    InvalidInputError,
    ModelError,
    UsageError,
)
from burnish.report.comparison import comparison_table
from tests.support.onnx_text import parse

Change = Callable[[dict[str, np.ndarray]], None]


def two_outputs() -> onnx.ModelProto:
    return parse(
        """g (float[n, 8] x) => (float[n, 8] y, int64[n] k)
        { t = Exp(x)  y = Sub(t, x)  k = ArgMax<axis = 1, keepdims = 0>(x) }"""
    )


class Changed:
    """The reference, with its outputs tampered with."""

    def __init__(self, model: onnx.ModelProto, change: Change = lambda outputs: None) -> None:
        self.reference, self.change = Reference(model), change
        self.outputs = list(self.reference.get_outputs())

    def get_inputs(self) -> Sequence[Any]:
        return self.reference.get_inputs()

    def get_outputs(self) -> Sequence[Any]:
        return self.outputs

    def run(self, names: Sequence[str] | None, feeds: Mapping[str, np.ndarray]) -> list[Any]:
        found = dict(
            zip(
                (o.name for o in self.reference.get_outputs()),
                (np.array(v) for v in self.reference.run(None, feeds)),
                strict=True,
            )
        )
        self.change(found)
        return [found[o.name] for o in self.outputs]


def x(rows: int = 4) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(3).standard_normal((rows, 8)).astype(np.float32)}


def test_equal_model_passes_with_all_numbers() -> None:
    report = compare(Changed(two_outputs()), two_outputs(), x())
    report.raise_if_failed()
    assert report
    assert [o.name for o in report.outputs] == ["y", "k"]
    y = report.outputs[0]
    assert (y.dtype, y.shape, y.elements) == ("float32", (4, 8), 32)
    assert (y.max_abs, y.rms, y.cosine, y.psnr) == (0.0, 0.0, pytest.approx(1.0), float("inf"))


def scaled(outputs: dict[str, np.ndarray], by: float) -> None:
    outputs["y"] *= np.float32(by)


def set_item(outputs: dict[str, np.ndarray], name: str, value: float) -> None:
    outputs[name].flat[5 % outputs[name].size] = value


FAILURES: dict[str, tuple[Change, str]] = {
    "one element": (lambda o: set_item(o, "y", 9.0), "1 of 32 elements"),
    "all elements a little": (lambda o: scaled(o, 1.00018), "root-mean-square error"),
    "an integer off by one": (lambda o: set_item(o, "k", -1), "of 4 elements"),
    "NaN": (lambda o: set_item(o, "y", np.nan), "NaN in 1 places"),
    "infinity": (lambda o: set_item(o, "y", -np.inf), "-infinity in 1 places"),
    "shape": (lambda o: o.update(y=o["y"].reshape(8, 4)), "shape [8, 4], expected [4, 8]"),
    "dtype": (lambda o: o.update(y=o["y"].astype(np.float64)), "dtype float64"),
    "broadcastable shape": (lambda o: o.update(y=o["y"][:1]), "shape [1, 8]"),
    "empty": (lambda o: o.update(y=o["y"][:0]), "shape [0, 8]"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_difference_fails_and_is_described(name: str) -> None:
    change, reason = FAILURES[name]
    report = compare(Changed(two_outputs(), change), two_outputs(), x())
    assert not report.passed
    assert reason in " ".join(o.reason for o in report.outputs)
    with pytest.raises(AccuracyError) as error:
        report.raise_if_failed()
    assert error.value.exit_code == 10
    assert reason in str(error.value)


@pytest.mark.parametrize("dtype", [np.float16, "bfloat16"])
def test_a_pass_through_half_precision_fails(dtype: Any) -> None:
    # What defends the bounds of the table: no silent downgrade fits under them.
    import ml_dtypes

    kind = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)

    def rounded(outputs: dict[str, np.ndarray]) -> None:
        outputs["y"] = outputs["y"].astype(kind).astype(np.float32)

    report = compare(Changed(two_outputs(), rounded), two_outputs(), x(64))
    assert not report.passed
    limit = tolerance("float32").rms
    assert report.outputs[0].rms > 1.1 * limit * report.outputs[0].scale


def test_rounding_noise_passes() -> None:
    noise = np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32)

    def noisy(outputs: dict[str, np.ndarray]) -> None:
        outputs["y"] += 2e-6 * noise

    assert compare(Changed(two_outputs(), noisy), two_outputs(), x()).passed


def test_nan_and_infinity_pass_where_the_reference_has_them() -> None:
    model = parse("g (float[n] x) => (float[n] y) { y = Log(x) }")
    feeds = {"x": np.array([-1.0, 0.0, 2.0, np.inf], np.float32)}
    report = compare(Changed(model), model, feeds)
    assert report.passed
    assert report.outputs[0].scale == pytest.approx(np.log(2.0), rel=1e-6)
    moved = Changed(model, lambda o: o.update(y=o["y"][[1, 0, 2, 3]]))
    assert not compare(moved, model, feeds).passed


def test_big_integers_are_compared_exactly() -> None:
    model = parse("g (int64[n] x) => (int64[n] y) { y = Identity(x) }")
    feeds = {"x": np.array([2**53 + 1], np.int64)}
    off = Changed(model, lambda o: o.update(y=o["y"] - 1))
    assert compare(Changed(model), model, feeds).passed
    report = compare(off, model, feeds)
    assert not report.passed
    assert "must be equal" in report.outputs[0].reason


def test_given_tolerances_replace_the_table() -> None:
    model = Changed(two_outputs(), lambda o: scaled(o, 1.01))
    assert not compare(model, two_outputs(), x()).passed
    assert compare(model, two_outputs(), x(), rtol=0.011).passed
    assert compare(model, two_outputs(), x(), atol=0.1).passed
    assert not compare(model, two_outputs(), x(), rtol=0.009).passed


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
def test_a_tolerance_that_checks_nothing_is_refused(bad: float) -> None:
    with pytest.raises(UsageError, match="atol"):
        compare(Changed(two_outputs()), two_outputs(), x(), atol=bad)


def test_missing_and_additional_outputs_fail() -> None:
    model = Changed(two_outputs())
    model.outputs = model.outputs[:1]
    report = compare(model, two_outputs(), x())
    assert [o.reason for o in report.outputs if not o.passed] == [
        "the compiled model has no such output"
    ]
    only_y = parse("g (float[n, 8] x) => (float[n, 8] y) { t = Exp(x)  y = Sub(t, x) }")
    report = compare(Changed(two_outputs()), only_y, x())
    assert [o.name for o in report.outputs if not o.passed] == ["k"]


def test_comparing_nothing_is_an_error() -> None:
    with pytest.raises(UsageError, match="no inputs"):
        compare(Changed(two_outputs()), two_outputs(), [])
    with pytest.raises(UsageError, match="all outputs are empty"):
        compare(Changed(two_outputs()), two_outputs(), x(0))


def test_several_input_sets_and_a_second_model(tmp_path: Path) -> None:
    path = tmp_path / "same.onnx"
    onnx.save(two_outputs(), path)
    report = compare(path, two_outputs().SerializeToString(), [x(2), x(5)])
    report.raise_if_failed()
    assert [(o.name, o.case, o.shape) for o in report.outputs] == [
        ("y", 0, (2, 8)),
        ("k", 0, (2,)),
        ("y", 1, (5, 8)),
        ("k", 1, (5,)),
    ]
    assert report.cases == ({"x": (2, 8)}, {"x": (5, 8)})


def test_inputs_are_drawn_repeatably() -> None:
    seen: list[np.ndarray] = []

    class Watched(Changed):
        def run(self, names: Any, feeds: Any) -> list[Any]:
            seen.append(feeds["x"])
            return super().run(names, feeds)

    for seed in (7, 7, 8):
        shapes = {"x": (3, 8)}
        assert compare(Watched(two_outputs()), two_outputs(), seed=seed, input_shapes=shapes)
    assert seen[0].shape == (3, 8)
    assert np.array_equal(seen[0], seen[1])
    assert not np.array_equal(seen[0], seen[2])


def test_inputs_have_the_sizes_that_were_compiled_for() -> None:
    fixed = parse("g (float[5, 8] x) => (float[5, 8] y) { t = Exp(x)  y = Sub(t, x) }")
    symbolic = parse("g (float[n, 8] x) => (float[n, 8] y) { t = Exp(x)  y = Sub(t, x) }")
    assert compare(fixed, symbolic).cases == ({"x": (5, 8)},)


def test_wrong_inputs_are_named() -> None:
    with pytest.raises(InvalidInputError, match="onnxruntime fails"):
        compare(Changed(two_outputs()), two_outputs(), {"x": np.ones((2, 7), np.float32)})


def test_reference_that_does_not_load(tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match="does not exist"):
        Reference(tmp_path / "no.onnx")
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a model")
    with pytest.raises(ModelError, match="does not load"):
        Reference(broken)


def test_report_is_json_and_a_table() -> None:
    def infinite(outputs: dict[str, np.ndarray]) -> None:
        outputs["y"] *= 2

    report = compare(Changed(two_outputs(), infinite), two_outputs(), x())
    data = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert data["schema_version"] == 1
    assert data["passed"] is False
    assert data["outputs"][1]["psnr"] is None
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(comparison_table(report))
    text = console.export_text()
    assert "DIFFERS" in text
    assert "equal" in text
    assert "4x8" in text


@pytest.mark.parametrize("content", [b"", b"PK not a zip", b"\x93NUMPY"])
def test_unreadable_input_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "in.npz"
    with pytest.raises(InputFileError, match="does not exist"):
        load_inputs(path)
    path.write_bytes(content)
    with pytest.raises(InputFileError) as error:
        load_inputs(path)
    assert error.value.at == str(path)


def test_input_file(tmp_path: Path) -> None:
    path = tmp_path / "in.npz"
    np.savez(path, **{"input:0": np.arange(3)})
    assert np.array_equal(load_inputs(path)["input:0"], [0, 1, 2])
    np.savez(path)
    with pytest.raises(InputFileError, match="holds no arrays"):
        load_inputs(path)
    np.save(tmp_path / "in.npy", np.arange(3))
    with pytest.raises(InputFileError):
        load_inputs(tmp_path / "in.npy")
