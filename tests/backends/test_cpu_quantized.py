"""Convolutions and products of 8 bits against integers in numpy: sums are exact."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from burnish.artifact import cpu_features
from burnish.backends.cpu.conv import ConvSpec
from burnish.backends.cpu.depthwise import pack_depthwise
from burnish.backends.cpu.epilogue import pack_channel
from burnish.backends.cpu.isa import AVX2, AVX512, AVX512_VNNI, Isa
from burnish.backends.cpu.pad_codes import PadSpec, pad_codes
from burnish.backends.cpu.place import Place
from burnish.backends.cpu.quantized import (
    QuantizedSpec,
    is_bounded,
    pack_affine,
    pack_codes,
    pack_sums,
    quantized_conv,
)
from burnish.backends.cpu.quantized_depthwise import (
    pack_affine_taps,
    pack_channel_taps,
    pack_taps,
    quantized_depthwise,
    takes,
)
from burnish.backends.cpu.quantized_rows import beyond, pack_rows, quantized_rows, takes_rows
from burnish.backends.cpu.tiling import Tile
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
    "product-short": Case(16, 128, size=(1, 9, 9), zero=3, y="uint8"),
    "signed": Case(32, 48, size=(2, 3, 5), x="int8", zero=-7, y="int8"),
    "codes": Case(16, 33, size=(1, 5, 6), zero=128, y="uint8"),
    "3x3": Case(8, 32, (3, 3), pads=(1, 1, 1, 1), y="uint8", postops=parse_postops(["Relu"])),
    "3x3-signed": Case(8, 20, (3, 3), pads=(1, 1, 1, 1), x="int8", zero=-128, y="int8"),
    "3x3-valid": Case(12, 17, (3, 3), zero=77, y="uint8"),
    "stride": Case(8, 24, (3, 3), (2, 2), (1, 1, 1, 1), size=(2, 11, 14)),
    "groups": Case(
        24, 20, (3, 3), (1, 2), (1, 1, 1, 1), groups=2, y="uint8",
        postops=parse_postops(["Relu"]),
    ),
    "groups-pointwise": Case(64, 96, groups=4, size=(1, 3, 7), x="int8", y="int8"),
    "groups-channel": Case(
        32, 48, (3, 3), pads=(1, 1, 1, 1), groups=8, y="int8",
        postops=parse_postops(["Mul:channel", "Relu"]),
    ),
    "groups-real": Case(
        32, 40, (3, 3), groups=4, postops=parse_postops(["Add:quantized:0.7:11.0"])
    ),
    "residual": Case(
        16, 24, (3, 3), pads=(1, 1, 1, 1), y="uint8",
        postops=parse_postops(["Add:quantized:0.7:11.0", "Relu"]),
    ),
    "clip": Case(
        64, 100, size=(1, 3, 7), y="uint8",
        postops=parse_postops(["Add:quantized:0.7:11.0", "Clip:-3.0:9.5"]),
    ),
    "clip-signed": Case(8, 64, size=(1, 3, 7), y="int8", postops=parse_postops(["Clip:-9.0:11.0"])),
    "hard-swish": Case(16, 72, size=(1, 3, 7), y="uint8", postops=parse_postops(["HardSwish"])),
    "48-columns": Case(16, 48, size=(1, 3, 7), y="int8"),
    "gelu": Case(32, 40, size=(1, 1, 19), zero=9, postops=parse_postops(["Gelu"])),
    "gelu-last": Case(32, 40, size=(1, 1, 19), zero=9, y="uint8", postops=parse_postops(["Gelu"])),
    "gelu-tanh-last": Case(
        8, 24, (3, 3), pads=(1, 1, 1, 1), y="int8", postops=parse_postops(["GeluTanh"])
    ),
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
    "depthwise-groups": Case(
        144, 144, (3, 3), pads=(1, 1, 1, 1), groups=144, size=(2, 9, 12), zero=7, y="int8",
        postops=parse_postops(["Relu"]),
    ),
    "depthwise-rest": Case(
        105, 105, (5, 5), (2, 2), (2, 2, 2, 2), groups=105, size=(1, 13, 11), y="uint8",
        postops=parse_postops(["HardSwish"]),
    ),
    "depthwise-wide": Case(
        64, 64, (6, 3), pads=(3, 1, 2, 1), groups=64, size=(1, 9, 11), x="int8", zero=-9, y="int8"
    ),
    "depthwise-line": Case(
        40, 40, (1, 5), pads=(0, 1, 0, 3), groups=40, size=(1, 1, 21), zero=9, y="uint8"
    ),
    "depthwise-residual": Case(
        24, 24, (3, 3), pads=(1, 1, 1, 1), groups=24, zero=5, y="uint8",
        postops=parse_postops(["Add:quantized:0.7:11.0"]),
    ),
    "depthwise-channel": Case(
        104, 104, (3, 3), pads=(1, 1, 1, 1), groups=104, zero=5, y="uint8",
        postops=parse_postops(["Mul:channel", "Relu", "Add:channel"]),
    ),
    "depthwise-real": Case(
        104, 104, (3, 3), (1, 2), (1, 1, 1, 1), groups=104, x="int8", zero=5,
        postops=parse_postops(["HardSwish", "Mul:channel"]),
    ),
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
    columns = takes(spec, isa)
    if columns:
        packed = pack_taps(w, spec, isa)
    elif spec.depthwise:
        packed = pack_depthwise(w.astype("f4"), conv, isa)
    else:
        packed = pack_codes(w, spec, isa)
    if case.y == "int32":
        return spec, [x, packed, pack_sums(w, spec, isa)], sums
    affine = pack_affine_taps if columns else pack_affine
    arguments = [x, packed, *affine(w, scale, bias, spec, isa)]
    raw = []
    for post in case.postops:
        if post.operand == "quantized":
            operand = rng.integers(0, 256, real.shape).astype(np.uint8)
            arguments.append(operand)
            raw.append((operand.astype(np.float64) - post.params[1]) * post.params[0])
        elif post.operand == "channel":
            operand = rng.uniform(0.5, 1.5, case.oc).astype(np.float32)
            pack = pack_channel_taps(operand, spec, isa) if columns else pack_channel(operand, isa)
            arguments.append(pack)
            raw.append(operand.astype(np.float64))
    plain = tuple(PostOp(p.op, "full") if p.operand else p for p in case.postops)
    return spec, arguments, reference.postops(real, plain, raw)


@ISAS
@pytest.mark.parametrize("name", CASES)
def test_against_exact_sums(isa: Isa, name: str) -> None:
    if not set(isa.features) <= cpu_features():
        pytest.skip(f"this CPU has no {isa.name}")
    case = CASES[name]
    spec, arguments, want = pieces(case, isa)
    template = quantized_depthwise if takes(spec, isa) else quantized_conv
    library = build({"k": template(isa, spec)}, isa)
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


@pytest.mark.parametrize(
    ("isa", "depth", "rows", "oc", "small"),
    [
        (AVX512_VNNI, 64, 81, 128, True),
        (AVX512_VNNI, 256, 81, 128, False),
        (AVX512_VNNI, 64, 9, 128, False),
        (AVX512_VNNI, 64, 81, 96, False),
        (AVX2, 64, 81, 128, False),
    ],
)
def test_short_sums_have_small_tiles(isa: Isa, depth: int, rows: int, oc: int, small: bool) -> None:
    spec = QuantizedSpec(ConvSpec(1, 1, rows, depth, oc, (1, 1)), "uint8", 0)
    assert (spec.words(isa).tile == Tile(4, 4)) == small
    whole = spec.words(isa).columns(isa)[0].tile
    assert (whole.rows * whole.vectors == 16) == small


@ISAS
@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize(
    "name", ["product", "codes", "stride", "groups", "residual", "depthwise-groups", "depthwise"]
)
def test_results_among_other_channels(isa: Isa, name: str, begun: bool) -> None:
    if not set(isa.features) <= cpu_features():
        pytest.skip(f"this CPU has no {isa.name}")
    spec, arguments, want = pieces(CASES[name], isa)
    template = quantized_depthwise if takes(spec, isa) else quantized_conv
    oc, first, total = want.shape[-1], 3, want.shape[-1] + 9
    placed = replace(spec, conv=replace(spec.conv, place=Place(total, first, begun)))
    library = build({"alone": template(isa, spec), "among": template(isa, placed)}, isa)
    (alone,) = run(library, "alone", arguments, [np.full(want.shape, 77, spec.y_dtype)])
    wide = np.full((*want.shape[:-1], total), 77, spec.y_dtype)
    (y,) = run(library, "among", arguments, [wide])
    np.testing.assert_allclose(y[..., first : first + oc], alone, rtol=1e-6)
    assert (np.delete(y, range(first, first + oc), axis=-1) == 77).all()


def exact(isa: Isa, *, y: str, zero: int, sums: Any, bias: Any, scale: float) -> Any:
    """The codes of ``sums * scale + bias``, made by a product of 0 and 1."""
    if not set(isa.features) <= cpu_features():
        pytest.skip(f"this CPU has no {isa.name}")
    w = np.zeros((len(sums), 4, 1, 1), np.int8)
    w[:, 0, 0, 0] = sums
    spec = QuantizedSpec(ConvSpec(1, 1, 2, 4, len(sums), (1, 1)), "uint8", 0, y, 1.0, zero)
    scales, biases = np.full(len(sums), scale, np.float32), np.float32(bias)
    spec = replace(spec, bounded=is_bounded(w, scales, biases, spec))
    x = np.zeros((1, 1, 2, 4), np.uint8)
    x[..., 0] = 1
    affine = pack_affine(w, scales, biases, spec, isa)
    library = build({"k": quantized_conv(isa, spec)}, isa)
    (found,) = run(
        library, "k", [x, pack_codes(w, spec, isa), *affine], [np.zeros((1, 1, 2, len(sums)), y)]
    )
    np.testing.assert_array_equal(found[0, 0, 0], found[0, 0, 1])
    return spec.bounded, found[0, 0, 0].tolist()


@ISAS
@pytest.mark.parametrize(("y", "zero"), [("uint8", 0), ("uint8", 101), ("int8", -7)])
def test_ties_go_to_even_before_the_zero_point(isa: Isa, y: str, zero: int) -> None:
    sums = np.array([1, 3, 5, 7, -1, -3, -5, 9, 126, -128])
    bounded, found = exact(isa, y=y, zero=zero, sums=sums, bias=np.zeros(10), scale=0.5)
    low, high = RANGE[y]
    assert bounded
    assert found == np.clip(np.rint(sums / 2) + zero, low, high - 1).astype(int).tolist()


@ISAS
def test_what_no_integer_holds_saturates(isa: Isa) -> None:
    sums, bias = np.array([2, -2, 1, 0, 0]), np.array([0, 0, 0, 4.0, np.nan])
    bounded, found = exact(isa, y="uint8", zero=3, sums=sums, bias=bias, scale=1e20)
    assert not bounded
    assert found == [255, 0, 255, 7, 0]


@dataclass(frozen=True)
class First:
    c: int
    kernel: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]
    x: str = "uint8"
    zero: int = 0
    postops: tuple[PostOp, ...] = ()


@ISAS
@pytest.mark.parametrize(
    "case",
    [
        First(3, (7, 7), (2, 2), (3, 3, 3, 3), zero=114, postops=parse_postops(["Relu"])),
        First(3, (3, 3), (1, 1), (1, 0, 1, 2), x="int8", zero=-5),
        First(1, (5, 2), (2, 3), (0, 0, 0, 0), zero=255),
        First(6, (1, 3), (1, 1), (0, 0, 0, 0), postops=parse_postops(["Silu"])),
    ],
    ids=str,
)
def test_words_of_whole_rows(isa: Isa, case: First) -> None:
    if not set(isa.features) <= cpu_features():
        pytest.skip(f"this CPU has no {isa.name}")
    rng = np.random.default_rng(case.c)
    x = rng.integers(*RANGE[case.x], (2, 12, 17, case.c)).astype(case.x)
    w = rng.integers(-128, 128, (35, case.c, *case.kernel)).astype(np.int8)
    spread = beyond(ConvSpec(1, 1, 1, case.c, 35, case.kernel))
    top, left, bottom, right = case.pads
    padded = np.pad(
        x, [(0, 0), (top, bottom), (left, right + spread), (0, 0)], constant_values=case.zero
    )
    conv = ConvSpec(*padded.shape[:3], case.c, 35, case.kernel, case.strides, postops=case.postops)
    scale, bias = np.full(35, 2e-4, np.float32), rng.standard_normal(35).astype(np.float32)
    spec = QuantizedSpec(conv, case.x, case.zero, "uint8", 0.05, 99)
    assert takes_rows(spec)
    sums = reference.conv(x.astype(np.float64) - case.zero, w, case.strides, case.pads, (1, 1), 1)
    want = reference.postops(sums * scale.astype(np.float64) + bias, case.postops, [])
    arguments = [padded, pack_rows(w, spec, isa), *pack_affine(w, scale, bias, spec, isa)]
    outputs = [np.full(want.shape, 77, np.uint8)]
    outputs += [np.full(want.shape, 77, np.float32)] * spec.staged
    y, *_ = run(build({"k": quantized_rows(isa, spec)}, isa), "k", arguments, outputs)
    codes = np.clip(np.rint(want / spec.y_scale) + spec.y_zero, 0, 255)
    difference = np.abs(y.astype(np.int64) - codes)
    assert difference.max() <= 1
    assert np.mean(difference) < 0.01
    assert len(np.unique(y)) > 30


@pytest.mark.parametrize("channels", [3, 8])
def test_padding_is_written_out(channels: int) -> None:
    x = np.random.default_rng(1).integers(0, 256, (2, 3, 5, 3)).astype(np.uint8)
    spec = PadSpec(2, 3, 5, 3, (1, 2, 0, 3), channels, 9, "uint8")
    library = build({"k": pad_codes(AVX2, spec)}, AVX2)
    want = np.pad(x, [(0, 0), (1, 0), (2, 3), (0, channels - 3)], constant_values=9)
    (y,) = run(library, "k", [x], [np.zeros(want.shape, np.uint8)])
    np.testing.assert_array_equal(y, want)


def test_each_group_is_padded() -> None:
    x = np.random.default_rng(1).integers(0, 256, (2, 3, 5, 6)).astype(np.uint8)
    spec = PadSpec(2, 3, 5, 6, (1, 0, 0, 2), 12, 9, "uint8", groups=3)
    library = build({"k": pad_codes(AVX2, spec)}, AVX2)
    padding = [(0, 0), (1, 0), (0, 2), (0, 0), (0, 2)]
    want = np.pad(x.reshape(2, 3, 5, 3, 2), padding, constant_values=9).reshape(2, 4, 7, 12)
    (y,) = run(library, "k", [x], [np.zeros(want.shape, np.uint8)])
    np.testing.assert_array_equal(y, want)
