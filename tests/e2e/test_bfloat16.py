"""Models whose own tensors are bfloat16, and convolutions that are brought to pairs."""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest

import burnish
from burnish.artifact import cpu_features
from burnish.backends.cuda import CUDA
from burnish.backends.registry import resolve_target
from burnish.driver import compile_artifact
from burnish.importers import load
from burnish.lowering import registry
from burnish.options import CompileOptions
from burnish.requests import CompileReport, CompileRequest
from tests.support.roundtrip import model as parse

BF16 = np.dtype(ml_dtypes.bfloat16)
LEVELS = ("x86-64-v4-bf16", "x86-64-v4", "x86-64-v3")
OWN = """
g (bfloat16[N,6,10] x) => (bfloat16[N,6,4] y, bfloat16[N,12,10] z, bfloat16[6,N,10] t) {
  h = MatMul(x, w)
  r = Relu(h)
  y = Add(r, b)
  z = Concat<axis=1>(x, x)
  t = Transpose<perm=[1,0,2]>(x)
}"""
STEM = """
g (float[N,3,48,48] x) => (float[N,96,24,24] y) {
  a = Conv<kernel_shape=[7,7], pads=[3,3,3,3], strides=[2,2]>(x, w)
  b = Relu(a)
  y = Conv<kernel_shape=[1,1]>(b, v)
}"""

#: Maps on which Winograd's algorithm pays off, with ragged channels and borders, joined and added.
MAPS = """
g (float[N,40,37,41] x) => (float[N,144,37,41] y) {
  a = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(x, w)
  b = Relu(a)
  c = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(b, v)
  d = Add(c, b)
  y = Concat<axis=1>(d, a)
}"""


def drawn(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(BF16)


def own() -> onnx.ModelProto:
    proto = parse(OWN)
    for name, array in (("w", drawn(1, 10, 4)), ("b", drawn(2, 4))):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return proto


def stem() -> onnx.ModelProto:
    proto = parse(STEM)
    for name, shape in (("w", (96, 3, 7, 7)), ("v", (96, 96, 1, 1))):
        array = drawn(3, *shape).astype(np.float32) / np.float32(np.prod(shape[1:]) ** 0.5)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return proto


def maps() -> onnx.ModelProto:
    proto = parse(MAPS)
    for name, ic in (("w", 40), ("v", 72)):
        array = drawn(ic, 72, ic, 3, 3).astype(np.float32) / np.float32((9 * ic) ** 0.5)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return proto


def build(model: onnx.ModelProto, path: Path, **options: object) -> CompileReport:
    made = CompileOptions(library="none", threads=1, verify_ir=True, **options)  # type: ignore[arg-type]
    return compile_artifact(CompileRequest(model.SerializeToString(), str(path), made))


def products(path: Path) -> list[dict[str, str]]:
    nodes = json.loads((path / "manifest.json").read_text())["nodes"]
    return [n for n in nodes if "Conv" in n["op"] or "MatMul" in n["op"]]


def skip_elsewhere(target: str) -> None:
    if set(resolve_target(target).features) - cpu_features():
        pytest.skip("this CPU cannot run it")


@pytest.mark.parametrize("target", LEVELS)
def test_models_of_bfloat16(target: str, tmp_path: Path) -> None:
    path = tmp_path / "a.burnish"
    build(own(), path, target=target)
    computed = "bf16" if target == "x86-64-v4-bf16" else "fp32"
    assert [(n["storage"], n["precision"]) for n in products(path)] == [("bf16", computed)]
    skip_elsewhere(target)
    x = drawn(4, 3, 6, 10)
    with burnish.load(path, threads=1) as compiled:
        y, z, t = compiled.run(None, {"x": x})
    assert {y.dtype, z.dtype, t.dtype} == {BF16}
    wide = [drawn(1, 10, 4).astype(np.float32), drawn(2, 4).astype(np.float32)]
    wanted = np.maximum(x.astype(np.float32) @ wide[0], 0) + wide[1]
    np.testing.assert_allclose(y.astype(np.float32), wanted, rtol=2.0**-7, atol=2.0**-8)
    assert np.array_equal(z, np.concatenate([x, x], axis=1))
    assert np.array_equal(t, x.transpose(1, 0, 2))


def test_backends_without_it_refuse_it() -> None:
    graph = load(parse("g (bfloat16[2] x) => (bfloat16[2] y) { y = Neg(x) }"))
    (node,) = graph.nodes
    assert registry.supported(node) is None
    assert resolve_target("x86-64-v3").backend.lacks == frozenset()
    assert registry.supported(node, lacks=CUDA.lacks) == "element type bfloat16"


@pytest.mark.parametrize("target", LEVELS)
def test_a_stem_of_three_channels_is_brought_to_pairs(target: str, tmp_path: Path) -> None:
    path = tmp_path / "a.burnish"
    report = build(stem(), path, target=target, precision="bf16")
    paired = target == "x86-64-v4-bf16"
    assert {n["precision"] for n in products(path)} == {"bf16" if paired else "fp32"}
    assert any("4 channels" in n["tactic"] for n in products(path)) is paired
    line = f"{target} does not multiply bf16: tensors are stored in bf16, computed in fp32"
    assert (line in report.notes) is not paired
    skip_elsewhere(target)
    x = np.random.default_rng(5).standard_normal((2, 3, 48, 48)).astype(np.float32)
    with burnish.load(path, threads=1) as compiled:
        found = burnish.compare(compiled, stem(), {"x": x})
    assert all(1e-4 < o.rms / o.scale < 1e-2 for o in found.outputs)


@pytest.mark.parametrize("target", LEVELS)
def test_fewer_products_of_float32_may_be_faster(target: str, tmp_path: Path) -> None:
    path = tmp_path / "a.burnish"
    build(maps(), path, target=target, precision="bf16", strict=True)
    found = products(path)
    assert [n["tactic"].partition("-")[0] for n in found] == ["winograd"] * 2
    assert {(n["storage"], n["precision"]) for n in found} == {("bf16", "fp32")}
    skip_elsewhere(target)
    x = np.random.default_rng(5).standard_normal((3, 40, 37, 41)).astype(np.float32)
    with burnish.load(path, threads=2) as compiled:
        result = burnish.compare(compiled, maps(), {"x": x})
    assert all(1e-4 < o.rms / o.scale < 1e-2 for o in result.outputs)
