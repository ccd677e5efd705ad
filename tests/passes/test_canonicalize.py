"""Canonical forms: one golden case for every row, and one where each must not apply."""

# ruff: noqa: E501 (graphs are easier to read unbroken)

from __future__ import annotations

import numpy as np
import pytest

from burnish.passes.canonicalize import FORMS, NO_OPS, Canonicalize
from tests.support import golden

X = "g (float[batch, 4] x) => (float[batch, 4] y)"

#: (name of the row, before, after)
CASES = [
    ("identity", f"{X} {{ t = Identity(x)  y = Relu(t) }}", f"{X} {{ y = Relu(x) }}"),
    ("dropout", f"{X} {{ t = Dropout(x)  y = Relu(t) }}", f"{X} {{ y = Relu(x) }}"),
    (
        "dropout",
        f"{X} <float r = {{0.5}}, bool no = {{0}}> {{ t = Dropout(x, r, no)  y = Relu(t) }}",
        f"{X} {{ y = Relu(x) }}",
    ),
    ("cast", f"{X} {{ t = Cast<to=1>(x)  y = Relu(t) }}", f"{X} {{ y = Relu(x) }}"),
    (
        "same-size",
        f"{X} <int64[2] s = {{0, -1}}> {{ t = Reshape(x, s)  y = Relu(t) }}",
        f"{X} {{ y = Relu(x) }}",
    ),
    (
        "same-size",
        f"{X} <int64[2] s = {{1, 4}}> {{ t = Expand(x, s)  y = Relu(t) }}",
        f"{X} {{ y = Relu(x) }}",
    ),
    (
        "same-size",
        f"{X} <int64[2] s = {{1, 1}}> {{ t = Tile(x, s)  y = Relu(t) }}",
        f"{X} {{ y = Relu(x) }}",
    ),
    (
        "transpose-identity",
        f"{X} {{ t = Transpose<perm=[0, 1]>(x)  y = Relu(t) }}",
        f"{X} {{ y = Relu(x) }}",
    ),
    (
        "slice-all",
        f"{X} <int64[2] s = {{0, 0}}, int64[2] e = {{9223372036854775807, 4}}> "
        "{ t = Slice(x, s, e)  y = Relu(t) }",
        f"{X} {{ y = Relu(x) }}",
    ),
    (
        "slice-all",
        "g (float[b, 4] x) => (float[b, 4] y) <int32[2] s = {0, 0}, "
        "int32[2] e = {1000000000, 1000000000}> { t = Slice(x, s, e)  y = Relu(t) }",
        "g (float[b, 4] x) => (float[b, 4] y) { y = Relu(x) }",
    ),
    (
        "slice-form",
        "g (float[b, 4, 5] x) => (float[b, 2, 5] y) <int64[3] s = {0, 1, 0}, int64[3] e = "
        "{9223372036854775807, 3, 5}, int64[3] a = {0, -2, 2}, int64[3] t = {1, 1, 1}> "
        "{ y = Slice(x, s, e, a, t) }",
        "g (float[b, 4, 5] x) => (float[b, 2, 5] y) <int64[1] s = {1}, int64[1] e = {3}, "
        "int64[1] a = {1}> { y = Slice(x, s, e, a) }",
    ),
    (
        "slice-form",
        "g (float[b, 4] x) => (float[b, 2] y) <int64[2] s = {0, 3}, int64[2] e = "
        "{9223372036854775807, -5}, int64[2] a = {0, 1}, int64[2] t = {1, -2}> "
        "{ y = Slice(x, s, e, a, t) }",
        "g (float[b, 4] x) => (float[b, 2] y) <int64[1] s = {3}, int64[1] e = {-5}, "
        "int64[1] a = {1}, int64[1] t = {-2}> { y = Slice(x, s, e, a, t) }",
    ),
    (
        "infinite-bound",
        f"{X} <float c = {{-inf}}> {{ t = Max(x, c)  y = Relu(t) }}",
        f"{X} {{ y = Relu(x) }}",
    ),
    (
        "infinite-bound",
        f"{X} <float c = {{inf}}> {{ t = Min(c, x)  y = Relu(t) }}",
        f"{X} {{ y = Relu(x) }}",
    ),
    (
        "pad-nothing",
        f"{X} <int64[4] p = {{0, 0, 0, 0}}> {{ t = Pad(x, p)  y = Relu(t) }}",
        f"{X} {{ y = Relu(x) }}",
    ),
    ("one-operand", f"{X} {{ t = Concat<axis=0>(x)  y = Relu(t) }}", f"{X} {{ y = Relu(x) }}"),
    ("one-operand", f"{X} {{ t = Max(x)  y = Relu(t) }}", f"{X} {{ y = Relu(x) }}"),
    (
        "split-into-one",
        f"{X} {{ t = Split<axis=0, num_outputs=1>(x)  y = Relu(t) }}",
        f"{X} {{ y = Relu(x) }}",
    ),
    (
        "reduce-nothing",
        f"{X} {{ t = ReduceSum<noop_with_empty_axes=1>(x)  y = Relu(t) }}",
        f"{X} {{ y = Relu(x) }}",
    ),
    ("clip-nothing", f"{X} {{ t = Clip(x)  y = Relu(t) }}", f"{X} {{ y = Relu(x) }}"),
    (
        "where-constant",
        f"{X} <bool[4] c = {{1, 1, 1, 1}}> {{ n = Neg(x)  t = Where(c, n, x)  y = Relu(t) }}",
        f"{X} {{ n = Neg(x)  y = Relu(n) }}",
    ),
    (
        "where-constant",
        f"{X} <bool c = {{0}}> {{ n = Neg(x)  t = Where(c, n, x)  y = Relu(t) }}",
        f"{X} {{ y = Relu(x) }}",
    ),
    (
        "concat-empty",
        f"{X} <float[0, 4] e = {{}}> {{ n = Neg(x)  y = Concat<axis=0>(x, e, n) }}".replace(
            "float[batch, 4] y", "float[m, 4] y"
        ),
        f"{X} {{ n = Neg(x)  y = Concat<axis=0>(x, n) }}".replace(
            "float[batch, 4] y", "float[m, 4] y"
        ),
    ),
    (
        "views-as-reshape",
        "g (float[b, 3, 4, s] x) => (float[b, k] y) { t = Flatten(x)  y = Relu(t) }",
        "g (float[b, 3, 4, s] x) => (float[b, k] y) <int64[2] s2 = {0, -1}> "
        "{ t = Reshape(x, s2)  y = Relu(t) }",
    ),
    (
        "views-as-reshape",
        "g (float[b, s] x) => (float[b, 1, 1, s] y) <int64[2] a = {1, 2}> "
        "{ t = Unsqueeze(x, a)  y = Relu(t) }",
        "g (float[b, s] x) => (float[b, 1, 1, s] y) <int64[4] a = {0, 1, 1, -1}> "
        "{ t = Reshape(x, a)  y = Relu(t) }",
    ),
    (
        "views-as-reshape",
        "g (float[1, 3, 1, 5] x) => (float[3, 5] y) <int64[2] a = {0, 2}> "
        "{ t = Squeeze(x, a)  y = Relu(t) }",
        "g (float[1, 3, 1, 5] x) => (float[3, 5] y) <int64[2] a = {3, 5}> "
        "{ t = Reshape(x, a)  y = Relu(t) }",
    ),
    (
        "cast-like",
        "g (int64[b] x, float[1] z) => (float[b] y) { t = CastLike(x, z)  y = Add(t, z) }",
        "g (int64[b] x, float[1] z) => (float[b] y) { t = Cast<to=1>(x)  y = Add(t, z) }",
    ),
    (
        "constant-right",
        f"{X} <float[4] c> {{ y = Mul(c, x) }}",
        f"{X} <float[4] c> {{ y = Mul(x, c) }}",
    ),
    ("sum-of-two", f"{X} {{ n = Exp(x)  y = Sum(x, n) }}", f"{X} {{ n = Exp(x)  y = Add(x, n) }}"),
    (
        "subtract-constant",
        f"{X} <float[4] c = {{1, 2, -3, 4}}> {{ y = Sub(x, c) }}",
        f"{X} <float[4] c = {{-1, -2, 3, -4}}> {{ y = Add(x, c) }}",
    ),
    (
        "divide-by-power-of-two",
        f"{X} <float[4] c = {{1, 2, -4, 0.5}}> {{ y = Div(x, c) }}",
        f"{X} <float[4] c = {{1, 0.5, -0.25, 2}}> {{ y = Mul(x, c) }}",
    ),
    (
        "first-power",
        f"{X} <float c = {{1}}> {{ t = Pow(x, c) y = Relu(t) }}",
        f"{X} {{y = Relu(x)}}",
    ),
    ("square", f"{X} <float c = {{2}}> {{ y = Pow(x, c) }}", f"{X} {{ y = Mul(x, x) }}"),
    (
        "square-root",
        f"{X} <float c = {{0.5}}> {{ a = Exp(x)  y = Pow(a, c) }}",
        f"{X} {{ a = Exp(x)  y = Sqrt(a) }}",
    ),
    (
        "reciprocal-power",
        f"{X} <float c = {{-1}}> {{ y = Pow(x, c) }}",
        f"{X} {{ y = Reciprocal(x) }}",
    ),
    ("clip-as-relu", f"{X} <float c = {{0}}> {{ y = Clip(x, c) }}", f"{X} {{ y = Relu(x) }}"),
    ("clip-as-relu", f"{X} <float c = {{0}}> {{ y = Max(c, x) }}", f"{X} {{ y = Relu(x) }}"),
    (
        "matmul-of-vectors",
        "g (float[4] x, float[b, 4, 5] m) => (float[b, 5] y) { y = MatMul(x, m) }",
        "g (float[4] x, float[b, 4, 5] m) => (float[b, 5] y) "
        "<int64[2] s = {1, 4}, int64[2] t = {0, 5}> "
        "{ r = Reshape(x, s)  p = MatMul(r, m)  y = Reshape(p, t) }",
    ),
    (
        "gemm-without-bias",
        "g (float[b, 4] x) => (float[b, 5] y) <float[4, 5] w, float[5] c> "
        "{ y = Gemm<beta = 0.0>(x, w, c) }",
        "g (float[b, 4] x) => (float[b, 5] y) <float[4, 5] w> { y = Gemm(x, w) }",
    ),
    (
        "gemm-transposed",
        "g (float[4, b] x) => (float[b, 5] y) <float[4, 5] w, float[5] c> "
        "{ y = Gemm<transA = 1>(x, w, c) }",
        "g (float[4, b] x) => (float[b, 5] y) <float[4, 5] w, float[5] c> "
        "{ t = Transpose<perm = [1, 0]>(x)  y = Gemm(t, w, c) }",
    ),
    (
        "flattened-product",
        "g (float[b, s, 4] x) => (float[b, s, 5] y) <int64[2] f = {-1, 4}, float[4, 5] w, "
        "float[5] c, int64[1] n = {5}> "
        "{ i = Shape<end = 2>(x)  t = Concat<axis = 0>(i, n) "
        "r = Reshape(x, f)  p = Gemm(r, w, c)  y = Reshape(p, t) }",
        "g (float[b, s, 4] x) => (float[b, s, 5] y) <float[4, 5] w, float[5] c> "
        "{ p = MatMul(x, w)  y = Add(p, c) }",
    ),
    (
        "flattened-product",
        "g (float[b, s, 2, 4] x) => (float[b, s, 5] y) <int64[2] f = {-1, 8}, float[5, 8] w, "
        "float[1, 5] c, int64[1] n = {5}> "
        "{ i = Shape<end = 2>(x)  t = Concat<axis = 0>(i, n) "
        "r = Reshape(x, f)  p = Gemm<transB = 1>(r, w, c)  y = Reshape(p, t) }",
        "g (float[b, s, 2, 4] x) => (float[b, s, 5] y) <int64[3] f = {0, 0, 8}, float[5, 8] w, "
        "float[1, 5] c> { r = Reshape(x, f)  v = Transpose<perm = [1, 0]>(w)  p = MatMul(r, v) "
        "y = Add(p, c) }",
    ),
    (
        "flattened-product",
        "g (float[b, s, 4] x) => (float[b, s, 5] y) <int64[2] f = {-1, 4}, float[4, 5] w, "
        "int64[1] n = {5}> { i = Shape<end = 2>(x)  t = Concat<axis = 0>(i, n) "
        "r = Reshape(x, f)  p = MatMul(r, w)  y = Reshape(p, t) }",
        "g (float[b, s, 4] x) => (float[b, s, 5] y) <float[4, 5] w> { y = MatMul(x, w) }",
    ),
    (
        "gather-before-conversion",
        "g (int64[b, s] i) => (float[b, s, 4] y) <int8[6, 4] w, float[6, 1] c, float d = {0.5}> "
        "{ f = Cast<to = 1>(w)  m = Mul(f, c)  p = Add(m, d)  y = Gather(p, i) }",
        "g (int64[b, s] i) => (float[b, s, 4] y) <int8[6, 4] w, float[6, 1] c, float d = {0.5}> "
        "{ q = Gather<axis = 0>(w, i)  f = Cast<to = 1>(q)  e = Gather<axis = 0>(c, i) "
        "m = Mul(f, e)  y = Add(m, d) }",
    ),
    (
        "implied-expand",
        "g (float[1, 4] x, float[b, 4] z) => (float[b, 4] y) "
        "{ s = Shape(z)  e = Expand(x, s)  y = Add(e, z) }",
        "g (float[1, 4] x, float[b, 4] z) => (float[b, 4] y) { y = Add(x, z) }",
    ),
    (
        "implied-expand",
        "g (float[b, 4] z) => (float[b, 4] y) "
        "{ s = Shape(z)  e = ConstantOfShape<value = float[1] {3}>(s)  y = Sub(e, z) }",
        "g (float[b, 4] z) => (float[b, 4] y) <float c = {3}> { y = Sub(c, z) }",
    ),
    *(
        (
            "explicit-padding",
            f"g (float[b, 3, {size}, 7] x) => (float[b, 2, H, W] y) <float[2, 3, 4, 3] w> "
            f'{{ y = Conv<auto_pad="{mode}", strides=[{stride}, 2], dilations=[1, 1]>(x, w) }}',
            f"g (float[b, 3, {size}, 7] x) => (float[b, 2, H, W] y) <float[2, 3, 4, 3] w> "
            f"{{ y = Conv<pads=[{pads}], strides=[{stride}, 2], dilations=[1, 1]>(x, w) }}",
        )
        for mode, size, stride, pads in (
            ("SAME_UPPER", "h", 1, "1, 1, 2, 1"),
            ("SAME_LOWER", "h", 1, "2, 1, 1, 1"),
            ("SAME_UPPER", "9", 2, "1, 1, 2, 1"),
            ("SAME_UPPER", "8", 3, "1, 1, 1, 1"),
            ("VALID", "9", 2, "0, 0, 0, 0"),
        )
    ),
    (
        "explicit-padding",
        "g (float[b, 2, 9] x) => (float[b, 2, n] y) "
        '{ y = AveragePool<auto_pad="SAME_UPPER", kernel_shape=[3], strides=[2]>(x) }',
        "g (float[b, 2, 9] x) => (float[b, 2, n] y) "
        "{ y = AveragePool<pads=[1, 1], kernel_shape=[3], strides=[2]>(x) }",
    ),
    (
        "explicit-padding",
        "g (float[b, 2, 6] x) => (float[b, 2, n] y) "
        '{ y = MaxPool<auto_pad="SAME_LOWER", kernel_shape=[2]>(x) }',
        "g (float[b, 2, 6] x) => (float[b, 2, n] y) { y = MaxPool<pads=[1, 0], kernel_shape=[2]>(x) }",
    ),
]

