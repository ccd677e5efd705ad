"""Direct convolutions against float64."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from tvm import tirx

from burnish.backends.cpu.conv import ConvSpec, conv, pack_conv
from burnish.backends.cpu.isa import AVX2, AVX512, Isa
from burnish.ir.postops import PostOp, parse_postops
from tests.support import reference
from tests.support.cpu_kernels import build, dirty, operands, run

both = pytest.mark.parametrize("isa", [AVX512, AVX2], ids=lambda i: i.name)
SHORT = parse_postops(["Add:channel", "Relu"])


@dataclass(frozen=True)
class Case:
    ic: int
    oc: int
    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)
    groups: int = 1
    postops: tuple[PostOp, ...] = SHORT
    sizes: tuple[tuple[int, int, int], ...] = ((2, 9, 15),)


def check(isa: Isa, case: Case, symbolic: bool) -> None:
    names = ("n", "h", "w")
    free = tuple(tirx.Var(v, "int64") for v in names)
    library = None
    for size in case.sizes:
        dims = free if symbolic else size
        spec = ConvSpec(
            *dims, case.ic, case.oc, case.kernel, case.strides, case.pads, case.dilations,
            case.groups, case.postops,
        )  # fmt: skip
        if library is None or not symbolic:
            kernel = conv(isa, spec)
            assert kernel.scalars == ()
            library = build({"k": kernel}, isa)
        rng = np.random.default_rng(sum(size))
        x = rng.standard_normal((*size, case.ic), dtype=np.float32)
        fan_in = case.ic // case.groups * case.kernel[0] * case.kernel[1]
        w = rng.standard_normal((case.oc, case.ic // case.groups, *case.kernel)) / fan_in**0.5
        w = w.astype("f4")
        want = reference.conv(x, w, case.strides, case.pads, case.dilations, case.groups)
        raw, packed = operands(rng, case.postops, want.shape, isa)
        want = reference.postops(want, case.postops, raw)
        (y,) = run(library, "k", [x, pack_conv(w, spec, isa), *packed], [dirty(want.shape)])
        np.testing.assert_allclose(y, want, rtol=2e-5, atol=2e-5)


CASES = {
    "1x1": Case(24, 40, (1, 1), sizes=((1, 7, 9), (2, 5, 5))),
    "1x1-stride": Case(24, 40, (1, 1), (2, 2), sizes=((2, 9, 14),)),
    "1x1-pad": Case(5, 20, (1, 1), pads=(1, 2, 0, 1)),
    "3x3": Case(16, 32, (3, 3), pads=(1, 1, 1, 1), sizes=((1, 14, 14), (2, 8, 31))),
    "3x3-valid": Case(7, 33, (3, 3), sizes=((1, 5, 12),)),
    "3x3-stride": Case(3, 24, (3, 3), (2, 2), (1, 1, 1, 1), sizes=((1, 17, 30), (1, 2, 2))),
    "asymmetric": Case(4, 17, (3, 4), (2, 1), (0, 1, 2, 3), sizes=((1, 9, 11),)),
    "stem": Case(3, 64, (7, 7), (2, 2), (3, 3, 3, 3), sizes=((1, 20, 32), (1, 9, 5))),
    "wide-1d": Case(1, 50, (1, 64), (1, 16), (0, 32, 0, 32), sizes=((1, 1, 300), (2, 1, 65))),
    "one-channel": Case(1, 3, (3, 3), pads=(1, 1, 1, 1), sizes=((1, 6, 21),)),
    "dilated": Case(6, 20, (3, 3), (1, 1), (2, 2, 2, 2), (2, 2), sizes=((1, 9, 13),)),
    "dilated-wide": Case(2, 20, (1, 5), (1, 2), (0, 6, 0, 7), (1, 3), sizes=((1, 1, 40),)),
    "grouped": Case(12, 36, (3, 3), (1, 1), (1, 1, 1, 1), groups=3, sizes=((2, 6, 10),)),
    "grouped-stride": Case(8, 8, (3, 3), (2, 2), (1, 1, 1, 1), groups=4, sizes=((1, 7, 11),)),
    "multiplier": Case(6, 12, (3, 3), (1, 1), (1, 1, 1, 1), groups=6, sizes=((1, 5, 8),)),
    "smaller-than-kernel": Case(3, 16, (5, 5), pads=(2, 2, 2, 2), sizes=((1, 2, 3), (1, 1, 1))),
    "residual": Case(
        20, 24, (3, 3), pads=(1, 1, 1, 1), sizes=((1, 6, 14),),
        postops=parse_postops(["Add:channel", "Add:full", "Relu"]),
    ),
    "long-epilogue": Case(
        8, 37, (3, 3), pads=(1, 1, 1, 1), sizes=((2, 6, 9),),
        postops=parse_postops(["Add:channel", "Silu", "Add:full"]),
    ),
    "long-epilogue-grouped": Case(
        8, 40, (3, 3), pads=(1, 1, 1, 1), groups=2, sizes=((1, 6, 9),),
        postops=parse_postops(["Add:channel", "Sigmoid", "Mul:channel"]),
    ),
}  # fmt: skip


@both
@pytest.mark.parametrize("name", CASES)
def test_static(isa: Isa, name: str) -> None:
    check(isa, CASES[name], symbolic=False)


SYMBOLIC = (
    "1x1", "1x1-stride", "3x3", "asymmetric", "stem", "wide-1d", "dilated", "grouped",
    "smaller-than-kernel", "long-epilogue",
)  # fmt: skip


@both
@pytest.mark.parametrize("name", SYMBOLIC)
def test_symbolic(isa: Isa, name: str) -> None:
    case = CASES[name]
    if case.kernel[0] == 1 and case.kernel[1] > 1:
        more: tuple[tuple[int, int, int], ...] = ((1, 1, 31),)
    else:
        more = ((1, 12, 5), (3, 5, 17))
    check(isa, replace(case, sizes=case.sizes + more), symbolic=True)


def test_symbolic_batch_only() -> None:
    n = tirx.Var("n", "int64")
    spec = ConvSpec(n, 8, 10, 6, 20, (3, 3), pads=(1, 1, 1, 1))
    library = build({"k": conv(AVX512, spec)}, AVX512)
    rng = np.random.default_rng(3)
    w = rng.standard_normal((20, 6, 3, 3)).astype("f4")
    for batch in (1, 4):
        x = rng.standard_normal((batch, 8, 10, 6)).astype("f4")
        want = reference.conv(x, w, pads=(1, 1, 1, 1))
        (y,) = run(library, "k", [x, pack_conv(w, spec, AVX512)], [dirty(want.shape)])
        np.testing.assert_allclose(y, want, rtol=2e-5, atol=2e-5)


def test_wrong_weights() -> None:
    spec = ConvSpec(1, 8, 8, 4, 8, (3, 3))
    with pytest.raises(ValueError, match="shape"):
        pack_conv(np.ones((8, 4, 3, 1), "f4"), spec, AVX512)
