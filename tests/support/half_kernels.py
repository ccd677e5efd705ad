"""Kernels of the CPU templates on tensors in 16 bits, as cases of tests."""

# ruff: noqa: E501 (a case is a row of a table)

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from burnish.backends.cpu.attention import attention
from burnish.backends.cpu.attention_spec import AttentionSpec, merged_heads
from burnish.backends.cpu.conv import ConvSpec, conv, pack_conv
from burnish.backends.cpu.conv_transpose import (
    ConvTransposeSpec,
    conv_transpose,
    pack_conv_transpose,
)
from burnish.backends.cpu.depthwise import depthwise, pack_depthwise
from burnish.backends.cpu.gemm import GemmSpec, gemm, pack_gemm
from burnish.backends.cpu.isa import Isa
from burnish.backends.cpu.matmul import MatmulSpec, matmul
from burnish.backends.cpu.norm import GroupNormSpec, NormSpec, group_norm, norm
from burnish.backends.cpu.pool import PoolSpec, pool
from burnish.backends.cpu.softmax import SoftmaxSpec, softmax
from burnish.backends.cpu.tir import Kernel, kernel
from burnish.ir.postops import parse_postops
from tests.support.cpu_kernels import Array

PAD = (1, 1, 1, 1)
POSTS = parse_postops(["Add:channel", "Add:full", "Relu"])
GELU = parse_postops(["Add:channel", "Gelu"])


@dataclass(frozen=True)
class Case:
    """A kernel with its arguments: shapes of data, packed weights, float32 constants."""

    make: Callable[..., Kernel]
    spec: Any
    data: tuple[tuple[int, ...], ...]
    out: tuple[tuple[int, ...], ...]
    weight: tuple[int, ...] = ()
    pack: Callable[..., Array] | None = None
    after: tuple[tuple[int, ...], ...] = ()
    channel: int = 0
    sizes: tuple[int, ...] = ()


def attention_of(batch: int, queries: int, keys: int, width: int, heads: int) -> AttentionSpec:
    places = [
        merged_heads(i, n, heads, width, heads * width, 0)
        for i, n in enumerate((queries, keys, keys))
    ]
    return AttentionSpec(
        batch=batch, queries=queries, keys=keys, heads=heads, kv_heads=heads, width=width,
        value_width=width,
        arguments=tuple((batch, n, heads * width) for n in (queries, keys, keys)),
        q=places[0], k=places[1], v=places[2], scale=width**-0.5,
    )  # fmt: skip