#: Graphs that must stay as they are, with what speaks against a row.
KEPT = {
    "an output needs the Identity": f"{X} {{ y = Identity(x) }}",
    "the mask is used": "g (float[4] x) => (float[4] y, bool[4] m) { y, m = Dropout(x) }",
    "another dtype": "g (float[b] x) => (int64[b] y) { y = Cast<to=7>(x) }",
    "sizes are not known to be equal": (
        "g (float[b] x, int64[1] s) => (float[c] y) { t = Expand(x, s)  y = Relu(t) }"
    ),
    "the padding depends on a size that is not known": (
        "g (float[b, 3, h] x) => (float[b, 2, m] y) <float[2, 3, 3] w> "
        '{ y = Conv<auto_pad="SAME_UPPER", strides=[2]>(x, w) }'
    ),
    "a swap of axes": "g (float[4, 4] x) => (float[4, 4] y) { y = Transpose(x) }",
    "the first element is cut": (
        "g (float[5] x) => (float[4] y) <int64[1] s = {1}, int64[1] e = {5}> { y = Slice(x, s, e) }"
    ),
    "a step": (
        "g (float[4] x) => (float[2] y) <int64[1] s = {0}, int64[1] e = {4}, int64[1] a = {0}, "
        "int64[1] t = {2}> { y = Slice(x, s, e, a, t) }"
    ),
    "a cut from the end": (
        "g (float[b] x) => (float[c] y) <int64[1] s = {0}, int64[1] e = {-1}, int64[1] a = {0}> "
        "{ y = Slice(x, s, e, a) }"
    ),
    "a bound that is not infinite": f"{X} <float c = {{-1e38}}> {{ y = Max(x, c) }}",
    "padding": "g (float[4] x) => (float[5] y) <int64[2] p = {0, 1}> { y = Pad(x, p) }",
    "axes are reduced": ("g (float[b, 4] x) => (float[1, 1] y) { y = ReduceSum(x) }"),
    "the chosen operand is broadcast": (
        "g (float[1] x, float[4] z) => (float[4] y) <bool c = {1}> { y = Where(c, x, z) }"
    ),
    "a constant minus x": "g (float[4] x) => (float[4] y) <float c = {1}> { y = Sub(c, x) }",
    "integers": "g (int64[4] x) => (int64[4] y) <int64 c = {2}> { y = Div(x, c) }",
    "not a power of two": "g (float[4] x) => (float[4] y) <float c = {3}> { y = Div(x, c) }",
    "a reciprocal below the normal numbers": (
        "g (float[4] x) => (float[4] y) <float c = {1.7014118e38}> { y = Div(x, c) }"
    ),
    "a cube": "g (float[4] x) => (float[4] y) <float c = {3}> { y = Pow(x, c) }",
    "an upper bound": (
        "g (float[4] x) => (float[4] y) <float c = {0}, float d = {6}> { y = Clip(x, c, d) }"
    ),
    "a lower bound above 0": "g (float[4] x) => (float[4] y) <float c = {1}> { y = Clip(x, c) }",
    "a full bias": (
        "g (float[b, 4] x) => (float[b, 5] y) <float[4, 5] w, float[5] c> { y = Gemm(x, w, c) }"
    ),
    "a scaled product": (
        "g (float[b, s, 4] x) => (float[b, s, 5] y) <int64[2] f = {-1, 4}, float[4, 5] w, "
        "int64[1] n = {5}> { i = Shape<end = 2>(x)  t = Concat<axis = 0>(i, n) "
        "r = Reshape(x, f)  p = Gemm<alpha = 2.0>(r, w)  y = Reshape(p, t) }"
    ),
    "a product whose columns are split": (
        "g (float[b, s, 4] x) => (float[k, 5] y) <int64[2] f = {-1, 4}, float[4, 10] w, "
        "int64[2] n = {-1, 5}> { r = Reshape(x, f)  p = MatMul(r, w)  y = Reshape(p, n) }"
    ),
    "a bias for every row": (
        "g (float[2, 3, 4] x) => (float[2, 3, 5] y) <int64[2] f = {6, 4}, float[4, 5] w, "
        "float[6, 1] c, int64[3] n = {2, 3, 5}> "
        "{ r = Reshape(x, f)  p = Gemm(r, w, c)  y = Reshape(p, n) }"
    ),
    "two free sizes": (
        "g (float[b, s, 4] x) => (float[m] y) <int64[1] f = {-1}> "
        "{ t = Reshape(x, f)  y = Relu(t) }"
    ),
    "the table is used elsewhere": (
        "g (int64[s] i) => (float[s, 4] y, float[6, 4] z) <int8[6, 4] w> "
        "{ f = Cast<to = 1>(w)  y = Gather(f, i)  z = Neg(f) }"
    ),
    "both operands are smaller": (
        "g (float[1, 4] x, float[3, 1] z) => (float[3, 4] y) <int64[2] s = {3, 4}> "
        "{ e = Expand(x, s)  y = Add(e, z) }"
    ),
}


