"""Products with weights in 8 or 4 bits against float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tvm import tirx

import burnish
from burnish.artifact import cpu_features
from burnish.backends.cpu.epilogue import pack_channel
from burnish.backends.cpu.isa import AVX2, AVX512, AVX512_VNNI, NEON, Isa
from burnish.backends.cpu.nbits import matmul_nbits
from burnish.backends.cpu.nbits_dots import dots_nbits, quantize_blocks, takes
from burnish.backends.cpu.nbits_spec import NBitsSpec, pack_blocks, pack_codes
from burnish.check.reference import Reference
from burnish.errors import CompileError
from burnish.ir.postops import parse_postops
from tests.support import reference
from tests.support.cpu_kernels import build, dirty, operands, run

both = pytest.mark.parametrize("isa", [AVX512, AVX2], ids=lambda i: i.name)
BIAS_GELU = parse_postops(["Add:channel", "Gelu"])


def weights(spec: NBitsSpec) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Codes, scales and zero points of a spec, and the weights they stand for in float64."""
    rng = np.random.default_rng(spec.k + spec.n)
    low, high = -(2 ** (spec.bits - 1)), 2 ** (spec.bits - 1)
    codes = rng.integers(low, high, (spec.k, spec.n))
    # The ends of the range.
    codes[0], codes[-1] = low, high - 1
    scale = rng.uniform(0.5, 1.5, (spec.blocks, spec.n)).astype(np.float32) / high
    zero = rng.integers(low, high, scale.shape).astype(np.int8)
    if spec.symmetric:
        zero[:] = 0
    rows = np.arange(spec.k) // spec.block
    return codes, scale, zero, (codes - zero.astype(np.int64)[rows]) * scale.astype("f8")[rows]


def check(isa: Isa, spec: NBitsSpec, leads: list[tuple[int, ...]]) -> None:
    """Build the kernel and compare it with float64 for rows of some sizes."""
    if not set(isa.features) <= cpu_features():
        pytest.skip(f"this CPU has no {isa.name}")
    library = build({"k": matmul_nbits(isa, spec)}, isa)
    codes, scale, zero, w = weights(spec)
    stored: list[Any] = [pack_codes(codes, spec, isa), pack_blocks(scale, spec, isa)]
    if not spec.symmetric:
        stored.append(pack_blocks(zero, spec, isa))
    for lead in leads:
        rng = np.random.default_rng(len(lead))
        x = rng.standard_normal((*lead, spec.k)).astype(np.float32)
        raw, packed = operands(rng, spec.postops, (*lead, spec.n), isa)
        (y,) = run(library, "k", [x, *stored, *packed], [dirty((*lead, spec.n))])
        sums = x.astype("f8") @ w
        want = reference.postops(sums, spec.postops, raw)
        # Sums of a block are taken before its zero point is: what cancels is larger.
        np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-5 * np.abs(sums).max())


@both
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(
    ("m", "k", "n", "block"),
    [
        (1, 64, 40, 32),
        (1, 75, 16, 16),  # half a word in the last, shorter block
        (1, 70, 100, 70),  # one scale for each column
        (2, 96, 33, 32),
        (4, 40, 130, 16),
        (5, 72, 70, 32),
        (12, 72, 70, 32),
        (261, 40, 20, 16),
        (250, 24, 24, 8),
    ],
)
def test_static_rows(
    isa: Isa, m: int, k: int, n: int, block: int, bits: int, symmetric: bool
) -> None:
    check(isa, NBitsSpec((m,), k, n, bits, block, symmetric), [(m,)])


@both
def test_symbolic_rows(isa: Isa) -> None:
    b, s = tirx.Var("b", "int64"), tirx.Var("s", "int64")
    spec = NBitsSpec((b, s), 48, 90, 4, 16, False, BIAS_GELU)
    check(isa, spec, [(1, m) for m in range(1, 12)] + [(3, 85)])


@both
@pytest.mark.parametrize("m", [1, 3, 9])
def test_post_ops_are_fused(isa: Isa, m: int) -> None:
    postops = parse_postops(["Add:channel", "Gelu", "Add:full", "Relu"])
    check(isa, NBitsSpec((m,), 64, 41, 4, 32, True, postops), [(m,)])


@both
def test_sums_go_on_in_the_next_panel(isa: Isa) -> None:
    check(isa, NBitsSpec((7,), 300, 20, 4, 32, False, parse_postops(["Relu"])), [(7,)])
    check(isa, NBitsSpec((7,), 270, 20, 8, 270, True), [(7,)])


