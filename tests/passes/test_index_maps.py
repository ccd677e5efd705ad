"""Affine index tensors."""

from __future__ import annotations

import numpy as np
import pytest

from burnish.ir import Builder, Graph, TensorType, Value, sym
from burnish.passes.index_maps import IndexMap, counts_up, index_map

B, S = sym("b"), sym("s")


@pytest.fixture
def b() -> Builder:
    graph = Graph("g")
    graph.opset = {"": 25}
    graph.inputs.append(Value("x", TensorType("float32", (B, S))))
    return Builder(graph)


def size(b: Builder, axis: int) -> Value:
    shape = b.op("Shape", b.graph.inputs[0], start=axis, end=axis + 1)
    return b.op("Reshape", shape, b.ints([]))


def arange(b: Builder, axis: int) -> Value:
    return b.op("Range", b.ints(0), size(b, axis), b.ints(1))


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.arange(6).reshape(2, 3), IndexMap(0, (3, 1))),
        (7 - 2 * np.arange(4), IndexMap(7, (-2,))),
        (np.full((2, 2), 5), IndexMap(5, (0, 0))),
        (np.array([[0, 1], [2, 4]]), None),
        (np.array(3), IndexMap(3, ())),
        (np.zeros((0, 2), np.int64), None),
        (np.array([0.0, 1.0]), None),
    ],
    ids=str,
)
def test_constants(b: Builder, array: np.ndarray, expected: IndexMap | None) -> None:
    assert index_map(b.constant(array)) == expected


def test_arithmetic(b: Builder) -> None:
    row = b.op("Reshape", arange(b, 1), b.ints([1, -1]))
    column = b.op("Reshape", arange(b, 0), b.ints([-1, 1]))
    linear = b.op("Add", row, b.op("Mul", column, size(b, 1)))
    assert index_map(linear) == IndexMap(0, (S, 1))
    assert counts_up(index_map(linear), linear.shape, B * S)
    assert not counts_up(index_map(linear), linear.shape, B * S + 1)
    assert index_map(b.op("Sub", linear, b.ints(4))) == IndexMap(-4, (S, 1))
    assert index_map(b.op("Mul", linear, b.ints(2))) == IndexMap(0, (S * 2, 2))
    assert index_map(b.op("Cast", linear, to=6)) == IndexMap(0, (S, 1))
    assert index_map(b.op("Mul", row, column)) is None
    assert index_map(b.op("Neg", linear)) is None


def test_axes_of_size_one_come_and_go(b: Builder) -> None:
    row = b.op("Reshape", arange(b, 1), b.ints([1, 1, -1, 1]))
    assert index_map(row) == IndexMap(0, (0, 0, 1, 0))
    assert index_map(b.op("Expand", row, b.ints([2, 3, 1, 4]))) == IndexMap(0, (0, 0, 1, 0))
    grid = b.constant(np.arange(6))
    assert index_map(b.op("Reshape", grid, b.ints([6, 1]))) == IndexMap(0, (1, 0))
    made = b.op("Add", b.op("Reshape", arange(b, 1), b.ints([1, -1])), b.ints([[0], [0]][0]))
    assert index_map(b.op("Reshape", made, b.ints([-1]))) == IndexMap(0, (1,))


def test_a_reshape_that_splits_an_axis_has_none(b: Builder) -> None:
    x = Value("i", TensorType("int64", (6,)))
    b.graph.inputs.append(x)
    assert index_map(x) is None
    doubled = b.op("Range", b.ints(0), b.ints(6), size(b, 0))
    assert index_map(doubled) == IndexMap(0, (B,))
