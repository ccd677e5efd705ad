"""Layer and RMS normalization, softmax, and residual sums before a normalization."""

# ruff: noqa: E501 (graphs are easier to read unbroken)

from __future__ import annotations

import pytest

from burnish.passes.base import Numerics
from burnish.passes.fusion.group_norm import FuseGroupNormalization
from burnish.passes.fusion.normalization import FuseAddNormalization, FuseNormalization
from tests.support import golden
from tests.support.refusals import reasons

HEAD = "g (float[B,S,8] x) => (float[B,S,8] y)"
CONSTANTS = (
    "int64[1] axes={-1}, int64[1] last={2}, float eps={0.00001}, float two={2}, float half={0.5}, "
    "float minushalf={-0.5}, float zero={0}, float one={1}, float[8] g, float[8] b"
)
LN = "y = LayerNormalization<axis=-1, epsilon=0.00001>(x, s)"
LN_BIAS = "y = LayerNormalization<axis=-1, epsilon=0.00001>(x, s, c)"
RMS = "y = RMSNormalization<axis=-1, epsilon=0.00001>(x, s)"
MEAN = "m = ReduceMean(x, axes) d = Sub(x, m)"
VAR = "q = Mul(d, d) v = ReduceMean(q, last) t = Add(v, eps)"

