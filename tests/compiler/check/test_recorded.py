from __future__ import annotations

import numpy as np
import pytest

from burnish.check import RecordedCase, RecordedReference, Reference, compare
from burnish.errors import UsageError
from tests.support.onnx_text import parse

X = np.linspace(-1, 2, 6, dtype=np.float32).reshape(2, 3)
MODEL = "g (float[n, 3] x) => (float[n, 3] y, float[n, 3] z) { y = Exp(x)  z = Neg(x) }"


def recorded(inputs: str = "x", outputs: tuple[str, str] = ("y", "z")) -> RecordedReference:
    values = dict(zip(outputs, (np.exp(X), -X), strict=True))
    return RecordedReference("a module", "another program", (RecordedCase({inputs: X}, values),))


def test_report_names_what_ran() -> None:
    report = compare(parse(MODEL), recorded())
    assert report
    assert (report.model, report.reference, report.seed) == ("a module", "another program", None)
    assert report.cases == ({"x": (2, 3)},)
    assert [output.name for output in report.outputs] == ["y", "z"]


def test_differences_are_found() -> None:
    report = compare(parse(MODEL.replace("Exp", "Sin")), recorded())
    assert [output.passed for output in report.outputs] == [False, True]


def test_names_before_positions() -> None:
    # By position, y and z would be mistaken for each other.
    case = RecordedCase({"x": X}, {"z": -X, "y": np.exp(X)})
    assert compare(parse(MODEL), RecordedReference("m", "r", (case,)))
    assert compare(parse(MODEL), recorded("input", ("output_0", "output_1")))
    swapped = RecordedCase({"input": X}, {"a": -X, "b": np.exp(X)})
    assert not compare(parse(MODEL), RecordedReference("m", "r", (swapped,)))


def test_other_numbers_of_inputs_or_outputs() -> None:
    two = RecordedCase({"x": X, "w": X}, {"y": X, "z": X})
    with pytest.raises(UsageError, match=r"has 1 inputs \(x\), the reference 2 \(x, w\)"):
        compare(parse(MODEL), RecordedReference("m", "r", (two,)))
    one = RecordedCase({"x": X}, {"y": X})
    with pytest.raises(UsageError, match="has 2 outputs"):
        compare(parse(MODEL), RecordedReference("m", "r", (one,)))


def test_recorded_when_the_compiled_model_is_known() -> None:
    asked = []

    def record(declared):  # type: ignore[no-untyped-def]
        asked.extend(arg.name for arg in declared)
        return recorded()

    assert compare(Reference(parse(MODEL)), record)
    assert asked == ["x"]
