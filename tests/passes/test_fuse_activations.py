"""Activation functions in the spellings of exporters."""

from __future__ import annotations

import pytest

from burnish.passes.fusion.activations import FuseActivations
from tests.support import golden
from tests.support.refusals import reasons

HEAD = "g (float[N,4] x) => (float[N,4] y)"
CONSTANTS = (
    "<float half={0.5}, float one={1}, float two={2}, float three={3}, float six={6}, "
    "float zero={0}, float root2={1.41421354}, float rsqrt2={0.707106769}, "
    "float k={0.044715}, float c={0.797884583}, float sixth={0.166666672}, float minus={-1}>"
)

GELU = 'y = Gelu<approximate="none">(x)'
TANH = 'y = Gelu<approximate="tanh">(x)'
SWISH = "y = Swish<alpha=1.0>(x)"
CASES = {
    "torch": ("a=Div(x,root2) e=Erf(a) s=Add(e,one) t=Mul(x,s) y=Mul(t,half)", GELU),
    "half first": ("a=Mul(x,rsqrt2) e=Erf(a) s=Add(one,e) t=Mul(x,half) y=Mul(s,t)", GELU),
    "half with the gate": ("a=Mul(x,rsqrt2) e=Erf(a) s=Add(e,one) t=Mul(half,s) y=Mul(x,t)", GELU),
    "divided by two": ("a=Div(x,root2) e=Erf(a) s=Add(e,one) t=Mul(x,s) y=Div(t,two)", GELU),
    "halved gate": ("a=Div(x,root2) e=Erf(a) h=Mul(e,half) s=Add(h,half) y=Mul(x,s)", GELU),
    "new gelu": (
        "p=Pow(x,three) q=Mul(p,k) r=Add(x,q) u=Mul(r,c) v=Tanh(u) w=Add(v,one) h=Mul(x,half) "
        "y=Mul(h,w)",
        TANH,
    ),
    "jax": (
        "p=Mul(k,x) q=Mul(x,p) r=Mul(x,q) s=Add(x,r) u=Mul(c,s) v=Tanh(u) w=Add(one,v) "
        "h=Mul(half,w) y=Mul(x,h)",
        TANH,
    ),
    "factored": (
        "q=Mul(x,x) r=Mul(q,k) s=Add(r,one) t=Mul(x,c) u=Mul(t,s) v=Tanh(u) w=Add(v,one) "
        "h=Mul(x,w) y=Mul(h,half)",
        TANH,
    ),
    "silu": ("s=Sigmoid(x) y=Mul(s,x)", SWISH),
    "silu by exp": ("n=Neg(x) e=Exp(n) s=Add(e,one) y=Div(x,s)", SWISH),
    "mish": ("s=Softplus(x) t=Tanh(s) y=Mul(x,t)", "y = Mish(x)"),
    "hard swish": ("a=Add(x,three) g=Clip(a,zero,six) t=Mul(x,g) y=Div(t,six)", "y=HardSwish(x)"),
    "hard swish, sixth": (
        "a=Add(x,three) g=Clip(a,zero,six) t=Mul(g,sixth) y=Mul(x,t)",
        "y=HardSwish(x)",
    ),
    "hard swish, min and max": (
        "a=Add(x,three) b=Max(a,zero) g=Min(b,six) t=Mul(x,g) y=Mul(t,sixth)",
        "y=HardSwish(x)",
    ),
    "hard swish by gate": (
        "g=HardSigmoid<alpha=0.16666667,beta=0.5>(x) y=Mul(x,g)",
        "y=HardSwish(x)",
    ),
    "scaled hard swish": (
        "a=Add(x,three) g=Clip(a,zero,six) t=Mul(x,g) y=Mul(t,half)",
        "t=HardSwish(x) u=Mul(t,six) y=Mul(u,half)",
    ),
    "relu": ("y = Clip(x, zero)", "y = Relu(x)"),
}


@pytest.mark.parametrize("name", CASES)
def test_fused(name: str) -> None:
    before, after = CASES[name]
    constants = "<float half={0.5}, float six={6}>" if "half)" in after else ""
    golden.check(
        FuseActivations(), f"{HEAD} {CONSTANTS} {{ {before} }}", f"{HEAD} {constants} {{ {after} }}"
    )


