"""onnxruntime's attention and embeddings: it computes the same from their standard forms."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import onnx.helper as oh
import onnx.numpy_helper
import pytest

import burnish
from burnish.errors import ModelError
from burnish.export import to_model
from burnish.importers import load
from burnish.ir import Graph
from tests.support.roundtrip import Feeds, check_dims, run

RNG = np.random.default_rng(6)
BATCH, LENGTH, PAST, HEADS, WIDTH, INPUT = 2, 5, 3, 2, 4, 6
HIDDEN = HEADS * WIDTH

TYPES = {np.dtype(t): oh.np_dtype_to_tensor_dtype(np.dtype(t)) for t in ("f4", "u1", "i1", "i4")}


def build(
    nodes: list[onnx.NodeProto],
    feeds: Feeds,
    constants: dict[str, Any],
    outputs: dict[str, str],
    dynamic: bool = False,
) -> onnx.ModelProto:
    """A model; ``outputs`` gives element types, ``dynamic`` leaves batch and length open."""
    names = {BATCH: "batch", LENGTH: "length"} if dynamic else {}

    def shape(name: str, array: np.ndarray) -> list[Any]:
        # Of the past, the first axis is the pair of keys and values.
        start = int(name == "past")
        return [
            names.get(d, d) if i >= start and i < 2 + start else d
            for i, d in enumerate(array.shape)
        ]

    graph = oh.make_graph(
        nodes,
        "g",
        [oh.make_tensor_value_info(n, TYPES[a.dtype], shape(n, a)) for n, a in feeds.items()],
        [
            oh.make_tensor_value_info(n, getattr(onnx.TensorProto, t), None)
            for n, t in outputs.items()
        ],
        [onnx.numpy_helper.from_array(np.asarray(a), n) for n, a in constants.items()],
    )
    opsets = [oh.make_opsetid("", 17), oh.make_opsetid("com.microsoft", 1)]
    return oh.make_model(graph, opset_imports=opsets, ir_version=10)


def standard(proto: onnx.ModelProto, feeds: Feeds, atol: float = 2e-5) -> Graph:
    """The imported graph: standard operators, with the results of onnxruntime's own."""
    graph = load(proto)
    assert {n.domain for n in graph.walk()} == {""}
    for want, found in zip(run(proto, feeds), run(to_model(graph), feeds), strict=True):
        assert found.dtype == want.dtype
        assert found.shape == want.shape
        np.testing.assert_allclose(found, want, rtol=1e-4, atol=atol)
    check_dims(graph, feeds, {"batch": BATCH, "length": LENGTH})
    return graph


def mask_of(form: str) -> np.ndarray | None:
    """A mask of keys, in one of the forms of ``mask_index``."""
    ends, starts = [4, 3], [1, 0]
    return {
        "": None,
        "ends": np.array(ends, np.int32),
        "ends-and-starts": np.array(ends + starts, np.int32),
        "keys": np.array([[1, 1, 0, 1, 1], [0, 1, 1, 1, 0]], np.int32),
        "left": np.array([[0, 0, 1, 1, 1], [0, 1, 1, 1, 1]], np.int32),
        "queries": np.tril(np.ones((BATCH, LENGTH, LENGTH), np.int32), 1),
    }[form]


ATTRS: dict[str, dict[str, Any]] = {
    "plain": {},
    "ends": {"mask": "ends"},
    "ends-and-starts": {"mask": "ends-and-starts"},
    "keys": {"mask": "keys"},
    "queries": {"mask": "queries"},
    "causal": {"unidirectional": 1},
    "causal-left": {"mask": "left", "unidirectional": 1},
    "causal-queries": {"mask": "queries", "unidirectional": 1},
    "scaled": {"mask": "keys", "scale": 0.3, "mask_filter_value": -3.0},
    "past": {"past": True},
    "past-causal": {"past": True, "unidirectional": 1},
}
CASES = pytest.mark.parametrize("name", ATTRS)


def attention(name: str, *, quantized: bool, **changes: Any) -> tuple[onnx.ModelProto, Feeds]:
    """A model of one node, and its inputs."""
    how = ATTRS[name] | changes
    mask, past = mask_of(how.pop("mask", "")), how.pop("past", False)
    dynamic, weights_type = how.pop("dynamic", False), how.pop("weights", "i1")
    symbols = how.pop("symbols", False)
    weights = RNG.standard_normal((INPUT, 3 * HIDDEN)).astype(np.float32)
    feeds: dict[str, np.ndarray] = {}
    constants: dict[str, Any] = {"b": RNG.standard_normal(3 * HIDDEN).astype(np.float32)}
    nodes = []
    x = RNG.standard_normal((BATCH, LENGTH, INPUT)).astype(np.float32)
    if not quantized:
        feeds["x"], constants["w"] = x, weights
    else:
        low = np.iinfo(weights_type).min
        constants["w"] = RNG.integers(low, low + 256, weights.shape).astype(weights_type)
        constants["ws"] = RNG.uniform(0.005, 0.02, 3 * HIDDEN).astype(np.float32)
        constants["wz"] = np.full(3 * HIDDEN, 0 if weights_type == "i1" else 120, weights_type)
        if dynamic:
            feeds["f"] = x
            nodes.append(oh.make_node("DynamicQuantizeLinear", ["f"], ["x", "xs", "xz"]))
            constants["ws"], constants["wz"] = constants["ws"][0], constants["wz"][0]
        else:
            feeds["x"] = RNG.integers(0, 256, x.shape).astype(np.uint8)
            constants |= {"xs": np.float32(0.0121), "xz": np.uint8(117)}
    if mask is not None:
        feeds["mask"] = mask
    if past:
        shape = (2, BATCH, HEADS, PAST, WIDTH)
        feeds["past"] = RNG.standard_normal(shape).astype(np.float32)
    outputs = {"y": "FLOAT"} | ({"present": "FLOAT"} if past else {})
    m, p = "mask" if mask is not None else "", "past" if past else ""
    inputs = ["x", "w", "b", "xs", "ws", m, "xz", "wz", p] if quantized else ["x", "w", "b", m, p]
    op = "QAttention" if quantized else "Attention"
    attrs = {"num_heads": HEADS, **how}
    nodes.append(oh.make_node(op, inputs, list(outputs), domain="com.microsoft", **attrs))
    return build(nodes, feeds, constants, outputs, symbols), feeds


