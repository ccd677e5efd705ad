"""The inner loops for ARM, judged by a model of the core."""

from __future__ import annotations

import re

import pytest

from burnish.backends.cpu.gemm import GemmSpec, gemm
from burnish.backends.cpu.tiling import Tile
from tests.bench.mca import HALVES, KERNELS, OLDEST, analyze, analyzer, isa_of, loops
from tests.support.cpu_kernels import build

needs_analyzer = pytest.mark.skipif(
    analyzer() is None, reason=f"llvm-mca {OLDEST} or later is not installed"
)


@needs_analyzer
@pytest.mark.parametrize("name", KERNELS)
def test_near_the_limit_of_neoverse_n1(name: str) -> None:
    """At least 85 % of what the multiply-add units can do."""
    loop = analyze(KERNELS[name](isa_of("neoverse-n1")), "neoverse-n1")
    assert loop.multiply_adds >= 16
    assert 0.85 <= loop.share <= 1.001, (loop.share, loop.lines)


@needs_analyzer
@pytest.mark.parametrize("name", HALVES)
@pytest.mark.parametrize("core", ["neoverse-v1", "neoverse-v2"])
def test_products_of_float16_near_the_limit(core: str, name: str) -> None:
    """An instruction makes as many products as one of float32, and nothing is converted."""
    loop = analyze(HALVES[name](isa_of(core)), core)
    assert all(line.startswith("fmlal") for line in loop.lines if line.startswith("fm"))
    assert loop.multiply_adds >= 16
    assert 0.95 <= loop.share <= 1.001, (loop.share, loop.lines)


@needs_analyzer
def test_the_check_can_fail() -> None:
    """A tile with too few independent sums waits for each of them."""
    spec = GemmSpec((128,), 768, 3072, tile=Tile(2, 2))
    assert analyze(gemm(isa_of("neoverse-n1"), spec), "neoverse-n1").share < 0.6


@pytest.mark.parametrize("name", KERNELS)
def test_registers_and_memory(name: str) -> None:
    """Sums stay in registers, nothing comes from the heap, no function is called in a loop."""
    library = build({"k": KERNELS[name](isa_of("neoverse-n1"))}, isa_of("neoverse-n1"))
    assert "TVMBackendAllocWorkspace" not in library.inspect_source("ll")
    inner = [body for body in loops(library.inspect_source("asm")) if _fmlas(body)]
    assert max(map(_fmlas, inner)) >= 16
    for body in inner:
        assert not [line for line in body if re.match(r"bl\s|blr\s", line)]
        # A vector that moves to or from the stack.
        assert not [line for line in body if re.match(r"(ldr|ldp|str|stp)\s+q.*\[sp", line)], body


def _fmlas(body: tuple[str, ...]) -> int:
    return sum(line.startswith("fmla") for line in body)
