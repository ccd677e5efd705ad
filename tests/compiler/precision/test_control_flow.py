"""Products inside If and Loop: what calibration measured there decides about their precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import burnish
from burnish.check.reference import Reference
from burnish.export import to_model
from burnish.quantization import quantize_model
from tests.support.golden import parse

#: ``GROW`` is what a branch and an iteration multiply with.
TEXT = """g (float[4,8] x, bool c, int64 trips) => (float[4,8] y, float[4,8] z)
<float[8,8] w, bool yes = {1}, float two = {2}, float most = {0.9}, float grow = {GROW}> {
    y = If (c) <then_branch = t () => (float[4,8] a) {
            m = MatMul(x, w) p = Pow(m, two) s = Mul(p, grow) n = MatMul(s, w) a = Tanh(n) },
        else_branch = e () => (float[4,8] b) { q = MatMul(x, w) b = Sigmoid(q) }>
    z = Loop (trips, yes, x) <body = l (int64 i, bool go, float[4,8] h)
            => (bool stay, float[4,8] h3) {
        stay = Identity(go) k = MatMul(h, w) r = Mul(k, grow) h2 = MatMul(r, w)
        h3 = Mul(h2, most) }>
}"""
RNG = np.random.default_rng(3)


def model(grow: float) -> onnx.ModelProto:
    """The model; weights keep the size of what they multiply."""
    graph = parse(TEXT.replace("GROW", str(grow)), seed=4)
    proto = to_model(graph)
    for tensor in proto.graph.initializer:
        if list(tensor.dims) == [8, 8]:
            turned = np.linalg.qr(onnx.numpy_helper.to_array(tensor))[0].astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(turned, tensor.name))
    return proto


def sample(branch: bool = True, trips: int = 3) -> dict[str, Any]:
    """One set of inputs."""
    x = RNG.uniform(-1, 1, (4, 8)).astype(np.float32)
    return {"x": x, "c": np.asarray(branch), "trips": np.asarray(trips)}


def built(proto: onnx.ModelProto, samples: list[dict[str, Any]], **options: Any) -> Any:
    """The compiled model, and (precision, storage, reason) of its products by original name."""
    compiled = burnish.compile(proto, calibration_data=samples, threads=1, **options)
    names = {n.name: n.output[0] for n in _nodes(proto.graph)}
    found = {
        names[name]: (node.precision, node.storage, node.reason)
        for node in compiled.manifest.nodes
        if "MatMul" in node.op
        for name in node.nodes
        if name.startswith("MatMul")
    }
    return compiled, found


def _nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    inner = (a.g for n in graph.node for a in n.attribute if a.HasField("g"))
    return [*graph.node, *(n for g in inner for n in _nodes(g))]


def outputs(proto: onnx.ModelProto, feeds: dict[str, Any]) -> list[Any]:
    """Results of onnxruntime."""
    with Reference(proto) as reference:
        return list(reference.run(None, feeds))


def distance(found: Any, wanted: Any) -> float:
    """Relative to the length of what is wanted."""
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def test_overflows_that_calibration_meets_in_bodies_stay_in_fp32() -> None:
    proto = model(grow=3e4)
    compiled, found = built(proto, [sample() for _ in range(4)], precision="fp16")
    for name in ("n", "k", "h2"):
        assert found[name][:2] == ("fp32", "fp32")
        assert "too near the limit of float16" in found[name][2]
    assert found["m"][1] == "fp16"
    assert found["q"][2] == "no calibration sample reached it"
    feeds = sample()
    for want, got in zip(outputs(proto, feeds), compiled.run(None, feeds), strict=True):
        assert np.isfinite(want).all()
        assert distance(got, want) < 2e-3


SCAN = """g (float[6,4,8] x) => (float[4,8] y, float[6,4,8] z)
<float[8,8] w, float grow = {GROW}, float[4,8] start = {START}> {
    y, z = Scan <num_scan_inputs=1, body = b (float[4,8] state, float[4,8] row)
            => (float[4,8] next, float[4,8] out) {
        k = MatMul(row, w) r = Mul(k, grow) next = MatMul(r, w) m = MatMul(state, w)
        out = Tanh(m) }>
        (start, x)
}"""


def test_overflows_in_a_scan_stay_in_fp32() -> None:
    start = ",".join(["0.5"] * 32)
    proto = to_model(parse(SCAN.replace("GROW", "30000").replace("START", start), seed=4))
    samples = [{"x": RNG.uniform(-1, 1, (6, 4, 8)).astype(np.float32)} for _ in range(4)]
    compiled, found = built(proto, samples[1:], precision="fp16")
    for name in ("next", "m"):
        assert "too near the limit of float16" in found[name][2]
    for want, got in zip(outputs(proto, samples[0]), compiled.run(None, samples[0]), strict=True):
        assert np.isfinite(got).all()
        assert distance(got, want) < 2e-3


def test_what_fits_is_stored_in_16_bits() -> None:
    samples = [sample(branch=i % 2 == 0) for i in range(4)]
    _, found = built(model(grow=1.0), samples, precision="fp16")
    assert {name: storage for name, (_, storage, _) in found.items()} == dict.fromkeys(
        ("m", "n", "q", "k", "h2"), "fp16"
    )


@pytest.mark.parametrize("method", ["minmax", "percentile"])
def test_products_in_bodies_compute_in_8_bits(method: str) -> None:
    proto = model(grow=1.0)
    samples = [sample(branch=i % 2 == 0) for i in range(32)]
    compiled, found = built(proto, samples, precision="int8", calibration_method=method)
    assert {precision for precision, *_ in found.values()} == {"int8"}
    assert set(found) == {"m", "n", "q", "k", "h2"}
    # On measured samples: others may lie beyond the ranges.
    for feeds in samples[:2]:
        for want, got in zip(outputs(proto, feeds), compiled.run(None, feeds), strict=True):
            assert distance(got, want) < 0.04


def test_a_branch_that_no_sample_takes_stays_in_fp32() -> None:
    samples = [sample(branch=False) for _ in range(8)]
    _, found = built(model(grow=1.0), samples, precision="int8")
    assert found["n"][0] == "fp32"
    assert "was reached by no calibration sample" in found["n"][2]
    assert {found[name][0] for name in ("q", "k", "h2")} == {"int8"}


def test_the_quantized_model_is_plain_onnx(tmp_path: Any) -> None:
    proto, path = model(grow=1.0), tmp_path / "out.onnx"
    samples = [sample(branch=i % 2 == 0) for i in range(32)]
    quantize_model(proto.SerializeToString(), str(path), samples)
    made = onnx.load(path)
    onnx.checker.check_model(made, full_check=True)
    inside = [n for n in _nodes(made.graph) if n not in made.graph.node]
    assert {"QuantizeLinear", "DequantizeLinear"} <= {n.op_type for n in inside}
    feeds = samples[0]
    for want, got in zip(outputs(proto, feeds), outputs(made, feeds), strict=True):
        assert distance(got, want) < 0.04
