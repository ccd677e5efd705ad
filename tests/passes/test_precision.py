"""Storage in 16 bits: what is retyped, where Casts stand, what stays float32 and why."""

# ruff: noqa: E501 (graphs are easier to read unbroken)

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.reference
import pytest

from burnish.export import BASE_OPSET, to_model
from burnish.ir import Constant, Graph
from burnish.ir.types import BY_ONNX
from burnish.options import CompileOptions
from burnish.passes.base import Numerics, PassContext
from burnish.passes.pipelines import pipeline
from burnish.passes.precision import FORMATS, MixedPrecision
from burnish.passes.precision.roles import TABLE, Role
from tests.support import golden

DOWN, UP = "Cast<to=10>", "Cast<to=1>"


def lower(text: str, dtype: str = "float16", **options: Any) -> tuple[Graph, PassContext]:
    """The graph after the pass, and what the pass noted."""
    graph, ctx = golden.parse(text), PassContext()
    golden.apply(MixedPrecision(dtype, **options), graph, ctx)
    return graph, ctx


def dtypes(graph: Graph, key: str) -> set[str]:
    """Element types of the results of an operator's nodes."""
    return {n.output.dtype for n in graph.walk() if n.key == key}


def reason(text: str, key: str) -> str:
    """Why the nodes of an operator stay float32; empty if they do not."""
    graph, ctx = lower(text)
    names = {name for n in graph.walk() if n.key == key for name in (n.location.names or (n.name,))}
    assert names, f"no {key}"
    found = {ctx.kept.get(name, "") for name in names}
    assert len(found) == 1
    narrow = any(v.dtype == "float16" for n in graph.walk() if n.key == key for v in n.outputs if v)
    assert narrow is not any(found), "either it is narrow or it has a reason"
    return found.pop()


def test_inputs_and_outputs_keep_their_types() -> None:
    golden.check(
        MixedPrecision(),
        "g (float[N,8] x) => (float[N,8] y) <float[8,8] w> { y = MatMul(x, w) }",
        f"g (float[N,8] x) => (float[N,8] y) <float16[8,8] w> {{ h = {DOWN}(x) m = MatMul(h, w) y = {UP}(m) }}",
    )


def test_glue_computes_in_float32_between_casts() -> None:
    golden.check(
        MixedPrecision(),
        "g (float[N,8] x) => (float[N,8] y) <float[8,8] w> { a = MatMul(x, w) b = Sigmoid(a) c = Mul(a, b) y = MatMul(c, w) }",
        f"g (float[N,8] x) => (float[N,8] y) <float16[8,8] w> {{ h = {DOWN}(x) a = MatMul(h, w) u = {UP}(a) b = Sigmoid(u) c = Mul(u, b) d = {DOWN}(c) m = MatMul(d, w) y = {UP}(m) }}",
    )


def test_what_is_read_by_glue_and_by_products_is_stored_once() -> None:
    graph, _ = lower(
        "g (float[N,8] x) => (float[N,8] y) <float[8,8] w> { a = MatMul(x, w) r = Add(a, x) b = MatMul(r, w) y = Add(b, r) }"
    )
    (last,) = (n for n in graph.nodes if n.output is graph.outputs[0])
    through = last.required(1).producer
    assert through is not None
    assert through.op == "Cast"
    assert through.required(0).dtype == "float16", "it reads what the product reads"


MOVES = {
    "Transpose": "m = Transpose<perm=[1,0]>(a)",
    "Reshape": "m = Reshape(a, i)",
    "Slice": "m = Slice(a, lo, hi)",
    "Concat": "m = Concat<axis=0>(a, a)",
    "ReduceMax": "m = ReduceMax<keepdims=1>(a, ax)",
    "Gather": "m = Gather<axis=0>(a, lo)",
    "Pad": "m = Pad(a, p)",
}


