"""Attention between Q/DQ becomes one composite that means the same, and runs on its kernel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import burnish
from burnish.check.reference import Reference
from burnish.export import to_model
from burnish.ir import Graph
from tests.support.golden import parse
from tests.support.quantization import coded, evaluated, keys, optimized

RNG = np.random.default_rng(8)
LENGTH, HEADS, WIDTH = 11, 3, 8

#: What ``burnish quantize --matmul-all`` makes of an attention.
ATTENTION = coded("""g (TYPE[b,t,24] q8, TYPE[b,t,24] k8, TYPE[b,t,24] v8, float[b,1,1,t] mask)
    => (TYPE[b,t,24] y)
<float sq = {0.03}, float sk = {0.04}, float sv = {0.02}, float sp = {P_SCALE}, float sy = {0.007},
 TYPE zq = {Q_ZERO}, TYPE zk = {K_ZERO}, TYPE zv = {V_ZERO}, TYPE zp = {P_ZERO}, TYPE zy = {3},
 float root = {2.8284271}, int64[4] split = {0, 0, 3, 8}, int64[3] merge = {0, 0, 24}> {
    qd = D(q8, sq, zq)
    kd = D(k8, sk, zk)
    vd = D(v8, sv, zv)
    q4 = Reshape(qd, split)
    k4 = Reshape(kd, split)
    v4 = Reshape(vd, split)
    qt = Transpose<perm=[0,2,1,3]>(q4)
    kt = Transpose<perm=[0,2,3,1]>(k4)
    vt = Transpose<perm=[0,2,1,3]>(v4)
    s = MatMul(qt, kt)
    scaled = Div(s, root)
    masked = Add(scaled, mask)
    p = Softmax<axis=-1>(masked)
    p8 = Q(p, sp, zp)
    pd = D(p8, sp, zp)
    o = MatMul(pd, vt)
    ot = Transpose<perm=[0,2,1,3]>(o)
    of = Reshape(ot, merge)
    y = Q(of, sy, zy)
}""")


def model(dtype: str = "uint8", zeros: tuple[int, ...] = (129, 126, 120, 0)) -> Graph:
    """The attention with codes of one type."""
    text = ATTENTION.replace("TYPE", dtype).replace("P_SCALE", "0.00392156862745098")
    for name, zero in zip("QKVP", zeros, strict=True):
        text = text.replace(f"{name}_ZERO", str(zero))
    return parse(text)


def feeds(dtype: str = "uint8", batch: int = 2) -> dict[str, Any]:
    """Codes, and a mask of the last keys."""
    low = np.iinfo(dtype).min
    shape = (batch, LENGTH, HEADS * WIDTH)
    found = {n: RNG.integers(low, low + 256, shape).astype(dtype) for n in ("q8", "k8", "v8")}
    mask = np.where(np.arange(LENGTH) < LENGTH - 2, 0.0, -3e38).astype(np.float32)
    return found | {"mask": np.broadcast_to(mask, (batch, 1, 1, LENGTH)).copy()}


FORMS = pytest.mark.parametrize(
    ("dtype", "zeros"),
    [("uint8", (129, 126, 120, 0)), ("int8", (0, 0, 0, -128)), ("int8", (4, -5, 6, -128))],
)


@FORMS
def test_attention_becomes_one_composite(dtype: str, zeros: tuple[int, ...]) -> None:
    graph, data = optimized(model(dtype, zeros)), feeds(dtype)
    assert keys(graph) == {"burnish::QAttention": 1}
    with Reference(to_model(model(dtype, zeros))) as reference:
        (want,) = reference.run(None, data)
    (found,) = evaluated(graph, data)
    assert np.abs(found.astype(int) - want).max() <= 1
    assert len(np.unique(want)) > 20


@FORMS
def test_it_runs_on_its_kernel(dtype: str, zeros: tuple[int, ...]) -> None:
    source = to_model(model(dtype, zeros))
    compiled = burnish.compile(source, threads=1)
    node = next(n for n in compiled.manifest.nodes if n.op == "burnish::QAttention")
    assert node.precision == "int8"
    with Reference(source) as reference:
        for batch in (1, 3):
            data = feeds(dtype, batch)
            (want,), (found,) = reference.run(None, data), compiled.run(None, data)
            difference = np.abs(found.astype(int) - want)
            # A weight or a result in the middle of two codes may go to either.
            assert difference.max() <= 1
            assert difference.mean() < 0.01


#: What tools make that quantize what products read and what they make; ``BEFORE`` and ``AFTER``
#: scale before and after the scores are rounded.
ROUNDED = pytest.mark.parametrize(
    ("before", "after"),
    [
        ("s", "scaled = Div(sd, root)"),
        ("scaled = Div(s, root)", ""),
        ("half = Mul(s, sq)", "scaled = Mul(sd, root)"),
    ],
    ids=["after", "before", "both"],
)


ZEROS = {"uint8": (129, 126, 120, 0), "int8": (4, -5, 6, -128)}


def rounded_scores(
    before: str, after: str, scale: float, dtype: str = "uint8", *, masked: bool = True
) -> Graph:
    """The attention with scores that are rounded."""
    last = before.split(" =")[0]
    chain = "" if before == "s" else before
    chain += f" s8 = Q({last}, ss, zs) sd = D(s8, ss, zs) {after}"
    text = ATTENTION.replace("    scaled = Div(s, root)", coded(chain))
    text = text.replace("Add(scaled, mask)", "Add(scaled, mask)" if after else "Add(sd, mask)")
    if not masked:
        text = text.replace("    masked = Add(scaled, mask)\n", "").replace("(masked)", "(scaled)")
        text = text.replace(", float[b,1,1,t] mask", "")
    zero = 118 if dtype == "uint8" else -9
    text = text.replace("float root", f"float ss = {{{scale}}}, TYPE zs = {{{zero}}}, float root")
    text = text.replace("TYPE", dtype).replace("P_SCALE", "0.00392156862745098")
    for name, zero in zip("QKVP", ZEROS[dtype], strict=True):
        text = text.replace(f"{name}_ZERO", str(zero))
    return parse(text)


@ROUNDED
@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_scores_may_be_rounded(before: str, after: str, dtype: str) -> None:
    # Codes span what the scores do less a bit: some saturate.
    scale = {"s": 0.16, "scaled": 0.06, "half": 0.005}[before.split(" =")[0]]
    source = rounded_scores(before, after, scale, dtype)
    data = feeds(dtype)
    graph = optimized(rounded_scores(before, after, scale, dtype))
    assert keys(graph) == {"burnish::QAttention": 1}
    (node,) = graph.nodes
    assert node.str_attr("t_dtype") == dtype
    with Reference(to_model(source)) as reference:
        (want,) = reference.run(None, data)
    compiled = burnish.compile(to_model(source), threads=1)
    assert "burnish::QAttention" in {n.op for n in compiled.manifest.nodes}
    for found in (evaluated(graph, data)[0], compiled.run(None, data)[0]):
        difference = np.abs(found.astype(int) - want)
        # A score in the middle of two codes may go to either, and take a few weights along.
        assert difference.max() <= 3
        assert difference.mean() < 0.02
    assert len(np.unique(want)) > 20
    plain = optimized(model(dtype, ZEROS[dtype]))
    assert np.abs(evaluated(plain, data)[0].astype(int) - want).mean() > 0.1, "rounding matters"


@pytest.mark.parametrize("masked", [True, False])
def test_scores_may_be_rounded_again_once_they_are_scaled(masked: bool) -> None:
    twice = coded("scaled1 = Div(sd, root) e8 = Q(scaled1, sq, zs) scaled = D(e8, sq, zs)")
    source = rounded_scores("s", twice, 0.16, masked=masked)
    graph, data = optimized(rounded_scores("s", twice, 0.16, masked=masked)), feeds()
    if not masked:
        del data["mask"]
    assert keys(graph) == {"burnish::QAttention": 1}
    (node,) = graph.nodes
    assert node.float_attr("s_scale") == pytest.approx(0.16)
    assert node.float_attr("t_scale") == pytest.approx(0.03)
    with Reference(to_model(source)) as reference:
        (want,) = reference.run(None, data)
    compiled = burnish.compile(to_model(source), threads=1)
    for found in (evaluated(graph, data)[0], compiled.run(None, data)[0]):
        difference = np.abs(found.astype(int) - want)
        assert difference.max() <= 3
        assert difference.mean() < 0.02


def test_scores_that_are_rounded_three_times_stay() -> None:
    third = coded("f8 = Q(sd, sk, zs) fd = D(f8, sk, zs) g = Div(fd, root)")
    third += coded(" e8 = Q(g, sq, zs) scaled = D(e8, sq, zs)")
    graph = optimized(rounded_scores("s", third, 0.16))
    assert keys(graph)["burnish::QAttention"] == 0
    assert keys(graph)["burnish::QBatchMatMul"] == 2


def test_weights_with_another_zero_stay() -> None:
    graph = optimized(model(zeros=(129, 126, 120, 5)))
    assert keys(graph)["burnish::QAttention"] == 0
    assert keys(graph)["Softmax"] == 1


def test_weights_that_are_not_rounded_stay_in_float() -> None:
    text = ATTENTION.replace("TYPE", "uint8").replace("P_SCALE", "0.004").replace("_ZERO", "")
    for name in "QKVP":
        text = text.replace(f"= {{{name}}}", "= {9}")
    graph = optimized(parse(text.replace("o = MatMul(pd, vt)", "o = MatMul(p, vt)")))
    assert keys(graph)["burnish::QAttention"] == 0
    assert keys(graph)["burnish::Attention"] == 1


def test_scores_that_are_read_elsewhere_stay() -> None:
    text = ATTENTION.replace("TYPE", "uint8").replace("P_SCALE", "0.004")
    text = text.replace("P_ZERO", "0").replace("[b,t,24] y)", "[b,t,24] y, float[b,3,t,t] p)")
    for name in "QKV":
        text = text.replace(f"{name}_ZERO", "9")
    assert keys(optimized(parse(text)))["burnish::QAttention"] == 0
