"""Attention for a few queries (decoding): vectors along the width, one query after the other."""

from __future__ import annotations

import math
from typing import Any

from tvm import tirx
from tvm.ir.prim import Shuffle

from burnish.backends.cpu import vmath
from burnish.backends.cpu.attention_mask import Mask
from burnish.backends.cpu.attention_spec import AttentionSpec
from burnish.backends.cpu.isa import Isa
from burnish.backends.cpu.rows import each_vector, fold_row, is_number
from burnish.backends.cpu.softmax import maximum as vector_maximum
from burnish.backends.cpu.tir import (
    Acc,
    Expr,
    Index,
    Tensor,
    ceildiv,
    constant,
    first_lanes,
    let,
    load,
    maximum,
    minimum,
    reduce_add,
    reduce_max,
    scratch,
    select,
    serial,
    splat,
    static,
    store,
)

#: Keys that one step of the weighted sum of values takes.
_CHAINS = 4


def lane_sums(vectors: list[Expr]) -> Expr:
    """One vector whose lane i is the sum of vector i; as many vectors as lanes."""
    n, width = len(vectors), 1
    current = list(vectors)
    while len(current) > 1:
        first = [lane if not lane & width else n + lane - width for lane in range(n)]
        second = [lane + width if not lane & width else n + lane for lane in range(n)]
        pairs = zip(current[::2], current[1::2], strict=True)
        current = [
            let(let(Shuffle([a, b], first)) + let(Shuffle([a, b], second))) for a, b in pairs
        ]
        width *= 2
    return current[0]


def emit_rows(
    isa: Isa,
    spec: AttentionSpec,
    tensors: tuple[Tensor, Tensor, Tensor],
    mask: Mask,
    out: Tensor,
    place: Any,
) -> None:
    """All queries of one head, one by one."""
    lanes, keys = isa.lanes, static(spec.keys)
    scores = scratch(keys + lanes)
    with serial(static(spec.queries)) as query:
        limit: Index = keys
        if spec.causal:
            limit = let(maximum(minimum(keys, query + 1 + spec.causal_offset), 0))
        _scores(isa, spec, tensors, mask, place, (query, limit), scores)
        factor = _probabilities(spec, scores, limit, lanes)
        _weighted_sum(isa, spec, tensors[2], out, place, (query, limit), scores, factor)


def _scores(
    isa: Isa,
    spec: AttentionSpec,
    tensors: tuple[Tensor, Tensor, Tensor],
    mask: Mask,
    place: Any,
    extent: tuple[Index, Index],
    scores: Any,
) -> None:
    q, k, _ = tensors
    query, limit = extent
    lanes, width = isa.lanes, spec.width
    row = let(place.start(spec.q) + query * spec.q.sequence)
    base = place.start(spec.k, spec.heads // spec.kv_heads)
    element = let(mask.start(place) + query * mask.strides[2]) if mask.tensor is not None else 0
    with serial(ceildiv(limit, lanes)) as step:
        key = let(step * lanes)
        starts = [
            let(base + minimum(key + i, static(spec.keys) - 1) * spec.k.sequence)
            for i in range(lanes)
        ]
        acc = Acc(lanes, lanes)
        acc.fill()

        def part(d: Index, valid: Index | None) -> None:
            x = let(load(q.flat, row + d, lanes, valid))
            for i in range(lanes):
                acc[i] = acc[i] + x * load(k.flat, starts[i] + d, lanes, valid)

        each_vector(width, lanes, part)
        value = let(lane_sums([let(acc[i]) for i in range(lanes)]) * constant(spec.scale, lanes))
        if mask.tensor is not None:
            value = let(mask.apply(value, _mask_elements(mask, element, key, limit, lanes)))
        store(scores, key, value)


def _mask_elements(mask: Mask, element: Index, key: Index, limit: Index, lanes: int) -> Expr:
    stride = mask.strides[3]
    if isinstance(stride, int) and stride == 0:
        return let(splat(mask.read(element), lanes))
    return mask.read(element + key, lanes, let(minimum(lanes, limit - key)))


def _probabilities(spec: AttentionSpec, scores: Any, limit: Index, lanes: int) -> Expr:
    """Exponentials of the scores in place; returns the inverse of their sum."""
    clean = spec.nan_to_zero
    zero = constant(0.0, lanes)

    def read(p: Index, valid: Index | None) -> Expr:
        value = load(scores, p, lanes)
        if valid is None:
            return value
        return select(first_lanes(valid, lanes), value, constant(-math.inf, lanes))

    top = reduce_max(fold_row(limit, lanes, read, vector_maximum, -math.inf))
    if clean:
        top = let(select(top == constant(-math.inf), constant(0.0), top))
    top = let(splat(top, lanes))

    def term(p: Index, valid: Index | None) -> Expr:
        e = vmath.exp(read(p, valid) - top)
        store(scores, p, select(is_number(e), e, zero) if clean else e)
        return e

    total = reduce_add(fold_row(limit, lanes, term, lambda a, b: a + b, 0.0, chains=2))
    factor = let(constant(1.0) / total)
    return let(select(total > constant(0.0), factor, constant(0.0))) if clean else factor


def _weighted_sum(
    isa: Isa,
    spec: AttentionSpec,
    v: Tensor,
    out: Tensor,
    place: Any,
    extent: tuple[Index, Index],
    scores: Any,
    factor: Expr,
) -> None:
    query, limit = extent
    lanes, width, to = isa.lanes, spec.value_width, spec.output_heads()
    base = place.start(spec.v, spec.heads // spec.kv_heads)
    target = let(place.start(to) + query * to.sequence)
    scale = let(splat(factor, lanes))

    def column(d: Index, valid: Index | None) -> None:
        acc = Acc(_CHAINS, lanes)
        acc.fill()

        def one(t: Index, chain: int) -> None:
            x = let(splat(let(load(scores, t)), lanes))
            value = load(v.flat, base + t * spec.v.sequence + d, lanes, valid)
            acc[chain] = acc[chain] + x * value

        whole = limit // _CHAINS if isinstance(limit, int) else let(tirx.truncdiv(limit, _CHAINS))
        with serial(whole) as step:
            for chain in range(_CHAINS):
                one(step * _CHAINS + chain, chain)
        with serial(whole * _CHAINS, limit) as t:
            one(t, 0)
        total = let((acc[0] + acc[1]) + (acc[2] + acc[3]))
        out.store(target + d, total * scale, valid)

    each_vector(width, lanes, column)
