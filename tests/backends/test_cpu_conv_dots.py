"""Convolutions with few filters, lanes along the reduction, against float64."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from tvm import tirx

from burnish.backends.cpu.conv import ConvSpec
from burnish.backends.cpu.conv_dots import conv_dots, dots_cost, pack_dots, sum_lanes, takes
from burnish.backends.cpu.epilogue import pack_channel
from burnish.backends.cpu.isa import AVX2, AVX512, Isa
from burnish.backends.cpu.tir import kernel
from burnish.ir.postops import PostOp, parse_postops
from tests.support import reference
from tests.support.cpu_kernels import build, dirty, run

both = pytest.mark.parametrize("isa", [AVX512, AVX2], ids=lambda i: i.name)


@dataclass(frozen=True)
class Case:
    ic: int
    oc: int
    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)
    postops: tuple[PostOp, ...] = parse_postops(["Add:channel", "Relu"])
    sizes: tuple[tuple[int, int, int], ...] = ((2, 9, 25),)


CASES = {
    "one-filter": Case(8, 1, (5, 5), pads=(2, 2, 2, 2)),
    "few": Case(6, 7, (3, 9), pads=(1, 4, 1, 4)),
    "full-vectors": Case(32, 3, (2, 2)),
    "no-full-vector": Case(1, 1, (3, 3), pads=(1, 1, 1, 1), sizes=((1, 6, 21), (2, 1, 1))),
    "strides": Case(5, 2, (7, 3), (2, 3), (3, 1, 3, 1), sizes=((1, 11, 40), (1, 3, 2))),
    "dilated-rows": Case(4, 3, (3, 5), (1, 1), (2, 2, 2, 2), (2, 1)),
    "wide": Case(1, 1, (1, 64), (1, 2), (0, 31, 0, 32), sizes=((2, 1, 300), (1, 1, 20))),
    "window-beyond": Case(3, 2, (3, 7), pads=(1, 8, 1, 9), sizes=((1, 3, 4),)),
    "long-epilogue": Case(
        9, 5, (3, 3), pads=(1, 1, 1, 1),
        postops=parse_postops(["Add:channel", "Sigmoid", "Mul:channel", "Add:full"]),
    ),
}  # fmt: skip


def check(isa: Isa, case: Case, symbolic: bool) -> None:
    free = tuple(tirx.Var(v, "int64") for v in "nhw")
    library = None
    for size in case.sizes:
        dims = free if symbolic else size
        spec = ConvSpec(
            *dims, case.ic, case.oc, case.kernel, case.strides, case.pads,
            case.dilations, 1, case.postops,
        )  # fmt: skip
        assert takes(spec, replace(isa, lanes=16))
        if library is None or not symbolic:
            library = build({"k": conv_dots(isa, spec)}, isa)
        rng = np.random.default_rng(sum(size))
        x = rng.standard_normal((*size, case.ic), dtype=np.float32)
        w = rng.standard_normal((case.oc, case.ic, *case.kernel))
        w = (w / w[0].size ** 0.5).astype("f4")
        want = reference.conv(x, w, case.strides, case.pads, case.dilations)
        raw, packed = [], []
        for p in case.postops:
            if p.operand:
                shape = want.shape if p.operand == "full" else (case.oc,)
                raw.append(rng.standard_normal(shape).astype("f4"))
                packed.append(raw[-1] if p.operand == "full" else pack_channel(raw[-1], isa))
        want = reference.postops(want, case.postops, raw)
        (y,) = run(library, "k", [x, pack_dots(w, spec, isa), *packed], [dirty(want.shape)])
        np.testing.assert_allclose(y, want, rtol=2e-5, atol=2e-5)


@both
@pytest.mark.parametrize("name", CASES)
def test_static(isa: Isa, name: str) -> None:
    check(isa, CASES[name], symbolic=False)


@both
@pytest.mark.parametrize("name", ["one-filter", "strides", "wide", "window-beyond"])
def test_symbolic(isa: Isa, name: str) -> None:
    case = CASES[name]
    rows = 1 if case.kernel[0] == 1 else 8
    check(isa, replace(case, sizes=(*case.sizes, (2, rows, 31))), symbolic=True)


def test_long_rows_are_cut_into_tasks() -> None:
    case = Case(1, 1, (1, 256), (1, 2), (0, 127, 0, 127), sizes=((1, 1, 9001),))
    check(AVX512, case, symbolic=False)


def test_values_outside_of_the_window_do_not_matter() -> None:
    """Vectors of a window's end are masked: what follows it in the image may be infinite."""
    spec = ConvSpec(1, 1, 8, 3, 2, (1, 3))
    x = np.ones((1, 1, 8, 3), "f4")
    x[:, :, 5:] = np.inf
    w = np.random.default_rng(0).standard_normal((2, 3, 1, 3)).astype("f4")
    library = build({"k": conv_dots(AVX512, spec)}, AVX512)
    (y,) = run(library, "k", [x, pack_dots(w, spec, AVX512)], [dirty((1, 1, 6, 2))])
    assert np.isfinite(y[:, :, :3]).all()
    np.testing.assert_allclose(y[0, 0, 0], w.sum((1, 2, 3)), rtol=1e-5)


@pytest.mark.parametrize("count", [1, 3, 7, 8, 13, 16])
def test_sum_lanes(count: int) -> None:
    with kernel("sums", AVX512) as k:
        vectors, sums = k.input("x", (count * 16,)), k.output("y", (count,))
        sums.store(0, sum_lanes([vectors.load(16 * i, 16) for i in range(count)]), count)
    library = build({"k": k.result}, AVX512)
    x = np.random.default_rng(count).standard_normal(count * 16).astype("f4")
    (got,) = run(library, "k", [x], [dirty((count,))])
    np.testing.assert_allclose(got, x.reshape(count, 16).sum(1), rtol=1e-5, atol=1e-6)


def test_takes() -> None:
    few = ConvSpec(1, 8, 8, 8, 4, (3, 3))
    assert takes(few, AVX512)
    for other in (
        replace(few, oc=16),
        replace(few, dilations=(1, 2)),
        replace(few, groups=2),
        replace(few, kernel=(1, 1)),
        replace(few, dtype="float16"),
    ):
        assert not takes(other, AVX512)


def test_cost_grows_with_the_filters() -> None:
    costs = [dots_cost(ConvSpec(1, 8, 64, 8, oc, (3, 3)), AVX512, 512, 64) for oc in (1, 4, 12)]
    assert costs == sorted(costs)


def test_wrong_weights() -> None:
    with pytest.raises(ValueError, match="shape"):
        pack_dots(np.ones((8, 4, 3, 1), "f4"), ConvSpec(1, 8, 8, 4, 8, (3, 3)), AVX512)
