"""Matrix products: composites, flattened rows, merged projections, look-ups."""

# ruff: noqa: E501 (graphs are easier to read unbroken)

from __future__ import annotations

import numpy as np
import pytest

from burnish.passes.base import Numerics
from burnish.passes.fusion.composites import MakeComposites
from burnish.passes.fusion.epilogue import FuseEpilogues
from burnish.passes.fusion.lookup import FuseLookups
from burnish.passes.fusion.projections import MergeQKV
from tests.support import golden
from tests.support.refusals import reasons

NONE = "postops: strings = []"
BATCH = f"transA=0, transB=0, alpha=1.0, {NONE}"


@pytest.mark.parametrize(
    ("head", "constants", "before", "after"),
    [
        ("g (float[N,S,4] x) => (float[N,S,8] y)", "float[4,8] w", "y = MatMul(x, w)", f"y = burnish.MatMul<{NONE}>(x, w)"),
        ("g (float[N,S,4] x) => (float[N,S,8] y)", "float[1,4,8] w", "y = MatMul(x, w)", f"y = burnish.MatMul<{NONE}>(x, v)"),
        ("g (float[N,S,4] x, float[N,4,8] z) => (float[N,S,8] y)", "", "y = MatMul(x, z)", f"y = burnish.BatchMatMul<{BATCH}>(x, z)"),
        ("g (float[2,4,4] x) => (float[2,4,8] y)", "float[2,4,8] w", "y = MatMul(x, w)", f"y = burnish.BatchMatMul<{BATCH}>(x, w)"),
        ("g (float[4,8] x) => (float[4,8] y)", "float[4,4] w", "y = MatMul(w, x)", f"y = burnish.BatchMatMul<{BATCH}>(w, x)"),
        ("g (float[N,4] x) => (float[N,8] y)", "float[4,8] w, float[8] c", "y = Gemm(x, w, c)", f"t = burnish.MatMul<{NONE}>(x, w) y = Add(t, c)"),
        ("g (float[N,4] x) => (float[N,8] y)", "float[8,4] w, float[8] c", "y = Gemm<transB=1, alpha=0.5, beta=2.0>(x, w, c)", f"t = burnish.MatMul<{NONE}>(x, u) y = Add(t, c)"),
        ("g (float[4,N] x) => (float[N,8] y)", "float[4,8] w", "y = Gemm<transA=1>(x, w)", f"t = Transpose<perm=[1,0]>(x) y = burnish.MatMul<{NONE}>(t, w)"),
        ("g (float[N,4] x, float[8,4] z, float[N,8] k) => (float[N,8] y)", "float two={2}", "y = Gemm<transB=1, beta=2.0>(x, z, k)", f"t = burnish.BatchMatMul<transA=0, transB=1, alpha=1.0, {NONE}>(x, z) m = Mul(k, two) y = Add(t, m)"),
    ],
)  # fmt: skip
def test_products(head: str, constants: str, before: str, after: str) -> None:
    expected = f"{constants}, float[4,8] v, float[4,8] u" if constants else "float[4,8] v"
    golden.check(
        MakeComposites(),
        f"{head} {f'<{constants}>' if constants else ''} {{ {before} }}",
        f"{head} <{expected}> {{ {after} }}",
    )


@pytest.mark.parametrize(
    ("rule", "text", "reason"),
    [
        ("make-matmul", "g (int32[N,4] x) => (int32[N,8] y) <int32[4,8] w> { y = MatMul(x, w) }", "the dtype is int32"),
        ("make-matmul", "g (float[N,4] x) => (float[N] y) <float[4] w> { y = MatMul(x, w) }", "an operand is a vector"),
        ("make-gemm", "g (int32[N,4] x) => (int32[N,8] y) <int32[4,8] w> { y = Gemm(x, w) }", "the dtype is int32"),
    ],
)  # fmt: skip
def test_products_that_stay(rule: str, text: str, reason: str) -> None:
    assert reason in reasons(MakeComposites(), rule, text)


