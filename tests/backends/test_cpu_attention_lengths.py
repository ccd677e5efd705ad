"""Attention over lengths from 1 to 2048: every mask, grouped heads, caches, and what it writes."""

from __future__ import annotations

import functools
import re
from typing import Any

import numpy as np
import pytest
from tvm import tirx

from burnish.backends.cpu.attention import attention
from burnish.backends.cpu.attention_spec import AttentionSpec, merged_heads
from burnish.backends.cpu.isa import AVX2, AVX512, Isa
from tests.support.cpu_kernels import build, dirty, run

Array = np.ndarray[Any, Any]
LENGTHS = (1, 2, 7, 64, 197, 512, 1500, 2048)
#: Query heads, key heads and width.
HEADS, GROUPS, WIDTH = 2, 1, 24
MASKS = ("none", "causal", "added", "added per query", "boolean", "boolean per query")


def _spec(queries: Any, keys: Any, kind: str, heads: int = HEADS, groups: int = GROUPS) -> Any:
    per_query = kind.endswith("per query")
    mask: Any = {"a": "float", "b": "bool"}.get(kind[0], "") if kind != "none" else ""
    return AttentionSpec(
        1, queries, keys, heads, groups, WIDTH, WIDTH,
        ((1, queries, heads * WIDTH), *[(1, keys, groups * WIDTH)] * 2),
        merged_heads(0, queries, heads, WIDTH), merged_heads(1, keys, groups, WIDTH),
        merged_heads(2, keys, groups, WIDTH), scale=WIDTH**-0.5,
        mask=mask if kind != "causal" else "", causal=kind == "causal",
        causal_offset=keys - queries if kind == "causal" else 0,
        mask_shape=(1, 1, queries if per_query else 1, keys) if mask and kind != "causal" else (),
    )  # fmt: skip


def _mask(rng: np.random.Generator, spec: Any, queries: int, keys: int) -> list[Array]:
    if not spec.mask:
        return []
    rows = queries if not isinstance(spec.mask_shape[2], int) or spec.mask_shape[2] > 1 else 1
    kept = rng.random((1, 1, rows, keys)) < 0.7
    kept[..., 0] = True
    if spec.mask == "bool":
        return [kept]
    added = np.where(kept, rng.standard_normal(kept.shape), -3.4028235e38)
    return [added.astype("f4")]


def _reference(q: Array, k: Array, v: Array, spec: Any, mask: list[Array], offset: int) -> Array:
    """Heads one by one, in float64."""
    out = np.empty((q.shape[0], HEADS * WIDTH))
    for h in range(HEADS):
        columns = slice(h * WIDTH, (h + 1) * WIDTH)
        s = q[:, columns].astype("f8") @ k.astype("f8").T * spec.scale
        if mask:
            s = np.where(mask[0][0, 0], s, -np.inf) if spec.mask == "bool" else s + mask[0][0, 0]
        if spec.causal:
            rows, keys = np.indices(s.shape, sparse=True)
            s = np.where(keys <= rows + offset, s, -np.inf)
        p = np.exp(s - s.max(-1, keepdims=True))
        out[:, columns] = p @ v.astype("f8") / p.sum(-1, keepdims=True)
    return out


def _check(library: Any, spec: Any, queries: int, keys: int, *scalars: int) -> None:
    rng = np.random.default_rng(queries * 7 + keys)
    q = rng.standard_normal((queries, HEADS * WIDTH)).astype("f4")
    k, v = (rng.standard_normal((keys, WIDTH)).astype("f4") for _ in range(2))
    mask = _mask(rng, spec, queries, keys)
    inputs = [q[None], k[None], v[None], *mask]
    (got,) = run(library, "k", inputs, [dirty((1, queries, HEADS * WIDTH))], *scalars)
    want = _reference(q, k, v, spec, mask, keys - queries)
    np.testing.assert_allclose(got[0], want, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("length", LENGTHS)
def test_as_many_queries_as_keys(length: int, kind: str) -> None:
    spec = _spec(length, length, kind)
    _check(build({"k": attention(AVX512, spec)}, AVX512), spec, length, length)


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("sizes", [(1, 2048), (7, 197), (64, 1500), (197, 64)])
def test_a_cache_or_other_keys(sizes: tuple[int, int], kind: str) -> None:
    if kind == "causal" and sizes[0] > sizes[1]:
        pytest.skip("the first queries would see no key")
    spec = _spec(*sizes, kind)
    _check(build({"k": attention(AVX512, spec)}, AVX512), spec, *sizes)


@functools.cache
def _symbolic(isa: Isa, kind: str) -> tuple[Any, Any]:
    s, t = (tirx.Var(c, "int64") for c in "st")
    spec = _spec(s, t, kind)
    return build({"k": attention(isa, spec)}, isa), spec


@pytest.mark.parametrize("isa", [AVX512, AVX2], ids=lambda i: i.name)
@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("sizes", [*[(n, n) for n in LENGTHS], (1, 2048), (7, 512), (64, 197)])
def test_symbolic_lengths(sizes: tuple[int, int], kind: str, isa: Isa) -> None:
    library, spec = _symbolic(isa, kind)
    _check(library, spec, *sizes)


def _scratch_bytes(spec: Any, isa: Isa) -> int:
    """Memory that one task asks for, besides registers; its sizes are the 64-bit ones."""
    script = attention(isa, spec).func.script()
    sizes = re.findall(r"alloc_buffer\(\(T\.int64\((\d+)\),\)", script)
    assert sizes
    return 4 * sum(map(int, sizes))


@pytest.mark.parametrize("kind", MASKS)
def test_scores_never_leave_the_second_level_cache(kind: str) -> None:
    """A task keeps the scores of a few queries with a block of keys, however long both are."""
    held = [_scratch_bytes(_spec(n, n, kind), AVX512) for n in (700, 2048, 1 << 15)]
    assert held[0] == held[1] == held[2]
    assert max(held) < 192 * 1024
    assert _scratch_bytes(_spec(640, 640, kind), AVX512) < 224 * 1024
    # One query against a cache: its scores only.
    assert _scratch_bytes(_spec(1, 2048, kind), AVX512) < 16 * 1024
