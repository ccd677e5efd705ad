"""The algebraic table: a golden case for every row, and what speaks against each."""

# ruff: noqa: E501 (graphs are easier to read unbroken)

from __future__ import annotations

import pytest

from burnish.passes.base import Numerics
from burnish.passes.simplify import LATE, TABLE, Simplify
from burnish.passes.simplify_movement import MOVEMENT
from tests.support import golden

ROWS = (*TABLE, *MOVEMENT, *LATE)
X = "g (float[batch, 4] x) => (float[batch, 4] y)"
B = "g (bool[batch, 4] x) => (bool[batch, 4] y)"

#: (name of the row, before, after)
CASES = [
    (
        "neutral-zero",
        f"{X} <float z = {{0}}> {{ t = Add(x, z) y = Exp(t) }}",
        f"{X} {{y = Exp(x)}}",
    ),
    (
        "neutral-zero",
        f"{X} <float z = {{0}}> {{ t = Sub(x, z) y = Exp(t) }}",
        f"{X} {{y = Exp(x)}}",
    ),
    (
        "neutral-zero",
        f"{B} <bool z = {{0}}> {{ t = Or(x, z) y = Not(t) }}",
        f"{B} {{ y = Not(x) }}",
    ),
    ("neutral-one", f"{X} <float z = {{1}}> {{ t = Mul(x, z) y = Exp(t) }}", f"{X} {{y = Exp(x)}}"),
    (
        "neutral-one",
        f"{X} <float[1] z = {{1}}> {{ t = Div(x, z) y = Exp(t) }}",
        f"{X} {{y=Exp(x)}}",
    ),
    (
        "neutral-one",
        f"{B} <bool z = {{1}}> {{ t = And(x, z) y = Not(t) }}",
        f"{B} {{ y = Not(x) }}",
    ),
    (
        "and-true",
        "g (bool[b, 1, 1, s] x) => (bool[b, 1, s, s] y) <int64 o = {0}, int64 i = {1}, "
        "int64[0] e = {}, int64[4] f = {1, 1, -1, 1}> "
        "{ n = Shape<start = 3>(x)  m = Reshape(n, e)  r = Range(o, m, i)  t = Reshape(r, f) "
        "a = GreaterOrEqual(t, o)  p = And(a, x)  y = Not(p) }",
        "g (bool[b, 1, 1, s] x) => (bool[b, 1, s, s] y) <int64[2] i = {1, 1}, int64[1] j = {1}> "
        "{ u = Not(x)  n = Shape<start = 3, end = 4>(x)  t = Concat<axis = 0>(i, n, j) "
        "y = Expand(u, t) }",
    ),
    (
        "absorbing",
        f"{B} <bool[1, 4] z = {{0, 0, 0, 0}}> {{ a = Not(x)  t = And(a, z) y = Or(t, x) }}",
        None,
    ),
    (
        "absorbing",
        "g (bool[4] x) => (bool[4] y) <bool[4] z = {1, 1, 1, 1}> { t = Or(x, z) y = Xor(t, x) }",
        "g (bool[4] x) => (bool[4] y) <bool[4] z = {1, 1, 1, 1}> { y = Xor(z, x) }",
    ),
    ("idempotent-pair", f"{X} {{ t = Max(x, x) y = Exp(t) }}", f"{X} {{ y = Exp(x) }}"),
    ("idempotent-pair", f"{B} {{ t = And(x, x) y = Not(t) }}", f"{B} {{ y = Not(x) }}"),
    (
        "where-same",
        "g (float[4] x, bool[4] c) => (float[4] y) { t = Where(c, x, x)  y = Exp(t) }",
        "g (float[4] x, bool[4] c) => (float[4] y) { y = Exp(x) }",
    ),
    (
        "where-not",
        "g (float[4] x, float[4] z, bool[4] c) => (float[4] y) { n = Not(c) y = Where(n, x, z) }",
        "g (float[4] x, float[4] z, bool[4] c) => (float[4] y) { y = Where(c, z, x) }",
    ),
    (
        "double-negation",
        f"{B} {{ a = Not(x) t = Not(a) y = Xor(t, x) }}",
        f"{B} {{ y = Xor(x, x) }}",
    ),
    ("double-negation", f"{X} {{ a = Neg(x) t = Neg(a) y = Exp(t) }}", f"{X} {{ y = Exp(x) }}"),
    ("repeated", f"{X} {{ a = Relu(x) y = Relu(a) }}", f"{X} {{ y = Relu(x) }}"),
    ("repeated", f"{X} {{ a = Abs(x) y = Abs(a) }}", f"{X} {{ y = Abs(x) }}"),
    (
        "add-negation",
        "g (float[4] x, float[4] z) => (float[4] y) { n = Neg(z)  y = Add(n, x) }",
        "g (float[4] x, float[4] z) => (float[4] y) { y = Sub(x, z) }",
    ),
    (
        "add-negation",
        "g (float[4] x, float[4] z) => (float[4] y) { n = Neg(z)  y = Sub(x, n) }",
        "g (float[4] x, float[4] z) => (float[4] y) { y = Add(x, z) }",
    ),
    (
        "transpose-transpose",
        "g (float[a, b, c] x) => (float[b, a, c] y) "
        "{ t = Transpose<perm=[2, 0, 1]>(x)  y = Transpose<perm=[2, 1, 0]>(t) }",
        "g (float[a, b, c] x) => (float[b, a, c] y) { y = Transpose<perm=[1, 0, 2]>(x) }",
    ),
    (
        "transpose-transpose",
        "g (float[a, b] x) => (float[a, b] y) { t = Transpose(x)  u = Transpose(t)  y = Exp(u) }",
        "g (float[a, b] x) => (float[a, b] y) { y = Exp(x) }",
    ),
    (
        "reshape-reshape",
        "g (float[a, 6] x) => (float[a, 3, 2] y) <int64[1] s = {-1}, int64[3] t = {-1, 3, 2}> "
        "{ u = Reshape(x, s)  y = Reshape(u, t) }",
        "g (float[a, 6] x) => (float[a, 3, 2] y) <int64[3] t = {0, 3, 2}> { y = Reshape(x, t) }",
    ),
    (
        "expand-expand",
        "g (float[1, 1] x) => (float[3, 4] y) <int64[2] s = {1, 4}, int64[2] t = {3, 4}> "
        "{ u = Expand(x, s)  y = Expand(u, t) }",
        "g (float[1, 1] x) => (float[3, 4] y) <int64[2] t = {3, 4}> { y = Expand(x, t) }",
    ),
    (
        "cast-cast",
        "g (int32[4] x) => (float[4] y) { t = Cast<to=7>(x)  y = Cast<to=1>(t) }",
        "g (int32[4] x) => (float[4] y) { y = Cast<to=1>(x) }",
    ),
    (
        "cast-cast",
        "g (bool[4] x) => (bool[4] y) { t = Cast<to=1>(x)  u = Cast<to=9>(t)  y = Not(u) }",
        "g (bool[4] x) => (bool[4] y) { y = Not(x) }",
    ),
    (
        "concat-concat",
        "g (float[2, 4] x, float[1, 4] z) => (float[4, 4] y) "
        "{ t = Concat<axis=-2>(x, z)  y = Concat<axis=0>(t, z) }",
        "g (float[2, 4] x, float[1, 4] z) => (float[4, 4] y) { y = Concat<axis=0>(x, z, z) }",
    ),
    (
        "slice-slice",
        "g (float[9, 8] x) => (float[3, 4] y) <int64[1] a = {1}, int64[1] b = {8}, int64[1] c = {0}, "
        "int64[2] d = {2, 0}, int64[2] e = {5, 4}> { t = Slice(x, a, b, c)  y = Slice(t, d, e) }",
        "g (float[9, 8] x) => (float[3, 4] y) <int64[2] d = {3, 0}, int64[2] e = {6, 4}, "
        "int64[2] a = {0, 1}, int64[2] s = {1, 1}> { y = Slice(x, d, e, a, s) }",
    ),
    (
        "gather-range",
        "g (float[9, 4] x) => (float[3, 4] y) <int64[3] i = {2, 3, 4}> { y = Gather(x, i) }",
        "g (float[9, 4] x) => (float[3, 4] y) <int64[1] a = {2}, int64[1] b = {5}, int64[1] c = {0}> "
        "{ y = Slice(x, a, b, c) }",
    ),
    (
        "gather-range",
        "g (float[4, 3] x) => (float[4, 3] y) <int64[3] i = {0, 1, 2}> "
        "{ t = Gather<axis=-1>(x, i)  y = Exp(t) }",
        "g (float[4, 3] x) => (float[4, 3] y) { y = Exp(x) }",
    ),
    (
        "gather-everything",
        "g (bool[b, s] x) => (bool[b, 1, 1, s] y) <int64 o = {0}, int64 i = {1}, int64[0] e = {}, "
        "int64[2] f = {-1, 1}, int64[4] p = {-1, 1, 1, 1}, int64[4] q = {1, 1, 1, -1}, "
        "int64[4] z = {0, 1, 1, -1}> "
        "{ m = Shape<start = 0, end = 1>(x)  n = Shape<start = 1>(x)  v = Reshape(x, f) "
        "bm = Reshape(m, e)  bn = Reshape(n, e)  rb = Range(o, bm, i)  rs = Range(o, bn, i) "
        "cb = Reshape(rb, p)  cs = Reshape(rs, q)  k = Mul(cb, n)  a = Add(cs, k) "
        "t = Gather(v, a)  u = Reshape(t, z)  y = Not(u) }",
        "g (bool[b, s] x) => (bool[b, 1, 1, s] y) <int64[4] z = {0, 1, 1, -1}> "
        "{ u = Reshape(x, z)  y = Not(u) }",
    ),
    (
        "gather-everything",
        "g (bool[b, s] x) => (bool[b, s] y) <int64 o = {0}, int64 i = {1}, int64[0] e = {}, "
        "int64[3] p = {-1, 1, 1}, int64[3] q = {1, -1, 1}, int64[1] one = {1}> "
        "{ m = Shape<start = 0, end = 1>(x)  n = Shape<start = 1>(x) w = Concat<axis = 0>(m, n, one) "
        "bm = Reshape(m, e)  bn = Reshape(n, e)  rb = Range(o, bm, i)  rs = Range(o, bn, i) "
        "cb = Reshape(rb, p)  cs = Reshape(rs, q)  eb = Expand(cb, w)  es = Expand(cs, w) "
        "a = Concat<axis = -1>(eb, es)  t = GatherND(x, a)  y = Not(t) }",
        "g (bool[b, s] x) => (bool[b, s] y) { y = Not(x) }",
    ),
    (
        "gather-from-uniform",
        "g (int64[b, s] x) => (float[b, s] y) <float[9] c = {4, 4, 4, 4, 4, 4, 4, 4, 4}> "
        "{ y = Gather(c, x) }",
        "g (int64[b, s] x) => (float[b, s] y) <float[1, 1] c = {4}> "
        "{ n = Shape<start = 0, end = 2>(x)  y = Expand(c, n) }",
    ),
    (
        "gather-of-expand",
        "g (int64[b, 1] x, float[b, s] z) => (float[b, s, 4] y) <float[9, 4] w> "
        "{ n = Shape<start = 0, end = 2>(z)  e = Expand(x, n)  y = Gather(w, e) }",
        "g (int64[b, 1] x, float[b, s] z) => (float[b, s, 4] y) <float[9, 4] w, int64[1] i = {1}, "
        "int64[1] j = {1}> { t = Gather(w, x)  n = Shape<start = 1, end = 2>(z) "
        "k = Concat<axis = 0>(i, n, j)  y = Expand(t, k) }",
    ),
    (
        "pad-behind-view",
        "g (float[b, 1, 7] x) => (float[b, 1, 1, 10] y) <int64[6] p = {0, 0, 1, 0, 0, 2}, "
        "int64[4] s = {0, 1, 1, 10}> { t = Pad(x, p)  y = Reshape(t, s) }",
        "g (float[b, 1, 7] x) => (float[b, 1, 1, 10] y) <int64[8] p = {0, 0, 0, 1, 0, 0, 0, 2}, "
        "int64[4] s = {0, 1, 1, 7}> { t = Reshape(x, s)  y = Pad(t, p, ) }",
    ),
    (
        "transpose-of-merged-axes",
        "g (float[b, 3, s, 8] x) => (float[b, 3, 8, s] y) <int64[1] m = {-1}, int64[1] e = {8}, "
        "int64[1] t = {3}, int64[1] z = {0}> "
        "{ n = Shape<start = 2, end = 3>(x)  k = Shape<start = 0, end = 1>(x) "
        "f = Concat<axis = 0>(m, n, e)  u = Concat<axis = 0>(k, t, e, n) "
        "a = Reshape(x, f)  c = Transpose<perm = [0, 2, 1]>(a)  y = Reshape(c, u) }",
        "g (float[b, 3, s, 8] x) => (float[b, 3, 8, s] y) { y = Transpose<perm=[0, 1, 3, 2]>(x) }",
    ),
    (
        "expand-last",
        "g (float[1, 4] x, float[b, 4] z) => (float[b, 4] y) <float c = {3}> "
        "{ s = Shape(z)  e = Expand(x, s)  y = Mul(e, c) }",
        "g (float[1, 4] x, float[b, 4] z) => (float[b, 4] y) <float c = {3}> "
        "{ m = Mul(x, c)  s = Shape(z)  y = Expand(m, s) }",
    ),
    (
        "reshape-of-reduction",
        "g (float[b, 4, 5] x) => (float[b, 5] y) <int64[1] a = {1}, int64[2] s = {0, 5}> "
        "{ t = ReduceMean(x, a)  y = Reshape(t, s) }",
        "g (float[b, 4, 5] x) => (float[b, 5] y) <int64[1] a = {1}> "
        "{ y = ReduceMean<keepdims = 0>(x, a) }",
    ),
    (
        "reshape-of-reduction",
        "g (float[b, 4, 5] x) => (float[b, 4, 1] y) <int64[1] a = {-1}, int64[3] s = {0, 0, 1}> "
        "{ t = ReduceMax<keepdims = 0>(x, a)  y = Reshape(t, s) }",
        "g (float[b, 4, 5] x) => (float[b, 4, 1] y) <int64[1] a = {-1}> "
        "{ y = ReduceMax<keepdims = 1>(x, a) }",
    ),
    (
        "mul-mul",
        f"{X} <float c = {{3}}, float[4] d = {{1, 2, 3, 4}}> {{ t = Mul(x, c)  y = Mul(t, d) }}",
        f"{X} <float[4] d = {{3, 6, 9, 12}}> {{ y = Mul(x, d) }}",
    ),
    (
        "add-add",
        f"{X} <float c = {{3}}, float[4] d = {{1, 2, 3, 4}}> {{ t = Add(x, d)  y = Add(t, c) }}",
        f"{X} <float[4] d = {{4, 5, 6, 7}}> {{ y = Add(x, d) }}",
    ),
    (
        "mul-div",
        f"{X} <float c = {{3}}, float d = {{6}}> {{ t = Mul(x, c)  y = Div(t, d) }}",
        f"{X} <float d = {{0.5}}> {{ y = Mul(x, d) }}",
    ),
    (
        "div-mul",
        f"{X} <float c = {{6}}, float d = {{3}}> {{ t = Div(x, c)  y = Mul(t, d) }}",
        f"{X} <float d = {{0.5}}> {{ y = Mul(x, d) }}",
    ),
    (
        "mean",
        "g (float[b, 4, 5] x) => (float[b] y) <int64[2] a = {1, -1}, float c = {0.05}> "
        "{ t = ReduceSum<keepdims = 0>(x, a)  y = Mul(t, c) }",
        "g (float[b, 4, 5] x) => (float[b] y) <int64[2] a = {1, -1}> "
        "{ y = ReduceMean<keepdims = 0>(x, a) }",
    ),
    (
        "mean",
        "g (float[b, 4] x) => (float[b, 1] y) <int64[1] a = {1}, float c = {4}> "
        "{ t = ReduceSum(x, a)  y = Div(t, c) }",
        "g (float[b, 4] x) => (float[b, 1] y) <int64[1] a = {1}> "
        "{ y = ReduceMean<keepdims = 1>(x, a) }",
    ),
    ("one-over", f"{X} <float c = {{1}}> {{ y = Div(c, x) }}", f"{X} {{ y = Reciprocal(x) }}"),
    (
        "clip-clip",
        f"{X} <float l = {{-1}}, float h = {{6}}, float c = {{2}}> "
        "{ t = Clip(x, l, h)  y = Min(t, c) }",
        f"{X} <float l = {{-1}}, float h = {{2}}> {{ y = Clip(x, l, h) }}",
    ),
    (
        "clip-clip",
        f"{X} <float l = {{-1}}, float h = {{1}}> {{ t = Relu(x)  y = Clip(t, l, h) }}",
        f"{X} <float l = {{0}}, float h = {{1}}> {{ y = Clip(x, l, h) }}",
    ),
    (
        "clip-clip",
        f"{X} <float l = {{-1}}, float[1] h = {{1}}> {{ t = Max(x, l)  y = Min(t, h) }}",
        f"{X} <float l = {{-1}}, float h = {{1}}> {{ y = Clip(x, l, h) }}",
    ),
    (
        "divide-by-constant",
        f"{X} <float c = {{6}}> {{ y = Div(x, c) }}",
        f"{X} <float c = {{0.1666667}}> {{ y = Mul(x, c) }}",
    ),
]