def test_rows_are_multiplied_where_they_are() -> None:
    head = "g (float[N,S,4] x) => (float[N,S,8] y)"
    shapes = "int64[2] flat={-1,4}, int64[3] wide={-1,5,8}"
    head = head.replace("S", "5")
    golden.check(
        MakeComposites(),
        f"{head} <{shapes}, float[4,8] w, float[8] c> {{ f = Reshape(x, flat) t = burnish.MatMul<postops=[\"Add:channel\"]>(f, w, c) y = Reshape(t, wide) }}",
        f"{head} <float[4,8] w, float[8] c> {{ y = burnish.MatMul<postops=[\"Add:channel\"]>(x, w, c) }}",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("f = Reshape(x, flat) t = burnish.MatMul<P>(f, w) y = Reshape(t, other)", "the two reshapes do not undo each other"),
        ("f = Reshape(x, flat) t = burnish.MatMul<P>(f, w) u = Reshape(t, wide) v = Reshape(t, other) z = Relu(v) y = Relu(u)", "the product is used elsewhere"),
        ("f = Relu(x) t = burnish.MatMul<P>(f, w) y = Reshape(t, other)", "the product's input is not reshaped"),
        ("f = Reshape(x, flat) t = Relu(f) y = Reshape(t, other4)", "the value reshaped is no matrix product"),
        ("f = Reshape(x, flat) t = burnish.MatMul<postops=[\"Add:full\"]>(f, w, r) y = Reshape(t, wide)", "an operand of a post-op would have to be reshaped"),
        ("f = Reshape(x, flat) t = burnish.MatMul<P>(f, w) y = Reshape(t, split)", "the two reshapes do not undo each other"),
    ],
)  # fmt: skip
def test_rows_that_stay(body: str, reason: str) -> None:
    body = body.replace("<P>", f"<{NONE}>")
    outputs = "float[A,B,C] y, float[D,E,F] z" if "z =" in body else "float[A,B,C] y"
    if "split" in body:
        outputs = "float[A,B,C,D] y"
    text = (
        f"g (float[2,5,4] x, float[10,8] r) => ({outputs}) <float[4,8] w, int64[2] flat={{10,4}}, int64[3] wide={{2,5,8}}, "
        f"int64[3] other={{5,2,8}}, int64[3] other4={{5,2,4}}, int64[4] split={{2,5,2,4}}> {{ {body} }}"
    )
    assert reason in reasons(MakeComposites(), "unflatten-matmul", text)


def test_matmul_bias_activation_and_residual() -> None:
    head = "g (float[N,S,4] x, float[N,S,8] r) => (float[N,S,8] y)"
    golden.check(
        FuseEpilogues(),
        f"{head} <float[4,8] w, float[8] c, float[1] k={{0.5}}> {{ t = burnish.MatMul<{NONE}>(x, w) u = Add(c, t) v = Gelu(u) q = Mul(v, k) y = Add(r, q) }}",
        f'{head} <float[4,8] w, float[8] c, float[1] k={{0.5}}> {{ y = burnish.MatMul<postops=["Add:channel", "Gelu", "Mul:scalar", "Add:full"]>(x, w, c, k, r) }}',
    )
    golden.check(
        FuseEpilogues(),
        f"{head} <float[4,8] w, float[8] c, float[8] k> {{ t = burnish.MatMul<{NONE}>(x, w) u = Add(t, c) q = Mul(u, k) y = Add(q, r) }}",
        f'{head} <float[4,8] w, float[8] c> {{ y = burnish.MatMul<postops=["Add:channel", "Add:full"]>(x, w, c, r) }}',
    )


ATTENTION = "burnish.Attention<num_heads=2, kv_num_heads=2, scale=0.5, causal=0, nan_to_zero=0>"
QKV = "g (float[N,S,4] x) => (float[N,S,8] y)"
WEIGHTS = "float[4,8] wq, float[4,8] wk, float[4,8] wv, float[8] bq, float[8] bv"


def test_projections_are_merged() -> None:
    golden.check(
        MergeQKV(),
        f'{QKV} <{WEIGHTS}> {{ q = burnish.MatMul<postops=["Add:channel"]>(x, wq, bq) k = burnish.MatMul<{NONE}>(x, wk) v = burnish.MatMul<postops=["Add:channel"]>(x, wv, bv) y = {ATTENTION}(q, k, v) }}',
        f'{QKV} <float[4,24] w, float[24] b, int64[3] s={{8,8,8}}> {{ t = burnish.MatMul<postops=["Add:channel"]>(x, w, b) q, k, v = Split<axis=2>(t, s) y = {ATTENTION}(q, k, v) }}',
        numerics=Numerics.REASSOCIATES,
    )


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (f'q = burnish.MatMul<postops=["Relu"]>(x, wq) y = {ATTENTION}(q, x2, x2)', "it has other post-ops than a bias, or is a graph output"),
        (f"q = burnish.MatMul<{NONE}>(x, wq) k = burnish.MatMul<{NONE}>(x, wk) y = Add(q, k)", "the product does not feed an attention"),
        (f"q = burnish.MatMul<{NONE}>(x, wq) k = burnish.MatMul<{NONE}>(x3, wk) y = {ATTENTION}(q, k, x2)", "no other projection has the same input"),
        (f"q = burnish.MatMul<{NONE}>(x, wq) k = burnish.MatMul<{NONE}>(x, wq) y = {ATTENTION}(q, k, x2)", "the weights are shared: merging would copy them"),
    ],
)  # fmt: skip
def test_projections_that_stay(body: str, reason: str) -> None:
    text = f"g (float[N,S,4] x, float[N,S,8] x2, float[N,S,4] x3) => (float[N,S,8] y) <{WEIGHTS}> {{ {body} }}"
    assert reason in reasons(MergeQKV(), "merge-projections", text)


