"""Transposed convolutions against float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tvm import tirx

from burnish.backends.cpu.conv_transpose import (
    ConvTransposeSpec,
    conv_transpose,
    pack_conv_transpose,
)
from burnish.backends.cpu.epilogue import pack_channel
from burnish.backends.cpu.isa import AVX2, AVX512, Isa
from burnish.ir.postops import parse_postops
from tests.support import reference
from tests.support.cpu_kernels import build, dirty, run

both = pytest.mark.parametrize("isa", [AVX512, AVX2], ids=lambda i: i.name)

# ic, oc, kernel, strides, pads, dilations, groups, output_padding
CASES: dict[str, Any] = {
    "k2s2": (24, 40, (2, 2), (2, 2), (0, 0, 0, 0), (1, 1), 1, (0, 0)),
    "k2s2-one": (16, 1, (2, 2), (2, 2), (0, 0, 0, 0), (1, 1), 1, (0, 0)),
    "k4s2": (12, 20, (4, 4), (2, 2), (1, 1, 1, 1), (1, 1), 1, (0, 0)),
    "k3s2": (5, 33, (3, 3), (2, 2), (1, 1, 1, 1), (1, 1), 1, (1, 1)),
    "k3s1": (8, 16, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1, (0, 0)),
    "gaps": (4, 16, (2, 2), (3, 3), (0, 0, 0, 0), (1, 1), 1, (1, 0)),
    "asymmetric": (6, 18, (3, 5), (2, 3), (0, 2, 1, 0), (1, 1), 1, (1, 2)),
    "dilated": (4, 17, (3, 3), (2, 2), (1, 0, 2, 1), (2, 2), 1, (0, 0)),
    "grouped": (8, 12, (3, 3), (2, 2), (1, 1, 1, 1), (1, 1), 4, (0, 0)),
    "1d": (6, 20, (1, 8), (1, 4), (0, 2, 0, 2), (1, 1), 1, (0, 0)),
}
SHORT = ("Add:channel", "Relu")
LONG = ("Add:channel", "Sigmoid", "Add:full")
SIZES = ((1, 5, 7), (2, 3, 17), (1, 1, 2))


@both
@pytest.mark.parametrize("symbolic", [False, True])
@pytest.mark.parametrize(
    ("name", "post"),
    [(name, SHORT) for name in CASES] + [(name, LONG) for name in ("k2s2", "k3s2")],
)
def test_matches(isa: Isa, name: str, post: tuple[str, ...], symbolic: bool) -> None:
    ic, oc, kernel, strides, pads, dilations, groups, more = CASES[name]
    steps = parse_postops(post)
    library = None
    for size in SIZES:
        if kernel[0] == 1:
            size = (size[0], 1, size[2])
        dims = tuple(tirx.Var(v, "int64") for v in "nhw") if symbolic else size
        spec = ConvTransposeSpec(
            *dims, ic, oc, kernel, strides, pads, dilations, groups, more, steps
        )
        if library is None or not symbolic:
            built = conv_transpose(isa, spec)
            assert built.scalars == ()
            library = build({"k": built}, isa)
        rng = np.random.default_rng(sum(size))
        x = rng.standard_normal((*size, ic)).astype("f4")
        w = rng.standard_normal((ic, oc // groups, *kernel)).astype("f4")
        bias = rng.standard_normal(oc).astype("f4")
        want = reference.conv_transpose(x, w, strides, pads, dilations, groups, more)
        raw, packed = [bias], [pack_channel(bias, isa)]
        if len(post) == 3:
            raw.append(rng.standard_normal(want.shape).astype("f4"))
            packed.append(raw[-1])
        want = reference.postops(want, steps, raw)
        args = [x, pack_conv_transpose(w, spec, isa), *packed]
        (y,) = run(library, "k", args, [dirty(want.shape)])
        np.testing.assert_allclose(y, want, rtol=2e-5, atol=3e-5)


def test_wrong_weights() -> None:
    spec = ConvTransposeSpec(1, 4, 4, 4, 8, (2, 2), (2, 2))
    with pytest.raises(ValueError, match="shape"):
        pack_conv_transpose(np.ones((8, 4, 2, 2), "f4"), spec, AVX512)
