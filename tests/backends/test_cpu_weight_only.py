"""Products with weights in 8 or 4 bits against float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tvm import tirx

from burnish.artifact import cpu_features
from burnish.backends.cpu.epilogue import pack_channel
from burnish.backends.cpu.isa import AVX2, AVX512, Isa
from burnish.backends.cpu.nbits import NBitsSpec, matmul_nbits, pack_blocks, pack_codes
from burnish.errors import CompileError
from burnish.ir.postops import parse_postops
from tests.support import reference
from tests.support.cpu_kernels import build, dirty, run

both = pytest.mark.parametrize("isa", [AVX512, AVX2], ids=lambda i: i.name)
BIAS_GELU = parse_postops(["Add:channel", "Gelu"])


def weights(spec: NBitsSpec) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Codes, scales and zero points of a spec, and the weights they stand for in float64."""
    rng = np.random.default_rng(spec.k + spec.n)
    low, high = -(2 ** (spec.bits - 1)), 2 ** (spec.bits - 1)
    codes = rng.integers(low, high, (spec.k, spec.n))
    # The ends of the range.
    codes[0], codes[-1] = low, high - 1
    scale = rng.uniform(0.5, 1.5, (spec.blocks, spec.n)).astype(np.float32) / high
    zero = rng.integers(low, high, scale.shape).astype(np.int8)
    if spec.symmetric:
        zero[:] = 0
    rows = np.arange(spec.k) // spec.block
    return codes, scale, zero, (codes - zero.astype(np.int64)[rows]) * scale.astype("f8")[rows]


def check(isa: Isa, spec: NBitsSpec, leads: list[tuple[int, ...]]) -> None:
    """Build the kernel and compare it with float64 for rows of some sizes."""
    if not set(isa.features) <= cpu_features():
        pytest.skip(f"this CPU has no {isa.name}")
    library = build({"k": matmul_nbits(isa, spec)}, isa)
    codes, scale, zero, w = weights(spec)
    stored: list[Any] = [pack_codes(codes, spec, isa), pack_blocks(scale, spec, isa)]
    if not spec.symmetric:
        stored.append(pack_blocks(zero, spec, isa))
    for lead in leads:
        rng = np.random.default_rng(len(lead))
        x = rng.standard_normal((*lead, spec.k)).astype(np.float32)
        raw, operands = [], []
        for post in spec.postops:
            if post.operand == "channel":
                raw.append(rng.standard_normal(spec.n).astype(np.float32))
                operands.append(pack_channel(raw[-1], isa))
            elif post.operand == "full":
                raw.append(rng.standard_normal((*lead, spec.n)).astype(np.float32))
                operands.append(raw[-1])
        (y,) = run(library, "k", [x, *stored, *operands], [dirty((*lead, spec.n))])
        sums = x.astype("f8") @ w
        want = reference.postops(sums, spec.postops, raw)
        # Sums of a block are taken before its zero point is: what cancels is larger.
        np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-5 * np.abs(sums).max())


@both
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(
    ("m", "k", "n", "block"),
    [
        (1, 64, 40, 32),
        (1, 75, 16, 16),  # half a word in the last, shorter block
        (1, 70, 100, 70),  # one scale for each column
        (2, 96, 33, 32),
        (4, 40, 130, 16),
        (5, 72, 70, 32),
        (250, 24, 24, 8),
    ],
)
def test_static_rows(
    isa: Isa, m: int, k: int, n: int, block: int, bits: int, symmetric: bool
) -> None:
    check(isa, NBitsSpec((m,), k, n, bits, block, symmetric), [(m,)])


@both
def test_symbolic_rows(isa: Isa) -> None:
    b, s = tirx.Var("b", "int64"), tirx.Var("s", "int64")
    spec = NBitsSpec((b, s), 48, 90, 4, 16, False, BIAS_GELU)
    check(isa, spec, [(1, m) for m in range(1, 12)] + [(3, 85)])


@both
@pytest.mark.parametrize("m", [1, 3, 9])
def test_post_ops_are_fused(isa: Isa, m: int) -> None:
    postops = parse_postops(["Add:channel", "Gelu", "Add:full", "Relu"])
    check(isa, NBitsSpec((m,), 64, 41, 4, 32, True, postops), [(m,)])


@both
def test_sums_go_on_in_the_next_panel(isa: Isa) -> None:
    check(isa, NBitsSpec((7,), 300, 20, 4, 32, False, parse_postops(["Relu"])), [(7,)])
    check(isa, NBitsSpec((7,), 270, 20, 8, 270, True), [(7,)])


def test_four_bits_take_half_a_byte() -> None:
    spec = NBitsSpec((1,), 256, 64, 4, 32, True)
    assert pack_codes(np.zeros((256, 64), int), spec, AVX512).nbytes == 256 * 64 // 2


def test_blocks_that_cut_words_are_refused() -> None:
    with pytest.raises(CompileError, match="blocks of 12 rows"):
        NBitsSpec((1,), 48, 16, 4, 12, True)
