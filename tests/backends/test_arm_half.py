"""Products of float16 on ARM cores with FMLAL: their code, and their results on an emulated core."""

# ruff: noqa: E501 (a case is a row of a table)

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from burnish.backends.arm.cores import CORES
from burnish.backends.cpu.conv import ConvSpec, conv, pack_conv
from burnish.backends.cpu.dot2 import computes, dot_of
from burnish.backends.cpu.gemm import GemmSpec, gemm, pack_gemm
from burnish.backends.cpu.gemm_plans import gemm_plans
from burnish.backends.cpu.half import HALF, product_isa
from burnish.backends.cpu.isa import AVX2, AVX512_BF16, NEON
from burnish.backends.cpu.microkernel import F32
from burnish.backends.cpu.tiling import Tile, fits
from burnish.backends.cpu.tir import Kernel
from burnish.backends.registry import resolve_target
from burnish.ir.postops import parse_postops
from tests.bench.mca import loops
from tests.support.bundle import Bundle, Case
from tests.support.cpu_kernels import build
from tests.support.qemu import emulator, load

V1 = CORES["neoverse-v1"].isa()
WIDE = product_isa(V1, "float16")
PAD = (1, 1, 1, 1)
POSTS = parse_postops(["Add:channel", "Relu"])
SPECS = {
    "gemm": GemmSpec((128,), 768, 768, POSTS),
    "gemm-odd": GemmSpec((37,), 83, 70, POSTS),
    "gemm-row": GemmSpec((1,), 96, 64),
    "conv": ConvSpec(1, 56, 56, 64, 64, (3, 3), pads=PAD, postops=POSTS),
    "conv-stem": ConvSpec(1, 64, 64, 3, 16, (7, 7), (2, 2), (3, 3, 3, 3)),
    "conv-groups": ConvSpec(1, 6, 6, 24, 24, (3, 3), pads=PAD, groups=2),
    "conv-dilated": ConvSpec(1, 9, 9, 16, 16, (3, 3), pads=(2, 2, 2, 2), dilations=(2, 2)),
    "pointwise": ConvSpec(1, 5, 5, 40, 20, (1, 1), postops=POSTS),
}


def made(spec: Any, isa: Any) -> Kernel:
    make: Callable[..., Kernel] = gemm if isinstance(spec, GemmSpec) else conv
    return make(isa, replace(spec, dtype="float16"))


@pytest.mark.parametrize("name", SPECS)
def test_code_multiplies_lanes_and_widens_nothing(name: str) -> None:
    asm = build({"k": made(SPECS[name], WIDE)}, WIDE).inspect_source("asm")
    assert len(re.findall(r"\sfmlal2?\s.*\.h\[\d\]", asm)) >= 32
    # Neither the float32 instruction nor a call; results alone are converted.
    assert not re.search(r"\sfmla\s|\bbl\s.*hf|fcvtl2?\s", asm)
    assert re.search(r"fcvtn\s+v\d+\.4h", asm)


@pytest.mark.parametrize("name", ["gemm", "gemm-odd", "conv", "conv-dilated", "pointwise"])
def test_inner_loops_neither_copy_nor_spill(name: str) -> None:
    asm = build({"k": made(SPECS[name], WIDE)}, WIDE).inspect_source("asm")
    body = max(loops(asm), key=lambda lines: sum(x.startswith("fmlal") for x in lines))
    assert sum(bool(re.match(r"fmlal2?\s.*\.h\[\d\]", line)) for line in body) >= 64
    for line in body:
        assert not re.match(r"fcvt|dup|(ldr|str|ldp|stp)\s+q.*\[sp", line), line


def test_cores_without_it_widen() -> None:
    n1 = CORES["neoverse-n1"].isa()
    assert product_isa(n1, "float16") is n1
    asm = build({"k": made(SPECS["gemm"], n1)}, n1).inspect_source("asm")
    assert "fmlal" not in asm
    assert re.search(r"fcvtl\s", asm)


def test_rows_of_the_instruction_set() -> None:
    assert (WIDE.lanes, WIDE.registers) == (8, 16)
    assert product_isa(WIDE, "float16") is WIDE
    assert dot_of(WIDE, "float16", 7) is HALF
    assert computes(HALF) == "float16"
    for dtype in ("float32", "bfloat16"):
        assert product_isa(V1, dtype) is V1
        assert dot_of(V1, dtype, 8) is F32
    # Products of two computed operands ask for the row as it is.
    assert dot_of(V1, "float16", 8) is F32
    for isa in (NEON, AVX2, AVX512_BF16):
        assert product_isa(isa, "float16") is isa
    having = {name for name, core in CORES.items() if core.isa().fhm}
    assert having == {"neoverse-v1", "neoverse-v2"}


def test_tiles_leave_registers_for_what_is_multiplied() -> None:
    """Of 32 registers: two for each sum, one for each vector, one for each row, two more."""
    assert fits(Tile(5, 2), WIDE)
    assert not fits(Tile(4, 3), WIDE)
    spec = replace(SPECS["gemm"], dtype="float16")
    for plan in gemm_plans(WIDE, spec, 128):
        assert all(fits(c.tile, WIDE) for c in plan.columns)


def test_weights_are_packed_as_they_are() -> None:
    rng = np.random.default_rng(0)
    w = rng.standard_normal((83, 70)).astype(np.float16)
    packed = pack_gemm(w, replace(SPECS["gemm-odd"], dtype="float16"), WIDE)
    assert (packed.dtype, packed.shape) == (np.float16, (83 * 72,))
    filters = rng.standard_normal((16, 3, 7, 7)).astype(np.float16)
    packed = pack_conv(filters, replace(SPECS["conv-stem"], dtype="float16"), WIDE)
    assert (packed.dtype, packed.shape) == (np.float16, (16 * 3 * 7 * 7,))


