"""Attention kernels against the decomposed operators in float64."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tvm import tirx

from burnish.backends.cpu.attention import attention
from burnish.backends.cpu.attention_spec import (
    AttentionSpec,
    merged_heads,
    split_heads,
    transposed_heads,
)
from burnish.backends.cpu.isa import AVX2, AVX512, Isa
from tests.support.assembly import inner_loops
from tests.support.cpu_kernels import build, dirty, run

RNG = np.random.default_rng(3)
ISAS = pytest.mark.parametrize("isa", [AVX512, AVX2], ids=lambda i: i.name)


def _f32(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype("f4")


def _reference(q: Any, k: Any, v: Any, scale: float, mask: Any = None, **options: Any) -> Any:
    """q [b, s, h, d], k [b, t, hkv, d], v [b, t, hkv, dv] -> [b, s, h, dv]."""
    group = q.shape[2] // k.shape[2]
    k, v = np.repeat(k, group, 2).astype("f8"), np.repeat(v, group, 2).astype("f8")
    s = np.einsum("bshd,bthd->bhst", q.astype("f8"), k) * scale
    with np.errstate(invalid="ignore"):
        if mask is not None:
            s = np.where(mask, s, -np.inf) if mask.dtype == bool else s + mask
        if options.get("causal"):
            rows, columns = np.indices(s.shape[2:])
            s = np.where(columns <= rows + options.get("causal_offset", 0), s, -np.inf)
        e = np.exp(s - s.max(-1, keepdims=True))
        p = e / e.sum(-1, keepdims=True)
    if options.get("nan_to_zero"):
        p = np.nan_to_num(p)
    return np.einsum("bhst,bthd->bshd", p, v)


def _spec(b: Any, s: Any, t: Any, h: int, hkv: int, d: int, dv: int, **options: Any) -> Any:
    return AttentionSpec(
        b, s, t, h, hkv, d, dv,
        ((b, s, h * d), (b, t, hkv * d), (b, t, hkv * dv)),
        merged_heads(0, s, h, d), merged_heads(1, t, hkv, d), merged_heads(2, t, hkv, dv),
        scale=d**-0.5, **options,
    )  # fmt: skip


def _check(library: Any, spec: Any, sizes: tuple[int, ...], mask: Any = None, **opts: Any) -> None:
    b, s, t, h, hkv, d, dv = sizes
    q, k, v = _f32(b, s, h, d), _f32(b, t, hkv, d), _f32(b, t, hkv, dv)
    inputs = [q.reshape(b, s, -1), k.reshape(b, t, -1), v.reshape(b, t, -1)]
    if mask is not None:
        inputs.append(mask)
    shape = (b, h, s, dv) if spec.heads_first else (b, s, h * dv)
    (got,) = run(library, "k", inputs, [dirty(shape)])
    got = got.transpose(0, 2, 1, 3) if spec.heads_first else got.reshape(b, s, h, dv)
    want = _reference(q, k, v, spec.scale, mask, **opts)
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-6)


STATIC = [
    (1, 128, 128, 2, 2, 64, 64),
    (2, 197, 197, 1, 1, 64, 64),
    (1, 33, 50, 3, 3, 80, 80),
    (1, 5, 7, 2, 2, 8, 8),
    (1, 17, 130, 2, 1, 32, 128),
    (2, 1, 77, 4, 2, 64, 40),
    (1, 3, 1, 2, 2, 20, 17),
    (1, 70, 9, 4, 1, 128, 5),
    (1, 20, 700, 1, 1, 16, 20),  # keys in blocks
]


@ISAS
@pytest.mark.parametrize("sizes", STATIC)
def test_static(isa: Isa, sizes: tuple[int, ...]) -> None:
    spec = _spec(*sizes)
    _check(build({"k": attention(isa, spec)}, isa), spec, sizes)


@ISAS
def test_symbolic(isa: Isa) -> None:
    b, s, t = (tirx.Var(c, "int64") for c in "bst")
    spec = _spec(b, s, t, 4, 2, 24, 40)
    library = build({"k": attention(isa, spec)}, isa)
    lengths = [1, 2, 3, 4, 15, 16, 17, 31, 33, 49, 63, 64, 65, 100]
    for length in lengths:
        _check(library, spec, (2, length, 37, 4, 2, 24, 40))
        _check(library, spec, (1, length, length, 4, 2, 24, 40))
    for keys in (1, 2, 5, 6, 7, 47, 191, 192, 193, 400):
        _check(library, spec, (1, 2, keys, 4, 2, 24, 40))
        _check(library, spec, (1, 20, keys, 4, 2, 24, 40))


MASKS = [(2, 1, 1, 45), (1, 1, 37, 45), (2, 4, 37, 45), (1, 4, 37, 1), (2, 1, 37, 45), (1, 1, 1, 1)]


@pytest.mark.parametrize(
    ("shape", "symbolic", "isa"),
    [(shape, False, isa) for shape in MASKS for isa in (AVX512, AVX2)]
    + [(shape, True, AVX512) for shape in MASKS if shape[1] == 1],
)
@pytest.mark.parametrize("kind", ["float", "bool"])
def test_masks(isa: Isa, kind: str, symbolic: bool, shape: tuple[int, ...]) -> None:
    library = None
    for queries in (37, 2):
        dims: list[Any] = [2, queries, 45]
        if symbolic:
            dims = [tirx.Var(c, "int64") for c in "bst"]
        full = (dims[0], 4, dims[1], dims[2])
        actual = tuple(queries if n == 37 else n for n in shape)
        mask_shape = tuple(1 if n == 1 else f for n, f in zip(shape, full, strict=True))
        spec = _spec(*dims, 4, 2, 16, 16, mask=kind, mask_shape=mask_shape)
        mask: np.ndarray = RNG.random(actual) < 0.7
        if shape[3] > 1:
            mask[..., 0] = True
        else:
            mask[...] = True
        if kind == "float":
            mask = np.where(mask, _f32(*actual), np.float32(-3.4028235e38)).astype("f4")
        if library is None or not symbolic:
            library = build({"k": attention(isa, spec)}, isa)
        _check(library, spec, (2, queries, 45, 4, 2, 16, 16), mask)


@ISAS
@pytest.mark.parametrize("offset", [0, 9, -5])
@pytest.mark.parametrize("nan_to_zero", [False, True])
def test_causal(isa: Isa, offset: int, nan_to_zero: bool) -> None:
    options: dict[str, Any] = {"causal": True, "causal_offset": offset, "nan_to_zero": nan_to_zero}
    for sizes in [(1, 70, 75, 2, 1, 16, 20), (1, 3, 40, 2, 1, 16, 20), (1, 700, 690, 1, 1, 16, 8)]:
        spec = _spec(*sizes, **options)
        _check(build({"k": attention(isa, spec)}, isa), spec, sizes, **options)


@ISAS
@pytest.mark.parametrize("nan_to_zero", [False, True])
@pytest.mark.parametrize("queries", [2, 21])
@pytest.mark.parametrize("by_query", [False, True])
@pytest.mark.parametrize("keys", [19, 700])
def test_row_without_a_key(
    isa: Isa, nan_to_zero: bool, queries: int, by_query: bool, keys: int
) -> None:
    shape = (2, 1, queries if by_query else 1, keys)
    sizes = (2, queries, keys, 2, 2, 16, 16)
    mask = np.zeros(shape, "f4")
    mask[0, :, -1] = -np.inf
    # The first block of keys has none for the other queries.
    mask[1, :, :, : keys // 2] = -np.inf
    options = {"nan_to_zero": nan_to_zero}
    spec = _spec(*sizes, mask="float", mask_shape=shape, **options)
    _check(build({"k": attention(isa, spec)}, isa), spec, sizes, mask, **options)


@pytest.mark.parametrize("queries", [2, 21])
@pytest.mark.parametrize("nan_to_zero", [False, True])
def test_nan_in_a_query(nan_to_zero: bool, queries: int) -> None:
    sizes = (1, queries, 19, 1, 1, 16, 16)
    spec = _spec(*sizes, nan_to_zero=nan_to_zero)
    library = build({"k": attention(AVX512, spec)}, AVX512)
    q, k, v = _f32(1, queries, 1, 16), _f32(1, 19, 1, 16), _f32(1, 19, 1, 16)
    q[0, 1] = np.nan
    (got,) = run(library, "k", [a.reshape(1, -1, 16) for a in (q, k, v)], [dirty((1, queries, 16))])
    want = _reference(q, k, v, spec.scale, nan_to_zero=nan_to_zero).reshape(got.shape)
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-6)


def test_lowest_float_in_every_place_is_no_nan() -> None:
    shape = (1, 1, 20, 19)
    spec = _spec(1, 20, 19, 2, 2, 16, 16, mask="float", mask_shape=shape)
    library = build({"k": attention(AVX512, spec)}, AVX512)
    mask = np.full(shape, np.float32(-3.4e38))
    q, k, v = _f32(1, 20, 32), _f32(1, 19, 32), _f32(1, 19, 32)
    (got,) = run(library, "k", [q, k, v, mask], [dirty((1, 20, 32))])
    # The scores vanish against the mask: every key has the same weight.
    np.testing.assert_allclose(got, np.broadcast_to(v.mean(1, keepdims=True), got.shape), atol=1e-5)


@ISAS
@pytest.mark.parametrize("symbolic", [False, True])
@pytest.mark.parametrize("s", [40, 2])
def test_merged_qkv_argument(isa: Isa, s: int, symbolic: bool) -> None:
    b, h, d = 2, 3, 24
    n: Any = tirx.Var("s", "int64") if symbolic else s
    total = 3 * h * d
    spec = AttentionSpec(
        b, n, n, h, h, d, d, ((b, n, total),),
        merged_heads(0, n, h, d, total, 0),
        merged_heads(0, n, h, d, total, h * d),
        merged_heads(0, n, h, d, total, 2 * h * d),
        scale=0.3, heads_first=True,
    )  # fmt: skip
    x = _f32(b, s, total)
    library = build({"k": attention(isa, spec)}, isa)
    (got,) = run(library, "k", [x], [dirty((b, h, s, d))])
    q, k, v = (x[..., i * h * d : (i + 1) * h * d].reshape(b, s, h, d) for i in range(3))
    want = _reference(q, k, v, 0.3).transpose(0, 2, 1, 3)
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-6)


@ISAS
@pytest.mark.parametrize("s", [40, 2])
def test_split_heads_and_transposed_keys(isa: Isa, s: int) -> None:
    b, t, h, d = 2, 21, 3, 24
    shapes = ((b, h, s, d), (b, h, d, t), (b, h, t, d))
    spec = AttentionSpec(
        b, s, t, h, h, d, d, shapes,
        split_heads(0, s, h, d), transposed_heads(1, t, h, d), split_heads(2, t, h, d),
        scale=0.2,
    )  # fmt: skip
    q, k, v = (_f32(*shape) for shape in shapes)
    library = build({"k": attention(isa, spec)}, isa)
    (got,) = run(library, "k", [q, k, v], [dirty((b, s, h * d))])
    rows = (a.transpose(0, 2, 1, 3) for a in (q, k.transpose(0, 1, 3, 2), v))
    want = _reference(*rows, 0.2).reshape(b, s, h * d)
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-6)


def test_strided_queries() -> None:
    b, s, h, d = 1, 20, 2, 24
    spec = replace(
        _spec(b, s, s, h, h, d, d),
        arguments=((b, h, d, s), (b, s, h * d), (b, s, h * d)),
        q=transposed_heads(0, s, h, d),
    )
    q, k, v = _f32(b, h, d, s), _f32(b, s, h, d), _f32(b, s, h, d)
    library = build({"k": attention(AVX512, spec)}, AVX512)
    inputs = [q, k.reshape(b, s, -1), v.reshape(b, s, -1)]
    (got,) = run(library, "k", inputs, [dirty((b, s, h * d))])
    want = _reference(q.transpose(0, 3, 1, 2), k, v, spec.scale).reshape(b, s, -1)
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-6)


@ISAS
@pytest.mark.parametrize("symbolic", [False, True])
def test_products_stay_in_registers(isa: Isa, symbolic: bool) -> None:
    b, s = (tirx.Var(c, "int64") for c in "bs") if symbolic else (1, 128)
    spec = _spec(b, s, s, 12, 12, 64, 64)
    library = build({"k": attention(isa, spec)}, isa)
    products = [x for x in inner_loops(library.inspect_source("asm")) if x.multiply_adds >= 12]
    assert len(products) >= 2
    assert sum(x.spills for x in products) == 0
