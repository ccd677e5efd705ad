"""Which ways there are to compute a product with constant weights, and which is taken."""

from __future__ import annotations

import numpy as np
import pytest
from tvm import tirx

from burnish.backends.cpu.gemm import GemmSpec, gemm, pack_gemm
from burnish.backends.cpu.gemm_plans import GemmPlan, gemm_plans
from burnish.backends.cpu.isa import AVX2, AVX512, ISAS, Isa
from tests.support.cpu_kernels import build, dirty, run

SHAPES = [(197, 3072, 768), (128, 768, 3072), (1500, 384, 1536), (1, 768, 3072), (3, 7, 2)]


def plans(isa: Isa, m: int, k: int, n: int) -> list[GemmPlan]:
    return gemm_plans(isa, GemmSpec((m,), k, n), m)


@pytest.mark.parametrize("isa", ISAS.values(), ids=lambda i: i.name)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_plans_differ_and_are_in_order(isa: Isa, shape: tuple[int, int, int]) -> None:
    found = plans(isa, *shape)
    assert len({p.name for p in found}) == len(found)
    assert [p.cost for p in found] == sorted(p.cost for p in found)
    multiply_adds = shape[0] * shape[1] * shape[2] / (2 * isa.lanes)
    assert multiply_adds <= found[0].cost
    if shape[0] > 100:
        assert found[0].cost < 1.1 * multiply_adds


def test_a_deep_reduction_is_taken_in_passes() -> None:
    best, *others = plans(AVX512, 197, 3072, 768)
    assert best.name == "gemm 8x3 k-blocked 1536"
    assert best.spec.steps == 1536
    assert "gemm 6x4" in {p.name for p in others}
    assert not any(p.spec.steps for p in plans(AVX512, 197, 768, 3072))


def test_half_precision_has_no_passes() -> None:
    found = gemm_plans(AVX512, GemmSpec((197,), 3072, 768, dtype="float16"), 197)
    assert not any(p.spec.steps for p in found)


def test_one_row_and_unknown_rows() -> None:
    assert plans(AVX512, 1, 768, 3072)[0].name == "gemv 4"
    spec = GemmSpec((tirx.Var("m", "int64"),), 3072, 768)
    names = {p.name for p in gemm_plans(AVX512, spec, 64)}
    assert "gemm 8x3 k-blocked 1536" in names
    assert "gemm 8x2 rows-first" in names


def test_few_sums_in_flight_are_not_taken_for_fast() -> None:
    """Eight are what latency and throughput ask for; measured, such loops reach 80 %."""
    best = plans(AVX2, 128, 768, 768)[0].columns[0].tile
    assert best.rows * best.vectors >= 10


@pytest.mark.parametrize("isa", [AVX512, AVX2], ids=lambda i: i.name)
@pytest.mark.parametrize("lead", [(70,), None], ids=["static", "symbolic"])
def test_every_plan_computes_the_product(isa: Isa, lead: tuple[int] | None) -> None:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((70, 2100), dtype=np.float32)
    w = rng.standard_normal((2100, 212), dtype=np.float32) / np.float32(46)
    spec = GemmSpec(lead or (tirx.Var("m", "int64"),), 2100, 212)
    found = {f"k{i}": p for i, p in enumerate(gemm_plans(isa, spec, 70))}
    assert len(found) >= 3
    library = build({name: gemm(isa, p.spec) for name, p in found.items()}, isa)
    for name, plan in found.items():
        packed = pack_gemm(w, plan.spec, isa)
        (y,) = run(library, name, [x, packed], [dirty((70, 212))])
        np.testing.assert_allclose(y, x.astype("f8") @ w, rtol=2e-5, atol=2e-5, err_msg=plan.name)
