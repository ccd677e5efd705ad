"""Convolutions and products of 8 bits against integers in numpy: sums are exact."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from burnish.artifact import cpu_features
from burnish.backends.cpu.conv import ConvSpec
from burnish.backends.cpu.depthwise import pack_depthwise
from burnish.backends.cpu.isa import AVX2, AVX512, AVX512_VNNI, Isa
from burnish.backends.cpu.quantized import (
    PadSpec,
    QuantizedSpec,
    pack_affine,
    pack_codes,
    pack_sums,
    pad_codes,
    quantized_conv,
)
from burnish.ir.postops import PostOp, parse_postops
from tests.support import reference
from tests.support.cpu_kernels import build, run

ISAS = pytest.mark.parametrize("isa", [AVX512_VNNI, AVX512, AVX2], ids=lambda i: i.name)
RANGE = {"uint8": (0, 256), "int8": (-128, 128)}


@dataclass(frozen=True)
class Case:
    ic: int
    oc: int
    kernel: tuple[int, int] = (1, 1)
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    groups: int = 1
    size: tuple[int, int, int] = (1, 7, 9)
    x: str = "uint8"
    zero: int = 0
    y: str = "float32"
    postops: tuple[PostOp, ...] = ()


CASES = {
    "product": Case(64, 40, size=(1, 1, 37), zero=3),
    "product-small": Case(4, 5, size=(1, 1, 3)),
    "signed": Case(32, 48, size=(2, 3, 5), x="int8", zero=-7, y="int8"),
    "codes": Case(16, 33, size=(1, 5, 6), zero=128, y="uint8"),
    "3x3": Case(8, 32, (3, 3), pads=(1, 1, 1, 1), y="uint8", postops=parse_postops(["Relu"])),
    "3x3-signed": Case(8, 20, (3, 3), pads=(1, 1, 1, 1), x="int8", zero=-128, y="int8"),
    "3x3-valid": Case(12, 17, (3, 3), zero=77, y="uint8"),
    "stride": Case(8, 24, (3, 3), (2, 2), (1, 1, 1, 1), size=(2, 11, 14)),
    "residual": Case(
        16, 24, (3, 3), pads=(1, 1, 1, 1), y="uint8",
        postops=parse_postops(["Add:quantized:0.7:11.0", "Relu"]),
    ),
    "gelu": Case(32, 40, size=(1, 1, 19), zero=9, postops=parse_postops(["Gelu"])),
    "gelu-codes": Case(
        32, 40, size=(1, 1, 19), zero=9, y="uint8",
        postops=parse_postops(["Gelu", "Add:quantized:0.3:5.0"]),
    ),
    "conv-silu-codes": Case(
        8, 24, (3, 3), (2, 2), (1, 1, 1, 1), y="int8", postops=parse_postops(["Silu"])
    ),
    "depthwise-silu": Case(
        24, 24, (3, 3), pads=(1, 1, 1, 1), groups=24, zero=5, y="uint8",
        postops=parse_postops(["Silu"]),
    ),
    "depthwise": Case(24, 24, (3, 3), pads=(1, 1, 1, 1), groups=24, zero=5, y="uint8"),
    "sums": Case(64, 40, size=(1, 1, 37), zero=3, y="int32"),
    "sums-signed": Case(8, 20, (3, 3), pads=(1, 1, 1, 1), x="int8", zero=-128, y="int32"),
    "sums-depthwise": Case(24, 24, (3, 3), pads=(1, 1, 1, 1), groups=24, zero=5, y="int32"),
    "depthwise-signed": Case(
        19, 19, (3, 3), (2, 2), (1, 1, 1, 1), groups=19, x="int8", zero=4, y="int8"
    ),
}  # fmt: skip


def pieces(case: Case, isa: Isa) -> tuple[QuantizedSpec, list[Any], Any]:
    """Spec, arguments and the result in float64 before it is stored."""
    rng = np.random.default_rng(len(case.postops) + case.oc)
    low, high = RANGE[case.x]
    conv = ConvSpec(
        *case.size, case.ic, case.oc, case.kernel, case.strides, case.pads, groups=case.groups,
        postops=case.postops,
    )  # fmt: skip
    y_scale, y_zero = {"uint8": (0.9, 100), "int8": (0.9, -20)}.get(case.y, (1, 0))
    codes = tuple("uint8" for p in case.postops if p.operand == "quantized")
    spec = QuantizedSpec(conv, case.x, case.zero, case.y, y_scale, y_zero, codes)
    x = rng.integers(low, high, (*case.size, case.ic)).astype(case.x)
    # The extremes of both types: sums of two products do not fit 16 bits.
    x.reshape(-1)[:4] = high - 1
    w = rng.integers(-128, 128, (case.oc, case.ic // case.groups, *case.kernel)).astype(np.int8)
    w.reshape(-1)[:4] = -128
    scale = rng.uniform(0.5, 1.5, case.oc).astype(np.float32) / (128 * w[0].size ** 0.5 * 16)
    bias = rng.standard_normal(case.oc).astype(np.float32)
    sums = reference.conv(
        x.astype(np.float64) - case.zero, w, case.strides, case.pads, (1, 1), case.groups
    )
    real = sums * scale.astype(np.float64) + bias
    packed = (
        pack_depthwise(w.astype("f4"), conv, isa) if spec.depthwise else pack_codes(w, spec, isa)
    )
    if case.y == "int32":
        return spec, [x, packed, pack_sums(w, spec, isa)], sums
    arguments = [x, packed, *pack_affine(w, scale, bias, spec, isa)]
    raw = []
    for post in case.postops:
        if post.operand == "quantized":
            operand = rng.integers(0, 256, real.shape).astype(np.uint8)
            arguments.append(operand)
            raw.append((operand.astype(np.float64) - post.params[1]) * post.params[0])
    plain = tuple(PostOp(p.op, "full") if p.operand else p for p in case.postops)
    return spec, arguments, reference.postops(real, plain, raw)


@ISAS
@pytest.mark.parametrize("name", CASES)
def test_against_exact_sums(isa: Isa, name: str) -> None:
    if not set(isa.features) <= cpu_features():
        pytest.skip(f"this CPU has no {isa.name}")
    case = CASES[name]
    spec, arguments, want = pieces(case, isa)
    library = build({"k": quantized_conv(isa, spec)}, isa)
    outputs = [np.full(want.shape, 77, case.y)]
    outputs += [np.full(want.shape, 77, np.float32)] * spec.staged
    y, *_ = run(library, "k", arguments, outputs)
    if case.y == "float32":
        np.testing.assert_allclose(y, want, rtol=2e-5, atol=2e-5 * np.abs(want).max())
        return
    if case.y == "int32":
        np.testing.assert_array_equal(y, want)
        return
    low, high = RANGE[case.y]
    codes = np.clip(np.rint(want / spec.y_scale) + spec.y_zero, low, high - 1)
    difference = np.abs(y.astype(np.int64) - codes)
    # A number in the middle of two codes may go to either.
    assert difference.max() <= 1
    assert np.mean(difference) < 0.01
    assert len(np.unique(y)) > 12


@pytest.mark.parametrize("channels", [3, 8])
def test_padding_is_written_out(channels: int) -> None:
    x = np.random.default_rng(1).integers(0, 256, (2, 3, 5, 3)).astype(np.uint8)
    spec = PadSpec(2, 3, 5, 3, (1, 2, 0, 3), channels, 9, "uint8")
    library = build({"k": pad_codes(AVX2, spec)}, AVX2)
    want = np.pad(x, [(0, 0), (1, 0), (2, 3), (0, channels - 3)], constant_values=9)
    (y,) = run(library, "k", [x], [np.zeros(want.shape, np.uint8)])
    np.testing.assert_array_equal(y, want)
