"""Convolutions with normalization, padding and post-ops."""

# ruff: noqa: E501 (graphs are easier to read unbroken)

from __future__ import annotations

import pytest

from burnish.passes.base import Numerics, PassContext
from burnish.passes.fusion.composites import MakeComposites
from burnish.passes.fusion.conv_norm import FuseConvNorm
from burnish.passes.fusion.epilogue import FuseEpilogues
from burnish.passes.patterns import Tracer
from tests.support import golden
from tests.support.refusals import reasons

BN = "float[8] g, float[8] be, float[8] mean, float[8] var={1,2,3,4,1,2,3,4}"
X = "g (float[N,4,H,W] x) => (float[N,8,H,W] y)"
W = "float[8,4,3,3] w, float[8] b"
PADS = "pads=[1,1,1,1]"


@pytest.mark.parametrize(
    ("inputs", "constants"),
    [("x, w, b", f"{W}, {BN}"), ("x, w", f"float[8,4,3,3] w, {BN}")],
)
def test_batch_norm(inputs: str, constants: str) -> None:
    golden.check(
        FuseConvNorm(),
        f"{X} <{constants}> {{ c = Conv<{PADS}>({inputs}) y = BatchNormalization<epsilon=0.001>(c, g, be, mean, var) }}",
        f"{X} <{W}> {{ y = Conv<{PADS}>(x, w, b) }}",
    )


@pytest.mark.parametrize("group", [1, 2])
def test_batch_norm_after_conv_transpose(group: int) -> None:
    head = "g (float[N,4,5,6] x) => (float[N,8,11,13] y)"
    attrs = f"group={group}, strides=[2,2], output_padding=[0,0]"
    weight = f"float[4,{8 // group},3,3] w"
    golden.check(
        FuseConvNorm(),
        f"{head} <{weight}, float[8] b, {BN}> {{ c = ConvTranspose<{attrs}>(x, w, b) y = BatchNormalization(c, g, be, mean, var) }}",
        f"{head} <{weight}, float[8] b> {{ y = ConvTranspose<{attrs}>(x, w, b) }}",
    )


def test_batch_norm_alone_becomes_an_affine_map() -> None:
    head = "g (float[N,8,H] x) => (float[N,8,H] y)"
    golden.check(
        FuseConvNorm(),
        f"{head} <{BN}> {{ y = BatchNormalization(x, g, be, mean, var) }}",
        f"{head} <float[8,1] k, float[8,1] c> {{ t = Mul(x, k) y = Add(t, c) }}",
    )


def test_zero_padding_goes_into_the_convolution_also_asymmetric() -> None:
    head = "g (float[N,4,H,W] x) => (float[N,8,A,B] y)"
    golden.check(
        FuseConvNorm(),
        f"{head} <{W}, int64[8] p={{0,0,0,2,0,0,1,1}}> {{ t = Pad(x, p) y = Conv<pads=[1,0,1,2]>(t, w, b) }}",
        f"{head} <{W}> {{ y = Conv<pads=[1,2,2,3]>(x, w, b) }}",
    )


@pytest.mark.parametrize(
    ("pad", "constants", "reason"),
    [
        (
            'Pad<mode="reflect">(x, p)',
            "int64[8] p={0,0,1,1,0,0,1,1}",
            "the padding is reflect, not constant",
        ),
        ("Pad(x, p, v)", "int64[8] p={0,0,1,1,0,0,1,1}, float v={1}", "the padding is not zeros"),
        ("Pad(x, p)", "int64[8] p={0,0,-1,1,0,0,1,1}", "it crops"),
        ("Pad(x, p)", "int64[8] p={1,0,1,1,0,0,1,1}", "it pads the batch or the channels"),
    ],
)
def test_padding_that_stays(pad: str, constants: str, reason: str) -> None:
    text = f"g (float[2,4,5,6] x) => (float[A,8,B,C] y) <{W}, {constants}> {{ t = {pad} y = Conv(t, w, b) }}"
    assert reason in reasons(FuseConvNorm(), "fold-pad-into-conv", text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            f"g (float[N,4,H,W] x) => (float[N,8,H,W] y, float[N,8,H,W] z) <{W}, {BN}> "
            f"{{ c = Conv<{PADS}>(x, w, b) z = Conv<{PADS}>(x, w) y = BatchNormalization(c, g, be, mean, var) }}",
            "the weights are shared: scaling would copy them",
        ),
        (
            f"g (float[N,4,H,W] x, float[8] mean) => (float[N,8,H,W] y) <{W}, float[8] g, float[8] be, float[8] var={{1,1,1,1,2,2,2,2}}> "
            f"{{ c = Conv<{PADS}>(x, w, b) y = BatchNormalization(c, g, be, mean, var) }}",
            "mean is not a constant",
        ),
    ],
)
def test_batch_norm_that_is_not_folded(text: str, reason: str) -> None:
    graph = golden.parse(text)
    tracer = Tracer("fuse-conv-batch-norm")
    golden.apply(FuseConvNorm(), graph, PassContext(options={"tracer": tracer}))
    assert reason in [m.reason for m in tracer.misses]
    assert sum(n.op == "Conv" for n in graph.nodes) >= 1


