"""DynamicQuantizeLinear and products by its scale against integers in numpy and onnxruntime."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import burnish
from burnish.artifact import cpu_features
from burnish.backends.cpu.dynamic import (
    DynamicSpec,
    column_sums,
    dynamic_matmul,
    dynamic_quantize,
    parts_of,
)
from burnish.backends.cpu.epilogue import pack_channel
from burnish.backends.cpu.isa import AVX2, AVX512, AVX512_VNNI, Isa
from burnish.backends.cpu.quantized import pack_codes
from burnish.check.reference import Reference
from burnish.ir.postops import parse_postops
from tests.support import reference
from tests.support.cpu_kernels import build, dirty, operands, run

ISAS = pytest.mark.parametrize("isa", [AVX512_VNNI, AVX512, AVX2], ids=lambda i: i.name)
RNG = np.random.default_rng(5)


def skip_without(isa: Isa) -> None:
    if not set(isa.features) <= cpu_features():
        pytest.skip(f"this CPU has no {isa.name}")


@ISAS
@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("postops", [(), ("Add:channel", "Gelu"), ("Add:full",)])
def test_product_is_exact(isa: Isa, dtype: str, postops: tuple[str, ...]) -> None:
    skip_without(isa)
    rows, k, n = 21, 36, 45
    info = np.iinfo(dtype)
    x = RNG.integers(info.min, info.max, (rows, k), endpoint=True).astype(dtype)
    x[0] = info.max  # the extremes of both types: sums of two products do not fit 16 bits
    w = RNG.integers(-128, 128, (k, n)).astype(np.int8)
    w[:, 0] = -128
    spec = DynamicSpec(rows, k, n, dtype, parse_postops(list(postops)))
    w_scale = RNG.uniform(0.5, 1.5, n).astype(np.float32)
    x_scale, zero = np.float32(1e-4), np.asarray(info.min + 77, dtype)
    sums = (x.astype(np.int64) - int(zero)) @ w.astype(np.int64)
    raw, added = operands(RNG, spec.postops, (rows, n), isa)
    want = reference.postops(sums * (np.float64(x_scale) * w_scale), spec.postops, raw)
    library = build({"k": dynamic_matmul(isa, spec)}, isa)
    packed = pack_codes(w.T.reshape(n, k, 1, 1), spec.product, isa)
    constants = [packed, pack_channel(w_scale, isa), column_sums(w, isa)]
    (y,) = run(library, "k", [x, *constants, x_scale, zero, *added], [dirty((rows, n))])
    np.testing.assert_allclose(y, want, rtol=3e-6, atol=3e-6 * np.abs(want).max())


def dynamic_quantizer() -> onnx.ModelProto:
    """DynamicQuantizeLinear alone."""
    node = helper.make_node("DynamicQuantizeLinear", ["x"], ["y", "scale", "zero"])
    outputs = [
        helper.make_tensor_value_info(name, kind, None)
        for name, kind in (("y", 2), ("scale", 1), ("zero", 2))
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "g", [x], outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@ISAS
@pytest.mark.parametrize("dims", [(3, 7), (5, 1001), (2, 64, 257)])
def test_dynamic_quantization(isa: Isa, dims: tuple[int, ...]) -> None:
    skip_without(isa)
    library = build({"k": dynamic_quantize(isa, dims)}, isa)
    noise = RNG.standard_normal(dims).astype(np.float32)
    ends = (parts_of(noise.size), 2)
    with Reference(dynamic_quantizer()) as session:
        for x in (noise, np.abs(noise) + 1, -np.abs(noise) - 2, 0 * noise):
            types = [(dims, "uint8"), ((), "float32"), ((), "uint8"), (ends, "float32")]
            found = run(library, "k", [x], [dirty(*t) for t in types])
            codes, scale, zero = session.run(None, {"x": x})
            np.testing.assert_array_equal(found[1], scale)
            np.testing.assert_array_equal(found[2], zero)
            # A number in the middle of two codes may go to either.
            difference = np.abs(found[0].astype(int) - codes)
            assert difference.max() <= 1
            assert np.mean(difference) < 1e-4


MODEL = """<ir_version: 10, opset_import: ["": 21]>
g (float[batch, rows, 30] x) => (float[batch, rows, 20] y) <int8 zw = {0}> {
    q, s, z = DynamicQuantizeLinear(x)
    p = MatMulInteger(q, w, z, zw)
    f = Cast<to=1>(p)
    t = Mul(s, sw)
    m = Mul(f, t)
    a = Add(m, c)
    y = Relu(a)
}"""


def dynamic_model() -> onnx.ModelProto:
    """A product as ``burnish quantize`` writes it without calibration data."""
    model = onnx.parser.parse_model(MODEL)
    arrays = {
        "w": RNG.integers(-127, 128, (30, 20)).astype(np.int8),
        "sw": RNG.uniform(0.01, 0.02, 20).astype(np.float32),
        "c": RNG.standard_normal(20).astype(np.float32),
    }
    for name, array in arrays.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return model


def test_a_model_runs_on_the_integer_kernels_at_any_size() -> None:
    model = dynamic_model()
    compiled = burnish.compile(model, threads=1)
    kinds = [n.op for n in compiled.manifest.nodes]
    assert "burnish::QMatMul" in kinds
    assert not {"MatMulInteger", "burnish::MatMul", "Cast"} & set(kinds)
    with Reference(model) as session:
        for size in ((1, 1), (2, 7), (1, 50)):
            feeds = {"x": RNG.standard_normal((*size, 30)).astype(np.float32)}
            (want,), (found,) = session.run(None, feeds), compiled.run(None, feeds)
            np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-5 * np.abs(want).max())
