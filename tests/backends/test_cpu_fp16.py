"""Kernels on tensors in float16: the float32 kernels' results, rounded once, from vector code."""

# ruff: noqa: E501 (a case is a row of a table)

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from tvm import tirx

from burnish.backends.cpu.attention import attention
from burnish.backends.cpu.attention_spec import AttentionSpec, merged_heads
from burnish.backends.cpu.conv import ConvSpec, conv, pack_conv
from burnish.backends.cpu.conv_transpose import (
    ConvTransposeSpec,
    conv_transpose,
    pack_conv_transpose,
)
from burnish.backends.cpu.depthwise import depthwise, pack_depthwise
from burnish.backends.cpu.epilogue import pack_channel
from burnish.backends.cpu.gemm import GemmSpec, gemm, pack_gemm
from burnish.backends.cpu.isa import AVX2, AVX512, NEON, Isa
from burnish.backends.cpu.matmul import MatmulSpec, matmul
from burnish.backends.cpu.norm import GroupNormSpec, NormSpec, group_norm, norm
from burnish.backends.cpu.pool import PoolSpec, pool
from burnish.backends.cpu.softmax import SoftmaxSpec, softmax
from burnish.backends.cpu.tir import Kernel, kernel
from burnish.ir.postops import parse_postops
from tests.support.cpu_kernels import Array, build, dirty, run

both = pytest.mark.parametrize("isa", [AVX512, AVX2], ids=lambda i: i.name)
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


def q(batch: int, queries: int, keys: int, width: int, heads: int) -> AttentionSpec:
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
    "attention": Case(attention, q(2, 19, 23, 12, 3), ((2, 19, 36), (2, 23, 36), (2, 23, 36)), ((2, 19, 36),)),
    "attention-decode": Case(attention, q(2, 1, 23, 16, 2), ((2, 1, 32), (2, 23, 32), (2, 23, 32)), ((2, 1, 32),)),
}  # fmt: skip


def arguments(case: Case, isa: Isa, dtype: str) -> list[Array]:
    """Seeded data that float16 holds exactly, in ``dtype``."""
    rng = np.random.default_rng(3)

    def draw(shape: Sequence[int]) -> Array:
        return rng.standard_normal(shape).astype(np.float16).astype(dtype)

    values = [draw(shape) for shape in case.data]
    if case.pack is not None:
        values.append(case.pack(draw(case.weight), case.spec, isa))
        assert values[-1].dtype == dtype, "weights are packed in the type of the tensors"
    if case.channel:
        values.append(pack_channel(draw((case.channel,)), isa))
    return values + [draw(shape) for shape in case.after]


@both
def test_results_are_those_of_float32_rounded_once(isa: Isa) -> None:
    kernels = {
        f"{name.replace('-', '_')}_{dtype}": case.make(isa, replace(case.spec, dtype=dtype))
        for name, case in CASES.items()
        for dtype in ("float32", "float16")
    }
    library = build(kernels, isa)
    for name, case in CASES.items():
        results = {}
        for dtype in ("float32", "float16"):
            outputs = [dirty(shape, dtype) for shape in case.out]
            key = f"{name.replace('-', '_')}_{dtype}"
            results[dtype] = run(library, key, arguments(case, isa, dtype), outputs)
        for wide, narrow in zip(results["float32"], results["float16"], strict=True):
            assert narrow.dtype == np.float16
            # Half a unit of float16, and as much again where a step in between is stored.
            twice = "gelu" in name or "softmax" in name or name == "pointwise"
            error = np.abs(narrow.astype(np.float64) - wide)
            bound = np.abs(wide) * 2.0**-11 * (3 if twice else 1.02) + 1e-6
            assert (error <= bound + (2e-3 if twice else 0)).all(), (name, float(error.max()))
            assert np.abs(wide).mean() > 1e-3


@both
@pytest.mark.parametrize("mask_dtype", ["float32", "float16"])
def test_masks_of_attention_have_their_own_type(isa: Isa, mask_dtype: str) -> None:
    spec = replace(q(1, 5, 9, 16, 2), dtype="float16", mask="float", mask_shape=(1, 1, 5, 9))
    spec = replace(spec, mask_dtype="float32" if mask_dtype == "float32" else None)
    rng = np.random.default_rng(2)
    x = [rng.standard_normal((1, n, 32)).astype(np.float16) for n in (5, 9, 9)]
    lowest = np.finfo(mask_dtype).min
    mask = np.where(rng.random((1, 1, 5, 9)) < 0.4, lowest, 0).astype(mask_dtype)
    mask[0, 0, 3] = lowest
    library = build({"k": attention(isa, spec)}, isa)
    (found,) = run(library, "k", [*x, mask], [dirty((1, 5, 32), "float16")])
    queries, keys, values = (a.astype(np.float32).reshape(-1, 2, 16).transpose(1, 0, 2) for a in x)
    scores = queries @ keys.transpose(0, 2, 1) / np.float32(4) + mask[0].astype(np.float32)
    e = np.exp(scores - scores.max(-1, keepdims=True))
    wanted = (e / e.sum(-1, keepdims=True)) @ values
    np.testing.assert_allclose(found[0], wanted.transpose(1, 0, 2).reshape(5, 32), atol=3e-3)


