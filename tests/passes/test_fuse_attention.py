"""Attention in the spellings of exporters, and ONNX's own."""

# ruff: noqa: E501 (graphs are easier to read unbroken)

from __future__ import annotations

import numpy as np
import pytest

from burnish.passes.base import Numerics
from burnish.passes.fusion.attention import FuseAttentions
from tests.support import golden
from tests.support.refusals import reasons

#: 2 heads of width 4; queries [B,S,8], keys and values [B,T,8].
HEAD = "g (float[B,S,8] q, float[B,T,8] k, float[B,T,8] v, {mask}) => (float[B,S,8] y)"
CONSTANTS = (
    "<int64[4] split={0,0,2,4}, int64[3] merge={0,0,8}, float scale={0.5}, float two={2}, float four={4}, float root={0.70710678}, "
    "float zero={0}, float low={-3.4028234e38}, float ninf={-inf}, float weak={-10000}, float one={1}, float[1,2,1,1] bias={1,2}>"
)
SPLIT = (
    "q4 = Reshape(q, split) qh = Transpose<perm=[0,2,1,3]>(q4) "
    "k4 = Reshape(k, split) kt = Transpose<perm=[0,2,3,1]>(k4) "
    "v4 = Reshape(v, split) vh = Transpose<perm=[0,2,1,3]>(v4) "
)
MERGE = "o = MatMul(p, vh) ot = Transpose<perm=[0,2,1,3]>(o) y = Reshape(ot, merge)"
FLOAT_MASK = "float[B,1,S,T] m"
BOOL_MASK = "bool[B,1,S,T] m"


def attention(*inputs: str, scale: float = 0.5, nan: int = 0, kv: int = 2, causal: int = 0) -> str:
    attrs = f"num_heads=2, kv_num_heads={kv}, scale={scale}, causal={causal}, nan_to_zero={nan}"
    return f"y = burnish.Attention<{attrs}>({', '.join(inputs)})"


