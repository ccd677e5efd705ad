"""Matrix products with packed weights, against float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tvm
import tvm_ffi
from tvm import tirx

from burnish.backends.cpu.epilogue import pack_channel, pack_scalar
from burnish.backends.cpu.gemm import GemmSpec, gemm, pack_gemm
from burnish.backends.cpu.isa import AVX2, AVX512, Isa
from burnish.backends.cpu.tiling import Tile
from burnish.errors import CompileError
from burnish.ir.postops import BINARY, UNARY, PostOp, parse_postops
from tests.support.cpu_kernels import build, dirty, run
from tests.support.reference import postops

both = pytest.mark.parametrize("isa", [AVX512, AVX2], ids=lambda i: i.name)


def data(m: int, k: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(m * 7 + k * 3 + n)
    x = rng.standard_normal((m, k), dtype=np.float32)
    return x, rng.standard_normal((k, n), dtype=np.float32) / np.float32(k**0.5)


def check(
    isa: Isa, spec: GemmSpec, sizes: list[tuple[int, ...]], postop_names: tuple[str, ...] = ()
) -> None:
    """Build once, run for each of the leading shapes."""
    library = build({"k": gemm(isa, spec)}, isa)
    for lead in sizes:
        m = int(np.prod(lead))
        x, w = data(m, spec.k, spec.n)
        rng = np.random.default_rng(m)
        raw: list[np.ndarray] = []
        packed: list[np.ndarray] = []
        for p in spec.postops:
            if p.operand == "channel":
                raw.append(rng.standard_normal(spec.n).astype("f4") + 3)
                packed.append(pack_channel(raw[-1], isa))
            elif p.operand == "full":
                raw.append(rng.standard_normal((m, spec.n)).astype("f4") + 3)
                packed.append(raw[-1].reshape(*lead, spec.n))
            elif p.operand == "scalar":
                raw.append(np.float32(1.7))
                packed.append(pack_scalar(raw[-1]))
        args = [x.reshape(*lead, spec.k), pack_gemm(w, spec, isa), *packed]
        (y,) = run(library, "k", args, [dirty((*lead, spec.n))])
        want = postops(x.astype("f8") @ w.astype("f8"), spec.postops, raw)
        np.testing.assert_allclose(y.reshape(m, spec.n), want, rtol=2e-5, atol=2e-5)


@both
@pytest.mark.parametrize(
    ("m", "k", "n"),
    [(1, 5, 1), (3, 7, 2), (13, 33, 3), (7, 64, 16), (97, 40, 88), (50, 17, 130), (8, 1, 200)],
)
def test_static_shapes(isa: Isa, m: int, k: int, n: int) -> None:
    check(isa, GemmSpec((m,), k, n, parse_postops(["Add:channel", "Relu"])), [(m,)])


@both
@pytest.mark.parametrize("n", [2, 24, 88, 257])
def test_symbolic_rows(isa: Isa, n: int) -> None:
    b, s = tirx.Var("b", "int64"), tirx.Var("s", "int64")
    spec = GemmSpec((b, s), 31, n, parse_postops(["Add:channel", "Add:full", "Relu"]))
    sizes = [(1, m) for m in range(1, 20)] + [(3, 37), (2, 64)]
    check(isa, spec, sizes)


@both
def test_large_weights_keep_all_row_chunks(isa: Isa) -> None:
    m = tirx.Var("m", "int64")
    check(isa, GemmSpec((m,), 512, 1100), [(1,), (100,), (131,)])


def test_row_expression_is_a_scalar_parameter() -> None:
    s = tirx.Var("s", "int64")
    kernel = gemm(AVX512, GemmSpec((s * 2 + 1,), 8, 24))
    assert [v.name for v in kernel.scalars] == ["s"]
    x, w = data(7, 8, 24)
    packed = pack_gemm(w, GemmSpec((s * 2 + 1,), 8, 24), AVX512)
    (y,) = run(build({"k": kernel}, AVX512), "k", [x, packed], [dirty((7, 24))], 3)
    np.testing.assert_allclose(y, x @ w, rtol=1e-5, atol=1e-5)


def test_unaligned_input() -> None:
    x, w = data(6, 20, 40)
    spec = GemmSpec((6,), 20, 40)
    room = np.zeros(6 * 20 + 1, "f4")
    shifted = room[1:].reshape(6, 20)
    shifted[:] = x
    assert shifted.ctypes.data % 64 != room.ctypes.data % 64
    library = build({"k": gemm(AVX512, spec)}, AVX512)
    y = tvm.runtime.tensor(np.zeros((6, 40), "f4"))
    given = tvm_ffi.from_dlpack(shifted, require_alignment=4)
    library["k"](given, tvm.runtime.tensor(pack_gemm(w, spec, AVX512)), y)
    np.testing.assert_allclose(y.numpy(), x @ w, rtol=1e-5, atol=1e-5)


PARAMS: dict[str, tuple[float, ...]] = {
    "Clip": (-0.5, 0.75),
    "HardSigmoid": (0.2, 0.4),
    "LeakyRelu": (0.1,),
    "Elu": (0.7,),
}


@pytest.mark.parametrize("op", sorted(UNARY))
def test_every_unary_postop(op: str) -> None:
    first = (PostOp("Abs"),) if op == "Sqrt" else ()
    steps = (*first, PostOp(op, "", PARAMS.get(op, ())), PostOp("Add", "full"))
    check(AVX512, GemmSpec((11,), 9, 35, steps), [(11,)])


@pytest.mark.parametrize("operand", ["channel", "full", "scalar"])
@pytest.mark.parametrize("op", BINARY)
def test_every_binary_postop(op: str, operand: Any) -> None:
    steps = (PostOp("Mul", "channel"), PostOp(op, operand))
    check(AVX2, GemmSpec((9,), 9, 19, steps), [(9,)])


@both
def test_long_and_short_steps_keep_their_order(isa: Isa) -> None:
    names = ["Add:channel", "Relu", "Gelu", "Mul:channel", "Add:full", "Tanh", "Mul:scalar"]
    m = tirx.Var("m", "int64")
    check(isa, GemmSpec((m,), 20, 45, parse_postops(names)), [(3,), (50,)])


@both
@pytest.mark.parametrize("tile", [Tile(1, 1), Tile(5, 2), Tile(2, 4)])
def test_tile_override(isa: Isa, tile: Tile) -> None:
    check(isa, GemmSpec((23,), 12, 100, (), tile), [(23,)])


@both
@pytest.mark.parametrize("steps", [16, 20, 40, 60])
@pytest.mark.parametrize("names", [("Add:channel", "Add:full", "Relu"), ("Add:channel", "Gelu")])
def test_passes_over_the_reduction(isa: Isa, steps: int, names: tuple[str, ...]) -> None:
    m = tirx.Var("m", "int64")
    check(isa, GemmSpec((37,), 60, 90, parse_postops(names), steps=steps), [(37,)])
    check(isa, GemmSpec((m,), 60, 90, parse_postops(names), steps=steps), [(1,), (11,), (140,)])


def test_passes_and_large_weights() -> None:
    check(AVX512, GemmSpec((70,), 1100, 600, parse_postops(["Add:full"]), steps=512), [(70,)])


def test_wrong_arguments() -> None:
    with pytest.raises(CompileError, match="in passes"):
        gemm(AVX2, GemmSpec((4,), 4, 4, dtype="float16", steps=2))
    with pytest.raises(CompileError, match="does not fit"):
        gemm(AVX2, GemmSpec((4,), 4, 4, (), Tile(8, 4)))
    with pytest.raises(ValueError, match="shape"):
        pack_gemm(np.ones((3, 4), "f4"), GemmSpec((4,), 4, 4), AVX2)