@both
def test_code_converts_by_vectors_without_calls(isa: Isa) -> None:
    register = "zmm" if isa.lanes == 16 else "ymm"
    for name, case in CASES.items():
        made = case.make(isa, replace(case.spec, dtype="float16"))
        asm = build({"k": made}, isa).inspect_source("asm")
        calls = [line for line in asm.splitlines() if re.search(r"\b(call|jmp)\w*\s.*hf", line)]
        assert not calls, (name, calls)
        assert re.search(rf"vcvtph2ps.*%{register}", asm), name
        assert re.search(rf"vcvtps2ph.*%{register}", asm), name


@both
@pytest.mark.parametrize("depth", [96, 83])
def test_products_do_not_convert_element_by_element(isa: Isa, depth: int) -> None:
    made = gemm(isa, GemmSpec((64,), depth, 96, dtype="float16"))
    asm = build({"k": made}, isa).inspect_source("asm")
    loops = re.findall(r"(\.LBB\w+):((?:(?!\.LBB\w+:).)*?)\tj\w+\t\1", asm, re.DOTALL)
    inner = [body for _, body in loops if body.count("vfmadd") >= 8]
    assert inner
    for body in inner:
        # A vector of weights serves all rows, and a vector of a row that many steps.
        assert 3 * body.count("vcvtph2ps") <= body.count("vfmadd")
        assert not re.search(r"vcvtph2ps\s+%xmm\d+, %xmm", body)


def test_arm_code_converts_by_vectors_without_calls() -> None:
    for name, case in CASES.items():
        asm = build({"k": case.make(NEON, replace(case.spec, dtype="float16"))}, NEON)
        text = asm.inspect_source("asm")
        assert not re.search(r"\bbl?\s.*hf", text), name
        assert re.search(r"fcvtl\s+v\d+\.4s", text), name
        assert re.search(r"fcvtn\s+v\d+\.4h", text), name


@pytest.mark.parametrize("spec", [GemmSpec((64,), 96, 96), ConvSpec(1, 14, 14, 64, 64, (3, 3))])
def test_arm_tiles_leave_registers_for_rows(spec: Any) -> None:
    make = gemm if isinstance(spec, GemmSpec) else conv
    asm = build({"k": make(NEON, replace(spec, dtype="float16"))}, NEON).inspect_source("asm")
    loops = re.findall(r"(\.LBB\w+):((?:(?!\.LBB\w+:).)*?)\tb\.\w+\t\1", asm, re.DOTALL)
    body = max((body for _, body in loops), key=lambda b: b.count("fmla"))
    assert body.count("fmla") >= 64
    assert not re.search(r"(ldr|str|ldp|stp)\tq.*\[sp", body), "an accumulator lies on the stack"


def echo(isa: Isa, count: int) -> Kernel:
    with kernel("echo", isa, "float16") as k:
        x, y = k.input("x", (count,), "float32"), k.output("y", (count,))
        for at in range(0, count, isa.lanes):
            y.store(at, x.load(at, isa.lanes, count - at), count - at)
    return k.result


@both
def test_rounding_is_to_nearest_even(isa: Isa) -> None:
    rng = np.random.default_rng(0)
    ulp = 2.0**-10
    ties = [1 + ulp / 2, 1 + 3 * ulp / 2, -(1 + ulp / 2), 65519.0, 65520.0, 1e-8, 6e-8, np.inf]
    x = np.array([*ties, *rng.standard_normal(29) * 1e3], np.float32)
    library = build({"echo": echo(isa, x.size)}, isa)
    (y,) = run(library, "echo", [x], [dirty((x.size,), "float16")])
    with np.errstate(over="ignore"):
        assert np.array_equal(y, x.astype(np.float16))
    (nan,) = run(library, "echo", [np.full_like(x, np.nan)], [dirty((x.size,), "float16")])
    assert np.isnan(nan).all()


@both
def test_symbolic_sizes(isa: Isa) -> None:
    m, keys = tirx.Var("m", "int64"), tirx.Var("keys", "int64")
    library = build(
        {
            "gemm": gemm(isa, GemmSpec((m,), 30, 20, dtype="float16")),
            "matmul": matmul(isa, MatmulSpec((), (), m, keys, 21, dtype="float16")),
        },
        isa,
    )
    rng = np.random.default_rng(1)
    w = rng.standard_normal((30, 20)).astype(np.float16)
    for rows, depth in ((1, 3), (5, 40), (17, 8)):
        x = rng.standard_normal((rows, 30)).astype(np.float16)
        packed = pack_gemm(w, GemmSpec((m,), 30, 20), isa)
        (y,) = run(library, "gemm", [x, packed], [dirty((rows, 20), "float16")])
        np.testing.assert_allclose(
            y, x.astype(np.float32) @ w.astype(np.float32), rtol=1e-3, atol=1e-5
        )
        a, b = (rng.standard_normal(s).astype(np.float16) for s in ((rows, depth), (depth, 21)))
        (y,) = run(library, "matmul", [a, b], [dirty((rows, 21), "float16")])
        np.testing.assert_allclose(
            y, a.astype(np.float32) @ b.astype(np.float32), rtol=1e-3, atol=1e-5
        )