CASES = {
    "gemm": Case(gemm, GemmSpec((37,), 83, 70, POSTS), ((37, 83),), ((37, 70),), (83, 70), pack_gemm, ((37, 70),), 70),
    "gemm-gelu": Case(gemm, GemmSpec((20,), 64, 48, GELU), ((20, 64),), ((20, 48),), (64, 48), pack_gemm, (), 48),
    "gemm-row": Case(gemm, GemmSpec((1,), 96, 64), ((1, 96),), ((1, 64),), (96, 64), pack_gemm),
    "conv": Case(conv, ConvSpec(1, 9, 9, 20, 24, (3, 3), pads=PAD, postops=POSTS), ((1, 9, 9, 20),), ((1, 9, 9, 24),), (24, 20, 3, 3), pack_conv, ((1, 9, 9, 24),), 24),
    "conv-wide": Case(conv, ConvSpec(1, 7, 7, 32, 32, (3, 3), (2, 2), PAD), ((1, 7, 7, 32),), ((1, 4, 4, 32),), (32, 32, 3, 3), pack_conv),
    "conv-stem": Case(conv, ConvSpec(1, 13, 13, 3, 16, (7, 7), (2, 2), (3, 3, 3, 3)), ((1, 13, 13, 3),), ((1, 7, 7, 16),), (16, 3, 7, 7), pack_conv),
    "conv-groups": Case(conv, ConvSpec(1, 6, 6, 24, 24, (3, 3), pads=PAD, groups=2), ((1, 6, 6, 24),), ((1, 6, 6, 24),), (24, 12, 3, 3), pack_conv),
    "conv-dilated": Case(conv, ConvSpec(1, 9, 9, 16, 16, (3, 3), pads=(2, 2, 2, 2), dilations=(2, 2)), ((1, 9, 9, 16),), ((1, 9, 9, 16),), (16, 16, 3, 3), pack_conv),
    "pointwise": Case(conv, ConvSpec(1, 5, 5, 40, 20, (1, 1), postops=GELU), ((1, 5, 5, 40),), ((1, 5, 5, 20),), (20, 40, 1, 1), pack_conv, (), 20),
    "depthwise": Case(depthwise, ConvSpec(1, 9, 9, 22, 22, (3, 3), pads=PAD, groups=22), ((1, 9, 9, 22),), ((1, 9, 9, 22),), (22, 1, 3, 3), pack_depthwise),
    "conv-transpose": Case(conv_transpose, ConvTransposeSpec(1, 5, 5, 20, 12, (3, 3), (2, 2)), ((1, 5, 5, 20),), ((1, 11, 11, 12),), (20, 12, 3, 3), pack_conv_transpose),
    "matmul": Case(matmul, MatmulSpec((2,), (2,), 10, 35, 21), ((2, 10, 35), (2, 35, 21)), ((2, 10, 21),)),
    "matmul-transposed": Case(matmul, MatmulSpec((2,), (2,), 10, 35, 21, True, 0.5), ((2, 10, 35), (2, 21, 35)), ((2, 10, 21),)),
    "matmul-row": Case(matmul, MatmulSpec((2,), (2,), 1, 35, 21, True), ((2, 1, 35), (2, 21, 35)), ((2, 1, 21),)),
    "layer-norm": Case(norm, NormSpec((5,), 70, bias=True), ((5, 70), (70,), (70,)), ((5, 70),)),
    "add-norm": Case(norm, NormSpec((5,), 70, bias=True, skip=True), ((5, 70), (5, 70), (70,), (70,)), ((5, 70),)),
    "add-norm-sum": Case(norm, NormSpec((5,), 64, "rms", skip=True, sum_output=True), ((5, 64), (5, 64), (64,)), ((5, 64), (5, 64))),
    "group-norm": Case(group_norm, GroupNormSpec(2, 6, (5, 7), 3), ((2, 6, 5, 7), (6,), (6,)), ((2, 6, 5, 7),)),
    "softmax": Case(softmax, SoftmaxSpec((3,), 50), ((3, 50),), ((3, 50),)),
    "softmax-columns": Case(softmax, SoftmaxSpec((2,), 5, (19,)), ((2, 5, 19),), ((2, 5, 19),)),
    "max-pool": Case(pool, PoolSpec("max", 1, 9, 9, 20, (3, 3), (2, 2), PAD), ((1, 9, 9, 20),), ((1, 5, 5, 20),)),
    "average-pool": Case(pool, PoolSpec("average", 1, 9, 9, 20, (3, 3), (2, 2), PAD), ((1, 9, 9, 20),), ((1, 5, 5, 20),)),
    "global-pool": Case(pool, PoolSpec("average", 2, 4, 4, 20), ((2, 4, 4, 20),), ((2, 1, 1, 20),)),
    "attention": Case(attention, attention_of(2, 19, 23, 12, 3), ((2, 19, 36), (2, 23, 36), (2, 23, 36)), ((2, 19, 36),)),
    "attention-decode": Case(attention, attention_of(2, 1, 23, 16, 2), ((2, 1, 32), (2, 23, 32), (2, 23, 32)), ((2, 1, 32),)),
}  # fmt: skip


def echo(isa: Isa, count: int, dtype: str = "float16") -> Kernel:
    """Rounds float32."""
    with kernel("echo", isa, dtype) as k:
        x, y = k.input("x", (count,), "float32"), k.output("y", (count,))
        for at in range(0, count, isa.lanes):
            y.store(at, x.load(at, isa.lanes, count - at), count - at)
    return k.result