@pytest.mark.parametrize("key", MOVES)
def test_moves_take_the_type_of_what_they_move(key: str) -> None:
    text = (
        "g (float[8,8] x) => (float[?,?] y) <float[8,8] w, int64[2] i = {8,8}, int64[1] lo = {1}, "
        f"int64[1] hi = {{5}}, int64[1] ax = {{1}}, int64[4] p = {{0,1,0,1}}> {{ a = MatMul(x, w) {MOVES[key]} y = Identity(m) }}"
    )
    graph, _ = lower(text)
    assert dtypes(graph, key) == {"float16"}
    assert graph.outputs[0].dtype == "float32"


def test_constants_that_move_towards_products_are_stored_in_16_bits() -> None:
    graph, _ = lower(
        "g (int64[N] ids) => (float[N,8] y) <float[100,8] table, float[8,8] w> { e = Gather(table, ids) y = MatMul(e, w) }"
    )
    assert dtypes(graph, "Gather") == {"float16"}
    assert {c.dtype for c in graph.constants()} == {"float16"}


HEAD = "g (float[N,8] x) => (float[N,8] y) <float[8,8] w>"
KEPT = {
    "ReduceSum": (
        "g (float[N,8] x) => (float[N,1] y) <float[8,8] w, int64[1] ax = {1}> { a = MatMul(x, w) y = ReduceSum(a, ax) }",
        "leave the range",
    ),
    "ReduceMean": (
        "g (float[N,8] x) => (float[N,1] y) <float[8,8] w, int64[1] ax = {1}> { a = MatMul(x, w) y = ReduceMean(a, ax) }",
        "leave the range",
    ),
    "Pow": (f"{HEAD} {{ a = MatMul(x, w) y = Pow(a, a) }}", "leave the range"),
    "Exp": (f"{HEAD} {{ a = MatMul(x, w) y = Exp(a) }}", "leave the range"),
    "LogSoftmax": (f"{HEAD} {{ a = MatMul(x, w) y = LogSoftmax(a) }}", "logarithms"),
    "CumSum": (
        "g (float[N,8] x) => (float[N,8] y) <float[8,8] w, int64 ax = {1}> { a = MatMul(x, w) y = CumSum(a, ax) }",
        "leave the range",
    ),
    "Softmax": (f"{HEAD} {{ a = MatMul(x, w) s = Softmax(a) y = Log(s) }}", "a logarithm follows"),
    "Hardmax": (f"{HEAD} {{ a = MatMul(x, w) y = Hardmax(a) }}", "no 16-bit form of Hardmax"),
    "LSTM": (
        "g (float[5,N,8] x) => (float[5,1,N,4] y) <float[1,16,8] w, float[1,16,4] r, float[8,8] m> { a = MatMul(x, m) y = LSTM<hidden_size=4>(a, w, r) }",
        "recurrent state",
    ),
}


@pytest.mark.parametrize("key", KEPT)
def test_sensitive_operators_stay_with_a_reason(key: str) -> None:
    text, expected = KEPT[key]
    assert expected in reason(text, key)


def set_constant(graph: Graph, name: str, array: np.ndarray) -> None:
    (value,) = (v for v in graph.constants() if v.name == name)
    value.const = Constant(array.astype(np.float32))


def with_weight(text: str, name: str, array: np.ndarray) -> tuple[Graph, PassContext]:
    graph, ctx = golden.parse(text), PassContext()
    set_constant(graph, name, array)
    golden.apply(MixedPrecision(), graph, ctx)
    return graph, ctx


def test_a_weight_beyond_the_range_keeps_its_node() -> None:
    w = np.full((8, 8), 0.5)
    w[3, 3] = -7e4
    text = f"{HEAD} {{ a = MatMul(x, w) y = Softmax(a) }}"
    graph, ctx = with_weight(text, "w", w)
    assert dtypes(graph, "MatMul") == {"float32"}
    assert any("beyond the range of float16 (w holds 7e+04)" in r for r in ctx.kept.values())
    w[3, 3] = 65504.0
    graph, _ = with_weight(text, "w", w)
    assert dtypes(graph, "MatMul") == {"float16"}