@pytest.mark.parametrize(("row", "before", "after"), CASES, ids=[c[0] for c in CASES])
def test_row(row: str, before: str, after: str) -> None:
    graph = golden.check(Canonicalize(), before, after)
    via = {name for node in graph.nodes for name in node.location.via}
    known = {r.name for r in (*NO_OPS, *FORMS)}
    assert via <= known


def test_every_row_has_a_case() -> None:
    assert {r.name for r in (*NO_OPS, *FORMS)} == {case[0] for case in CASES}


@pytest.mark.parametrize("text", KEPT.values(), ids=KEPT.keys())
def test_kept(text: str) -> None:
    golden.check(Canonicalize(), text, None, run="int64[1] s)" not in text)


def test_pinned_identities_of_equal_outputs() -> None:
    text = "g (float[4] x) => (float[4] y, float[4] z) { y = Relu(x)  z = Identity(y) }"
    graph = golden.check(Canonicalize(), text, None)
    assert [v.name for v in graph.outputs] == ["y", "z"]


def test_a_no_op_at_an_output_keeps_the_output_name() -> None:
    before = "g (float[4] x) => (float[4] y) { t = Relu(x)  y = Cast<to=1>(t) }"
    graph = golden.check(Canonicalize(), before, "g (float[4] x) => (float[4] y) { y = Relu(x) }")
    assert [v.name for v in graph.outputs] == ["y"]