CASES = {
    "bert": (FLOAT_MASK, f"{SPLIT} s = MatMul(qh, kt) t = Mul(s, scale) a = Add(t, m) p = Softmax<axis=-1>(a) {MERGE}", attention("q", "k", "v", "m")),
    "divided, mask first": (FLOAT_MASK, f"{SPLIT} s = MatMul(qh, kt) t = Div(s, two) a = Add(m, t) p = Softmax<axis=3>(a) {MERGE}", attention("q", "k", "v", "m")),
    "t5: no scale": (FLOAT_MASK, f"{SPLIT} s = MatMul(qh, kt) a = Add(s, m) p = Softmax<axis=-1>(a) {MERGE}", attention("q", "k", "v", "m", scale=1.0)),
    "vit: no mask": (FLOAT_MASK, f"{SPLIT} s = MatMul(qh, kt) t = Mul(s, scale) p = Softmax(t) {MERGE}", attention("q", "k", "v")),
    "whisper: scaled queries": (
        FLOAT_MASK,
        "qs = Mul(q, scale) q4 = Reshape(qs, split) qh = Transpose<perm=[0,2,1,3]>(q4) k4 = Reshape(k, split) kh = Transpose<perm=[0,2,1,3]>(k4) "
        f"kt = Transpose<perm=[0,1,3,2]>(kh) v4 = Reshape(v, split) vh = Transpose<perm=[0,2,1,3]>(v4) s = MatMul(qh, kt) p = Softmax(s) {MERGE}",
        attention("q", "k", "v"),
    ),
    "dynamo: split scale, safe softmax": (
        FLOAT_MASK,
        "q4 = Reshape(q, split) qh = Transpose<perm=[0,2,1,3]>(q4) qs = Mul(qh, root) k4 = Reshape(k, split) kh = Transpose<perm=[0,2,1,3]>(k4) "
        "kf = Reshape(kh, flat) kg = Transpose<perm=[0,2,1]>(kf) kt = Reshape(kg, back) ks = Mul(kt, root) v4 = Reshape(v, split) vh = Transpose<perm=[0,2,1,3]>(v4) "
        f"s = MatMul(qs, ks) a = Add(s, m) w = Softmax<axis=-1>(a) n = IsNaN(w) p = Where(n, zero, w) {MERGE}",
        attention("q", "k", "v", "m", nan=1, scale=0.49999999),
    ),
    "boolean mask": (BOOL_MASK, f"{SPLIT} s = MatMul(qh, kt) t = Mul(s, scale) a = Where(m, t, ninf) p = Softmax(a) {MERGE}", attention("q", "k", "v", "m")),
    "inverted boolean mask": (BOOL_MASK, f"{SPLIT} s = MatMul(qh, kt) t = Mul(s, scale) a = Where(m, ninf, t) p = Softmax(a) {MERGE}", "n = Not(m) " + attention("q", "k", "v", "n")),
    "boolean mask with a number": (BOOL_MASK, f"{SPLIT} s = MatMul(qh, kt) t = Mul(s, scale) a = Where(m, t, low) p = Softmax(a) {MERGE}", "n = Where(m, zero, low) " + attention("q", "k", "v", "n")),
    "a mask of lower rank": ("float[S,T] m", f"{SPLIT} s = MatMul(qh, kt) t = Mul(s, scale) a = Add(t, m) p = Softmax(a) {MERGE}", "n = Unsqueeze(m, axes) " + attention("q", "k", "v", "n")),
    "two masks": (FLOAT_MASK, f"{SPLIT} s = MatMul(qh, kt) t = Mul(s, scale) a = Add(t, m) c = Mul(m, two) d = Add(a, c) p = Softmax(d) {MERGE}", "c = Mul(m, two) e = Add(m, c) " + attention("q", "k", "v", "e")),
    "added after a boolean mask": (BOOL_MASK, f"{SPLIT} s = MatMul(qh, kt) t = Mul(s, scale) u = Where(m, t, ninf) a = Add(u, bias) p = Softmax(a) {MERGE}", "n = Where(m, zero, ninf) e = Add(n, bias) " + attention("q", "k", "v", "e")),
    "added before a boolean mask": (BOOL_MASK, f"{SPLIT} s = MatMul(qh, kt) t = Mul(s, scale) u = Add(t, bias) a = Where(m, u, ninf) p = Softmax(a) {MERGE}", "e = Where(m, bias, ninf) " + attention("q", "k", "v", "e")),
    "heads stay apart": (
        FLOAT_MASK,
        f"{SPLIT} s = MatMul(qh, kt) t = Mul(s, scale) p = Softmax(t) o = MatMul(p, vh) r = Relu(o) ot = Transpose<perm=[0,2,1,3]>(r) y = Reshape(ot, merge)",
        attention("q", "k", "v").replace("y =", "f =") + " g4 = Reshape(f, split) o = Transpose<perm=[0,2,1,3]>(g4) r = Relu(o) ot = Transpose<perm=[0,2,1,3]>(r) y = Reshape(ot, merge)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_fused(name: str) -> None:
    mask, before, after = CASES[name]
    head = HEAD.format(mask=mask)
    constants = CONSTANTS
    if "flat" in before:  # both reshapes need numbers
        head, constants = (
            head.replace("B", "2").replace("T", "5"),
            CONSTANTS.replace(
                "<int64[4]", "<int64[3] flat={4,5,4}, int64[4] back={2,2,4,5}, int64[4]", 1
            ),
        )
    shown = CONSTANTS.replace("<", "<int64[2] axes={0,1}, ", 1)
    feeds = None
    if mask.startswith("bool"):
        rng = np.random.default_rng(3)
        keep = rng.integers(0, 2, (2, 1, 3, 4)).astype(bool)
        keep[..., :1] = "inverted" not in name  # no row is masked throughout
        if "inverted" in name:
            keep[..., 1] = False
        feeds = {
            n: rng.standard_normal((2, 3 if n == "q" else 4, 8)).astype(np.float32) for n in "qkv"
        }
        feeds["m"] = keep
    golden.check(FuseAttentions(), f"{head} {constants} {{ {before} }}", f"{head} {shown} {{ {after} }}", feeds=feeds)  # fmt: skip


def test_grouped_heads_are_read_in_place() -> None:
    head = "g (float[B,S,8] q, float[B,T,4] k, float[B,T,4] v) => (float[B,S,8] y)"
    constants = "<int64[4] split={0,0,2,4}, int64[4] one={0,0,1,4}, int64[1] axis={2}, int64[5] wide={1,1,2,1,1}, int64[4] rep={0,2,-1,4}, int64[3] merge={0,0,8}, float scale={0.5}>"
    before = (
        "q4 = Reshape(q, split) qh = Transpose<perm=[0,2,1,3]>(q4) k4 = Reshape(k, one) kh = Transpose<perm=[0,2,1,3]>(k4) v4 = Reshape(v, one) vh1 = Transpose<perm=[0,2,1,3]>(v4) "
        "k5 = Unsqueeze(kh, axis) kw = Expand(k5, wide) kr = Reshape(kw, rep) kt = Transpose<perm=[0,1,3,2]>(kr) v5 = Unsqueeze(vh1, axis) vw = Expand(v5, wide) vh = Reshape(vw, rep) "
        f"s = MatMul(qh, kt) t = Mul(s, scale) p = Softmax(t) {MERGE}"
    )
    golden.check(
        FuseAttentions(),
        f"{head} {constants} {{ {before} }}",
        f"{head} {{ {attention('q', 'k', 'v', kv=1)} }}",
    )


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (f"{SPLIT} s = MatMul(qh, kt) t = Mul(s, scale) a = Where(b, t, weak) p = Softmax(a) {MERGE}", "masked scores are not replaced by a very low number"),
        (f"{SPLIT} s = MatMul(qh, kt) t = Mul(s, scale) p = Softmax<axis=2>(t) {MERGE}", "the softmax is not along the last axis"),
        (f"{SPLIT} s = MatMul(qh, kt) p = Sigmoid(s) {MERGE}", "the left operand is no softmax"),
        (f"{SPLIT} s = MatMul(qh, kt) t = Relu(s) p = Softmax(t) {MERGE}", "the scores are no scaled and masked product"),
        (f"{SPLIT} s = MatMul(qh, kt) t = Mul(s, scale) a = Add(t, m) p = Softmax(a) z = Relu(p) o = MatMul(p, vh) on = Add(o, one) ot = Transpose<perm=[0,2,1,3]>(on) y = Reshape(ot, merge)", "an inner value is used elsewhere or is a graph output"),
        (f"{SPLIT} s = MatMul(qh, kt) t = Mul(s, scale) a = Add(t, big) p = Softmax(a) o = MatMul(p, vh) ot = Transpose<perm=[0,2,1,3]>(o) y = Reshape(ot, merge)", "a mask broadcasts the scores to another shape"),
        ("k4 = Reshape(k, split) kt = Transpose<perm=[0,2,3,1]>(k4) v4 = Reshape(v, split) vh = Transpose<perm=[0,2,1,3]>(v4) q4 = Reshape(q, one4) qh = Transpose<perm=[0,2,1,3]>(q4) qe = Expand(qh, rep) "
         "s = MatMul(qe, kt) p = Softmax(s) o = MatMul(p, vh) y = Relu(o)", "the number or width of the heads is not static"),
    ],
)  # fmt: skip
def test_refused(body: str, reason: str) -> None:
    head = "g (float[1,3,8] q, float[1,5,8] k, float[1,5,8] v, float[1,1,3,5] m, bool[1,1,3,5] b, float[4,1,3,5] big) => (float[O,P,Q] y{more})"
    head = head.format(more=", float[W,X,Y,Z] z" if "z =" in body else "")
    constants = CONSTANTS.replace("<", "<int64[4] one4={1,3,2,4}, ", 1)
    if "qe = " in body:  # queries whose number of heads only run time knows
        head = head.replace("float[4,1,3,5] big", "int64[4] rep").replace(
            "float[O,P,Q] y", "float[O,P,Q,R] y"
        )
    assert reason in reasons(FuseAttentions(), "fuse-attention", f"{head} {constants} {{ {body} }}")