ATTENTION = "burnish.Attention<num_heads=2, kv_num_heads=2, scale=0.5, causal=0, nan_to_zero=0>"
QKV = "float[1,4,8] q, float[1,4,8] k, float[1,4,8] v"
MASKED = f"g ({QKV}, float[1,1,1,4] keep) => (float[1,4,8] y) <float low, float one = {{1.0}}> {{ n = Sub(one, keep) d = Cast<to=9>(n) z = Sub(n, n) m = Where(d, low, z) y = {ATTENTION}(q, k, v, m) }}"


@pytest.mark.parametrize("lowest", [-1e9, float(np.finfo(np.float32).min), -np.inf])
def test_attention_masks_stay_float32(lowest: float) -> None:
    rng = np.random.default_rng(0)
    feeds = {name: rng.standard_normal((1, 4, 8)).astype(np.float32) for name in "qkv"}
    feeds["keep"] = np.array([1, 1, 0, 0], np.float32).reshape(1, 1, 1, 4)
    graph, _ = with_weight(MASKED, "low", np.array(lowest))
    (node,) = (n for n in graph.nodes if n.op == "Attention")
    assert [v.dtype for v in node.inputs if v] == ["float16"] * 3 + ["float32"]
    original = golden.parse(MASKED)
    set_constant(original, "low", np.array(lowest))
    # With every key masked the numbers are all equal, and equal they must stay, or NaN.
    for keep in ([1, 1, 0, 0], [0, 0, 0, 0]):
        feeds["keep"][0, 0, 0] = keep
        found, wanted = (golden.run_graph(g, feeds)[0] for g in (graph, original))
        np.testing.assert_allclose(found, wanted, atol=4e-3)


def test_masks_before_a_softmax_are_limited() -> None:
    text = "g (float[4,8] x, bool[4,4] keep) => (float[4,8] y) <float[8,8] w, float low = {-1e30}> { a = MatMul(x, w) t = Transpose<perm=[1,0]>(x) s = MatMul(a, t) m = Where(keep, s, low) p = Softmax(m) y = MatMul(p, x) }"
    graph, ctx = lower(text)
    assert any("limited to the range" in note for note in ctx.notes)
    rng = np.random.default_rng(0)
    keep = np.tril(np.ones((4, 4), bool))
    feeds = {"x": rng.standard_normal((4, 8)).astype(np.float32), "keep": keep}
    found, wanted = (golden.run_graph(g, feeds)[0] for g in (graph, golden.parse(text)))
    np.testing.assert_allclose(found, wanted, atol=2e-2)
    keep[1] = False
    assert np.isfinite(golden.run_graph(graph, feeds)[0]).all()


DTYPES = pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
#: Error of a few roundings of terms as large as the largest result.
ROUNDING = {"float16": 2e-3, "bfloat16": 2e-2}


def assert_close(graph: Graph, before: Graph, feeds: dict[str, np.ndarray], dtype: str) -> None:
    """Both give the same up to some roundings, which there are."""
    for found, wanted in zip(
        golden.run_graph(graph, feeds), golden.run_graph(before, feeds), strict=True
    ):
        error = np.abs(found - wanted).max() / np.abs(wanted).max()
        assert ROUNDING[dtype] / 1000 < error < ROUNDING[dtype]


