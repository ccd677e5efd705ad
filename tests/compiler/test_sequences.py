"""Sequences whose members are known at compile time."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from burnish.errors import ShapeError
from burnish.importers.onnx_model import load
from burnish.importers.untyped import untyped_operators
from burnish.ir import Graph
from tests.support.bundle import Bundle, Case


def at(value: int) -> np.ndarray:
    return np.array(value, np.int64)


CASES = {
    "insert_and_take": Case(
        "(float[2,3] x, float[1,3] y) => (float[1,3] z) <int64 p, int64 q> { e = SequenceEmpty() "
        "a = SequenceInsert(e, x) b = SequenceInsert(a, y, p) z = SequenceAt(b, q) }",
        weights={"p": at(-1), "q": at(0)}),
    "erase": Case(
        "(float[2] x, float[2] y, float[2] u) => (float[2] z) <int64 p, int64 q> "
        "{ s = SequenceConstruct(x, y, u) t = SequenceErase(s, p) z = SequenceAt(t, q) }",
        weights={"p": at(1), "q": at(-1)}),
    "concatenate": Case(
        "(float[2,3] x, float[2,1] y) => (float[2,7] z) "
        "{ s = SequenceConstruct(x, y, x) z = ConcatFromSequence<axis = 1>(s) }"),
    "stack": Case(
        "(float[2,3] x, float[2,3] y) => (float[2,3,2] z) "
        "{ s = SequenceConstruct(x, y) z = ConcatFromSequence<axis = -1, new_axis = 1>(s) }"),
    "split": Case(
        "(float[4,3] x) => (float[4] z) <int64 q> "
        "{ s = SplitToSequence<axis = 1, keepdims = 0>(x) z = SequenceAt(s, q) }",
        weights={"q": at(2)}),
    "split_by_a_size": Case(
        "(float[5,2] x) => (float[1,2] z) <int64 k, int64 q> "
        "{ s = SplitToSequence(x, k) z = SequenceAt(s, q) }",
        weights={"k": at(2), "q": at(-1)}),
    "split_by_sizes_of_an_input": Case(
        "(float[5,2] x, int64[3] k) => (float[a,2] z, int64 n) <int64 q> "
        "{ s = SplitToSequence(x, k) z = SequenceAt(s, q) n = SequenceLength(s) }",
        feeds={"k": np.array([1, 3, 1])}, weights={"q": at(1)}),
}  # fmt: skip


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle(CASES)


@pytest.mark.parametrize("name", CASES)
def test_compiled(name: str, bundle: Bundle) -> None:
    bundle.check(name)
    assert not [op for op in bundle.operators(name) if "Sequence" in op]


def imported(text: str) -> Graph:
    return load(onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 23]>\ng {text}'))


def test_a_position_outside() -> None:
    with pytest.raises(ShapeError, match="position 2 is outside of a sequence of 2"):
        imported(
            "(float[2] x) => (float[2] y) <int64 q = {2}> "
            "{ s = SequenceConstruct(x, x) y = SequenceAt(s, q) }"
        )


def test_a_position_that_is_an_input_is_refused() -> None:
    graph = imported(
        "(float[2] x, int64 q) => (float[2] y) { s = SequenceConstruct(x, x) y = SequenceAt(s, q) }"
    )
    assert {op for op, _ in untyped_operators(graph)} == {"SequenceConstruct", "SequenceAt"}
