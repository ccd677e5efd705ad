"""Options are validated once, with errors that name what can be given."""

from __future__ import annotations

import dataclasses

import pytest

from burnish.errors import UsageError
from burnish.options import CompileOptions, DimSpec, parse_input_shapes, spell_input_shapes

SHAPES: dict[str, tuple[str, tuple[DimSpec, ...]]] = {
    "x:1x3x224x224": ("x", (1, 3, 224, 224)),
    "x:1,3,224,224": ("x", (1, 3, 224, 224)),
    "x:[1, 3, 224]": ("x", (1, 3, 224)),
    "x:5": ("x", (5,)),
    "x:1..8x128": ("x", ((1, 8), 128)),
    "x:batchx128": ("x", ("batch", 128)),
    "x:1xsequence": ("x", (1, "sequence")),
    "x:batch,sequence": ("x", ("batch", "sequence")),
    "x:batch,1..512": ("x", ("batch", (1, 512))),
    "x:axb,4": ("x", ("axb", 4)),
    "input:0:2x3": ("input:0", (2, 3)),
    "x:": ("x", ()),
}


@pytest.mark.parametrize("text", SHAPES)
def test_input_shape(text: str) -> None:
    name, dims = SHAPES[text]
    assert parse_input_shapes((text,)) == {name: dims}


def test_several_inputs() -> None:
    assert parse_input_shapes(("a:1x2", "b:3")) == {"a": (1, 2), "b": (3,)}


@pytest.mark.parametrize("text", SHAPES)
def test_spelling_is_read_back(text: str) -> None:
    name, dims = SHAPES[text]
    (argument,) = spell_input_shapes({name: dims})
    option, _, value = argument.partition(" ")
    assert option == "--input-shapes"
    assert parse_input_shapes((value,)) == {name: dims}


@pytest.mark.parametrize("text", ["x", ":1x2", "x:1x-3", "x:8..1", "x:1x2.5", "x:a b", "x:1x?"])
def test_shape_that_is_none(text: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_input_shapes((text,))
    assert text.rpartition(":")[2].split("x")[-1] in str(error.value)


WRONG = {
    "level without composites": ({"precision": "int8", "opt_level": 1}, "needs optimization level"),
    "auto without data": ({"precision": "auto"}, "measures on samples of real inputs"),
    "strict fp32": ({"strict": True}, "of no use with precision fp32"),
    "data for fp32": ({"calibration_data": "x.npz"}, "of no use with precision fp32"),
    "no precision": ({"precision": "fp12"}, "unknown precision 'fp12'"),
    "no threads": ({"threads": 0}, "threads must be at least 1"),
    "level": ({"opt_level": 4}, "optimization level must be 0 to 3"),
    "negative level": ({"opt_level": -1}, "optimization level"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_option(name: str) -> None:
    options, says = WRONG[name]
    with pytest.raises(UsageError, match=says) as error:
        CompileOptions(**options)  # type: ignore[arg-type]
    assert error.value.exit_code == 2


def test_plain_data_has_every_option() -> None:
    data = CompileOptions(input_shapes={"x": (1, "n", (2, 3))}).to_dict()
    assert set(data) == {f.name for f in dataclasses.fields(CompileOptions)}
    assert data["input_shapes"] == {"x": (1, "n", (2, 3))}