CLASSES = "int32[1,1,5] n={0,1,2,3,4}, float[5,3] w, float[3] c"


@pytest.mark.parametrize("dtype", ["int32", "uint8"])
def test_one_hot_product(dtype: str) -> None:
    head = f"g ({dtype}[N,S,1] ids) => (float[N,S,3] y)"
    cast = (
        "f = Reshape(ids, shape)"
        if dtype == "int32"
        else "e = Reshape(ids, shape) f = Cast<to=7>(e)"
    )
    kind = "int32" if dtype == "int32" else "int64"
    shown = f"{kind} low={{-1}}, {kind} high={{5}}"
    ids = np.array([[[0], [4], [5]], [[7], [2], [200]]]).astype(dtype)
    head = head.replace("S", "3")
    golden.check(
        FuseLookups(),
        f"{head} <{CLASSES.replace('int32', dtype)}> {{ e = Equal(ids, n) f = Cast<to=1>(e) y = MatMul(f, w) }}",
        f"{head} <{shown}, int64[2] shape={{0,3}}, float[6,3] t> {{ {cast} a = Max(f, low) b = Min(a, high) y = Gather<axis=0>(t, b) }}",
        feeds={"ids": ids},
    )


def test_elementwise_work_moves_to_the_table() -> None:
    head = "g (int64[N,S] ids) => (float[N,S,3] y)"
    golden.check(
        FuseLookups(),
        f"{head} <float[5,3] w, float[3] c> {{ t = Gather<axis=0>(w, ids) u = Add(t, c) y = Tanh(u) }}",
        f"{head} <float[5,3] w, float[3] c> {{ t = Add(w, c) u = Tanh(t) y = Gather<axis=0>(u, ids) }}",
    )


@pytest.mark.parametrize(
    ("rule", "text", "reason"),
    [
        ("one-hot-product", "g (int32[N,1] ids) => (float[N,3] y) <int32[5] n={1,2,3,4,5}, float[5,3] w> { e = Equal(ids, n) f = Cast<to=1>(e) y = MatMul(f, w) }", "the classes are not 0, 1, 2, ..."),
        ("one-hot-product", "g (int32[N,5] ids) => (float[N,3] y) <int32[5] n={0,1,2,3,4}, float[5,3] w> { e = Equal(ids, n) f = Cast<to=1>(e) y = MatMul(f, w) }", "the ids are not broadcast along the last axis"),
        ("one-hot-product", "g (float[N,1] ids) => (float[N,3] y) <float[5] n={0,1,2,3,4}, float[5,3] w> { e = Equal(ids, n) f = Cast<to=1>(e) y = MatMul(f, w) }", "the classes do not lie along the last axis"),
        ("one-hot-product", "g (int32[N,1] ids) => (float[N,1] y) <int32[2] n={0,1}, float[2,1] w={inf,1}> { e = Equal(ids, n) f = Cast<to=1>(e) y = MatMul(f, w) }", "an infinite weight times zero is not a number"),
        ("elementwise-after-gather", "g (int64[N] ids, float[3] c) => (float[N,3] y) <float[5,3] w> { t = Gather<axis=0>(w, ids) y = Add(t, c) }", "it has several run-time operands"),
        ("elementwise-after-gather", "g (int64[N] ids) => (float[N,3] y) <float[5000,3] w, float[3] c> { t = Gather<axis=0>(w, ids) y = Add(t, c) }", "the table is larger than what is looked up"),
        ("elementwise-after-gather", "g (int64[3] ids) => (float[3,3] y) <float[5,3] w, float[3,1] c> { t = Gather<axis=0>(w, ids) y = Add(t, c) }", "an operand does not lie along the last axis"),
        ("elementwise-after-gather", "g (int64[N] ids, float[5,3] w) => (float[N,3] y) <float[3] c> { t = Gather<axis=0>(w, ids) y = Add(t, c) }", "rows of a constant matrix are not what is looked up"),
        ("elementwise-after-gather", "g (float[N,3] x) => (float[N,3] y) <float[3] c> { y = Add(x, c) }", "it does not follow a look-up"),
    ],
)  # fmt: skip
def test_lookups_that_stay(rule: str, text: str, reason: str) -> None:
    assert reason in reasons(FuseLookups(), rule, text)
