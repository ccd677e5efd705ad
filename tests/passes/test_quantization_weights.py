"""Weights in blocks of 8 and 4 bits, and that onnxruntime reads them in both formats."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest

from burnish.check.reference import Reference
from burnish.export import to_model
from burnish.ir import Graph
from burnish.passes.base import PassContext
from burnish.passes.manager import PassManager
from burnish.passes.quantization import QuantizeWeights, Selection
from burnish.passes.quantization.weights import BITS, dequantized, quantize_blocks
from tests.support.golden import parse

TEXT = """g (float[n,80] x) => (float[n,24] y, float[n,7] z)
<float[80,24] v, float[7,80] w, float[7] b> {
    y = MatMul(x, v)
    z = Gemm<transB=1>(x, w, b)
}"""
X = np.random.default_rng(3).standard_normal((5, 80), dtype=np.float32)


def run(graph: Graph) -> list[np.ndarray]:
    """Results on onnxruntime."""
    options = ort.SessionOptions()
    # By default onnxruntime makes its own product of DequantizeLinear -> MatMul, and rounds the
    # activations to 8 bits in it: 1 keeps them in float32.
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    session = ort.InferenceSession(to_model(graph).SerializeToString(), options)
    return list(session.run(None, {"x": X}))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("bits", "block", "rows"), [(4, 32, 96), (4, 32, 80), (8, 64, 70)])
def test_numbers_are_the_nearest_of_their_block(
    bits: int, block: int, rows: int, symmetric: bool
) -> None:
    rng = np.random.default_rng(2)
    weights = (rng.standard_normal((rows, 6)) * rng.uniform(0.01, 9, (rows, 1))).astype(np.float32)
    weights[:, 5] = 0
    found = quantize_blocks(weights, bits, block, symmetric=symmetric)
    assert found.scale.shape == (-(-rows // block), 6)
    scale = np.repeat(found.scale, block, axis=0)[:rows].astype(np.float64)
    zero = np.repeat(found.zero, block, axis=0)[:rows].astype(np.float64)
    assert found.values.max() < 2**bits
    real = (found.values - zero) * scale
    # The zero point is rounded as well: an end may lie half a step outside.
    assert np.all(np.abs(real - weights) <= (0.5001 if symmetric else 1.0001) * scale)
    assert np.all(real[:, 5] == 0)
    assert np.all(zero == 2 ** (bits - 1)) == symmetric


def test_asymmetric_blocks_are_nearer_where_weights_have_one_sign() -> None:
    weights = np.random.default_rng(4).uniform(0, 1, (64, 8)).astype(np.float32)
    errors = []
    for symmetric in (True, False):
        q = quantize_blocks(weights, 4, 32, symmetric=symmetric)
        zero, scale = (np.repeat(a.astype(np.float64), 32, axis=0) for a in (q.zero, q.scale))
        errors.append(np.abs((q.values - zero) * scale - weights).mean())
    assert errors[1] < 0.6 * errors[0]


@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
@pytest.mark.parametrize("dtype", ["int8", "int4"])
@pytest.mark.parametrize("block", [16, 32, 64])
def test_onnxruntime_reads_both_formats_alike(dtype: str, block: int, symmetric: bool) -> None:
    # 80 rows: the last block of 32 or 64 is cut.
    found = {}
    for form, op in (("dequantize", "DequantizeLinear"), ("matmulnbits", "MatMulNBits")):
        graph = parse(TEXT, seed=6)
        item = QuantizeWeights(dtype, block, symmetric, form)
        PassManager([item], verify_ir=True).run(graph, PassContext())
        assert [n.op for n in graph.nodes].count(op) == 2
        assert [v.name for v in graph.outputs] == ["y", "z"]
        found[form] = run(graph)
    original = parse(TEXT, seed=6)
    weights = [n.required(1).array for n in original.nodes]
    for index, w in enumerate((weights[0], weights[1].T)):
        q = quantize_blocks(np.ascontiguousarray(w), BITS[dtype], block, symmetric=symmetric)
        zero, scale = (
            np.repeat(a.astype(np.float32), block, axis=0)[:80] for a in (q.zero, q.scale)
        )
        wanted = X @ ((q.values - zero) * scale)
        if index:
            wanted = wanted + original.nodes[1].required(2).array
        for form, results in found.items():
            np.testing.assert_allclose(results[index], wanted, rtol=1e-3, atol=2e-2, err_msg=form)


def test_tied_weights_are_stored_once() -> None:
    text = """g (float[2,32] x) => (float[2,32] y) <float[32,32] w> {
        a = MatMul(x, w)
        r = Relu(a)
        y = MatMul(r, w)
    }"""
    graph = parse(text)
    PassManager([QuantizeWeights()]).run(graph, PassContext())
    assert [n.op for n in graph.nodes].count("DequantizeLinear") == 1


def test_reasons_are_given_for_what_is_kept() -> None:
    text = """g (float[2,40] x) => (float[2,40] y) <float[40,16] v, float[16,40] w, float[40] b> {
        a = MatMul(x, v)
        s = Softmax(a)
        t = MatMul(s, w)
        y = Gemm<alpha=2.0>(s, w, b)
    }"""
    graph, ctx = parse(text), PassContext()
    item = QuantizeWeights(block=32, form="matmulnbits", selection=Selection())
    (record,) = PassManager([item]).run(graph, ctx)
    assert "int4 weights in blocks of 32: 1 products" in record.notes[0]
    assert "its weights have fewer than 32 rows" in ctx.kept.values()


def uneven(columns: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """Weights [96, columns], and activations some of whose channels are much larger."""
    rng = np.random.default_rng(12)
    w = rng.standard_normal((96, columns)).astype(np.float32)
    return w, rng.standard_normal((300, 96)) * np.exp(1.5 * rng.standard_normal(96))


def loss(x: np.ndarray, w: np.ndarray, real: np.ndarray) -> float:
    """Mean square error of the product, relative to the product."""
    return float(np.square(x @ (real - w)).mean() / np.square(x @ w).mean())


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_blocks_that_know_what_they_multiply_lose_less(bits: int, symmetric: bool) -> None:
    w, x = uneven()
    squares = (x**2).mean(axis=0)
    found = [
        loss(x, w, dequantized(quantize_blocks(w, bits, 32, symmetric=symmetric, importance=s), 32))
        for s in (None, squares)
    ]
    assert found[1] < (0.75 if bits == 4 else 1.0) * found[0]


def test_channels_that_are_always_zero_do_not_matter() -> None:
    w, x = uneven()
    squares = (x**2).mean(axis=0)
    squares[:40] = 0
    found = dequantized(quantize_blocks(w, 4, 32, symmetric=False, importance=squares), 32)
    assert np.isfinite(found).all()
    assert loss(x[:, 40:], w[40:], found[40:]) < 0.01


NORMALIZED = """g (float[n,96] x) => (float[n,24] y) <float[96] s, float[96] b, float[96,24] w> {
    h = LayerNormalization<axis=-1>(x, s, b)
    y = MatMul(h, w)
}"""


def test_normalizations_are_divided_by_what_weights_take_over() -> None:
    w, _ = uneven()
    x = np.random.default_rng(9).standard_normal((200, 96)).astype(np.float32)
    losses, notes = [], []
    for aware in (False, True):
        graph = parse(NORMALIZED, seed=1)
        norm = graph.nodes[0]
        norm.set_input(1, graph.constant(np.exp(1.5 * w[:, 0]).astype(np.float32), "s2"))
        wanted, h = evaluated(graph, x), evaluated(graph, x, "h")
        item = QuantizeWeights(squares={"h": (h**2).mean(axis=0)} if aware else {})
        (record,) = PassManager([item], verify_ir=True).run(graph, PassContext())
        losses.append(np.square(evaluated(graph, x) - wanted).mean() / np.square(wanted).mean())
        notes += record.notes
    assert losses[1] < 0.6 * losses[0]
    assert "1 normalized activations divided by what their weights take" in notes[1]
    assert "normalized" not in notes[0]


def evaluated(graph: Graph, x: np.ndarray, name: str = "y") -> np.ndarray:
    """A value of a graph on onnxruntime, without its own optimizations."""
    before = graph.outputs
    graph.set_outputs([next(v for n in graph.nodes for v in n.outputs if v and v.name == name)])
    with Reference(to_model(graph)) as reference:
        (found,) = reference.run(None, {"x": x})
    graph.set_outputs(before)
    return np.asarray(found, np.float64)