COMPOSITE = 'data_format="NCHW", strides=[1,1], pads=[1,1,1,1], dilations=[1,1], group=1'


def test_composites() -> None:
    golden.check(
        MakeComposites(),
        f"{X} <{W}> {{ y = Conv<{PADS}>(x, w, b) }}",
        f'{X} <{W}> {{ y = burnish.Conv<{COMPOSITE}, postops=["Add:channel"]>(x, w, b) }}',
        numerics=Numerics.EXACT,
    )
    golden.check(
        MakeComposites(),
        "g (float[N,4,H] x) => (float[N,2,A] y) <float[4,1,3] w> { y = ConvTranspose<group=2, strides=[2]>(x, w) }",
        "g (float[N,4,H] x) => (float[N,2,A] y) <float[4,1,3] w> "
        '{ y = burnish.ConvTranspose<data_format="NCW", strides=[2], pads=[0,0], dilations=[1], group=2, output_padding=[0], postops: strings = []>(x, w) }',
        numerics=Numerics.EXACT,
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "g (float[N,4,H,W] x, float[8,4,3,3] w) => (float[N,8,A,B] y) { y = Conv(x, w) }",
            "the weights are not constant",
        ),
        (
            "g (float[N,4,H,W] x, float[8] b) => (float[N,8,A,B] y) <float[8,4,3,3] w> { y = Conv(x, w, b) }",
            "the bias is not constant",
        ),
        (
            'g (float[N,4,H,W] x) => (float[N,8,P,Q] y) <float[8,4,3,3] w> { y = Conv<auto_pad="SAME_UPPER", strides=[2,2]>(x, w) }',
            "the padding depends on the input size",
        ),
        (
            "g (float[N,4,5,6] x) => (float[N,8,11,13] y) <float[4,8,3,3] w> { y = ConvTranspose<strides=[2,2], output_shape=[11,13]>(x, w) }",
            "the padding depends on the output size",
        ),
    ],
)
def test_convolutions_that_stay(text: str, reason: str) -> None:
    assert reason in reasons(MakeComposites(), "make-conv", text)


EPILOGUE_HEAD = "g (float[N,4,H,W] x, float[N,8,H,W] r) => (float[N,8,H,W] y)"


def conv(postops: str, *operands: str, result: str = "y") -> str:
    """A convolution; ``postops`` are separated by spaces."""
    inputs = ", ".join(["x", "w", *operands])
    quoted = ", ".join(f'"{p}"' for p in postops.split())
    return f"{result} = burnish.Conv<{COMPOSITE}, postops: strings = [{quoted}]>({inputs})"


BIASED = conv("Add:channel", "b", result="c")
PLAIN = conv("", result="c")
PLAIN_Z = conv("", result="z")
SCALED = conv("Mul:scalar", "s")


@pytest.mark.parametrize(
    ("body", "after"),
    [
        ("y = Relu(c)", ("Add:channel Relu", "b")),
        ("t = Add(r, c) y = Relu(t)", ("Add:channel Add:full Relu", "b", "r")),
        ("t = Relu(c) y = Add(t, r)", ("Add:channel Relu Add:full", "b", "r")),
        ("t = Sub(r, c) y = Tanh(t)", ("Add:channel Neg Add:full Tanh", "b", "r")),
        ("y = LeakyRelu<alpha=0.5>(c)", ("Add:channel LeakyRelu:0.5", "b")),
        ("y = Clip(c, zero, six)", ("Add:channel Clip:0.0:6.0", "b")),
        ("y = Swish(c)", ("Add:channel Silu", "b")),
        ('y = Gelu<approximate="tanh">(c)', ("Add:channel GeluTanh", "b")),
        ("y = HardSigmoid(c)", ("Add:channel HardSigmoid:0.2:0.5", "b")),
        ("t = Relu(c) y = Mul(t, six)", ("Add:channel Relu Mul:scalar", "b", "s")),
        ("t = Relu(c) y = Div(t, k)", ("Add:channel Relu Div:channel", "b", "kc")),
        ("t = Relu(c) y = Max(t, six)", ("Add:channel Relu Max:scalar", "b", "s")),
        # Constant factors and offsets go into the weights.
        ("y = Mul(c, k)", ("Add:channel", "b")),
        ("t = Mul(c, six) u = Add(t, k) y = Relu(u)", ("Add:channel Relu", "b")),
    ],
)
def test_epilogues(body: str, after: tuple[str, ...]) -> None:
    constants = f"<{W}, float zero={{0}}, float six={{6}}, float[8,1,1] k={{1,2,3,4,5,6,7,8}}>"
    expected = f"<{W}, float[1] s={{6}}, float[8] kc={{1,2,3,4,5,6,7,8}}>"
    golden.check(
        FuseEpilogues(),
        f"{EPILOGUE_HEAD} {constants} {{ {BIASED} {body} }}",
        f"{EPILOGUE_HEAD} {expected} {{ {conv(*after)} }}",
    )