def test_batched_transpose_refused() -> None:
    text = "g (float[2,3,4,5] x) => (float[A,B,C,D] y) <int64[3] s={6,4,5}, int64[4] t={3,2,5,4}> { a = Reshape(x, s) b = Transpose<perm=[0,2,1]>(a) y = Reshape(b, t) }"
    found = reasons(FuseAttentions(), "unflatten-transpose", text)
    assert "the reshapes do not merge and split the first two axes" in found


ONNX_CASES = {
    "three axes": ("float[B,S,8] q, float[B,T,4] k, float[B,T,4] v", "float[B,S,8] y", "y = Attention<q_num_heads=2, kv_num_heads=1>(q, k, v)", attention("q", "k", "v", kv=1)),
    "mask of two axes": ("float[B,S,8] q, float[B,T,8] k, float[B,T,8] v, float[S,T] m", "float[B,S,8] y", "y = Attention<q_num_heads=2, kv_num_heads=2, scale=0.25>(q, k, v, m)", "n = Unsqueeze(m, axes) " + attention("q", "k", "v", "n", scale=0.25, nan=1)),
    "causal": ("float[B,S,8] q, float[B,S,8] k, float[B,S,8] v", "float[B,S,8] y", "y = Attention<q_num_heads=2, kv_num_heads=2, is_causal=1>(q, k, v)", attention("q", "k", "v", causal=1)),
    "four axes": (
        "float[B,2,S,4] q, float[B,2,T,4] k, float[B,2,T,4] v",
        "float[B,2,S,4] y",
        "y = Attention(q, k, v)",
        "qt = Transpose<perm=[0,2,1,3]>(q) qf = Reshape(qt, merge) kt = Transpose<perm=[0,2,1,3]>(k) kf = Reshape(kt, merge) vt = Transpose<perm=[0,2,1,3]>(v) vf = Reshape(vt, merge) "
        + attention("qf", "kf", "vf").replace("y =", "f =") + " s4 = Reshape(f, split) y = Transpose<perm=[0,2,1,3]>(s4)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ONNX_CASES)
def test_onnx_attention(name: str) -> None:
    inputs, output, before, after = ONNX_CASES[name]
    head = f"g ({inputs}) => ({output})"
    shown = "<int64[2] axes={0,1}, int64[3] merge={0,0,8}, int64[4] split={0,0,2,4}>"
    golden.check(FuseAttentions(), f"{head} {{ {before} }}", f"{head} {shown} {{ {after} }}")


@pytest.mark.parametrize(
    ("inputs", "outputs", "node", "reason"),
    [
        ("float[2,3,8] q, float[2,5,8] k, float[2,5,8] v", "float[2,3,8] y", "y = Attention<q_num_heads=2, kv_num_heads=2, softcap=2.0>(q, k, v)", "the scores are capped"),
        ("float[2,3,8] q, float[2,5,8] k, float[2,5,8] v, float[2,2,4,4] pk, float[2,2,4,4] pv", "float[2,3,8] y, float[2,2,9,4] nk, float[2,2,9,4] nv", "y, nk, nv = Attention<q_num_heads=2, kv_num_heads=2>(q, k, v, , pk, pv)", "it has a cache or key lengths"),
    ],
)  # fmt: skip
def test_onnx_attention_refused(inputs: str, outputs: str, node: str, reason: str) -> None:
    text = f"g ({inputs}) => ({outputs}) {{ {node} }}"
    assert reason in reasons(FuseAttentions(), "lower-onnx-attention", text)


def test_a_row_with_every_key_masked_gives_zeros() -> None:
    text = "g (float[2,3,8] q, float[2,5,8] k, float[2,5,8] v, bool[3,5] m) => (float[2,3,8] y) { y = Attention<q_num_heads=2, kv_num_heads=2>(q, k, v, m) }"
    graph, reference = golden.parse(text), golden.parse(text)
    golden.apply(FuseAttentions(), graph)
    rng = np.random.default_rng(5)
    feeds = {n: rng.standard_normal((2, 3 if n == "q" else 5, 8)).astype(np.float32) for n in "qkv"}
    feeds["m"] = np.array([[1, 0, 1, 0, 1], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]], bool)
    golden.assert_equal_results(reference, graph, feeds, FuseAttentions.numerics)
    assert not golden.run_graph(graph, feeds)[0][:, 1].any()


def test_numerics_of_the_pass() -> None:
    assert FuseAttentions.numerics is Numerics.REASSOCIATES
