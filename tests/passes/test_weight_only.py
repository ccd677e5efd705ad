"""Weights in 8 and 4 bits stay so, behind DequantizeLinear and in onnxruntime's MatMulNBits."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from burnish.check.reference import Reference
from burnish.errors import ModelError
from burnish.export import to_model
from burnish.importers import load
from burnish.ir import Graph
from burnish.passes.manager import PassManager
from burnish.passes.pipelines import pipeline
from burnish.passes.quantization import QuantizeWeights
from tests.support.golden import parse
from tests.support.quantization import keys

RNG = np.random.default_rng(17)
NET = """g (float[n,80] x, float[n,24] r) => (float[n,24] y, float[n,7] z)
<float[80,24] v, float[24] c, float[7,80] w, float[7] b> {
    m = MatMul(x, v)
    a = Add(m, c)
    e = Gelu(a)
    y = Add(e, r)
    z = Gemm<transB=1, alpha=0.5, beta=2.0>(x, w, b)
}"""
FEEDS = {
    "x": RNG.standard_normal((5, 80), dtype=np.float32),
    "r": RNG.standard_normal((5, 24), dtype=np.float32),
}


def optimized(graph: Graph, *, weight_only: bool = True) -> Graph:
    """A graph through the whole pipeline."""
    PassManager(pipeline(3, weight_only=weight_only), verify_ir=True).run(graph)
    return graph


def same(model: onnx.ModelProto, after: Graph, feeds: dict[str, np.ndarray]) -> None:
    with Reference(model) as wanted, Reference(to_model(after)) as found:
        for a, b in zip(found.run(None, feeds), wanted.run(None, feeds), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max())


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_products_read_what_is_stored(dtype: str, symmetric: bool) -> None:
    graph = parse(NET, seed=5)
    PassManager([QuantizeWeights(dtype, 16, symmetric)]).run(graph)
    model = to_model(graph)
    after = optimized(graph)
    found = keys(after)
    assert found["burnish::MatMulNBits"] == 2
    assert found["DequantizeLinear"] == found["burnish::MatMul"] == 0
    first = next(n for n in after.nodes if len(n.strs_attr("postops")) == 3)
    assert first.strs_attr("postops") == ("Add:channel", "Gelu", "Add:full")
    assert first.required(1).dtype == (dtype if symmetric else f"u{dtype}")
    same(model, after, FEEDS)


def test_other_targets_get_float32_weights() -> None:
    graph = parse(NET, seed=5)
    PassManager([QuantizeWeights("int4", 16)]).run(graph)
    model = to_model(graph)
    after = optimized(graph, weight_only=False)
    assert keys(after)["burnish::MatMul"] == 2
    assert keys(after)["DequantizeLinear"] == 0
    same(model, after, FEEDS)


COLUMNS = """g (float[2,3,20] x) => (float[2,3,12] y)
<{dtype}[{shape}] w, float[{scales}] s, {zero}> {{
    d = DequantizeLinear<axis={axis}>({inputs})
    {turn}
    y = MatMul(x, t)
}}"""


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("form", ["columns", "tensor", "turned", "rows"])
def test_scales_of_columns(form: str, dtype: str) -> None:
    turned = form == "turned"
    shape, count = ((12, 20) if turned else (20, 12)), {"tensor": 1, "rows": 20}.get(form, 12)
    text = COLUMNS.format(
        dtype=dtype, shape=f"{shape[0]},{shape[1]}", scales="" if count == 1 else count,
        zero=f"{dtype}[{'' if count == 1 else count}] z".replace("[]", ""),
        axis=0 if turned or form == "rows" else 1, inputs="w, s, z",
        turn="t = Transpose<perm=[1,0]>(d)" if turned else "t = Identity(d)",
    ).replace("float[]", "float")  # fmt: skip
    low = 0 if dtype == "uint8" else -128
    arrays = {
        "w": RNG.integers(low, low + 256, shape).astype(dtype),
        "s": RNG.uniform(0.1, 1, count).astype(np.float32).reshape(() if count == 1 else count),
        "z": RNG.integers(low, low + 256, count).astype(dtype).reshape(() if count == 1 else count),
    }
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 21]> {text}')
    del model.graph.value_info[:]
    model.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in arrays.items())
    after = optimized(load(model))
    assert keys(after)["burnish::MatMulNBits"] == (form != "rows")
    same(model, after, {"x": RNG.standard_normal((2, 3, 20), dtype=np.float32)})


def contributed(
    bits: int, zeros: str, *, dtype: str = "float32", g_idx: bool = False
) -> onnx.ModelProto:
    """A model with MatMulNBits; 80 rows in blocks of 32."""
    k, n, block = 80, 6, 32
    blocks = -(-k // block)
    arrays = {
        "w": RNG.integers(0, 256, (n, blocks, block * bits // 8)).astype(np.uint8),
        "s": RNG.uniform(0.1, 1, (n, blocks)).astype(dtype),
        "z": None,
        "g": (np.arange(k) // block).astype(np.int32) if g_idx else None,
        "b": RNG.standard_normal(n).astype(dtype),
    }
    if zeros == "packed":
        arrays["z"] = RNG.integers(0, 256, (n, -(-blocks * bits // 8))).astype(np.uint8)
    elif zeros:
        shift = 0.5 if zeros == "halves" else 0.0
        arrays["z"] = (RNG.integers(0, 2**bits, (n, blocks)) + shift).astype(dtype)
    node = helper.make_node(
        "MatMulNBits", ["x", *(name if a is not None else "" for name, a in arrays.items())],
        ["y"], domain="com.microsoft", K=k, N=n, bits=bits, block_size=block, accuracy_level=1,
    )  # fmt: skip
    kind = TensorProto.FLOAT if dtype == "float32" else TensorProto.FLOAT16
    graph = helper.make_graph(
        [node], "g",
        [helper.make_tensor_value_info("x", kind, ["m", k])],
        [helper.make_tensor_value_info("y", kind, ["m", n])],
        [numpy_helper.from_array(a, name) for name, a in arrays.items() if a is not None],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


@pytest.mark.parametrize(
    ("bits", "zeros"),
    # onnxruntime itself does not run 8 bits with zero points in floating point.
    [(4, ""), (4, "packed"), (4, "floats"), (8, ""), (8, "packed")],
)
def test_onnxruntimes_operator(bits: int, zeros: str) -> None:
    model = contributed(bits, zeros)
    after = optimized(load(model))
    (node,) = (n for n in after.nodes if n.key == "burnish::MatMulNBits")
    assert node.required(1).dtype == f"uint{bits}"
    assert node.int_attr("accuracy_level") == 1
    assert node.strs_attr("postops") == ("Add:channel",)
    same(model, after, {"x": RNG.standard_normal((5, 80), dtype=np.float32)})


def test_half_precision_activations_compute_in_float32() -> None:
    model = contributed(4, "packed", dtype="float16")
    after = optimized(load(model))
    assert keys(after)["burnish::MatMulNBits"] == 1
    x = RNG.standard_normal((5, 80)).astype(np.float16)
    with Reference(model) as wanted, Reference(to_model(after)) as found:
        (a,), (b,) = found.run(None, {"x": x}), wanted.run(None, {"x": x})
    assert a.dtype == b.dtype == np.float16
    np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-3 * np.abs(b).max())


@pytest.mark.parametrize(
    ("options", "message"),
    [({"zeros": "halves"}, "no codes of 4 bits"), ({"zeros": "", "g_idx": True}, "g_idx")],
)
def test_forms_without_a_kernel_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load(contributed(4, **options))  # type: ignore[arg-type]


def test_codes_of_four_bits_are_stored_as_such() -> None:
    graph = load(contributed(4, ""))
    (node,) = (n for n in graph.nodes if n.key == "burnish::MatMulNBits")
    assert node.required(1).array.dtype == ml_dtypes.uint4
