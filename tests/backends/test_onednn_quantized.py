"""oneDNN's operations on 8 bits and on bfloat16."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tvm

import burnish
from burnish.artifact import cpu_features, read_manifest
from burnish.backends.cpu.isa import AVX512_BF16, AVX512_VNNI
from burnish.backends.x86 import X86
from burnish.check.reference import Reference
from burnish.driver import compile_artifact
from burnish.export import to_model
from burnish.ir import Graph
from burnish.ir.postops import parse_postops
from burnish.options import CompileOptions
from burnish.passes.manager import PassManager
from burnish.passes.quantization import QuantizeStatic
from burnish.report.doctor import short_products
from burnish.requests import CompileReport, CompileRequest
from tests.support import reference
from tests.support.cpu_kernels import Array, dirty
from tests.support.golden import parse
from tests.support.quantization import measured

MISSING = X86.libraries["onednn"]()
if MISSING is not None:
    pytest.skip(MISSING.message, allow_module_level=True)

from burnish.backends.x86.onednn import offers  # noqa: E402  (it needs the library)
from burnish.backends.x86.onednn.operations import (  # noqa: E402  (it needs the library)
    Operation,
    Operations,
    implementation,
)
from burnish.backends.x86.onednn.postops import Step, epilogue  # noqa: E402

RNG = np.random.default_rng(21)
needs_vnni = pytest.mark.skipif(
    not set(AVX512_VNNI.features) <= cpu_features(), reason="this CPU has no AVX512-VNNI"
)
needs_bf16 = pytest.mark.skipif(
    not set(AVX512_BF16.features) <= cpu_features(), reason="this CPU has no AVX512-BF16"
)
SCALE = Step("mul", operand="channel")
GEOMETRY: dict[str, Any] = {"strides": (1, 1), "dilations": (1, 1), "pads": (0, 0, 0, 0)}


def call(
    operation: Operation, arguments: Sequence[Array], shape: Sequence[int], kind: str
) -> Array:
    """Call an operation on arrays."""
    listed = Operations()
    name = listed.add(operation)
    function = listed.module()["burnish.open_session"]()[name]
    result = tvm.runtime.tensor(dirty(shape, kind))
    function(*(tvm.runtime.tensor(np.ascontiguousarray(a)) for a in arguments), result)
    found: Array = result.numpy()
    return found


def codes(shape: Sequence[int], kind: str) -> Array:
    """All numbers of a type, both ends among them."""
    low, high = (0, 255) if kind == "uint8" else (-128, 127)
    found = RNG.integers(low, high + 1, shape).astype(kind)
    found.reshape(-1)[:2] = low, high
    return found


@needs_vnni
@pytest.mark.parametrize(("kind", "zero"), [("uint8", 0), ("uint8", 9), ("int8", 0), ("int8", -5)])
@pytest.mark.parametrize(("m", "k", "n"), [(1, 5, 3), (7, 64, 16), (50, 17, 130)])
def test_sums_of_products_are_exact(m: int, k: int, n: int, kind: str, zero: int) -> None:
    geometry = {"depth": k, "columns": n, "column_block": n}
    source = "u8" if kind == "uint8" else "s8"
    operation = Operation("matmul", source, "s8", "f32", False, (SCALE,), geometry, zero)
    x, w = codes((m, k), kind), codes((k, n), "int8")
    # Two neighbours whose sum of products does not fit 16 bits.
    x[0, :2], w[:2, 0] = x.max(), 127
    scale = np.exp2(RNG.integers(-8, 1, n)).astype(np.float32)
    found = call(operation, [x, w, scale], (m, n), "float32")
    want = (x.astype(np.int64) - zero) @ w.astype(np.int64) * scale
    np.testing.assert_array_equal(found, want.astype(np.float32))


@needs_vnni
@pytest.mark.parametrize("kind", ["uint8", "int8"])
@pytest.mark.parametrize("groups", [1, 16])
def test_padding_stands_for_the_real_zero(groups: int, kind: str) -> None:
    zero = 77 if kind == "uint8" else -3
    window = GEOMETRY | {"pads": (1, 1, 1, 1), "kernel": (3, 3), "groups": groups}
    geometry = window | {"channels_in": 16 // groups, "channels_out": 32}
    steps = (SCALE, Step("linear", 2.0, 100.0))
    source = "u8" if kind == "uint8" else "s8"
    operation = Operation("conv", source, "s8", "u8", False, steps, geometry, zero)
    x, w = codes((2, 6, 7, 16), kind), codes((32, 16 // groups, 3, 3), "int8")
    scale = np.full(32, 2.0**-13, np.float32)
    found = call(operation, [x, w, scale], (2, 6, 7, 32), "uint8")
    real = reference.conv(x.astype(np.float64) - zero, w, pads=(1, 1, 1, 1), groups=groups)
    want = np.clip(np.rint(real * scale * 2 + 100), 0, 255)
    assert np.abs(found.astype(np.float64) - want).max() <= 1
    assert np.mean(found != want) < 0.01
    assert len(np.unique(found)) > 20


RESIDUAL = """g (float[n,8,10,10] x) => (float[n,12] y)
<float[32,8,3,3] w, float[32] b, float[32,32,3,3] v, float[32,1,3,3] d, float[32,12] m> {
    c = Conv<pads=[1,1,1,1]>(x, w, b)
    r = Relu(c)
    e = Conv<pads=[1,1,1,1]>(r, v)
    s = Add(e, r)
    t = Relu(s)
    f = Conv<pads=[1,1,1,1], group=32>(t, d)
    a = GlobalAveragePool(f)
    h = Flatten(a)
    y = MatMul(h, m)
}"""


def quantized(activation_type: str) -> tuple[Graph, dict[str, Array]]:
    """The network with Q/DQ, and an input."""
    graph = parse(RESIDUAL, seed=4)
    feeds = {"x": RNG.standard_normal((2, 8, 10, 10), dtype=np.float32)}
    options = {"activation_type": activation_type}
    PassManager([QuantizeStatic(measured(graph, feeds), **options)]).run(graph)  # type: ignore[arg-type]
    return graph, feeds


def compile_graph(graph: Graph, path: Path, **options: Any) -> CompileReport:
    model = to_model(graph).SerializeToString()
    return compile_artifact(CompileRequest(model, str(path), CompileOptions(**options)))


@needs_vnni
@pytest.mark.parametrize("activation_type", ["uint8", "int8"])
def test_quantized_models_run_on_the_library(activation_type: str, tmp_path: Path) -> None:
    graph, feeds = quantized(activation_type)
    path = tmp_path / "model.burnish"
    options = {"library": "onednn", "target": "x86-64-v4-vnni"}
    report = compile_graph(graph, path, **options)
    nodes = [n for n in read_manifest(path).nodes if n.op in ("burnish::QConv", "burnish::QMatMul")]
    assert len(nodes) == 4
    assert {n.precision for n in nodes} == {"int8"}
    for node in nodes:
        assert node.tactic.startswith("onednn "), report.notes
        assert "ref" not in node.tactic
    with Reference(to_model(graph)) as session:
        (want,) = session.run(None, feeds)
    for threads in (1, 2):
        with burnish.load(path, threads=threads) as model:
            (found,) = model.run(None, feeds)
        # A sum in the middle of two codes may go to either of them.
        np.testing.assert_allclose(found, want, atol=0.02 * np.abs(want).max())


def test_saturating_instructions_are_not_used(tmp_path: Path) -> None:
    graph, _ = quantized("uint8")
    path = tmp_path / "model.burnish"
    report = compile_graph(graph, path, library="onednn", target="x86-64-v3")
    assert not any(n.tactic.startswith("onednn ") for n in read_manifest(path).nodes if "Q" in n.op)
    assert any("sums of bytes saturate on avx2" in note for note in report.notes)


@needs_bf16
def test_products_of_bfloat16() -> None:
    postops = parse_postops(["Add:channel", "Gelu", "Add:full"])
    bias, steps = epilogue(postops, bias=True, dtype="bf16")
    geometry = {"depth": 40, "columns": 24, "column_block": 24}
    operation = Operation("matmul", "bf16", "bf16", "bf16", bias, steps, geometry)
    assert "bf16" in implementation(operation, (9,), "avx512_bf16")
    given = [RNG.standard_normal(s).astype(ml_dtypes.bfloat16) for s in ((9, 40), (40, 24), (24,))]
    given.append(RNG.standard_normal((9, 24)).astype(ml_dtypes.bfloat16))
    found = call(operation, given, (9, 24), "bfloat16").astype(np.float64)
    x, w, *more = (a.astype(np.float64) for a in given)
    want = reference.postops(x @ w, postops, more)
    np.testing.assert_allclose(found, want, rtol=2**-7, atol=2**-7 * np.abs(want).max())


@needs_bf16
@pytest.mark.parametrize("target", ["x86-64-v4-bf16", "x86-64-v4-vnni"])
def test_models_in_bfloat16(target: str, tmp_path: Path) -> None:
    graph = parse(RESIDUAL, seed=4)
    path = tmp_path / "model.burnish"
    compile_graph(graph, path, library="onednn", target=target, precision="bf16")
    taken = {n.op for n in read_manifest(path).nodes if n.tactic.startswith("onednn ")}
    assert ("burnish::Conv" in taken) == (target == "x86-64-v4-bf16")
    feeds = {"x": RNG.standard_normal((2, 8, 10, 10), dtype=np.float32)}
    with Reference(to_model(graph)) as session, burnish.load(path) as model:
        (want,), (found,) = session.run(None, feeds), model.run(None, feeds)
    np.testing.assert_allclose(found, want, atol=0.02 * np.abs(want).max())


@pytest.mark.parametrize("amx", [True, False])
def test_kernels_for_amx_are_expected_to_be_faster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, amx: bool
) -> None:
    name = f"brg_matmul:avx512_core{'_amx' if amx else ''}"
    monkeypatch.setattr(offers, "implementation", lambda *_: name)
    graph = parse(
        "g (float[256, 768] x) => (float[256, 512] y) <float[768, 512] w> { y = MatMul(x, w) }"
    )
    options = CompileOptions(check=False)
    request = CompileRequest(
        to_model(graph).SerializeToString(), str(tmp_path / "m.burnish"), options
    )
    compile_artifact(request)
    (node,) = read_manifest(tmp_path / "m.burnish").nodes
    assert (node.tactic == f"onednn {name}") == amx, node.why


@pytest.mark.parametrize(
    ("flags", "library", "found"),
    [
        ({"avx2"}, True, "no bf16 of its own, no int8 of its own, no AMX"),
        (
            {"avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8"},
            True,
            "bf16 by avx512_bf16, int8 by avx512_vnni, amx_bf16 and amx_int8 by oneDNN's kernels",
        ),
        (
            {"avx512_vnni", "amx_int8"},
            False,
            "no bf16 of its own, int8 by avx512_vnni, amx_int8 not used: that takes oneDNN",
        ),
    ],
)
def test_doctor_says_what_multiplies(flags: set[str], library: bool, found: str) -> None:
    assert short_products(frozenset(flags), library=library) == found