CASES = {
    "torch": (
        f"{MEAN} q = Pow(d, two) v = ReduceMean(q, axes) t = Add(v, eps) r = Sqrt(t) y = Div(d, r)",
        LN,
    ),
    "reciprocal": (f"{MEAN} {VAR} r = Sqrt(t) i = Reciprocal(r) y = Mul(d, i)", LN),
    "power": (f"{MEAN} {VAR} i = Pow(t, minushalf) y = Mul(i, d)", LN),
    "scale": (f"{MEAN} {VAR} r = Sqrt(t) n = Div(d, r) y = Mul(n, g)", LN),
    "scale and bias": (
        f"{MEAN} {VAR} r = Sqrt(t) n = Div(d, r) k = Mul(g, n) y = Add(k, b)",
        LN_BIAS,
    ),
    "bias only": (f"{MEAN} {VAR} r = Sqrt(t) n = Div(d, r) y = Add(b, n)", LN_BIAS),
    "moments": (
        "m = ReduceMean(x, axes) q = Mul(x, x) e = ReduceMean(q, axes) p = Mul(m, m) v = Sub(e, p) w = Max(v, zero) "
        "t = Add(w, eps) r = Sqrt(t) i = Reciprocal(r) d = Sub(x, m) n = Mul(d, i) k = Mul(n, g) y = Add(k, b)",
        LN_BIAS,
    ),
    "rms": (
        "q = Pow(x, two) v = ReduceMean(q, axes) t = Add(v, eps) r = Sqrt(t) i = Div(one, r) n = Mul(x, i) y = Mul(g, n)",
        RMS,
    ),
    "rms divided": (
        "q = Mul(x, x) v = ReduceMean(q, axes) t = Add(v, eps) r = Sqrt(t) y = Div(x, r)",
        RMS,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_fused(name: str) -> None:
    before, after = CASES[name]
    golden.check(
        FuseNormalization(),
        f"{HEAD} <{CONSTANTS}> {{ {before} }}",
        f"{HEAD} <float[8] s, float[8] c> {{ {after} }}",
    )


@pytest.mark.parametrize(
    ("rule", "constants", "body", "reason"),
    [
        (
            "fuse-layer-norm",
            "int64[1] other={1}",
            "m = ReduceMean(x, other) d = Sub(x, m) q = Mul(d, d) v = ReduceMean(q, other) t = Add(v, eps) r = Sqrt(t) y = Div(d, r)",
            "it reduces other axes than the last",
        ),
        (
            "fuse-layer-norm",
            "float[8] veps",
            f"{MEAN} q = Mul(d, d) v = ReduceMean(q, axes) t = Add(v, veps) r = Sqrt(t) y = Div(d, r)",
            "epsilon is not a single number",
        ),
        (
            "fuse-rms-norm",
            "int64[2] both={1,2}",
            "q = Mul(x, x) v = ReduceMean(q, both) t = Add(v, eps) r = Sqrt(t) y = Div(x, r)",
            "it reduces other axes than the last",
        ),
        (
            "fuse-rms-norm",
            "float neg={-1}",
            "q = Mul(x, x) v = ReduceMean(q, axes) t = Add(v, neg) r = Sqrt(t) y = Div(x, r)",
            "epsilon is not a single number",
        ),
        (
            "fuse-layer-norm",
            "float k={3}",
            f"{MEAN} q = Pow(d, k) v = ReduceMean(q, axes) t = Add(v, eps) r = Sqrt(t) y = Div(d, r)",
            "the value is not the constant 2",
        ),
        (
            "scale-norm",
            "float[8,1] wrong",
            "n = LayerNormalization(x, g) y = Mul(n, wrong)",
            "the operand is not a constant along the last axis",
        ),
        (
            "scale-norm",
            "float[8] k",
            "n = LayerNormalization<axis=1>(x, h) y = Mul(n, k)",
            "it normalizes other axes than the last",
        ),
        (
            "scale-norm",
            "float[8] k",
            "n = LayerNormalization(x, x1) y = Mul(n, k)",
            "scale or bias is not constant",
        ),
        (
            "scale-norm",
            "float[8] k",
            "n = LayerNormalization(x, g) a = Mul(n, k) y = Add(a, n)",
            "the normalization is used elsewhere",
        ),
        (
            "shift-norm",
            "float[1,1,1,8] k",
            "n = LayerNormalization(x, g) a = Add(n, k) y = Relu(a)",
            "the operand broadcasts the result to another shape",
        ),
        ("shift-norm", "float[8] k", "y = Add(x, k)", "no operand is a normalization"),
    ],
)
def test_refused(rule: str, constants: str, body: str, reason: str) -> None:
    head = "g (float[2,8,8] x, float[8] x1) => (float[A,B,C] y)"
    if "[1,1,1,8]" in constants:
        head = head.replace("A,B,C", "A,B,C,D")
    text = f"{head} <{CONSTANTS}, float[8,8] h, {constants}> {{ {body} }}"
    assert reason in reasons(FuseNormalization(), rule, text)


def test_a_dropped_axis_is_no_normalization() -> None:
    text = f"g (float[8,8] x) => (float[8,8] y) <{CONSTANTS}> {{ q = Mul(x, x) v = ReduceMean<keepdims=0>(q, axes) t = Add(v, eps) r = Sqrt(t) y = Div(x, r) }}"
    assert "the reduction drops its axis" in reasons(FuseNormalization(), "fuse-rms-norm", text)


SOFTMAX = {
    "numpy": (
        "m = ReduceMax(x, axes) d = Sub(x, m) e = Exp(d) t = ReduceSum(e, axes) y = Div(e, t)",
        2,
    ),
    "reciprocal": (
        "m = ReduceMax(x, axes) d = Sub(x, m) e = Exp(d) t = ReduceSum(e, axes) r = Reciprocal(t) y = Mul(e, r)",
        2,
    ),
    "reshaped": (
        "m = ReduceMax<keepdims=0>(x, axes) n = Reshape(m, shape) d = Sub(x, n) e = Exp(d) t = ReduceSum<keepdims=0>(e, axes) u = Reshape(t, shape) y = Div(e, u)",
        2,
    ),
    "from minus infinity": (
        "m = ReduceMax<keepdims=0>(x, axes) f = Max(low, m) n = Reshape(f, shape) d = Sub(x, n) e = Exp(d) t = ReduceSum(e, axes) y = Div(e, t)",
        2,
    ),
    "middle axis": (
        "m = ReduceMax(x, mid) d = Sub(x, m) e = Exp(d) t = ReduceSum(e, mid) y = Div(e, t)",
        1,
    ),
}


@pytest.mark.parametrize("name", SOFTMAX)
def test_softmax(name: str) -> None:
    body, axis = SOFTMAX[name]
    constants = "int64[1] axes={-1}, int64[1] mid={1}, int64[3] shape={0,0,1}, float low={-inf}"
    body = body.replace("low", "low")
    golden.check(
        FuseNormalization(),
        f"{HEAD} <{constants}> {{ {body} }}",
        f"{HEAD} {{ y = Softmax<axis={axis}>(x) }}",
    )


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (
            "m = ReduceMax(x, axes) d = Sub(x, m) e = Exp(d) t = ReduceSum(e, mid) y = Div(e, t)",
            "maximum and sum are along different axes",
        ),
        (
            "m = ReduceMax(x, two) d = Sub(x, m) e = Exp(d) t = ReduceSum(e, two) y = Div(e, t)",
            "it reduces several axes",
        ),
        (
            "m = ReduceMax<keepdims=0>(x, axes) d = Sub(x, m) e = Exp(d) t = ReduceSum(e, axes) y = Div(e, t)",
            "the reduced values are not broadcast along the axis",
        ),
        (
            "m = ReduceMin(x, axes) d = Sub(x, m) e = Exp(d) t = ReduceSum(e, axes) y = Div(e, t)",
            "expected ReduceMax, found ReduceMin",
        ),
    ],
)
def test_softmax_refused(body: str, reason: str) -> None:
    constants = "int64[1] axes={-1}, int64[1] mid={1}, int64[2] two={1,2}"
    text = f"g (float[8,8,8] x) => (float[8,8,8] y) <{constants}> {{ {body} }}"
    assert reason in reasons(FuseNormalization(), "fuse-softmax", text)


