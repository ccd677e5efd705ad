"""Kernels on tensors in bfloat16: float32's results, rounded once; products of pairs."""

# ruff: noqa: E501 (a case is a row of a table)

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from tvm import te, tirx

from burnish.backends.cpu.attention import attention
from burnish.backends.cpu.attention_bf16 import PairBlocks, multiplies_pairs
from burnish.backends.cpu.conv import ConvSpec, conv
from burnish.backends.cpu.dot2 import DOT2, dot_of
from burnish.backends.cpu.epilogue import pack_channel
from burnish.backends.cpu.gemm import GemmSpec, gemm, pack_gemm
from burnish.backends.cpu.isa import AVX2, AVX512, AVX512_BF16, NEON, Isa
from burnish.backends.cpu.matmul import MatmulSpec, matmul
from burnish.backends.cpu.microkernel import F32
from burnish.backends.cpu.te_schedule import schedule_te
from burnish.backends.cpu.tir import Kernel
from burnish.backends.cpu.transpose import TransposeSpec, transpose
from tests.support.assembly import code_of
from tests.support.cpu_kernels import Array, Library, build, dirty, run
from tests.support.half_kernels import CASES as HALF_CASES
from tests.support.half_kernels import Case, attention_of, echo

BF16 = np.dtype(ml_dtypes.bfloat16)
both = pytest.mark.parametrize("isa", [AVX512_BF16, AVX2], ids=lambda i: i.name)
#: The largest relative error of rounding to bfloat16.
HALF_UNIT = 2.0**-8


MORE = {
    "matmul-pairs": Case(matmul, MatmulSpec((2,), (1,), 10, 36, 21, False, 0.5), ((2, 10, 36), (1, 36, 21)), ((2, 10, 21),)),
    "matmul-pairs-t": Case(matmul, MatmulSpec((2,), (2,), 10, 72, 37, True, 0.5), ((2, 10, 72), (2, 37, 72)), ((2, 10, 37),)),
    "matmul-short-t": Case(matmul, MatmulSpec((), (), 9, 6, 40, True), ((9, 6), (40, 6)), ((9, 40),)),
}  # fmt: skip
CASES = {**HALF_CASES, **MORE}


def draw(rng: np.random.Generator, *shape: int) -> Array:
    """Seeded numbers that bfloat16 holds exactly."""
    return rng.standard_normal(shape).astype(BF16)


def call(library: Library, name: str, inputs: Sequence[Array], *shapes: tuple[int, ...]) -> Any:
    """Run a kernel whose results are bfloat16; they come as float32."""
    bits = [a.view(np.uint16) if a.dtype == BF16 else a for a in inputs]
    outputs = run(library, name, bits, [dirty(shape, "uint16") for shape in shapes])
    return [y.view(BF16).astype(np.float32) for y in outputs]


def arguments(case: Case, isa: Isa, dtype: str) -> list[Array]:
    rng = np.random.default_rng(3)
    kind = BF16 if dtype == "bfloat16" else np.dtype(dtype)
    values = [draw(rng, *shape).astype(kind) for shape in case.data]
    if case.pack is not None:
        weights = draw(rng, *case.weight).astype(kind)
        values.append(case.pack(weights, replace(case.spec, dtype=dtype), isa))
        assert values[-1].dtype == kind, "weights are packed in the type of the tensors"
    if case.channel:
        values.append(pack_channel(draw(rng, case.channel), isa))
    return values + [draw(rng, *shape).astype(kind) for shape in case.after]


@functools.cache
def compiled(isa: Isa) -> Library:
    """All cases, in bfloat16 and in float32."""
    kernels = {
        f"{name.replace('-', '_')}_{dtype}": case.make(isa, replace(case.spec, dtype=dtype))
        for name, case in CASES.items()
        for dtype in ("float32", "bfloat16")
    }
    return build(kernels, isa)


@functools.cache
def assembly(isa: Isa) -> str:
    """The code of :func:`compiled`."""
    return str(compiled(isa).inspect_source("asm"))


def code(name: str, isa: Isa) -> str:
    """The code of a case in bfloat16."""
    return code_of(assembly(isa), f"{name.replace('-', '_')}_bfloat16")