@DTYPES
def test_branches_keep_the_types_of_what_they_give(dtype: str) -> None:
    graph, ctx = lower(
        "g (float[N,8] x, bool c) => (float[N,8] y) <float[8,8] w> { a = MatMul(x, w) y = If(c) <then_branch = t () => (float[N,8] p) { p = MatMul(a, w) }, else_branch = e () => (float[N,8] q) { q = Relu(a) }> }",
        dtype,
    )
    assert dtypes(graph, "MatMul") == {dtype}, "in the branch as well"
    assert dtypes(graph, "If") == dtypes(graph, "Relu") == {"float32"}
    (branch,) = (n for n in graph.nodes if n.key == "If")
    for inner in branch.subgraphs():
        assert [v.dtype for v in inner.outputs] == ["float32"]
    assert any("control flow" in why for why in ctx.kept.values())
    assert len(graph.constants()) == 1, "the weight is shared with the branch"
    rng = np.random.default_rng(1)
    for c in (True, False):
        x = rng.standard_normal((3, 8)).astype(np.float32)
        (found,) = golden.run_graph(graph, {"x": x, "c": np.array(c)})
        w = graph.constants()[0].array.astype(np.float64)
        wanted = x @ w @ w if c else np.maximum(x @ w, 0)
        np.testing.assert_allclose(found, wanted, atol=ROUNDING[dtype] * np.abs(wanted).max())


def test_a_constant_of_both_precisions_is_kept_in_both() -> None:
    graph, ctx = lower(
        'g (float[N,8] x) => (float[N,8] y) <float[8,8] w> { a = MatMul(x, w) b = Einsum<equation="ij,jk->ik">(a, w) y = Relu(b) }'
    )
    assert sorted(v.dtype for v in graph.constants()) == ["float16", "float32"]
    assert any("stored in both precisions: w" in note for note in ctx.notes)


def test_a_graph_without_products_is_left_alone() -> None:
    graph, ctx = golden.parse("g (float[N] x) => (float[N] y) { y = Exp(x) }"), PassContext()
    assert not MixedPrecision().run(graph, ctx)
    assert "no operator can be stored in 16 bits" in ctx.notes


def test_pipeline_and_options_know_the_precision() -> None:
    for level in range(4):
        names = [p.name for p in pipeline(level, precision="fp16")]
        assert names.count("mixed-precision") == 1
        assert "mixed-precision" not in [p.name for p in pipeline(level)]
        (bf16,) = (p for p in pipeline(level, precision="bf16") if p.name == "mixed-precision")
        assert isinstance(bf16, MixedPrecision)
        assert bf16.dtype == "bfloat16"
        assert bf16.spec == "mixed-precision{dtype=bfloat16}"
    assert CompileOptions(precision="bf16").precision == "bf16"


def test_numerics_is_its_own_class() -> None:
    assert MixedPrecision.numerics is Numerics.NARROWS


@DTYPES
def test_scales_and_sizes_keep_their_types(dtype: str) -> None:
    graph, _ = lower(
        'g (float[1,4,8,8] x) => (float[1,4,?,?] y) <float[4,4,1,1] w, float[4] s = {1.0, 1.0, 1.5, 2.0}> { a = Conv<kernel_shape=[1,1]>(x, w) b = Resize<mode="linear">(a, , s) y = Identity(b) }',
        dtype,
    )
    (resize,) = (n for n in graph.nodes if n.key == "Resize")
    assert [v.dtype if v else "" for v in resize.inputs] == [dtype, "", "float32"]
    assert resize.output.dtype == dtype
    x = np.random.default_rng(0).standard_normal((1, 4, 8, 8)).astype(np.float32)
    assert golden.run_graph(graph, {"x": x})[0].shape == (1, 4, 12, 16)


@DTYPES
@pytest.mark.parametrize("given", [1, 10, 11, 16])
def test_casts_of_the_model_stay(given: int, dtype: str) -> None:
    """A model that has types of its own keeps them, 16-bit ones included."""
    text = f"{HEAD} {{ a = MatMul(x, w) h = Cast<to={given}>(a) i = Mul(h, h) c = Cast<to=1>(i) y = MatMul(c, w) }}"
    graph, _ = lower(text, dtype)
    (mul,) = (n for n in graph.nodes if n.key == "Mul")
    assert mul.output.dtype == BY_ONNX[given].name
    feeds = {"x": np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)}
    assert_close(graph, golden.parse(text), feeds, dtype)