TWO = "g (float[B,S,8] x, float[B,S,8] r) => (float[B,S,8] y{more})"
WEIGHTS = "<float[8] s, float[8] c>"


def test_add_norm() -> None:
    head = TWO.format(more="")
    golden.check(
        FuseAddNormalization(),
        f"{head} {WEIGHTS} {{ t = Add(x, r) y = LayerNormalization<epsilon=0.001>(t, s, c) }}",
        f"{head} {WEIGHTS} {{ y = burnish.AddLayerNorm<epsilon=0.001, postops: strings = []>(x, r, s, c) }}",
        numerics=Numerics.REASSOCIATES,
    )
    golden.check(
        FuseAddNormalization(),
        f"{head} {WEIGHTS} {{ t = Add(x, r) n = RMSNormalization<epsilon=0.001>(t, s) y = Mul(n, t) }}",
        f"{head} {WEIGHTS} {{ n, t = burnish.AddRMSNorm<epsilon=0.001, postops: strings = []>(x, r, s) y = Mul(n, t) }}",
        numerics=Numerics.REASSOCIATES,
    )


def test_add_norm_without_bias() -> None:
    head = TWO.format(more="")
    for operands in ("t, s", "t, s, "):
        before = f"{head} <float[8] s> {{ t = Add(x, r) y = LayerNormalization({operands}) }}"
        graph = golden.parse(before)
        assert golden.apply(FuseAddNormalization(), graph)
        (node,) = graph.nodes
        assert (node.key, len(node.inputs), node.input(3)) == ("burnish::AddLayerNorm", 4, None)
        feeds = golden.random_feeds(graph)
        golden.assert_equal_results(golden.parse(before), graph, feeds, Numerics.REASSOCIATES)


