"""Attention on 8 bits against exact sums in numpy."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pytest

from burnish.artifact import cpu_features
from burnish.backends.cpu.attention_int8 import Attention8Spec, Bytes, attention_int8
from burnish.backends.cpu.attention_spec import AttentionSpec, merged_heads
from burnish.backends.cpu.isa import AVX2, AVX512, AVX512_VNNI, Isa
from tests.support.cpu_kernels import build, dirty, run

ISAS = pytest.mark.parametrize("isa", [AVX512_VNNI, AVX512, AVX2], ids=lambda i: i.name)


@dataclass(frozen=True)
class Case:
    """Batch, queries, keys, heads, key heads, widths; codes and zero points of q, k and v."""

    size: tuple[int, int, int]
    heads: tuple[int, int] = (2, 2)
    widths: tuple[int, int] = (32, 32)
    dtype: str = "uint8"
    zeros: tuple[int, int, int] = (128, 0, 128)
    mask: Literal["", "float", "bool"] = ""
    by_query: bool = False
    causal: bool = False
    p: tuple[float, int] = (1 / 255, 255)
    y: Bytes | None = None
    s: Bytes | None = None
    t: Bytes | None = None


CASES = {
    "no-shifts": Case((1, 64, 64)),
    "shifts": Case((1, 37, 41), (4, 2), zeros=(129, 126, 138)),
    "few": Case((2, 1, 5), widths=(8, 8), zeros=(120, 130, 125)),
    "odd-widths": Case((2, 9, 70), widths=(20, 24), dtype="int8", zeros=(3, -5, 7)),
    "wide": Case((1, 20, 130), (1, 1), (80, 72), zeros=(1, 255, 254)),
    "mask": Case((2, 30, 33), zeros=(100, 101, 102), mask="float"),
    "mask-by-query": Case((1, 30, 33), zeros=(100, 101, 102), mask="float", by_query=True),
    "kept": Case((2, 17, 19), dtype="int8", zeros=(0, 0, 0), mask="bool"),
    "causal": Case((1, 70, 70), zeros=(129, 126, 138), causal=True),
    "cut-weights": Case((1, 16, 16), zeros=(129, 126, 138), p=(0.7 / 255, 255)),
    "signed-weights": Case((1, 16, 23), dtype="int8", zeros=(0, 0, 9), p=(1 / 127, 127)),
    "scores": Case((2, 30, 33), zeros=(129, 126, 138), s=Bytes("uint8", 0.21037, 120)),
    "signed-scores": Case(
        (2, 30, 33), dtype="int8", zeros=(1, 2, 3), mask="float", s=Bytes("int8", 0.30071, 7)
    ),
    "scores-twice": Case(
        (2, 30, 33), zeros=(1, 2, 3), s=Bytes("uint8", 0.3307, 9), t=Bytes("int8", 0.05071, -8)
    ),
    "codes": Case((1, 40, 50), zeros=(129, 126, 138), y=Bytes("uint8", 0.01, 120)),
    "signed-codes": Case((1, 40, 50), dtype="int8", zeros=(1, 2, 3), y=Bytes("int8", 0.01, -9)),
}


def pieces(case: Case) -> tuple[Attention8Spec, list[Any], Any]:
    """Spec, arguments, and the result in float64 before it is stored."""
    batch, queries, keys = case.size
    heads, kv_heads = case.heads
    width, value_width = case.widths
    rng = np.random.default_rng(sum(case.size))
    low = np.iinfo(case.dtype).min
    forms = ((queries, heads, width), (keys, kv_heads, width), (keys, kv_heads, value_width))
    codes = [
        rng.integers(low, low + 256, (batch, n, h * d)).astype(case.dtype) for n, h, d in forms
    ]
    scales = (0.02, 0.03, 0.01)
    stored = [Bytes(case.dtype, s, z) for s, z in zip(scales, case.zeros, strict=True)]
    q, k, v = (
        ((x.astype(np.float64) - at.zero) * at.scale).reshape(batch, n, h, d).transpose(0, 2, 1, 3)
        for x, at, (n, h, d) in zip(codes, stored, forms, strict=True)
    )
    k, v = (x.repeat(heads // kv_heads, axis=1) for x in (k, v))
    scores = q @ k.transpose(0, 1, 3, 2)
    for at, factor in ((case.s, width**-0.5), (case.t, 1.0)):
        if at is not None:
            low, high = np.iinfo(at.dtype).min - at.zero, np.iinfo(at.dtype).max - at.zero
            scores = np.clip(np.rint(scores / at.scale), low, high) * at.scale
        scores = scores * factor
    arguments: list[Any] = list(codes)
    shape = (batch, 1, queries if case.by_query else 1, keys)
    if case.mask == "float":
        arguments.append(np.where(rng.random(shape) < 0.3, -3e38, 0.5).astype(np.float32))
        scores = scores + arguments[-1]
    elif case.mask == "bool":
        arguments.append(rng.random(shape) < 0.7)
        scores = np.where(arguments[-1], scores, -np.inf)
    if case.causal:
        scores = np.where(np.tri(queries, keys, dtype=bool), scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights = weights / weights.sum(-1, keepdims=True)
    p_scale, limit = case.p
    rounded = np.minimum(np.rint(weights / p_scale), limit) * p_scale
    want = (rounded @ v).transpose(0, 2, 1, 3).reshape(batch, queries, heads * value_width)
    base = AttentionSpec(
        batch, queries, keys, heads, kv_heads, width, value_width,
        tuple(x.shape for x in codes),
        merged_heads(0, queries, heads, width),
        merged_heads(1, keys, kv_heads, width),
        merged_heads(2, keys, kv_heads, value_width),
        scale=width**-0.5, mask=case.mask, mask_shape=shape if case.mask else (),
        causal=case.causal,
    )  # fmt: skip
    spec = Attention8Spec(base, (case.dtype,) * 3, *stored, p_scale, limit, case.y, case.s, case.t)
    return spec, arguments, want


@ISAS
@pytest.mark.parametrize("name", CASES)
def test_against_exact_sums(isa: Isa, name: str) -> None:
    if not set(isa.features) <= cpu_features():
        pytest.skip(f"this CPU has no {isa.name}")
    case = CASES[name]
    spec, arguments, want = pieces(case)
    library = build({"k": attention_int8(isa, spec)}, isa)
    (y,) = run(library, "k", arguments, [dirty(want.shape, case.y.dtype if case.y else "float32")])
    if case.y is None:
        # A weight in the middle of two codes may go to either: that is a step of the values.
        close = np.isclose(y, want, rtol=1e-5, atol=1e-5)
        assert close.mean() > 0.99
        np.testing.assert_allclose(y, want, atol=2 * spec.p_scale * 256 * spec.v.scale)
        return
    info = np.iinfo(case.y.dtype)
    codes = np.clip(np.rint(want / case.y.scale) + case.y.zero, info.min, info.max)
    difference = np.abs(y.astype(np.int64) - codes)
    assert difference.max() <= 1
    assert np.mean(difference) < 0.01
    assert len(np.unique(y)) > 12


def test_one_tensor_holds_all_operands() -> None:
    case = Case((1, 21, 21), (2, 2), (16, 16), zeros=(129, 129, 129))
    spec, (q, k, v), want = pieces(case)
    total = 96
    places = [merged_heads(0, 21, 2, 16, total, 32 * i) for i in range(3)]
    base = replace(spec.base, arguments=((1, 21, total),), q=places[0], k=places[1], v=places[2])
    spec = replace(spec, base=base, dtypes=("uint8",))
    library = build({"k": attention_int8(AVX2, spec)}, AVX2)
    (y,) = run(library, "k", [np.concatenate([q, k, v], axis=2)], [dirty(want.shape)])
    assert np.isclose(y, want, rtol=1e-5, atol=1e-5).mean() > 0.99