def test_the_later_of_two_convolutions_absorbs_their_sum() -> None:
    head = "g (float[N,4,H,W] x) => (float[N,8,H,W] y)"
    constants = f"<{W}, float[8,4,3,3] w2>"
    first = conv("Add:channel", "b", result="c")
    golden.check(
        FuseEpilogues(),
        f"{head} {constants} {{ {first} d = burnish.Conv<{COMPOSITE}, postops: strings = []>(x, w2) y = Add(c, d) }}",
        f'{head} {constants} {{ {first} y = burnish.Conv<{COMPOSITE}, postops=["Add:full"]>(x, w2, c) }}',
    )


@pytest.mark.parametrize(
    ("rule", "body", "reason"),
    [
        (
            "absorb-activation",
            "z = Exp(c) y = Relu(c)",
            "the result is used elsewhere or is a graph output",
        ),
        (
            "absorb-operand",
            "y = Add(c, m) z = Exp(x)",
            "the operand is neither a channel, a scalar nor of the same shape",
        ),
        (
            "absorb-operand",
            "y = Add(c, c) z = Exp(x)",
            "the result is used elsewhere or is a graph output",
        ),
        (
            "absorb-operand",
            "y = Div(m, c) z = Exp(x)",
            "the operand is neither a channel, a scalar nor of the same shape",
        ),
        ("absorb-operand", "y = Div(r, c) z = Exp(x)", "the result is the divisor"),
        ("absorb-activation", "y = Swish<alpha=2.0>(c) z = Exp(x)", "Swish has alpha 2"),
        ("absorb-activation", "y = Clip(c, low) z = Exp(x)", "the bounds of Clip are not constant"),
        (
            "absorb-activation",
            "t = Exp(x) z = Relu(t) y = Abs(m)",
            "it does not follow a convolution or matrix product",
        ),
    ],
)
def test_epilogues_that_stay(rule: str, body: str, reason: str) -> None:
    head = "g (float[2,4,5,6] x, float[2,8,5,6] r, float[2,1,5,6] m, float low) => (float[A,B,C,D] y, float[E,F,G,H] z)"
    text = f"{head} <{W}> {{ {BIASED} {body} }}"
    assert reason in reasons(FuseEpilogues(), rule, text)


def test_an_operand_that_enlarges_the_result_stays() -> None:
    text = f"g (float[1,4,5,6] x, float[3,8,5,6] r) => (float[3,8,5,6] y) <{W}> {{ {PLAIN} y = Add(c, r) }}"
    assert "the operand broadcasts the result to another shape" in reasons(
        FuseEpilogues(), "absorb-operand", text
    )


def test_shared_weights_are_not_scaled() -> None:
    text = (
        f"g (float[N,4,H,W] x) => (float[N,8,H,W] y, float[N,8,H,W] z) <{W}, float[1] s={{2}}> "
        f"{{ {SCALED} {PLAIN_Z} }}"
    )
    found = reasons(FuseEpilogues(), "fold-affine-post-ops", text)
    assert "the weights are shared: scaling would copy them" in found


def test_a_view_between_product_and_activation() -> None:
    head = "g (float[N,4,H,1] x) => (float[N,8,H] y)"
    shape = "int64[3] shape={0, 8, -1}"
    one = 'data_format="NCHW", strides=[1,1], pads=[0,0,0,0], dilations=[1,1], group=1'
    golden.check(
        FuseEpilogues(),
        f"{head} <float[8,4,1,1] w, {shape}, float[8,1] k={{1,2,3,4,5,6,7,8}}> "
        f"{{ c = burnish.Conv<{one}, postops: strings = []>(x, w) t = Reshape(c, shape) u = Add(t, k) y = Relu(u) }}",
        f"{head} <float[8,4,1,1] w, {shape}, float[8] k> "
        f'{{ c = burnish.Conv<{one}, postops=["Add:channel", "Relu"]>(x, w, k) y = Reshape(c, shape) }}',
    )


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("t = Reshape(c, s) y = Add(t, k)", "an operand does not keep blocks of axes"),
        ("t = Reshape(c, s) u = Exp(k2) y = Add(t, u)", "it does not follow a reshape"),
        (
            "t = Reshape(c, s) v = Ceil(t) y = Add(v, t)",
            "it does not follow a reshape",
        ),
        ("t = Reshape(c, s) y = Add(t, big)", "the reshaped value is used elsewhere or broadcast"),
    ],
)
def test_views_that_stay(body: str, reason: str) -> None:
    one = 'data_format="NCHW", strides=[1,1], pads=[0,0,0,0], dilations=[1,1], group=1'
    constants = "float[8,4,1,1] w, int64[2] s={6,8}, float[1,8] k, float[2,6,8] big"
    rank = "A,B,C" if "big" in body else "A,B"
    text = (
        f"g (float[2,4,3,1] x, float[6,8] k2) => (float[{rank}] y) <{constants}> "
        f"{{ c = burnish.Conv<{one}, postops: strings = []>(x, w) {body} }}"
    )
    assert reason in reasons(FuseEpilogues(), "sink-view", text)