def test_sizes_that_a_graph_computes_stay_integers() -> None:
    text = "g (float[N,8] x) => (float[?,?] y) <float[8,8] w, int64[1] two = {2}, int64[1] zero = {0}> { a = MatMul(x, w) s = Shape(a) n = Gather<axis=0>(s, zero) f = Cast<to=1>(n) h = Sqrt(f) c = Ceil(h) k = Cast<to=7>(c) t = Concat<axis=0>(two, k) e = Unsqueeze(a, zero) z = ReduceMax<keepdims=0>(e, zero) b = MatMul(z, w) p = Slice(b, zero, k) y = Relu(p) }"
    graph, _ = lower(text, "bfloat16")
    assert dtypes(graph, "Sqrt") == dtypes(graph, "Ceil") == {"float32"}
    x = np.random.default_rng(0).standard_normal((300, 8)).astype(np.float32)
    assert golden.run_graph(graph, {"x": x})[0].shape == (18, 8), "ceil(sqrt(300))"


@DTYPES
def test_what_a_scan_carries_keeps_its_type(dtype: str) -> None:
    text = (
        "g (float[5,4,8] xs, float[4,8] s) => (float[4,8] y, float[5,4,8] all) <float[8,8] w> { "
        "y, all = Scan<num_scan_inputs=1, body = b (float[4,8] c, float[4,8] x) => (float[4,8] d, float[4,8] o) { "
        "m = MatMul(x, w) n = Add(m, c) d = Tanh(n) o = MatMul(d, w) }>(s, xs) }"
    )
    graph, _ = lower(text, dtype)
    (scan,) = (n for n in graph.nodes if n.key == "Scan")
    (body,) = scan.subgraphs()
    assert {v.dtype for v in (*body.inputs, *body.outputs)} == {"float32"}
    assert dtypes(graph, "MatMul") == {dtype}
    rng = np.random.default_rng(0)
    feeds = {
        "xs": rng.standard_normal((5, 4, 8)).astype(np.float32),
        "s": rng.standard_normal((4, 8)).astype(np.float32),
    }
    assert_close(graph, golden.parse(text), feeds, dtype)


@DTYPES
def test_what_a_loop_carries_keeps_its_type(dtype: str) -> None:
    text = (
        "g (float[4,8] x) => (float[4,8] y, float[3,4,8] all) <float[8,8] w, int64 n = {3}, bool go = {1}> { "
        "a = MatMul(x, w) y, all = Loop(n, go, a) <body = b (int64 i, bool c, float[4,8] s) => (bool d, float[4,8] t, float[4,8] o) { "
        "d = Identity(c) m = MatMul(s, w) t = Tanh(m) o = Softmax(t) }> }"
    )
    w = np.random.default_rng(2).standard_normal((8, 8)) * 0.3
    graph = golden.parse(text)
    set_constant(graph, "w", w)
    golden.apply(MixedPrecision(dtype), graph)
    (loop,) = (n for n in graph.nodes if n.key == "Loop")
    (body,) = loop.subgraphs()
    assert [v.dtype for v in (*body.inputs, *body.outputs)][2:] == [
        "float32",
        "bool",
        "float32",
        "float32",
    ]
    assert dtypes(graph, "MatMul") == {dtype}
    feeds = {"x": np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32)}
    before = golden.parse(text)
    set_constant(before, "w", w)
    assert_close(graph, before, feeds, dtype)


# --- bfloat16, and what runtimes without burnish's kernels get ------------------------------------


def test_formats_hold_what_they_say() -> None:
    fp16, bf16 = FORMATS["fp16"], FORMATS["bf16"]
    assert (fp16.largest, fp16.bits, fp16.smallest) == (65504.0, 11, 2.0**-14)
    assert (bf16.bits, bf16.smallest) == (8, 2.0**-126)
    assert bf16.largest == 3.3895313892515355e38


