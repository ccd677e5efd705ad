"""Weights in blocks of 8 and 4 bits, and that onnxruntime reads them in both formats."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest

from burnish.export import to_model
from burnish.ir import Graph
from burnish.passes.base import PassContext
from burnish.passes.manager import PassManager
from burnish.passes.quantization import QuantizeWeights, Selection
from burnish.passes.quantization.weights import BITS, quantize_blocks
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