def test_a_no_op_between_input_and_output_becomes_an_identity() -> None:
    before = "g (float[4] x) => (float[4] y) { y = Cast<to=1>(x) }"
    golden.check(Canonicalize(), before, "g (float[4] x) => (float[4] y) { y = Identity(x) }")


def test_rows_apply_in_branches() -> None:
    head = "g (bool c, float[4] x) => (float[4] y)"
    before = (
        f"{head} {{ y = If(c) <then_branch = a () => (float[4] p) {{ t = Identity(x) p = Relu(t) }}, "
        "else_branch = b () => (float[4] q) { u = Dropout(x) q = Neg(u) }> }"
    )
    after = (
        f"{head} {{ y = If(c) <then_branch = a () => (float[4] p) {{ p = Relu(x) }}, "
        "else_branch = b () => (float[4] q) { q = Neg(x) }> }"
    )
    for choice in (True, False):
        feeds = {"c": np.array(choice), "x": np.array([1.0, -2.0, 3.0, -4.0], np.float32)}
        golden.check(Canonicalize(), before, after, feeds=feeds)


def test_locations_are_kept() -> None:
    graph = golden.parse("g (float[4] x) => (float[4] y) <float c = {2}> { [power] y = Pow(x, c) }")
    golden.apply(Canonicalize(), graph)
    assert graph.nodes[0].location.names == ("power",)
    assert graph.nodes[0].location.via == ("square",)