def test_bfloat16_is_stored_and_the_model_is_valid() -> None:
    graph, _ = lower(
        f"{HEAD} {{ a = MatMul(x, w) b = Relu(a) c = MatMul(b, w) y = Softmax(c) }}", "bfloat16"
    )
    assert dtypes(graph, "MatMul") == dtypes(graph, "Softmax") == {"bfloat16"}
    model = to_model(graph)
    onnx.checker.check_model(model, full_check=True)
    assert {t.data_type for t in model.graph.initializer} == {onnx.TensorProto.BFLOAT16}


def test_a_bfloat16_model_computes_what_it_says() -> None:
    text = f"{HEAD} {{ a = MatMul(x, w) b = Relu(a) y = MatMul(b, w) }}"
    graph, _ = lower(text, "bfloat16")
    feeds = {"x": np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)}
    (wanted,) = golden.run_graph(golden.parse(text), feeds)
    (found,) = onnx.reference.ReferenceEvaluator(to_model(graph)).run(None, feeds)
    error = np.abs(found - wanted).max() / np.abs(wanted).max()
    assert 2.0**-14 < error < 2.0**-6, "8 bits, no more and hardly less"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_masks_are_limited_to_the_range_of_the_type(dtype: str) -> None:
    text = "g (float[4,8] x, bool[4,4] keep) => (float[4,4] y) <float[8,8] w, float low = {-3.4028235e38}> { a = MatMul(x, w) t = Transpose<perm=[1,0]>(x) s = MatMul(a, t) m = Where(keep, s, low) p = Softmax(m) y = Relu(p) }"
    graph, ctx = lower(text, dtype)
    assert any("limited to the range" in note for note in ctx.notes)
    feeds = {
        "x": np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32),
        "keep": np.zeros((4, 4), bool),
    }
    (found,) = onnx.reference.ReferenceEvaluator(to_model(graph)).run(None, feeds)
    np.testing.assert_allclose(found, 0.25)


def test_explicit_casts_around_sums_and_functions() -> None:
    text = (
        "g (float[N,8] x) => (float[N,8] y) <float[8,8] w, float[8] gain> { a = MatMul(x, w) "
        "b = LayerNormalization(a, gain) c = MatMul(b, w) d = Softmax(c) y = MatMul(d, w) }"
    )
    for dtype in ("float16", "bfloat16"):
        graph, ctx = lower(text, dtype, explicit=True)
        assert dtypes(graph, "LayerNormalization") == dtypes(graph, "Softmax") == {"float32"}
        assert dtypes(graph, "MatMul") == {dtype}
        assert set(ctx.kept.values()) == {
            "means and squares are computed in float32",
            "exponentials and sums are computed in float32",
        }
        graph, ctx = lower(text, dtype)
        assert dtypes(graph, "Softmax") == {dtype}
        assert not ctx.kept


@pytest.mark.parametrize("precision", FORMATS)
def test_every_operator_takes_the_type_in_the_oldest_opset(precision: str) -> None:
    stored = FORMATS[precision]
    tensor = f"tensor({stored.dtype})"
    known = [key for key, row in TABLE.items() if row.role in (Role.COMPUTE, Role.MOVE)]
    for key in (key for key in known if "::" not in key):
        types = onnx.defs.get_schema(key, BASE_OPSET, "").inputs[0].types
        assert (tensor in types) is (key not in stored.lacking), key


def test_operators_without_the_type_keep_theirs() -> None:
    text = "g (float[4,8] x, int64[4] n) => (float[4,8] y) <float[8,8] w> { a = MatMul(x, w) r = ReverseSequence<batch_axis=0, time_axis=1>(a, n) y = MatMul(r, w) }"
    graph, ctx = lower(text, "bfloat16")
    assert dtypes(graph, "ReverseSequence") == {"float32"}
    assert "ONNX has no ReverseSequence of bfloat16" in ctx.kept.values()
    onnx.checker.check_model(to_model(graph), full_check=True)
    graph, _ = lower(text)
    assert dtypes(graph, "ReverseSequence") == {"float16"}