@both
def test_results_are_those_of_float32_rounded_once(isa: Isa) -> None:
    for name, case in CASES.items():
        key = name.replace("-", "_")
        outputs = [dirty(shape) for shape in case.out]
        wide = run(compiled(isa), f"{key}_float32", arguments(case, isa, "float32"), outputs)
        inputs = arguments(case, isa, "bfloat16")
        narrow = call(compiled(isa), f"{key}_bfloat16", inputs, *case.out)
        # As much again where a step in between is stored.
        twice = "gelu" in name or "softmax" in name or name == "pointwise"
        for a, b in zip(wide, narrow, strict=True):
            bound = np.abs(a) * HALF_UNIT * (3 if twice else 1.02) + (4e-3 if twice else 1e-6)
            assert (np.abs(b - a) <= bound).all(), (name, float(np.abs(b - a).max()))
            assert np.abs(a).mean() > 1e-3


@both
def test_code_rounds_by_vectors_without_calls(isa: Isa) -> None:
    for name in CASES:
        asm = code(name, isa)
        assert not re.search(r"\b(call|jmp)\w*\s.*(bf2|sfbf|burnish_bf16)", asm), name
        if isa.bf16:
            assert re.search(r"vcvtneps2bf16\s+%zmm\d+", asm), name


PAIRED = (
    *MORE,
    "gemm-gelu",
    "gemm-row",
    "conv",
    "conv-wide",
    "conv-groups",
    "conv-dilated",
    "pointwise",
)


@pytest.mark.parametrize("name", PAIRED)
def test_products_multiply_pairs(name: str) -> None:
    asm = code(name, AVX512_BF16)
    assert "vdpbf16ps" in asm
    assert "vfmadd" not in asm or "gelu" in name or name == "pointwise"
    assert "bf16" not in code(name, AVX2)
    wide = CASES[name].make(AVX512, replace(CASES[name].spec, dtype="bfloat16"))
    assert "bf16" not in build({"k": wide}, AVX512).inspect_source("asm")


def test_pairs_need_an_even_depth() -> None:
    assert dot_of(AVX512_BF16, "bfloat16", 6) is DOT2
    for isa, dtype, depth in (
        (AVX512_BF16, "bfloat16", 7),
        (AVX512_BF16, "float16", 6),
        (AVX512, "bfloat16", 6),
        (NEON, "bfloat16", 6),
    ):
        assert dot_of(isa, dtype, depth) is F32
    assert multiplies_pairs(AVX512_BF16, "bfloat16", (64, 768, 0))
    assert not multiplies_pairs(AVX512_BF16, "bfloat16", (63, 768, 0))
    assert not multiplies_pairs(AVX2, "bfloat16", (64, 768, 0))


@pytest.mark.parametrize(
    "make", [lambda i: gemm(i, GemmSpec((24,), 64, 96, dtype="bfloat16")),
             lambda i: conv(i, ConvSpec(1, 8, 8, 32, 32, (3, 3), dtype="bfloat16"))],
    ids=["gemm", "conv"],
)  # fmt: skip
def test_inner_loops_neither_convert_nor_spill(make: Any) -> None:
    asm = build({"k": make(AVX512_BF16)}, AVX512_BF16).inspect_source("asm")
    loops = re.findall(r"(\.LBB\w+):((?:(?!\.LBB\w+:).)*?)\tj\w+\t\1", asm, re.DOTALL)
    inner = [body for _, body in loops if body.count("vdpbf16ps") >= 8]
    assert inner
    for body in inner:
        assert not re.search(r"vcvt|vpslld|vpmovzx|zmm\d+, \S*\(%rsp", body)


def test_sums_of_pairs_are_those_of_float32_without_denormals() -> None:
    spec = GemmSpec((2,), 4, 16, dtype="bfloat16")
    tiny = 2.0**-130
    x = np.array([[1, 2, 3, 4], [tiny, 1, 0, 0]], BF16)
    w = np.tile(np.array([[1.0], [-2], [0.5], [tiny]], np.float32), (1, 16)).astype(BF16)
    library = build({"k": gemm(AVX512_BF16, spec)}, AVX512_BF16)
    (y,) = call(library, "k", [x, pack_gemm(w, spec, AVX512_BF16)], (2, 16))
    assert np.array_equal(y[:, 0], [-1.5, -2])


ATTENTIONS = {
    "odd keys": ((2, 19, 23, 12, 3), {}),
    "causal": ((1, 37, 37, 64, 2), {"causal": True}),
    "blocks of keys": ((1, 5, 701, 16, 1), {}),
    "causal blocks": ((1, 33, 700, 16, 1), {"causal": True}),
    "one query": ((2, 1, 23, 16, 2), {}),
    "narrow": ((1, 20, 23, 6, 2), {"nan_to_zero": True}),
}