@pytest.mark.parametrize(
    ("more", "body", "reason"),
    [
        (
            ", float[B,S,8] t",
            "t = Add(x, r) y = LayerNormalization(t, s, c)",
            "the sum is needed and belongs to the product before it",
        ),
        (
            "",
            "p = MatMul(x, w) q = Add(p, c) t = Add(q, r) n = LayerNormalization(t, s, c) y = Add(n, t)",
            "the sum is needed and belongs to the product before it",
        ),
        (
            "",
            "t = Add(x, c) y = LayerNormalization(t, s, c)",
            "an operand of the sum is a constant",
        ),
        (
            "",
            "u = ReduceMean(r, axes) t = Add(x, u) y = LayerNormalization(t, s, c)",
            "the operands of the sum have different shapes",
        ),
        ("", "t = Sub(x, r) y = LayerNormalization(t, s, c)", "the input is no sum"),
        (
            "",
            "t = Add(x, x) y = LayerNormalization(t, s, c)",
            "an operand of the sum is a constant",
        ),
        (
            "",
            "t = Add(x, r) u = Slice(r, zero, one, zero) k = Reshape(u, eight) y = LayerNormalization(t, k)",
            "scale or bias is not constant",
        ),
    ],
)
def test_add_norm_refused(more: str, body: str, reason: str) -> None:
    head = TWO.format(more=more)
    if "eight" in body:
        head = head.replace("B,S", "1,1")
    constants = "<float[8] s, float[8] c, float[8,8] w, int64[1] axes={-1}, int64[1] zero={0}, int64[1] one={1}, int64[1] eight={8}>"
    assert reason in reasons(
        FuseAddNormalization(), "fuse-add-norm", f"{head} {constants} {{ {body} }}"
    )


GROUPS = "int64[3] s3={0,2,-1}, int64[4] s4={0,6,4,5}, float[2] one={1,1}, float[2] zero={0,0}, float[6,1,1] s, float[6,1,1] c"


def test_group_norm() -> None:
    head = "g (float[N,6,4,5] x) => (float[N,6,4,5] y)"
    golden.check(
        FuseGroupNormalization(),
        f"{head} <{GROUPS}> {{ r = Reshape(x, s3) n = InstanceNormalization<epsilon=0.001>(r, one, zero) t = Reshape(n, s4) m = Mul(t, s) y = Add(m, c) }}",
        f"{head} <float[6] s, float[6] c> {{ y = GroupNormalization<num_groups=2, epsilon=0.001>(x, s, c) }}",
    )


@pytest.mark.parametrize(
    ("constants", "body", "reason"),
    [
        (GROUPS.replace("one={1,1}", "one={1,2}"), "r = Reshape(x, s3) n = InstanceNormalization(r, one, zero) t = Reshape(n, s4) m = Mul(t, s) y = Add(m, c)", "the groups have a scale or bias of their own"),
        (GROUPS.replace("float[6,1,1] s", "float[4,5] s"), "r = Reshape(x, s3) n = InstanceNormalization(r, one, zero) t = Reshape(n, s4) m = Mul(t, s) y = Add(m, c)", "scale or bias does not lie along the channels"),
        (GROUPS.replace("{0,6,4,5}", "{0,6,5,4}"), "r = Reshape(x, s3) n = InstanceNormalization(r, one, zero) t = Reshape(n, s4) m = Mul(t, s) y = Add(m, c)", "the reshapes do not undo each other"),
        (GROUPS.replace("int64[3] s3={0,2,-1}", "int64[4] s3={0,2,-1,1}"), "r = Reshape(x, s3) n = InstanceNormalization(r, one, zero) t = Reshape(n, s4) m = Mul(t, s) y = Add(m, c)", "the groups do not have the shape [N, G, -1]"),
    ],
)  # fmt: skip
def test_group_norm_refused(constants: str, body: str, reason: str) -> None:
    text = f"g (float[3,6,4,5] x) => (float[A,B,C,D] y) <{constants}> {{ {body} }}"
    assert reason in reasons(FuseGroupNormalization(), "fuse-group-norm", text)
