"""Sizes that the model forbids are refused before any kernel sees them."""

from __future__ import annotations

import numpy as np
import pytest

from burnish.artifact import Condition, TensorInfo
from burnish.errors import InvalidInputError
from burnish.importers import load
from burnish.runtime.conditions import check_conditions
from burnish.runtime.inputs import InputBinder
from tests.support.roundtrip import model

HALVES = [
    Condition("equal", "s", "2*(s//2)", "up"),
    Condition("broadcast", "n", "m", "add"),
    Condition("at_least", "s", "4", "pool"),
]


@pytest.mark.parametrize(
    "sizes",
    [{"s": 8, "n": 3, "m": 3}, {"s": 4, "n": 1, "m": 3}, {"s": 6, "n": 3, "m": 1}],
    ids=str,
)
def test_sizes_that_fit(sizes: dict[str, int]) -> None:
    check_conditions(HALVES, sizes)


@pytest.mark.parametrize(
    ("sizes", "message", "node"),
    [
        ({"s": 9, "n": 3, "m": 3}, r"s == 2\*\(s//2\) must hold, but these are 9 and 8", "up"),
        ({"s": 8, "n": 3, "m": 2}, r"n == m \(or one of them 1\)", "add"),
        ({"s": 2, "n": 3, "m": 3}, "s >= 4 must hold, but these are 2 and 4", "pool"),
    ],
)
def test_sizes_that_do_not(sizes: dict[str, int], message: str, node: str) -> None:
    with pytest.raises(InvalidInputError, match=message) as caught:
        check_conditions(HALVES, sizes)
    assert caught.value.at == node
    assert caught.value.hint == f"the sizes given are s = {sizes['s']}, n = 3, m = {sizes['m']}"


def test_dims_that_are_expressions_bind_nothing_but_are_checked() -> None:
    inputs = [
        TensorInfo("kv", "float32", ("past", 2)),
        TensorInfo("mask", "float32", ("past + 1",)),
    ]
    binder = InputBinder(inputs, {})
    kv = np.ones((3, 2), np.float32)
    binder.bind({"kv": kv, "mask": np.ones(4, np.float32)})
    with pytest.raises(InvalidInputError, match=r"past \+ 1 must be 4, got 5"):
        binder.bind({"kv": kv, "mask": np.ones(5, np.float32)})


def test_what_the_importer_finds_reaches_the_binder() -> None:
    graph = load(
        model(
            """g (float[1,1,S] x) => (float[A,B,C] y) <float[3] up = {1.0, 1.0, 2.0}> {
                half = MaxPool<kernel_shape=[2],strides=[2]>(x)
                back = Resize<mode="nearest">(half, , up)
                y = Add(back, x)
            }"""
        )
    )
    conditions = [Condition(c.kind, str(c.a), str(c.b), c.node) for c in graph.conditions]
    binder = InputBinder([TensorInfo("x", "float32", (1, 1, "S"))], {}, conditions)
    binder.bind({"x": np.ones((1, 1, 6), np.float32)})
    with pytest.raises(InvalidInputError, match="but these are 6 and 7") as caught:
        binder.bind({"x": np.ones((1, 1, 7), np.float32)})
    assert caught.value.at == "Add_2"
