"""What the manifest says of storage and arithmetic, apart."""

# ruff: noqa: E501 (graphs are easier to read unbroken)

from __future__ import annotations

from dataclasses import replace

import pytest

from burnish.attestation import check_strict, node_infos, operation_shares, summary
from burnish.backends.registry import resolve_target
from burnish.errors import PrecisionError
from burnish.lowering.context import KernelCall
from burnish.lowering.precision import computed_in, weights_in
from burnish.passes.fusion import FuseElementwise
from burnish.passes.precision import MixedPrecision
from burnish.passes.quantization.weight_only import WeightOnlyProducts
from tests.support import golden

X86 = resolve_target("x86-64-v3")
#: A target that multiplies float16 as it is.
HALF = replace(X86, computes={})


def call(node: str, dtype: str, computes: str, *names: str) -> KernelCall:
    return KernelCall(f"{node.lower()}_1", node, names, ("y",), dtype, computes)


MODEL = "g (float[8,8] x) => (float[8,8] y) <float[8,8] w> { a = MatMul(x, w) b = Sigmoid(a) c = Mul(a, b) d = Softmax(c) e = Transpose<perm=[1,0]>(d) y = MatMul(e, w) }"
EXPECTED = {
    "MatMul": "float16",
    "Softmax": "float32",
    "Transpose": "",
    "Cast": "",
    "burnish::Elementwise": "float32",
}


def test_arithmetic_is_read_from_the_graph() -> None:
    graph = golden.parse(MODEL)
    for item in (MixedPrecision(), FuseElementwise()):
        golden.apply(item, graph)
    found = {n.key: computed_in(n, n.output.dtype) for n in graph.nodes}
    assert found == EXPECTED


@pytest.mark.parametrize(("target", "precision"), [(X86, "fp32"), (HALF, "fp16")])
def test_products_compute_as_the_target_does(target: object, precision: str) -> None:
    calls = [call("MatMul", "float16", "float16", "m")]
    (info,) = node_infos(calls, target, "fp16", {}, {})  # type: ignore[arg-type]
    assert (info.precision, info.storage, info.reason) == (precision, "fp16", "")


def test_what_only_moves_is_as_wide_as_its_tensors() -> None:
    (info,) = node_infos([call("Transpose", "float16", "")], X86, "fp16", {}, {})
    assert (info.precision, info.storage) == ("fp16", "fp16")


def test_every_node_in_fp32_has_a_reason_if_less_was_asked_for() -> None:
    calls = [call("ReduceSum", "float32", "float32", "b", "a"), call("Cast", "float32", "", "c")]
    kept = {"a": "its result may leave the range of float16"}
    infos = node_infos(calls, X86, "fp16", kept, {"a": 0, "b": 1})
    assert infos[0].nodes == ("a", "b")
    assert infos[0].reason == kept["a"]
    assert infos[1].reason == "what reads its result takes fp32"
    assert all(not info.reason for info in node_infos(calls, X86, "fp32", {}, {}))


def test_summary_counts_floats_by_storage_and_arithmetic() -> None:
    calls = [
        *[call("MatMul", "float16", "float16")] * 3,
        call("Transpose", "float16", ""),
        call("ReduceSum", "float32", "float32"),
        call("Shape", "int64", "int64"),
    ]
    text = summary(node_infos(calls, X86, "fp16", {}, {}))
    assert text == "kernels store their results: 3 in fp16 (computed in fp32), 1 in fp16, 1 in fp32"


def test_summary_counts_what_is_stored_in_8_bits() -> None:
    calls = [
        *[call("burnish::QConv", "uint8", "int8")] * 4,
        *[call("MaxPool", "uint8", "")] * 2,
        call("burnish::QMatMul", "float32", "int8"),
    ]
    text = summary(node_infos(calls, X86, "int8", {}, {}))
    assert text == (
        "kernels store their results: 4 in uint8 (computed in int8), 2 in uint8, "
        "1 in fp32 (computed in int8)"
    )


def test_weights_alone_in_less_are_what_was_asked_for_or_not() -> None:
    graph = golden.parse(
        "g (float[2,64] x) => (float[2,8] y) <int4[64,8] w, float[2,8] s, int4[2,8] z> "
        "{ d = DequantizeLinear<axis=0, block_size=32>(w, s, z) y = MatMul(x, d) }"
    )
    golden.apply(WeightOnlyProducts(), graph)
    (node,) = graph.nodes
    assert weights_in(node) == "int4"
    made = replace(
        call(node.key, "float32", computed_in(node, "float32"), "m"), weights=weights_in(node)
    )
    (info,) = node_infos([made], X86, "int8", {}, {"m": 0})
    assert (info.precision, info.storage, info.weights) == ("fp32", "fp32", "int4")
    assert info.reason == "its weights alone are in int4"
    assert "1 read weights in int4" in summary([info])
    check_strict([info], "int8", {}, "int4")
    check_strict([replace(info, weights="int8")], "int8", {}, "int8")
    with pytest.raises(PrecisionError, match="1 of 1 products are not in int8"):
        check_strict([replace(info, weights="int8")], "int8", {})


def test_shares_of_operations_know_the_sizes_of_symbolic_dims() -> None:
    calls = [call("MatMul", "float32", "float32", "m"), call("burnish::QMatMul", "int8", "int8")]
    fixed, symbolic = node_infos(calls, X86, "int8", {}, {})
    infos = [replace(fixed, flops="100"), replace(symbolic, flops="100*batch")]
    assert operation_shares(infos, {"batch": 3}) == {"fp32": 0.25, "int8": 0.75}
    assert operation_shares(infos) == {"fp32": 0.5, "int8": 0.5}
