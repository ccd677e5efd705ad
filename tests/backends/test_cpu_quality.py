"""What LLVM made of the kernels: accumulators in registers, no heap, the arithmetic expected."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pytest
from tvm import tirx

from burnish.backends.cpu.conv import ConvSpec, conv
from burnish.backends.cpu.conv_transpose import ConvTransposeSpec, conv_transpose
from burnish.backends.cpu.depthwise import depthwise
from burnish.backends.cpu.gemm import GemmSpec, gemm
from burnish.backends.cpu.isa import AVX2, AVX512, Isa
from burnish.backends.cpu.matmul import MatmulSpec, matmul
from burnish.backends.cpu.pool import PoolSpec, pool
from burnish.backends.cpu.tir import Kernel
from burnish.ir.postops import parse_postops
from tests.support.cpu_kernels import build

both = pytest.mark.parametrize("isa", [AVX512, AVX2], ids=lambda i: i.name)
SHORT = parse_postops(["Add:channel", "Add:full", "Relu"])
LONG = parse_postops(["Add:channel", "Gelu"])
M = tirx.Var("m", "int64")
SPACE = tuple(tirx.Var(v, "int64") for v in "nhw")
PAD = (1, 1, 1, 1)

GEMMS = {
    "bert": GemmSpec((128,), 768, 768, SHORT),
    "bert-gelu": GemmSpec((128,), 768, 3072, LONG),
    "symbolic": GemmSpec((M,), 768, 768, SHORT),
    "symbolic-gelu": GemmSpec((M,), 768, 3072, LONG),
    "tail": GemmSpec((64,), 768, 50257),
    "one-row": GemmSpec((1,), 768, 3072, SHORT),
}
CONVS = {
    "3x3": ConvSpec(1, 56, 56, 64, 64, (3, 3), pads=PAD, postops=SHORT),
    "3x3-small": ConvSpec(1, 7, 7, 512, 512, (3, 3), pads=PAD, postops=SHORT),
    "1x1": ConvSpec(1, 14, 14, 1024, 256, (1, 1), postops=SHORT),
    "1x1-stride": ConvSpec(1, 56, 56, 256, 512, (1, 1), (2, 2), postops=SHORT),
    "stem": ConvSpec(1, 224, 224, 3, 64, (7, 7), (2, 2), (3, 3, 3, 3), postops=SHORT),
    "audio": ConvSpec(1, 1, 16000, 1, 258, (1, 256), (1, 128), postops=SHORT),
    "symbolic": ConvSpec(*SPACE, 64, 64, (3, 3), pads=PAD, postops=SHORT),
    "silu": ConvSpec(1, 40, 40, 64, 96, (3, 3), pads=PAD, postops=parse_postops(["Silu"])),
}
DEPTHWISE = {
    "3x3": ConvSpec(1, 56, 56, 96, 96, (3, 3), (1, 1), PAD, groups=96),
    "7x7": ConvSpec(1, 14, 14, 384, 384, (7, 7), (1, 1), (3, 3, 3, 3), groups=384),
    "5x5-symbolic": ConvSpec(*SPACE, 72, 72, (5, 5), (2, 2), (2, 2, 2, 2), groups=72),
}


#: A vector that moves between a register and the stack.
STACK = r"\(%rsp.*%[xyz]mm|%[xyz]mm.*\(%rsp"


@dataclass(frozen=True)
class Loop:
    """An innermost loop of the machine code."""

    lines: tuple[str, ...]

    def count(self, pattern: str) -> int:
        """Lines that match."""
        return sum(bool(re.search(pattern, line)) for line in self.lines)


def innermost_loops(asm: str) -> list[Loop]:
    """Runs of lines from a label to the first jump back to it, with no label in between."""
    loops = []
    label, body = None, []
    for line in asm.splitlines():
        if found := re.match(r"(\.L\w+):", line):
            label, body = found.group(1), []
        elif label is not None:
            body.append(line.strip())
            if re.match(rf"\s+j\w+\s+{re.escape(label)}\s*(#.*)?$", line):
                loops.append(Loop(tuple(body)))
                label = None
    return loops


def inspect(kernel: Kernel, isa: Isa) -> tuple[str, list[Loop]]:
    """LLVM IR and the innermost loops of the reduction: they broadcast, multiply and add."""
    library = build({"k": kernel}, isa)
    register = "zmm" if isa.lanes == 16 else "ymm"
    loops = innermost_loops(library.inspect_source("asm"))
    return library.inspect_source("ll"), [
        loop
        for loop in loops
        if loop.count(rf"vfmadd.*%{register}")
        and loop.count(r"vbroadcastss.*\(|1to16")
        and not loop.count("vdivps|vminps")  # the polynomials of a long epilogue
    ]


def check(kernel: Kernel, isa: Isa, least: int) -> None:
    """No heap, no spill in the loop of a whole tile, and that tile has not shrunk.

    Args:
        kernel: The kernel.
        isa: Its instruction set.
        least: Multiply-adds that the largest innermost loop has.
    """
    ll, loops = inspect(kernel, isa)
    assert "TVMBackendAllocWorkspace" not in ll
    assert loops
    for loop in loops:
        # With 16 registers LLVM may keep constants of the epilogue in them across a remainder.
        if isa.registers >= 32 or loop.count("vfmadd") % least == 0:
            assert loop.count(STACK) == 0, "\n".join(loop.lines)
    assert max(loop.count("vfmadd") for loop in loops) >= least


@both
@pytest.mark.parametrize("name", GEMMS)
def test_gemm(isa: Isa, name: str) -> None:
    spec = GEMMS[name]
    tile = spec.columns(isa)[0].tile
    check(gemm(isa, spec), isa, tile.rows * tile.vectors)


@both
@pytest.mark.parametrize("name", CONVS)
def test_conv(isa: Isa, name: str) -> None:
    spec = CONVS[name]
    tile = spec.columns(isa)[0].tile
    check(conv(isa, spec), isa, tile.rows * tile.vectors)


@both
@pytest.mark.parametrize("name", DEPTHWISE)
def test_depthwise(isa: Isa, name: str) -> None:
    """Its innermost loop over kernel rows may be unrolled: look at the whole code."""
    library = build({"k": depthwise(isa, DEPTHWISE[name])}, isa)
    assert "TVMBackendAllocWorkspace" not in library.inspect_source("ll")
    code = Loop(tuple(library.inspect_source("asm").splitlines()))
    assert code.count("vfmadd") > 60
    # The wrapper that checks the arguments clears a few words on the stack with vectors.
    assert code.count(STACK) <= 8


@both
def test_conv_transpose(isa: Isa) -> None:
    spec = ConvTransposeSpec(1, 40, 40, 96, 64, (2, 2), (2, 2), postops=parse_postops(["Relu"]))
    tile = spec.columns(isa)[0].tile
    check(conv_transpose(isa, spec), isa, tile.rows * tile.vectors)


@both
def test_matmul_keeps_its_tile_in_registers(isa: Isa) -> None:
    """It may allocate a block of packed columns, once in a task."""
    spec = MatmulSpec((12,), (12,), 128, 64, 128, True)
    tile = spec.columns(isa)[0].tile
    ll, loops = inspect(matmul(isa, spec), isa)
    assert ll.count("call ptr @TVMBackendAllocWorkspace") <= 2
    assert max(loop.count("vfmadd") for loop in loops) >= tile.rows * tile.vectors
    for loop in loops:
        assert loop.count(STACK) == 0


@both
def test_pool(isa: Isa) -> None:
    spec = PoolSpec("max", 1, 112, 112, 64, (3, 3), (2, 2), PAD)
    library = build({"k": pool(isa, spec)}, isa)
    assert "TVMBackendAllocWorkspace" not in library.inspect_source("ll")
    assert re.search(r"vmaxps.*%[yz]mm|vcmp.*%[yz]mm", library.inspect_source("asm"))


def test_the_check_can_fail() -> None:
    """A tile with more accumulators than registers spills, and the check sees it."""
    from burnish.backends.cpu.microkernel import RegisterTile
    from burnish.backends.cpu.tir import Acc, kernel, serial

    with kernel("spilling", AVX2) as k:
        x = k.input("x", (64, 100))
        w = k.input("w", (100, 32))
        y = k.output("y", (64 * 32,))
        tile = RegisterTile.zero(8, 4, Acc(32, 8))
        with serial(100) as step:
            tile.step(x.flat, [step + r * 100 for r in range(8)], w.flat, step * 32)
        for i in range(32):
            y.store(i * 8, tile.acc[i])
    with pytest.raises(AssertionError):
        check(k.result, AVX2, 32)


def test_same_code_every_time() -> None:
    first, second = (
        build({"k": gemm(AVX512, GEMMS["bert"])}, AVX512).inspect_source("asm") for _ in range(2)
    )
    assert first == second
    assert np.char.count(first, "zmm") > 50