def rounded(x: np.ndarray, block: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers in [-127, 127] for rows of x, and the scale of each block."""
    blocks = x.reshape(*x.shape[:-1], -1, block)
    largest = np.abs(blocks).max(axis=-1)
    inverse = np.where(largest > 0, np.float32(127) / np.where(largest > 0, largest, 1), 0)
    codes = np.rint(blocks * inverse[..., None].astype(np.float32))
    return codes.reshape(x.shape), largest * np.float32(1 / 127)


@pytest.mark.parametrize("isa", [AVX512_VNNI, AVX512, AVX2], ids=lambda i: i.name)
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(
    ("m", "k", "n", "block", "bits"),
    [
        (1, 64, 40, 32, 4), (2, 96, 33, 16, 8), (5, 96, 70, 32, 4), (13, 128, 200, 64, 4),
        (100, 64, 24, 64, 8),
    ],
)  # fmt: skip
def test_activations_in_eight_bits(
    isa: Isa, m: int, k: int, n: int, block: int, bits: int, symmetric: bool
) -> None:
    if not set(isa.features) <= cpu_features():
        pytest.skip(f"this CPU has no {isa.name}")
    spec = NBitsSpec((m,), k, n, bits, block, symmetric, BIAS_GELU)
    kernels = {"q": quantize_blocks(isa, spec), "k": dots_nbits(isa, spec)}
    library = build(kernels, isa)
    codes, scale, zero, w = weights(spec)
    x = np.random.default_rng(m).standard_normal((m, k)).astype(np.float32)
    x[0, :block] = 0
    outputs = [dirty((m, k), "int8"), dirty((m, spec.blocks)), dirty((m, spec.blocks))]
    q, steps, sums = run(library, "q", [x], outputs)
    want_q, want_steps = rounded(x, block)
    assert np.abs(q - want_q).max() <= 1
    assert np.mean(q != want_q) < 0.001
    np.testing.assert_allclose(steps, want_steps, rtol=1e-6)
    real = (q.reshape(m, -1, block) * steps[..., None].astype("f8")).reshape(m, k)
    np.testing.assert_allclose(sums, real.reshape(m, -1, block).sum(-1), rtol=1e-5, atol=1e-5)
    bias = np.random.default_rng(2).standard_normal(n).astype(np.float32)
    stored: list[Any] = [pack_codes(codes, spec, isa), pack_blocks(scale, spec, isa)]
    stored += [] if symmetric else [pack_blocks(zero, spec, isa)]
    given = [q, steps, sums, *stored, pack_channel(bias, isa)]
    (y,) = run(library, "k", given, [dirty((m, n))])
    want = reference.postops(real @ w, BIAS_GELU, [bias])
    np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-5 * np.abs(real @ w).max())


def test_numbers_that_are_none_are_not_hidden() -> None:
    spec = NBitsSpec((3,), 64, 24, 4, 32, True)
    library = build({"q": quantize_blocks(AVX2, spec), "k": dots_nbits(AVX2, spec)}, AVX2)
    codes, scale, _, _ = weights(spec)
    x = np.ones((3, 64), np.float32)
    x[0, 5], x[1, 40] = np.nan, np.inf
    blocks = [dirty((3, 64), "int8"), dirty((3, 2)), dirty((3, 2))]
    given = run(library, "q", [x], blocks)
    stored = [pack_codes(codes, spec, AVX2), pack_blocks(scale, spec, AVX2)]
    (y,) = run(library, "k", [*given, *stored], [dirty((3, 24))])
    assert not np.isfinite(y[:2]).any()
    assert np.isfinite(y[2]).all()


def test_blocks_without_integer_products_are_refused() -> None:
    assert not takes(NBitsSpec((1,), 80, 16, 4, 32, True), AVX512)
    assert not takes(NBitsSpec((1,), 64, 16, 4, 32, True), NEON)
    with pytest.raises(CompileError, match="no integer products for blocks of 32 on neon"):
        dots_nbits(NEON, NBitsSpec((1,), 64, 16, 4, 32, True))


def accurate(level: int) -> onnx.ModelProto:
    """A product of onnxruntime's with an accuracy level."""
    rng = np.random.default_rng(level)
    arrays = {
        "w": rng.integers(0, 256, (40, 3, 16)).astype(np.uint8),
        "s": rng.uniform(0.01, 0.02, 120).astype(np.float32),
    }
    node = helper.make_node(
        "MatMulNBits", ["x", "w", "s"], ["y"], domain="com.microsoft",
        K=96, N=40, bits=4, block_size=32, accuracy_level=level,
    )  # fmt: skip
    graph = helper.make_graph(
        [node], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["m", 96])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["m", 40])],
        [numpy_helper.from_array(a, name) for name, a in arrays.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


@pytest.mark.parametrize("target", ["x86", "x86-64-v3"])
@pytest.mark.parametrize(("level", "precision"), [(0, "fp32"), (1, "fp32"), (4, "int8")])
def test_the_accuracy_level_says_what_activations_are_in(
    level: int, precision: str, target: str
) -> None:
    model = accurate(level)
    compiled = burnish.compile(model, target=target)
    assert {n.precision for n in compiled.manifest.nodes} == {precision}
    assert {n.weights for n in compiled.manifest.nodes} == {"int4"}
    x = np.random.default_rng(0).standard_normal((9, 96)).astype(np.float32)
    with Reference(model) as session:
        (want,) = session.run(None, {"x": x})
    (found,) = compiled.run(None, {"x": x})
    # Both round activations to the same numbers, but for those in the middle of two.
    np.testing.assert_allclose(
        found, want, atol=(2e-3 if level == 4 else 1e-6) * np.abs(want).max()
    )


def test_four_bits_take_half_a_byte() -> None:
    spec = NBitsSpec((1,), 256, 64, 4, 32, True)
    assert pack_codes(np.zeros((256, 64), int), spec, AVX512).nbytes == 256 * 64 // 2


def test_blocks_that_cut_words_are_refused() -> None:
    with pytest.raises(CompileError, match="blocks of 12 rows"):
        NBitsSpec((1,), 48, 16, 4, 12, True)
