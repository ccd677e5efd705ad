"""When convolutions take Winograd's algorithm, and whole models with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from burnish.artifact import read_manifest
from burnish.backends.cpu.conv import ConvSpec
from burnish.backends.cpu.isa import AVX2, AVX512, Isa
from burnish.backends.cpu.rules.winograd import applies
from burnish.backends.cpu.tiling import columns_cost
from burnish.backends.cpu.winograd_cost import winograd_cost
from burnish.backends.cpu.winograd_error import measure_error
from burnish.backends.cpu.winograd_plan import plan_winograd
from burnish.check.tolerances import tolerance
from burnish.runtime import load
from tests.support.bundle import Case, compile_here, model_of
from tests.support.qemu import emulator
from tests.support.qemu import load as load_emulated

RNG = np.random.default_rng(11)


def filters(oc: int, ic: int) -> np.ndarray:
    """Filters whose outputs are near 1."""
    return (RNG.standard_normal((oc, ic, 3, 3)) / (9 * ic) ** 0.5).astype("f4")


def outsized(oc: int, ic: int) -> np.ndarray:
    """Filters of which one dwarfs the others: its error is large beside the mean output."""
    w = filters(oc, ic)
    w[0] *= 1e3
    return w


def cheapest(isa: Isa, c: int, side: int, oc: int | None = None) -> str:
    """What the cost table takes for a map of ``side`` squared, if the error does not matter."""
    spec = ConvSpec(1, side, side, c, oc or c, (3, 3), pads=(1, 1, 1, 1))
    costs = {
        f"f{m}": winograd_cost(spec, plan_winograd(spec, isa, m), isa, (1, side, side))
        for m in (2, 4)
    }
    costs["direct"] = side * columns_cost(spec.columns(isa), side, 9 * c, isa)
    return min(costs, key=lambda k: costs[k])


@pytest.mark.parametrize(
    ("c", "side", "taken"),
    [(64, 56, "f4"), (128, 28, "f4"), (256, 14, "f4"), (512, 7, "f2"), (32, 80, "f4"),
     (16, 160, "f4"), (256, 28, "f4"), (1, 64, "direct"), (3, 160, "direct"), (4, 64, "direct")],
)  # fmt: skip
def test_the_cheapest(c: int, side: int, taken: str) -> None:
    assert cheapest(AVX512, c, side, max(c, 16)) == taken


def test_the_cheapest_with_narrow_vectors() -> None:
    assert cheapest(AVX2, 64, 56) == "f4"
    assert cheapest(AVX2, 1, 64, 16) == "direct"


def test_what_has_a_form() -> None:
    base = {"n": 1, "h": 8, "w": 8, "ic": 16, "oc": 16, "kernel": (3, 3)}
    assert applies(ConvSpec(**base))
    assert applies(ConvSpec(**base, dtype="bfloat16"))
    for other in (
        {"kernel": (1, 3)}, {"strides": (2, 2)}, {"strides": (1, 2)}, {"dilations": (2, 2)},
        {"groups": 2}, {"pads": (0, 2, 0, 0)}, {"dtype": "float16"}, {"h": 4}, {"w": 3},
    ):  # fmt: skip
        assert not applies(ConvSpec(**{**base, **other})), other


def test_the_error_of_ordinary_filters_is_covered() -> None:
    bound = tolerance("float32", "model")
    for ic in (1, 16, 64, 256):
        error = measure_error(filters(32, ic), 4)
        assert error.covered
        assert 1e-7 < error.rms < bound.rms / 30
        assert error.rms < error.largest < bound.atol / 30


def test_the_smaller_tile_errs_less() -> None:
    w = filters(24, 64)
    small, large = measure_error(w, 2), measure_error(w, 4)
    assert small.rms < large.rms / 1.5
    # F(2x2) does not carry an outlier to outputs whose window does not have it.
    assert small.outlier < large.outlier


@pytest.mark.parametrize(
    "w",
    [
        outsized(384, 32),
        np.where(np.arange(9).reshape(3, 3) == 4, np.nan, filters(8, 8)),
        np.zeros((8, 8, 3, 3), "f4"),
    ],
    ids=["outsized", "nan", "zero"],
)
def test_the_error_of_some_filters_is_not_covered(w: np.ndarray) -> None:
    assert not measure_error(w, 4).covered


NET = (
    "(float[N,32,25,22] x) => (float[N,32,25,22] y) <float[384,32,3,3] w1, float[384] b1, "
    "float[32,384,3,3] w2, float[32] b2, float[32,32,3,3] w3, float[32,32,1,3] w4> "
    "{ a = Conv<pads=[1,1,1,1]>(x, w1, b1) b = Relu(a) c = Conv<pads=[1,1,1,1]>(b, w2, b2) "
    "d = Add(c, x) e = Relu(d) f = Conv<pads=[1,0,1,0]>(e, w3) y = Conv<pads=[0,2,0,2]>(f, w4) }"
)


@pytest.mark.parametrize("planted", [False, True], ids=["ordinary", "outsized"])
def test_model(planted: bool, tmp_path: Path) -> None:
    first = outsized(384, 32) if planted else filters(384, 32)
    weights = {"w1": first, "w2": filters(32, 384), "w3": filters(32, 32)}
    model = model_of(Case(NET, weights=weights), "net", np.random.default_rng(5))
    compiled, _ = compile_here(model, tmp_path, library="none", check=False)
    nodes = {
        n.kernel.rpartition("_")[0]: n for n in read_manifest(tmp_path / "model.burnish").nodes
    }
    tactics = [n.tactic for n in read_manifest(tmp_path / "model.burnish").nodes if n.tactic]
    assert tactics.count("winograd-f4") == (2 if planted else 3), nodes
    detail = " ".join(n.detail for n in read_manifest(tmp_path / "model.burnish").nodes)
    assert ("not covered" in detail) is planted
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name
    bound = tolerance("float32", "model")
    for batch in (1, 3):
        x = RNG.standard_normal((batch, 32, 25, 22)).astype("f4")
        (want,) = session.run(None, {name: x})
        results = [compiled.run(None, {name: x})[0]]
        with load(tmp_path / "model.burnish", threads=2) as two:
            results.append(two.run(None, {name: x})[0])
        np.testing.assert_array_equal(results[0], results[1])
        scale = float(np.sqrt(np.square(want).mean()))
        assert scale > 0.01
        assert np.abs(results[0] - want).max() <= bound.atol * scale / 10


@pytest.mark.slow
def test_arm(tmp_path: Path) -> None:
    emulator()
    case = Case(
        "(float[1,16,H,W] x) => (float[1,10,H,W] y) <float[10,16,3,3] w, float[10] b> "
        "{ a = Conv<pads=[1,1,1,1]>(x, w, b) y = Relu(a) }"
    )
    model = model_of(case, "net", np.random.default_rng(5))
    compiled, _ = compile_here(
        model,
        tmp_path,
        lambda path, threads: load_emulated(path, "neoverse-n1", threads),
        target="arm:neoverse-n1",
        check=False,
    )
    nodes = read_manifest(tmp_path / "model.burnish").nodes
    assert "winograd-f4" in [n.tactic for n in nodes]
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name
    x = RNG.standard_normal((1, 16, 9, 14)).astype("f4")
    (want,) = session.run(None, {name: x})
    (y,) = compiled.run(None, {name: x})
    np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-4)
    assert np.abs(want).mean() > 0.01