@pytest.mark.parametrize("core", ["neoverse-v1", "neoverse-v2"])
def test_targets_say_what_they_multiply(core: str) -> None:
    emulator()
    target = resolve_target(f"arm:{core}")
    assert dict(target.computes) == {"bfloat16": "fp32"}
    # As fast as float32: weights of 4 bits stay what they are.
    assert not target.multiplies("fp16")
    assert resolve_target("arm:neoverse-n1").computes["float16"] == "fp32"


SAME = "kernel_shape=[3,3], pads=[1,1,1,1]"
#: Their products leave the range of float16, their sum does not.
SUMS = np.tile(np.array([[300], [-300]], np.float16), (40, 10))
FACTORS = np.tile(np.array([300, 299.75], np.float16), 40)[None]

CASES = {
    "matmul": Case("(float16[37,83] x) => (float16[37,70] y) <float16[83,70] w, float16[70] b> { m = MatMul(x, w) s = Add(m, b) y = Relu(s) }"),
    "row": Case("(float16[1,96] x) => (float16[1,61] y) <float16[96,61] w> { y = MatMul(x, w) }"),
    "symbolic": Case("(float16[n,40] x) => (float16[n,20] y) <float16[40,20] w, float16[20] b> { m = MatMul(x, w) y = Add(m, b) }", sizes={"n": 11}),
    "sums": Case("(float16[1,80] x) => (float16[1,10] y) <float16[80,10] w> { y = MatMul(x, w) }", feeds={"x": FACTORS}, weights={"w": SUMS}),
    "conv": Case(f"(float16[1,20,9,9] x) => (float16[1,21,9,9] y) <float16[21,20,3,3] w, float16[21] b> {{ c = Conv<{SAME}>(x, w, b) y = Relu(c) }}"),
    "stem": Case("(float16[1,3,37,37] x) => (float16[1,16,19,19] y) <float16[16,3,7,7] w> { y = Conv<strides=[2,2], pads=[3,3,3,3]>(x, w) }"),
    "groups": Case(f"(float16[1,24,6,6] x) => (float16[1,24,6,6] y) <float16[24,12,3,3] w> {{ y = Conv<group=2, {SAME}>(x, w) }}"),
    "dilated": Case("(float16[1,16,9,9] x) => (float16[1,16,9,9] y) <float16[16,16,3,3] w> { y = Conv<dilations=[2,2], pads=[2,2,2,2]>(x, w) }"),
    "size": Case(f"(float16[1,8,h,v] x) => (float16[1,12,h,v] y) <float16[12,8,3,3] w> {{ y = Conv<{SAME}>(x, w) }}", sizes={"h": 7, "v": 11}),
    "pointwise": Case("(float16[1,40,5,5] x) => (float16[1,20,5,5] y) <float16[20,40,1,1] w> { y = Conv(x, w) }"),
    "residual": Case(f"(float16[1,16,8,8] x) => (float16[1,16,8,8] y) <float16[16,16,3,3] w> {{ c = Conv<{SAME}>(x, w) s = Add(c, x) y = Relu(s) }}"),
    "joined": Case(f"(float16[1,8,6,6] x) => (float16[1,23,6,6] y) <float16[13,8,3,3] v, float16[10,8,1,1] w> {{ a = Conv<{SAME}>(x, v) b = Conv(x, w) r = Relu(a) s = Relu(b) y = Concat<axis=1>(r, s) }}"),
    "gelu": Case("(float16[9,32] x) => (float16[9,44] y) <float16[32,44] w> { m = MatMul(x, w) y = Gelu(m) }"),
    "depthwise": Case(f"(float16[1,20,8,8] x) => (float16[1,20,8,8] y) <float16[20,1,3,3] w> {{ y = Conv<group=20, {SAME}>(x, w) }}"),
    "transposed": Case("(float16[1,8,5,5] x) => (float16[1,6,11,11] y) <float16[8,6,3,3] w> { y = ConvTranspose<strides=[2,2]>(x, w) }"),
    "computed": Case("(float16[2,9,16] x, float16[2,16,12] z) => (float16[2,9,12] y) { y = MatMul(x, z) }"),
    "volume": Case("(float16[1,4,5,5,5] x) => (float16[1,6,3,3,3] y) <float16[6,4,3,3,3] w> { y = Conv(x, w) }", note="no kernel for layout NDHWC"),
}  # fmt: skip
#: What still widens its operands.
WIDENED = {"depthwise", "transposed", "computed", "volume"}


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    emulator()
    return Bundle(CASES, 0, lambda path, _: load(path, "max"), target="arm:neoverse-v1")


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_equal_to_onnxruntime(bundle: Bundle, name: str) -> None:
    bundle.check(name)
    products = [
        n for n in bundle.nodes
        if "Conv" in n.op or "MatMul" in n.op
        if any(s.startswith(f"{name}/") for s in n.nodes)
    ]  # fmt: skip
    assert products
    for node in products:
        assert (node.storage, node.precision) == ("fp16", "fp32" if name in WIDENED else "fp16")
        assert node.detail.startswith("fp16, tile ") == (name not in WIDENED)


@pytest.mark.slow
def test_sums_are_float32(bundle: Bundle) -> None:
    (found,) = (v for k, v in bundle.found.items() if k.startswith("sums/"))
    assert np.array_equal(found, np.full((1, 10), 40 * 300 * 0.25, np.float16))
