"""The inner loops of the kernels on models of ARM cores, which need no such machine.

``python -m tests.bench.mca`` prints how near each loop is to what the core's multiply-add units
can do, as LLVM's machine-code analyzer (llvm-mca 19 or later) simulates it. It assumes that all
data is in the first-level cache.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from burnish.backends.arm.cores import CORES
from burnish.backends.cpu.conv import ConvSpec, conv
from burnish.backends.cpu.gemm import GemmSpec, gemm
from burnish.backends.cpu.half import product_isa
from burnish.backends.cpu.isa import Isa
from burnish.backends.cpu.tir import Kernel
from burnish.ir.postops import parse_postops
from tests.support.cpu_kernels import build

#: Multiply-adds of four lanes that a core starts in a cycle: its ASIMD pipelines, from ARM's
#: software optimization guides. These are the cores that LLVM 19 has models of its own of.
PIPELINES = {"neoverse-n1": 2, "neoverse-v1": 4, "neoverse-v2": 4}
#: Models differ between versions: older ones take Neoverse N1 for another core.
OLDEST = 19
_ITERATIONS = 200

_POSTOPS = parse_postops(["Add:channel", "Relu"])
_PAD = (1, 1, 1, 1)
KERNELS: dict[str, Callable[[Isa], Kernel]] = {
    "gemm 128x768x3072": lambda isa: gemm(isa, GemmSpec((128,), 768, 3072, _POSTOPS)),
    "gemm 128x768x768": lambda isa: gemm(isa, GemmSpec((128,), 768, 768, _POSTOPS)),
    "gemm 49x384x1000": lambda isa: gemm(isa, GemmSpec((49,), 384, 1000, _POSTOPS)),
    "conv 3x3 64 to 64 at 56x56": lambda isa: conv(
        isa, ConvSpec(1, 56, 56, 64, 64, (3, 3), pads=_PAD, postops=_POSTOPS)
    ),
    "conv 3x3 512 to 512 at 7x7": lambda isa: conv(
        isa, ConvSpec(1, 7, 7, 512, 512, (3, 3), pads=_PAD, postops=_POSTOPS)
    ),
    "conv 1x1 256 to 64 at 56x56": lambda isa: conv(
        isa, ConvSpec(1, 56, 56, 256, 64, (1, 1), postops=_POSTOPS)
    ),
    "conv 7x7 3 to 64 at 224x224": lambda isa: conv(
        isa, ConvSpec(1, 224, 224, 3, 64, (7, 7), (2, 2), (3, 3, 3, 3), postops=_POSTOPS)
    ),
}
#: Products of float16, for cores that multiply it.
HALVES: dict[str, Callable[[Isa], Kernel]] = {
    "fp16 gemm 128x768x768": lambda isa: gemm(
        product_isa(isa, "float16"), GemmSpec((128,), 768, 768, _POSTOPS, dtype="float16")
    ),
    "fp16 conv 3x3 64 to 64 at 56x56": lambda isa: conv(
        product_isa(isa, "float16"),
        ConvSpec(1, 56, 56, 64, 64, (3, 3), pads=_PAD, postops=_POSTOPS, dtype="float16"),
    ),
}


def analyzer() -> str | None:
    """The command of a recent llvm-mca; None if there is none."""
    for name in (*(f"llvm-mca-{n}" for n in range(25, OLDEST - 1, -1)), "llvm-mca"):
        path = shutil.which(name)
        if path is None:
            continue
        text = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
        found = re.search(r"LLVM version (\d+)", text.stdout)
        if found and int(found.group(1)) >= OLDEST:
            return path
    return None


@dataclass(frozen=True)
class Loop:
    """The innermost loop of a kernel.

    Attributes:
        lines: Its instructions.
        cycles: Of one iteration, at best.
        limit: What its multiply-adds alone would take.
    """

    lines: tuple[str, ...]
    cycles: float
    limit: float

    @property
    def multiply_adds(self) -> int:
        """Vector multiply-adds of one iteration, of four lanes each."""
        return sum(line.startswith("fmla") for line in self.lines)

    @property
    def share(self) -> float:
        """Of the time, in which the multiply-add units are busy."""
        return self.limit / self.cycles


def loops(assembly: str) -> Iterator[tuple[str, ...]]:
    """Blocks of AArch64 assembly that jump back to their own begin."""
    label, body = None, list[str]()
    for line in assembly.splitlines():
        text = line.strip()
        if found := re.match(r"(\.L\w+):", text):
            label, body = found.group(1), []
        elif text and not text.startswith((".", "//")):
            body.append(text)
            if label and re.fullmatch(rf"(b\.|cb|tb).*\s{re.escape(label)}", text):
                yield tuple(body)


def isa_of(core: str) -> Isa:
    """NEON as a core has it."""
    return CORES[core].isa()


def analyze(kernel: Kernel, core: str) -> Loop:
    """Simulate the loop with the most multiply-adds of a kernel on a core."""
    assembly = build({"k": kernel}, isa_of(core)).inspect_source("asm")
    body = max(loops(assembly), key=lambda lines: sum(x.startswith("fmla") for x in lines))
    command = [str(analyzer()), "-mtriple=aarch64", f"-mcpu={CORES[core].mcpu}"]
    command.append(f"-iterations={_ITERATIONS}")
    done = subprocess.run(
        command, input="\n".join(body), capture_output=True, text=True, check=True
    )
    total = re.search(r"Total Cycles:\s+(\d+)", done.stdout)
    assert total is not None, done.stdout
    cycles = int(total.group(1)) / _ITERATIONS
    limit = sum(line.startswith("fmla") for line in body) / PIPELINES[core]
    return Loop(body, cycles, limit)


def main() -> None:
    """Print a table."""
    if analyzer() is None:
        raise SystemExit(f"llvm-mca {OLDEST} or later is needed (apt install llvm-{OLDEST})")
    print(f"{'core':12} {'kernel':31} {'fmla':>5} {'lines':>5} {'cycles':>7} {'of limit':>8}")
    for core in PIPELINES:
        for name, make in (KERNELS | (HALVES if isa_of(core).fhm else {})).items():
            loop = analyze(make(isa_of(core)), core)
            numbers = f"{loop.multiply_adds:5} {len(loop.lines):5} {loop.cycles:7.2f}"
            print(f"{core:12} {name:31} {numbers} {loop.share:8.1%}", flush=True)


if __name__ == "__main__":
    main()