#: Graphs that must stay as they are, with what speaks against a row.
KEPT = {
    "x + 1": f"{X} <float c = {{1}}> {{ y = Add(x, c) }}",
    "x * 0": f"{X} <float c = {{0}}> {{ y = Mul(x, c) }}",
    "the sum is broadcast": (
        "g (float[1] x) => (float[4] y) <float[4] c = {0, 0, 0, 0}> { y = Add(x, c) }"
    ),
    "the range may be negative": (
        "g (bool[b, 1] x, int64 n) => (bool[b, k] y) <int64 o = {-2}, int64 z = {0}, int64 i = {1}> "
        "{ r = Range(o, n, i)  a = GreaterOrEqual(r, z)  y = And(x, a) }"
    ),
    "Exp of Log": f"{X} {{ a = Abs(x)  l = Log(a)  y = Exp(l) }}",
    "Sqrt times Sqrt": f"{X} {{ a = Sqrt(x)  y = Mul(a, a) }}",
    "a narrowing cast": ("g (float[4] x) => (float[4] y) { t = Cast<to=7>(x)  y = Cast<to=1>(t) }"),
    "int64 does not fit float": (
        "g (int64[4] x) => (int64[4] y) { t = Cast<to=1>(x)  y = Cast<to=7>(t) }"
    ),
    "another axis": (
        "g (float[2, 4] x, float[2, 8] z) => (float[4, 8] y) "
        "{ t = Concat<axis=1>(x, x)  y = Concat<axis=0>(t, z) }"
    ),
    "the inner product is used elsewhere": (
        "g (float[4] x) => (float[4] y, float[4] z) <float c = {3}, float d = {5}> "
        "{ z = Mul(x, c)  y = Mul(z, d) }"
    ),
    "the constant would grow": (
        "g (float[4, 4] x) => (float[4, 4] y) <float[4, 1] c, float[4] d> "
        "{ t = Mul(x, c)  y = Mul(t, d) }"
    ),
    "the product overflows": (
        f"{X} <float c = {{1e30}}, float d = {{1e30}}> {{ t = Mul(x, c)  y = Mul(t, d) }}"
    ),
    "bounds that do not overlap": (
        f"{X} <float c = {{2}}, float d = {{1}}> {{ t = Max(x, c)  y = Min(t, d) }}"
    ),
    "indices with a gap": (
        "g (float[9, 4] x) => (float[3, 4] y) <int64[3] i = {2, 3, 5}> { y = Gather(x, i) }"
    ),
    "negative bounds": (
        "g (float[9] x) => (float[6] y) <int64[1] a = {1}, int64[1] b = {-1}> "
        "{ t = Slice(x, a, b)  y = Slice(t, a, b) }"
    ),
    "a reduction of another axis": (
        "g (float[3, 4, 5] x) => (float[5, 3] y) <int64[1] a = {1}, int64[2] s = {5, 3}> "
        "{ t = ReduceMean(x, a)  y = Reshape(t, s) }"
    ),
    "two free sizes": (
        "g (float[a, b] x) => (float[a, b] y) <int64[1] f = {-1}> "
        "{ s = Shape(x)  t = Reshape(x, f)  n = Neg(t)  y = Reshape(n, s) }"
    ),
    "a reflecting pad": (
        "g (float[b, 1, 7] x) => (float[b, 1, 1, 10] y) <int64[6] p = {0, 0, 1, 0, 0, 2}, "
        'int64[4] s = {0, 1, 1, 10}> { t = Pad<mode = "reflect">(x, p)  y = Reshape(t, s) }'
    ),
    "a pad that a reshape splits": (
        "g (float[b, 7] x) => (float[b, 5, 2] y) <int64[4] p = {0, 1, 0, 2}, "
        "int64[3] s = {0, 5, 2}> { t = Pad(x, p)  y = Reshape(t, s) }"
    ),
    "indices that start at 1": (
        "g (float[s, 4] x) => (float[k, 4] y) <int64 o = {1}, int64 i = {1}, int64[0] e = {}> "
        "{ n = Shape<start = 0, end = 1>(x)  m = Reshape(n, e)  r = Range(o, m, i) y = Gather(x, r) }"
    ),
    "every second index": (
        "g (float[s, 4] x) => (float[k, 4] y) <int64 o = {0}, int64 i = {2}, int64[0] e = {}> "
        "{ n = Shape<start = 0, end = 1>(x)  m = Reshape(n, e)  r = Range(o, m, i) y = Gather(x, r) }"
    ),
    "indices of the transpose": (
        "g (float[3, 3] x) => (float[3, 3] y) <int64[1] f = {-1}, "
        "int64[3, 3] i = {0, 3, 6, 1, 4, 7, 2, 5, 8}> { v = Reshape(x, f)  y = Gather(v, i) }"
    ),
    "a part of the rows": (
        "g (float[9] x) => (float[2, 3] y) <int64[2, 3] i = {0, 1, 2, 3, 4, 5}> { y = Gather(x, i) }"
    ),
    "indices along another axis": (
        "g (float[2, 6] x) => (float[2, 2, 3] y) <int64[2, 3] i = {0, 1, 2, 3, 4, 5}> "
        "{ y = Gather<axis = 1>(x, i) }"
    ),
    "another factor than 1 / n": (
        "g (float[b, 4] x) => (float[b, 1] y) <int64[1] a = {1}, float c = {0.2}> "
        "{ t = ReduceSum(x, a)  y = Mul(t, c) }"
    ),
    "a number of elements that is not known": (
        "g (float[b, 4] x) => (float[1, 4] y) <int64[1] a = {0}, float c = {0.25}> "
        "{ t = ReduceSum(x, a)  y = Mul(t, c) }"
    ),
    "division before the fusions": f"{X} <float c = {{6}}> {{ y = Div(x, c) }}",
}