@CASES
def test_attention(name: str) -> None:
    graph = standard(*attention(name, quantized=False))
    assert Counter(n.op for n in graph.walk())["MatMul"] == 3


@CASES
def test_attention_of_8_bits(name: str) -> None:
    graph = standard(*attention(name, quantized=True))
    assert Counter(n.op for n in graph.walk())["DequantizeLinear"] == 2


def test_weights_may_be_unsigned_and_sizes_open() -> None:
    standard(*attention("plain", quantized=True, weights="u1"))
    graph = standard(*attention("ends", quantized=True, symbols=True))
    assert [str(d) for d in graph.outputs[0].shape[:2]] == ["batch", "length"]
    standard(*attention("past-causal", quantized=True, symbols=True))


def test_attention_of_scales_of_each_call() -> None:
    graph = standard(*attention("keys", quantized=True, dynamic=True))
    found = Counter(n.op for n in graph.walk())
    assert found["DynamicQuantizeLinear"] == found["MatMulInteger"] == 1


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_projections_compute_in_8_bits(dynamic: bool) -> None:
    proto, feeds = attention("keys", quantized=True, dynamic=dynamic)
    compiled = burnish.compile(proto, threads=1)
    precisions = {n.op: n.precision for n in compiled.manifest.nodes}
    assert precisions["burnish::QMatMul"] == "int8"
    assert "burnish::Attention" in precisions
    np.testing.assert_allclose(compiled.run(None, feeds)[0], run(proto, feeds)[0], atol=2e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"do_rotary": 1}, "do_rotary"),
        ({"past_present_share_buffer": 1}, "past_present_share_buffer"),
    ],
)
def test_forms_without_a_standard_one(changes: dict[str, Any], message: str) -> None:
    proto, _ = attention("plain", quantized=True, **changes)
    with pytest.raises(ModelError, match=message):
        load(proto)


TABLES = {"words": (11, HIDDEN), "places": (9, HIDDEN), "kinds": (2, HIDDEN), "gamma": (HIDDEN,)}
TABLES["beta"] = (HIDDEN,)


@pytest.mark.parametrize("quantized", [False, True], ids=["float", "codes"])
@pytest.mark.parametrize("segments", [False, True], ids=["", "segments"])
@pytest.mark.parametrize("masked", [False, True], ids=["", "mask"])
def test_embeddings(quantized: bool, segments: bool, masked: bool) -> None:
    feeds = {"ids": RNG.integers(0, 11, (BATCH, LENGTH)).astype(np.int32)}
    constants: dict[str, Any] = {}
    for i, (name, shape) in enumerate(TABLES.items()):
        if quantized:
            constants[name] = RNG.integers(0, 256, shape).astype(np.uint8)
            constants[f"{name}_s"] = np.float32(0.01 + 0.003 * i)
            constants[f"{name}_z"] = np.uint8(100 + 9 * i)
        else:
            constants[name] = RNG.standard_normal(shape).astype(np.float32)
    if segments:
        feeds["segments"] = RNG.integers(0, 2, (BATCH, LENGTH)).astype(np.int32)
    if masked:
        feeds["mask"] = np.array([[1, 1, 1, 0, 0], [1, 1, 0, 1, 1]], np.int32)
    kind = "segments" if segments else ""
    inputs = ["ids", kind, "words", "places", "kinds" if segments else "", "gamma", "beta"]
    inputs.append("mask" if masked else "")
    outputs = {"y": "FLOAT", "index": "INT32"}
    if quantized:
        suffixes = [f"{n}_{s}" for s in "sz" for n in TABLES]
        inputs += [n if segments or "kinds" not in n else "" for n in suffixes]
    else:
        outputs["sum"] = "FLOAT"
    op = "QEmbedLayerNormalization" if quantized else "EmbedLayerNormalization"
    node = oh.make_node(op, inputs, list(outputs), domain="com.microsoft", epsilon=1e-5)
    used = {n: a for n, a in constants.items() if n in inputs}
    for dynamic in (False, True):
        standard(build([node], feeds, used, outputs, dynamic), feeds)


def test_positions_may_be_given() -> None:
    feeds = {
        "ids": RNG.integers(0, 11, (BATCH, LENGTH)).astype(np.int32),
        "at": np.array([[4, 3, 2, 1, 0], [8, 1, 1, 5, 2]], np.int32),
    }
    tables = {n: RNG.standard_normal(s).astype(np.float32) for n, s in TABLES.items()}
    inputs = ["ids", "", "words", "places", "", "gamma", "beta", "", "at"]
    node = oh.make_node("EmbedLayerNormalization", inputs, ["y", "index"], domain="com.microsoft")
    del tables["kinds"]
    standard(build([node], feeds, tables, {"y": "FLOAT", "index": "INT32"}), feeds)