@pytest.mark.parametrize(
    ("body", "alpha", "beta"),
    [
        ("a=Add(x,three) g=Clip(a,zero,six) y=Div(g,six)", 1 / 6, 0.5),
        ("a=Mul(x,k) s=Add(a,half) y=Clip(s,zero,one)", 0.044715, 0.5),
        ("a=Div(x,six) s=Add(a,sixth) b=Min(s,one) y=Max(b,zero)", 1 / 6, 0.166666672),
    ],
)
def test_hard_sigmoid(body: str, alpha: float, beta: float) -> None:
    graph = golden.check(
        FuseActivations(),
        f"{HEAD} {CONSTANTS} {{ {body} }}",
        None if not body else _hard_sigmoid(body),
    )
    node = graph.nodes[0]
    assert node.float_attr("alpha") == pytest.approx(alpha)
    assert node.float_attr("beta") == pytest.approx(beta)


def _hard_sigmoid(body: str) -> str:
    graph = golden.parse(f"{HEAD} {CONSTANTS} {{ {body} }}")
    golden.apply(FuseActivations(), graph)
    alpha, beta = (graph.nodes[0].float_attr(n) for n in ("alpha", "beta"))
    return f"{HEAD} {{ y = HardSigmoid<alpha={alpha!r},beta={beta!r}>(x) }}"


@pytest.mark.parametrize(
    ("rule", "body", "reason"),
    [
        (
            "fuse-gelu-erf",
            "a=Div(x,two) e=Erf(a) s=Add(e,one) t=Mul(x,s) y=Mul(t,half)",
            "the value is not the constant 1.41421",
        ),
        (
            "fuse-gelu-tanh",
            "p=Pow(x,three) q=Mul(p,half) r=Add(x,q) u=Mul(r,c) v=Tanh(u) w=Add(v,one) "
            "h=Mul(x,half) y=Mul(h,w)",
            "the value is not the constant 0.044715",
        ),
        ("fuse-swish", "s=Sigmoid(x) e=Exp(x) y=Mul(s,e)", "x is used with two different values"),
        ("fuse-mish", "s=Softplus(x) t=Sigmoid(s) y=Mul(x,t)", "expected Tanh, found Sigmoid"),
        (
            "fuse-hard-swish",
            "g=HardSigmoid<alpha=0.2,beta=0.5>(x) y=Mul(x,g)",
            "the gate's slope is 0.2, not 1/6",
        ),
        (
            "fuse-scaled-hard-swish",
            "a=Add(x,three) g=Clip(a,zero,six) y=Mul(x,g)",
            "no constant factor follows",
        ),
        (
            "fuse-scaled-hard-swish",
            "a=Add(x,three) g=Clip(a,zero,six) t=Mul(x,g) y=Mul(t,x)",
            "no constant factor follows",
        ),
        ("clip-to-relu", "y = Clip(x, zero, six)", "there is an upper bound"),
    ],
)
def test_refused(rule: str, body: str, reason: str) -> None:
    assert reason in reasons(FuseActivations(), rule, f"{HEAD} {CONSTANTS} {{ {body} }}")


def test_integers_are_left_alone() -> None:
    text = "g (int32[N] x) => (int32[N] y) <int32 zero = {0}> { y = Clip(x, zero) }"
    assert "x is no float" in reasons(FuseActivations(), "clip-to-relu", text)


def test_slope_must_be_one_number() -> None:
    body = f"{HEAD} <float[4] a, float h={{0.5}}, float z={{0}}, float o={{1}}> "
    body += "{ m=Mul(x,a) s=Add(m,h) y=Clip(s,z,o) }"
    found = reasons(FuseActivations(), "fuse-hard-sigmoid", body)
    assert "slope and offset are not single numbers" in found


def test_a_shared_inner_value_is_kept() -> None:
    text = "g (float[N,4] x) => (float[N,4] y, float[N,4] s) { s=Sigmoid(x) y=Mul(s,x) }"
    found = reasons(FuseActivations(), "fuse-swish", text)
    assert "an inner value is used elsewhere or is a graph output" in found
