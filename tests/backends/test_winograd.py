"""Winograd convolutions against float64."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from tvm import tirx

from burnish.backends.cpu.conv import ConvSpec
from burnish.backends.cpu.gemm import packed_size
from burnish.backends.cpu.isa import AVX2, AVX512, Isa
from burnish.backends.cpu.stack import STACK_BYTES, stack
from burnish.backends.cpu.tiling import Tile
from burnish.backends.cpu.tir import kernel
from burnish.backends.cpu.winograd import pack_winograd, winograd
from burnish.backends.cpu.winograd_matrices import (
    apply,
    input_program,
    matrices,
    output_program,
    transform_filters,
)
from burnish.backends.cpu.winograd_plan import plan_winograd
from burnish.errors import CompileError
from burnish.ir.postops import PostOp, parse_postops
from tests.support import reference
from tests.support.cpu_kernels import Library, build, dirty, operands, run

both = pytest.mark.parametrize("isa", [AVX512, AVX2], ids=lambda i: i.name)
tiles = pytest.mark.parametrize("m", [2, 4])
SHORT = parse_postops(["Add:channel", "Relu"])
#: Largest error in units of the output, which is near 1: F(4x4) loses a few more bits.
BOUND = {2: 5e-6, 4: 2e-5}


@dataclass(frozen=True)
class Case:
    ic: int
    oc: int
    size: tuple[int, int, int]
    pads: tuple[int, int, int, int] = (1, 1, 1, 1)
    postops: tuple[PostOp, ...] = SHORT
    tile: Tile | None = None


CASES = {
    "whole-tiles": Case(32, 32, (1, 8, 16)),
    "ragged": Case(16, 32, (1, 7, 13)),
    "valid": Case(16, 16, (1, 9, 10), (0, 0, 0, 0)),
    "one-side": Case(16, 16, (1, 9, 10), (1, 0, 0, 1)),
    "other-side": Case(16, 16, (1, 6, 7), (0, 1, 1, 0)),
    "channel-tails": Case(19, 37, (1, 9, 15)),
    "few-channels": Case(3, 5, (1, 10, 10)),
    "one-channel": Case(1, 1, (1, 5, 9)),
    "tail-alone": Case(8, 33, (1, 6, 6)),
    "batch": Case(16, 24, (3, 5, 6)),
    "one-pixel": Case(16, 16, (1, 1, 1)),
    "one-row": Case(16, 16, (2, 1, 9)),
    "one-column": Case(16, 16, (1, 9, 1)),
    "smallest-valid": Case(16, 16, (1, 3, 3), (0, 0, 0, 0)),
    "deep": Case(320, 48, (1, 7, 7)),
    "private": Case(32, 16, (1, 60, 52)),
    "private-ragged": Case(20, 16, (2, 45, 61)),
    "residual": Case(
        20, 24, (1, 6, 14), postops=parse_postops(["Add:channel", "Add:full", "Relu"])
    ),
    "long-epilogue": Case(
        8, 37, (2, 6, 9), postops=parse_postops(["Add:channel", "Silu", "Add:full"])
    ),
    "no-epilogue": Case(12, 20, (1, 6, 6), postops=()),
    "given-tile": Case(16, 40, (1, 12, 12), tile=Tile(5, 2)),
}


def spec_of(case: Case, dims: tuple[object, ...]) -> ConvSpec:
    return ConvSpec(
        *dims, case.ic, case.oc, (3, 3), pads=case.pads, postops=case.postops, tile=case.tile
    )


def check(library: Library, case: Case, spec: ConvSpec, isa: Isa, m: int) -> None:
    rng = np.random.default_rng(sum(case.size))
    x = rng.standard_normal((*case.size, case.ic), dtype=np.float32)
    w = (rng.standard_normal((case.oc, case.ic, 3, 3)) / (9 * case.ic) ** 0.5).astype("f4")
    want = reference.conv(x, w, pads=case.pads)
    raw, packed = operands(rng, case.postops, want.shape, isa)
    want = reference.postops(want, case.postops, raw)
    plan = plan_winograd(spec, isa, m)
    # What the arena held before must not matter.
    scratch = [np.full(plan.scratch, np.nan, "f4")] if plan.scratch else []
    inputs = [x, pack_winograd(w, spec, isa, m), *packed]
    y = run(library, "k", inputs, [dirty(want.shape), *scratch])[0]
    np.testing.assert_allclose(y, want, rtol=BOUND[m], atol=BOUND[m])


@both
@tiles
@pytest.mark.parametrize("name", CASES)
def test_static(isa: Isa, m: int, name: str) -> None:
    case = CASES[name]
    spec = spec_of(case, case.size)
    check(build({"k": winograd(isa, spec, m)}, isa), case, spec, isa, m)


@both
@tiles
@pytest.mark.parametrize("name", ["ragged", "one-side", "channel-tails", "long-epilogue"])
def test_symbolic(isa: Isa, m: int, name: str) -> None:
    spec = spec_of(CASES[name], tuple(tirx.Var(v, "int64") for v in "nhw"))
    kernel = winograd(isa, spec, m)
    assert kernel.scalars == ()
    library = build({"k": kernel}, isa)
    for size in (CASES[name].size, (1, 4, 4), (2, 33, 18)):
        check(library, replace(CASES[name], size=size), spec, isa, m)


@tiles
def test_symbolic_with_shared_input(m: int) -> None:
    case = Case(640, 32, (1, 9, 9))
    spec = spec_of(case, tuple(tirx.Var(v, "int64") for v in "nhw"))
    assert not plan_winograd(spec, AVX512, m).private
    library = build({"k": winograd(AVX512, spec, m)}, AVX512)
    for size in ((1, 9, 9), (2, 26, 30)):
        check(library, replace(case, size=size), spec, AVX512, m)


@tiles
def test_several_panels(m: int) -> None:
    case = Case(640, 16, (1, 34, 38))
    spec = spec_of(case, case.size)
    plan = plan_winograd(spec, AVX512, m)
    assert not plan.private
    assert plan.panel * m * m < 34 * 38
    check(build({"k": winograd(AVX512, spec, m)}, AVX512), case, spec, AVX512, m)


@both
@tiles
def test_plans_fit(isa: Isa, m: int) -> None:
    for ic in (1, 16, 24, 64, 96, 160, 256, 512, 1024):
        for side in (1, 7, 14, 28, 56, 112):
            spec = ConvSpec(1, side, side, ic, 64, (3, 3), pads=(1, 1, 1, 1))
            plan = plan_winograd(spec, isa, m)
            count = (-(-side // m)) ** 2
            assert plan.panel % plan.block == 0
            assert plan.block - plan.columns[0].tile.rows < count
            inputs = 4 * plan.points * plan.input_plane if plan.private else 0
            assert inputs + 4 * plan.points * plan.product_plane <= STACK_BYTES
            assert plan.scratch * 4 <= 8 << 20


def test_few_tiles_of_many_channels_share_their_input() -> None:
    def plan(c: int, side: int) -> bool:
        spec = ConvSpec(1, side, side, c, c, (3, 3), pads=(1, 1, 1, 1))
        return plan_winograd(spec, AVX512, 2).private

    assert plan(64, 56)
    assert plan(32, 160)
    assert not plan(512, 7)
    assert not plan(256, 14)


def test_build_of_the_largest_form_is_quick() -> None:
    import time

    case = Case(24, 40, (1, 30, 31))
    start = time.process_time()
    build({"k": winograd(AVX512, spec_of(case, case.size), 4)}, AVX512)
    assert time.process_time() - start < 1.5


@tiles
def test_programs_multiply_by_the_matrices(m: int) -> None:
    rng = np.random.default_rng(m)
    parts = matrices(m)
    d, g = rng.standard_normal(m + 2), rng.standard_normal(3)
    at, gm, bt = (
        np.array([[float(c) for c in row] for row in x]) for x in (parts.at, parts.g, parts.bt)
    )
    np.testing.assert_allclose(apply(input_program(m), d), bt @ d, rtol=1e-13)
    np.testing.assert_allclose(apply(output_program(m), d), at @ d, rtol=1e-13)
    want = [d[i : i + 3] @ g for i in range(m)]
    np.testing.assert_allclose(at @ ((gm @ g) * (bt @ d)), want, rtol=1e-12)


@tiles
def test_coefficients_are_exact(m: int) -> None:
    for program in (input_program(m), output_program(m)):
        for terms in (*program.shared, *program.results):
            assert all(np.float32(c) == c for c, _ in terms)


@tiles
def test_pack(m: int) -> None:
    spec = ConvSpec(1, 20, 20, 5, 19, (3, 3), tile=Tile(7, 2))
    w = np.random.default_rng(0).standard_normal((19, 5, 3, 3)).astype("f4")
    packed = pack_winograd(w, spec, AVX512, m)
    plan = plan_winograd(spec, AVX512, m)
    assert packed.dtype == np.float32
    assert packed.shape == (packed_size(plan.points * 5, 19, AVX512),)
    (columns,) = plan.columns
    width = columns.tile.vectors * 16
    blocks = packed.reshape(plan.points, 5, width)
    want = transform_filters(w, m).astype("f4")
    np.testing.assert_array_equal(blocks[..., :19], want)
    assert not blocks[..., 19:].any()


def test_wrong_weights() -> None:
    with pytest.raises(ValueError, match="shape"):
        pack_winograd(np.ones((8, 4, 3, 1), "f4"), ConvSpec(1, 8, 8, 4, 8, (3, 3)), AVX512, 2)


def test_stack_has_a_limit() -> None:
    with pytest.raises(CompileError, match="stack array"), kernel("k", AVX512):
        stack(STACK_BYTES // 4 + 1)
