"""Depthwise convolutions against float64."""

from __future__ import annotations

import numpy as np
import pytest
from tvm import tirx

from burnish.backends.cpu.conv import ConvSpec
from burnish.backends.cpu.depthwise import depthwise, pack_depthwise
from burnish.backends.cpu.epilogue import pack_channel
from burnish.backends.cpu.isa import AVX2, AVX512, Isa
from burnish.errors import CompileError
from burnish.ir.postops import parse_postops
from tests.support import reference
from tests.support.cpu_kernels import build, dirty, run

both = pytest.mark.parametrize("isa", [AVX512, AVX2], ids=lambda i: i.name)

# channels, kernel, strides, pads, dilations
CASES = {
    "3x3": (40, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
    "3x3-stride": (17, (3, 3), (2, 2), (1, 1, 1, 1), (1, 1)),
    "3x3-asymmetric": (3, (3, 3), (2, 2), (0, 0, 1, 1), (1, 1)),
    "5x5": (96, (5, 5), (1, 1), (2, 2, 2, 2), (1, 1)),
    "5x5-stride": (33, (5, 5), (2, 2), (2, 2, 2, 2), (1, 1)),
    "7x7": (24, (7, 7), (1, 1), (3, 3, 3, 3), (1, 1)),
    "1d": (20, (1, 4), (1, 1), (0, 3, 0, 0), (1, 1)),
    "wide-1d": (20, (1, 31), (1, 1), (0, 15, 0, 15), (1, 1)),
    "dilated": (16, (3, 3), (1, 1), (2, 2, 2, 2), (2, 2)),
    "dilated-stride": (8, (3, 3), (2, 3), (3, 1, 0, 2), (2, 3)),
}
SIZES = ((1, 14, 14), (2, 7, 19), (1, 8, 9), (1, 6, 33))
POST = parse_postops(["Add:channel", "Clip:-1:1.5"])


def check(isa: Isa, name: str, symbolic: bool, post: tuple[str, ...] = ()) -> None:
    c, kernel, strides, pads, dilations = CASES[name]
    steps = parse_postops(post) or POST
    library = None
    for size in SIZES:
        dims = tuple(tirx.Var(v, "int64") for v in "nhw") if symbolic else size
        spec = ConvSpec(*dims, c, c, kernel, strides, pads, dilations, c, steps)
        if library is None or not symbolic:
            library = build({"k": depthwise(isa, spec)}, isa)
        rng = np.random.default_rng(sum(size))
        x = rng.standard_normal((*size, c)).astype("f4")
        w = rng.standard_normal((c, 1, *kernel)).astype("f4")
        bias = rng.standard_normal(c).astype("f4")
        want = reference.conv(x, w, strides, pads, dilations, c)
        raw, packed = [bias], [pack_channel(bias, isa)]
        if any(p.operand == "full" for p in steps):
            raw.append(rng.standard_normal(want.shape).astype("f4"))
            packed.append(raw[-1])
        want = reference.postops(want, steps, raw)
        (y,) = run(library, "k", [x, pack_depthwise(w, spec, isa), *packed], [dirty(want.shape)])
        np.testing.assert_allclose(y, want, rtol=2e-5, atol=2e-5)


@both
@pytest.mark.parametrize("symbolic", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_matches(isa: Isa, name: str, symbolic: bool) -> None:
    check(isa, name, symbolic)


@both
@pytest.mark.parametrize("symbolic", [False, True])
def test_long_epilogue_and_residual(isa: Isa, symbolic: bool) -> None:
    check(isa, "3x3", symbolic, ("Add:channel", "Silu", "Add:full"))


def test_only_depthwise() -> None:
    with pytest.raises(CompileError, match="not a depthwise"):
        depthwise(AVX512, ConvSpec(1, 8, 8, 4, 8, (3, 3), groups=4))