@pytest.mark.parametrize("name", ATTENTIONS)
def test_attention_on_pairs(name: str) -> None:
    (batch, queries, keys, width, heads), more = ATTENTIONS[name]
    spec = replace(attention_of(batch, queries, keys, width, heads), **more)
    rng = np.random.default_rng(3)
    x = [draw(rng, batch, n, heads * width) for n in (queries, keys, keys)]
    narrow = replace(spec, dtype="bfloat16")
    library = build(
        {
            "wide": attention(AVX512, spec),
            "pairs": attention(AVX512_BF16, narrow, blocks=PairBlocks),
        },
        AVX512_BF16,
    )
    shape = (batch, queries, heads * width)
    (wanted,) = run(library, "wide", [a.astype(np.float32) for a in x], [dirty(shape)])
    (found,) = call(library, "pairs", x, shape)
    # Exponentials and the result are rounded.
    np.testing.assert_allclose(found, wanted, rtol=2 * HALF_UNIT, atol=4e-3)
    assert np.abs(wanted).mean() > 0.02


@both
def test_rounding_is_to_nearest_even(isa: Isa) -> None:
    rng = np.random.default_rng(0)
    unit = 2.0**-7
    ties = [1 + unit / 2, 1 + 3 * unit / 2, -(1 + unit / 2), 3.3e38, 3.4e38, 0.0, np.inf, -np.inf]
    x = np.array([*ties, *rng.standard_normal(29) * 1e3], np.float32)
    library = build({"echo": echo(isa, x.size, "bfloat16")}, isa)
    (y,) = call(library, "echo", [x], (x.size,))
    with np.errstate(over="ignore"):
        assert np.array_equal(y, x.astype(BF16).astype(np.float32))
    (nan,) = call(library, "echo", [np.full_like(x, np.nan)], (x.size,))
    assert np.isnan(nan).all()


def as_expression(isa: Isa) -> Kernel:
    """Both results of a sum: rounded, and rounded on the way to float32."""
    a, b = (te.placeholder((50,), "bfloat16", name) for name in "ab")
    wide = te.compute((50,), lambda i: a(i).astype("float32") + b(i).astype("float32"))
    y = te.compute((50,), lambda i: wide(i).astype("bfloat16"))
    z = te.compute((50,), lambda i: y(i).astype("float32") * tirx.const(2.0, "float32"))
    c = te.compute((50,), lambda i: tirx.Select(a(i) > b(i), a(i), tirx.const(1.5, "bfloat16")))
    return schedule_te([y, z, c], [a, b], "k", isa)


@both
def test_tensor_expressions(isa: Isa) -> None:
    rng = np.random.default_rng(1)
    a, b = draw(rng, 50), draw(rng, 50)
    library = build({"k": as_expression(isa)}, isa)
    bits = [a.view(np.uint16), b.view(np.uint16)]
    outputs = [dirty((50,), "uint16"), dirty((50,)), dirty((50,), "uint16")]
    y, z, c = run(library, "k", bits, outputs)
    wanted = (a.astype(np.float32) + b.astype(np.float32)).astype(BF16)
    assert np.array_equal(y.view(BF16), wanted)
    assert np.array_equal(z, wanted.astype(np.float32) * 2)
    assert np.array_equal(c.view(BF16), np.where(a > b, a, np.array(1.5, BF16)))
    if isa.bf16:
        assert re.search(r"vcvtneps2bf16\s+%zmm", library.inspect_source("asm"))


@both
@pytest.mark.parametrize("perm", [(1, 0), (0, 1)])
def test_transposes_move_bits(isa: Isa, perm: tuple[int, int]) -> None:
    x = draw(np.random.default_rng(2), 37, 45)
    made = transpose(isa, TransposeSpec(x.shape, perm, "bfloat16"))
    (y,) = call(build({"k": made}, isa), "k", [x], tuple(x.shape[a] for a in perm))
    assert np.array_equal(y, x.astype(np.float32).transpose(perm))


def test_arm_code_rounds_by_vectors() -> None:
    for name in ("gemm", "depthwise", "softmax"):
        case = CASES[name]
        made = case.make(NEON, replace(case.spec, dtype="bfloat16"))
        asm = build({"k": made}, NEON).inspect_source("asm")
        assert not re.search(r"\bbl?\s.*(bf2|sfbf)", asm), name
        assert re.search(r"(xtn|shrn|uzp\d)2?\s+v\d+\.(4|8)h", asm), name
