from __future__ import annotations

import numpy as np
import onnx
import pytest

from burnish.check import draw_inputs, input_ranges
from burnish.check.stages import Declared
from burnish.errors import UsageError
from tests.support.onnx_text import parse

EMBEDDING = """g (int64[batch, sequence] ids, int64[batch, sequence] mask, float[batch, 3] x)
    => (float[batch, sequence, 4] y, float[batch, 3] z)
    <float[11, 4] table = {0,0,0,0,0,0,0,0,0,0,0, 0,0,0,0,0,0,0,0,0,0,0,
                           0,0,0,0,0,0,0,0,0,0,0, 0,0,0,0,0,0,0,0,0,0,0}>
    { axes = Constant<value_ints = [-1]>()
      near = Cast<to = 6>(ids)
      words = Gather(table, near)
      keep = Cast<to = 1>(mask)
      last = Unsqueeze(keep, axes)
      y = Mul(words, last)
      z = Identity(x) }"""


def test_kinds_are_read_off_the_graph() -> None:
    ranges = {r.name: r for r in input_ranges(parse(EMBEDDING))}
    assert ranges["ids"].high == 11
    assert ranges["mask"].high is None
    assert ranges["ids"].shape == ("batch", "sequence")
    feeds = draw_inputs(parse(EMBEDDING), shapes={"ids": (5, 40)})
    assert feeds["mask"].shape == (5, 40)  # the same dimension names
    assert feeds["x"].shape == (5, 3)
    assert feeds["ids"].min() >= 0
    assert feeds["ids"].max() == 10
    assert set(np.unique(feeds["mask"])) == {0, 1}
    assert feeds["mask"][:, 0].all(), "a row without any token"
    assert 0.5 < feeds["x"].std() < 2


def test_axis_and_one_hot_bound_indices() -> None:
    model = parse(
        """g (int32[n] columns, int64[n] classes) => (float[2, n] y, float[n, 7] z)
        <float[2, 3] table = {1, 2, 3, 4, 5, 6}, int64 depth = {7}, float[2] values = {0, 1}>
        { y = Gather<axis = 1>(table, columns)  z = OneHot(classes, depth, values) }"""
    )
    assert {r.name: r.high for r in input_ranges(model)} == {"columns": 3, "classes": 7}


def test_comparison_with_a_range_bounds_classes() -> None:
    model = parse(
        """g (int32[n, 1] classes, int32[n] flag) => (bool[n, 5] y, bool[n] z)
        <int32[1, 5] range = {0, 1, 2, 3, 4}, int32 one = {1}, int64[2] shape = {1, 5}>
        { wide = Expand(classes, shape)  y = Equal(wide, range)  z = Equal(flag, one) }"""
    )
    assert {r.name: r.high for r in input_ranges(model)} == {"classes": 5, "flag": None}


def test_index_used_twice_takes_the_smaller_table() -> None:
    model = parse(
        """g (int64[n] i) => (float[n] y, float[n] z)
        <float[9] a = {1, 2, 3, 4, 5, 6, 7, 8, 9}, float[2] b = {1, 2}>
        { y = Gather(a, i)  z = Gather(b, i) }"""
    )
    assert input_ranges(model)[0].high == 2


def test_defaults_of_symbolic_dimensions() -> None:
    model = parse(
        "g (float[N, 3, h, w] image, float[N, t] x) => (float[N, 3, h, w] y, float[N, t] z)"
        "{ y = Relu(image)  z = Relu(x) }"
    )
    feeds = draw_inputs(model)
    assert feeds["image"].shape == (1, 3, 224, 224)
    assert feeds["x"].shape == (1, 16)


def test_unnamed_dimensions_are_not_equal() -> None:
    model = parse("g (float[n, n] x) => (float[n, n] y) { y = Exp(x) }")
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            dim.dim_param = "?"
    assert draw_inputs(model, shapes={"x": (2, 5)})["x"].shape == (2, 5)


def test_initialized_inputs_are_not_inputs() -> None:
    model = parse("g (float[2] x) => (float[2] y) { y = Relu(x) }")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(2, np.float32), "w"))
    model.graph.input.append(onnx.helper.make_tensor_value_info("w", 1, [2]))
    assert [r.name for r in input_ranges(model)] == ["x"]


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"nope": (1,)}, "no input 'nope'"),
        ({"x": (5, 4)}, r"does not fit the declared \[batch, 3\]"),
        ({"x": (5,)}, "does not fit"),
        ({"ids": (2, 4), "mask": (3, 4)}, "both 2 and 3"),
    ],
)
def test_contradictory_shapes(shapes: dict[str, tuple[int, ...]], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        draw_inputs(parse(EMBEDDING), shapes=shapes)


def test_text_inputs_cannot_be_drawn() -> None:
    model = parse("g (string[n] s) => (string[n] t) { t = Identity(s) }")
    with pytest.raises(UsageError, match="text"):
        draw_inputs(model)


def test_equal_names_get_equal_sizes_wherever_they_stand() -> None:
    model = parse(
        "g (float[N, t] x, float[2, N, 4] state) => (float[N, t] y, float[2, N, 4] z)"
        "{ y = Relu(x)  z = Relu(state) }"
    )
    feeds = draw_inputs(model, size=128)
    assert feeds["x"].shape == (1, 128)
    assert feeds["state"].shape == (2, 1, 4)


def test_what_compilation_found_out_names_dimensions() -> None:
    model = parse(
        "g (float[N, t] x, float[2, ?, 4] state) => (float[N, t] y, float[2, ?, 4] z)"
        "{ y = Relu(x)  z = Relu(state) }"
    )
    assert draw_inputs(model)["state"].shape == (2, 16, 4)
    like = [Declared("x", ("N", "t")), Declared("state", (2, "N", 4))]
    assert draw_inputs(model, like=like)["state"].shape == (2, 1, 4)
