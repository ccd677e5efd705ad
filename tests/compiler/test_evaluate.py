"""Evaluation of constant nodes."""

from __future__ import annotations

import numpy as np
import pytest

from burnish.ir import Builder, Graph, TensorType, Value
from burnish.ir.evaluate import can_evaluate, evaluate


@pytest.fixture
def b() -> Builder:
    graph = Graph("g")
    graph.opset = {"": 25}
    return Builder(graph)


def test_small_and_large_constants(b: Builder) -> None:
    rng = np.random.default_rng(0)
    large = rng.standard_normal((64, 64)).astype(np.float32)
    small = rng.standard_normal((64, 2)).astype(np.float32)
    # A view that is not contiguous, used twice.
    w = b.constant(large.T)
    product = b.node("MatMul", [w, b.constant(small)])
    total = b.node("Add", [product.output, product.output])
    both = b.node("Mul", [w, w])
    a, c = evaluate([product, total, both], [total.output, both.output])
    np.testing.assert_allclose(a, 2 * (large.T @ small), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(c, large.T * large.T)
    assert a.dtype == c.dtype == np.float32


def test_several_outputs(b: Builder) -> None:
    node = b.node("TopK", [b.constant(np.array([3.0, 9.0, 5.0])), b.ints([2])], outputs=2)
    values, indices = evaluate([node], [v for v in node.outputs if v is not None])
    np.testing.assert_array_equal(values, [9, 5])
    np.testing.assert_array_equal(indices, [1, 2])


def test_a_missing_operand_is_refused(b: Builder) -> None:
    x = Value("x", TensorType("float32", (4,)))
    node = b.node("Neg", [x])
    with pytest.raises(ValueError, match="x is not computed by these nodes"):
        evaluate([node], [node.output])


def test_a_kernel_that_onnxruntime_lacks_is_an_error(b: Builder) -> None:
    node = b.node("Relu", [b.constant(np.array([1, -2], np.int16))])
    with pytest.raises(RuntimeError, match=r"onnxruntime: .*NOT_IMPLEMENTED"):
        evaluate([node], [node.output])


def test_what_cannot_be_evaluated(b: Builder) -> None:
    ones = b.constant(np.ones(4, np.float32))
    assert can_evaluate(b.node("Exp", [ones]))
    assert not can_evaluate(b.node("RandomNormalLike", [ones]))
    assert not can_evaluate(b.node("Cast", [ones], {"to": 16}))
    assert not can_evaluate(b.node("Unheard", [ones], domain="com.example"))
    training = b.constant(np.array(True))
    assert not can_evaluate(b.node("Dropout", [ones, None, training]))