@pytest.mark.parametrize(("row", "before", "after"), CASES, ids=[c[0] for c in CASES])
def test_row(row: str, before: str, after: str | None) -> None:
    numerics = next(r.numerics for r in ROWS if r.name == row)
    golden.check(Simplify(late=row in {r.name for r in LATE}), before, after, numerics=numerics)


def test_every_row_has_a_case() -> None:
    changed = {row for row, _, after in CASES if after is not None}
    assert {r.name for r in ROWS} == changed


@pytest.mark.parametrize("text", KEPT.values(), ids=KEPT.keys())
def test_kept(text: str) -> None:
    golden.check(Simplify(), text, None)


def test_rows_that_round_differently_can_be_left_out() -> None:
    text = f"{X} <float c = {{3}}, float d = {{6}}> {{ t = Mul(x, c)  y = Mul(t, d) }}"
    golden.check(Simplify(allow=Numerics.EXACT), text, None)


def test_inner_values_that_others_use_stay() -> None:
    golden.check(
        Simplify(),
        "g (float[a, b] x) => (float[a, b] y, float[b, a] z) "
        "{ t = Transpose(x)  u = Transpose(t)  y = Exp(u)  z = Exp(t) }",
        "g (float[a, b] x) => (float[a, b] y, float[b, a] z) "
        "{ y = Exp(x)  t = Transpose(x)  z = Exp(t) }",
    )


def test_merged_nodes_keep_both_names() -> None:
    graph = golden.parse(
        "g (float[4] x) => (float[4] y) <float c = {2}, float d = {3}> "
        "{ [first] t = Mul(x, c)  [second] y = Mul(t, d) }"
    )
    golden.apply(Simplify(), graph)
    assert graph.nodes[0].location.names == ("first", "second")
    assert graph.nodes[0].location.via == ("mul-mul",)
