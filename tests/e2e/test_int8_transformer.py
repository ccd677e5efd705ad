"""An encoder layer in 8 bits: static and dynamic, at every instruction set, for any length."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import burnish
from burnish.artifact import cpu_features
from burnish.backends.cpu.isa import AVX2, AVX512, AVX512_VNNI, Isa
from burnish.check.metrics import cosine
from burnish.check.reference import Reference
from burnish.passes.quantization import Selection
from burnish.quantization import QuantizeOptions, quantize_model

TARGETS = {"x86-64-v4-vnni": AVX512_VNNI, "x86-64-v4": AVX512, "x86-64-v3": AVX2}
WIDTH, HEADS, INNER = 48, 3, 96

TEXT = """<ir_version: 10, opset_import: ["": 20]>
encoder (float[batch, length, 48] x, float[batch, 1, 1, length] mask)
    => (float[batch, length, 48] y)
<int64[4] split = {0, 0, 3, 16}, int64[3] merge = {0, 0, 48}, float root = {4.0}> {
    q0 = MatMul(x, wq)
    q1 = Add(q0, bq)
    q2 = Reshape(q1, split)
    q = Transpose<perm=[0,2,1,3]>(q2)
    k0 = MatMul(x, wk)
    k1 = Add(k0, bk)
    k2 = Reshape(k1, split)
    k = Transpose<perm=[0,2,3,1]>(k2)
    v0 = MatMul(x, wv)
    v1 = Add(v0, bv)
    v2 = Reshape(v1, split)
    v = Transpose<perm=[0,2,1,3]>(v2)
    s0 = MatMul(q, k)
    s1 = Div(s0, root)
    s2 = Add(s1, mask)
    p = Softmax<axis=-1>(s2)
    o0 = MatMul(p, v)
    o1 = Transpose<perm=[0,2,1,3]>(o0)
    o2 = Reshape(o1, merge)
    o3 = MatMul(o2, wo)
    o4 = Add(o3, bo)
    r1 = Add(o4, x)
    n1 = LayerNormalization<axis=-1>(r1, g1, c1)
    f0 = MatMul(n1, w1)
    f1 = Add(f0, b1)
    f2 = Gelu(f1)
    f3 = MatMul(f2, w2)
    f4 = Add(f3, b2)
    r2 = Add(f4, n1)
    y = LayerNormalization<axis=-1>(r2, g2, c2)
}"""


def encoder() -> onnx.ModelProto:
    """The layer, with random weights."""
    rng = np.random.default_rng(3)
    shapes: dict[str, tuple[int, ...]] = {f"w{n}": (WIDTH, WIDTH) for n in "qkvo"}
    shapes |= {"w1": (WIDTH, INNER), "w2": (INNER, WIDTH), "b1": (INNER,)}
    shapes |= dict.fromkeys(("bq", "bk", "bv", "bo", "b2", "g1", "c1", "g2", "c2"), (WIDTH,))
    model = onnx.parser.parse_model(TEXT)
    for name, shape in shapes.items():
        array = rng.standard_normal(shape) * (shape[0] ** -0.5 if len(shape) == 2 else 0.2)
        if name.startswith("g"):
            array = 1 + array
        model.graph.initializer.append(onnx.numpy_helper.from_array(array.astype("f4"), name))
    return model


def sample(seed: int, batch: int = 2, length: int = 13) -> dict[str, np.ndarray]:
    """Activations, and a mask of padding."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((batch, 1, 1, length), np.float32)
    mask[0, ..., length - length // 4 :] = -1e4
    return {"x": rng.standard_normal((batch, length, WIDTH)).astype(np.float32), "mask": mask}


FORMS: dict[str, QuantizeOptions] = {
    "static": QuantizeOptions(selection=Selection(matmul_const_b_only=False)),
    "signed": QuantizeOptions(
        selection=Selection(matmul_const_b_only=False), activation_type="int8", symmetric=True
    ),
    "products": QuantizeOptions(),
    "dynamic": QuantizeOptions(),
}
COMPOSITES = {
    "static": {"burnish::QMatMul": 6, "burnish::QAttention": 1},
    "signed": {"burnish::QMatMul": 6, "burnish::QAttention": 1},
    "products": {"burnish::QMatMul": 6, "burnish::Attention": 1},
    "dynamic": {"burnish::QMatMul": 6, "burnish::Attention": 1, "DynamicQuantizeLinear": 4},
}


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """The layer in every form."""
    folder = tmp_path_factory.mktemp("int8")
    source = encoder().SerializeToString()
    made = {}
    for name, options in FORMS.items():
        made[name] = folder / f"{name}.onnx"
        data = None if name == "dynamic" else [sample(i) for i in range(8)]
        quantize_model(source, str(made[name]), data, options)
    return made


def operators(compiled: Any) -> dict[str, int]:
    """Products, attention and what quantizes in every run, counted."""
    found: dict[str, int] = {}
    for node in compiled.manifest.nodes:
        if "MatMul" in node.op or "Attention" in node.op or node.op == "DynamicQuantizeLinear":
            found[node.op] = found.get(node.op, 0) + 1
    return found


@pytest.mark.parametrize(
    "target",
    ["x86-64-v4-vnni", *(pytest.param(t, marks=pytest.mark.slow) for t in list(TARGETS)[1:])],
)
@pytest.mark.parametrize("form", FORMS)
def test_an_encoder_layer(quantized: Mapping[str, Path], form: str, target: str) -> None:
    isa: Isa = TARGETS[target]
    if not set(isa.features) <= cpu_features():
        pytest.skip(f"this CPU has no {isa.name}")
    compiled = burnish.compile(str(quantized[form]), target=target, threads=1)
    assert operators(compiled) == COMPOSITES[form]
    with Reference(encoder()) as before, Reference(onnx.load(quantized[form])) as reference:
        for seed, size in ((100, (2, 13)), (101, (1, 1)), (102, (3, 70))):
            feeds = sample(seed, *size)
            (found,) = compiled.run(None, feeds)
            (wanted,), (exact,) = reference.run(None, feeds), before.run(None, feeds)
            # Codes that fall the other way change what follows by a step.
            assert np.abs(found - wanted).max() < 0.15
            assert np.abs(found - wanted).mean() < 0.01
            assert cosine(found.astype("f8"), exact.astype("f8")) > 0.998
