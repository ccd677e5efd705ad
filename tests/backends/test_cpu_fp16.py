"""Kernels on tensors in float16: the float32 kernels' results, rounded once, from vector code."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tvm import tirx

from burnish.backends.cpu.attention import attention
from burnish.backends.cpu.conv import ConvSpec, conv
from burnish.backends.cpu.epilogue import pack_channel
from burnish.backends.cpu.gemm import GemmSpec, gemm, pack_gemm
from burnish.backends.cpu.isa import AVX2, AVX512, NEON, Isa
from burnish.backends.cpu.matmul import MatmulSpec, matmul
from tests.support.assembly import code_of
from tests.support.cpu_kernels import Array, Library, build, dirty, run
from tests.support.half_kernels import CASES, Case, attention_of, echo

both = pytest.mark.parametrize("isa", [AVX512, AVX2], ids=lambda i: i.name)


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


@functools.cache
def compiled(isa: Isa) -> Library:
    """All cases, in float16 and in float32."""
    kernels = {
        f"{name.replace('-', '_')}_{dtype}": case.make(isa, replace(case.spec, dtype=dtype))
        for name, case in CASES.items()
        for dtype in ("float32", "float16")
    }
    return build(kernels, isa)


@functools.cache
def assembly(isa: Isa) -> str:
    """The code of :func:`compiled`."""
    return str(compiled(isa).inspect_source("asm"))


def code(name: str, isa: Isa) -> str:
    """The code of a case in float16."""
    return code_of(assembly(isa), f"{name.replace('-', '_')}_float16")


@both
def test_results_are_those_of_float32_rounded_once(isa: Isa) -> None:
    for name, case in CASES.items():
        results = {}
        for dtype in ("float32", "float16"):
            outputs = [dirty(shape, dtype) for shape in case.out]
            key = f"{name.replace('-', '_')}_{dtype}"
            results[dtype] = run(compiled(isa), key, arguments(case, isa, dtype), outputs)
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
    spec = attention_of(1, 5, 9, 16, 2)
    spec = replace(spec, dtype="float16", mask="float", mask_shape=(1, 1, 5, 9))
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
    for name in CASES:
        asm = code(name, isa)
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
