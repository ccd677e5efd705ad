"""The kernels of a build for AVX2 (``--target x86-64-v3``) beside this core's limit for it.

``python -m tests.bench.avx2`` prints what share of the multiply-adds of 256 bits, that one core can
do, products and convolutions reach. Kernel and limit take turns, so that a change of the clock
concerns both.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import tvm

from burnish.backends.cpu.conv import ConvSpec, conv, pack_conv
from burnish.backends.cpu.gemm import GemmSpec, gemm, pack_gemm
from burnish.backends.cpu.isa import AVX2, Isa
from burnish.backends.cpu.tir import Acc, Kernel, kernel, let, serial, store
from tests.support.cpu_kernels import build

#: Independent chains: more than a multiply-add's latency times how many start in a cycle.
_CHAINS = 13
_STEPS = 100_000
_PAD = (1, 1, 1, 1)

SPECS: dict[str, GemmSpec | ConvSpec] = {
    "gemm 128x768x3072": GemmSpec((128,), 768, 3072),
    "gemm 128x3072x768": GemmSpec((128,), 3072, 768),
    "gemm 128x768x768": GemmSpec((128,), 768, 768),
    "gemm 512x1024x1024": GemmSpec((512,), 1024, 1024),
    "conv 3x3 64 to 64 at 56x56": ConvSpec(1, 56, 56, 64, 64, (3, 3), pads=_PAD),
    "conv 1x1 256 to 64 at 56x56": ConvSpec(1, 56, 56, 256, 64, (1, 1)),
}


@dataclass(frozen=True)
class Share:
    """What a kernel reached.

    Attributes:
        name: Its name.
        rate: Floating-point operations per second.
        limit: Those of a loop of nothing but multiply-adds. A kernel may be a little faster: where
            loads are in between, some cores share them out to their units more evenly.
    """

    name: str
    rate: float
    limit: float

    @property
    def value(self) -> float:
        """Rate over limit."""
        return self.rate / self.limit


@dataclass(frozen=True)
class Case:
    """A kernel to measure.

    Attributes:
        kernel: The kernel.
        operations: Its floating-point operations.
        arguments: Inputs and outputs.
    """

    kernel: Kernel
    operations: int
    arguments: list[np.ndarray]


def multiply_adds(isa: Isa) -> Kernel:
    """Chains of multiply-adds in registers. Arguments: factors, results."""
    lanes = isa.lanes
    with kernel("limit", isa) as k:
        x, y = k.input("x", (2 * lanes,)), k.output("y", (_CHAINS * lanes,))
        acc = Acc(_CHAINS, lanes)
        acc.fill()
        factor, other = let(x.load(0, lanes)), let(x.load(lanes, lanes))
        with serial(_STEPS):
            for i in range(_CHAINS):
                acc[i] = acc[i] + factor * other
        for i in range(_CHAINS):
            store(y.flat, i * lanes, acc[i])
    return k.result


def operations(spec: GemmSpec | ConvSpec) -> int:
    """Floating-point operations of a kernel."""
    if isinstance(spec, GemmSpec):
        return 2 * int(spec.rows) * spec.k * spec.n
    return 2 * spec.n * int(spec.oh) * int(spec.ow) * spec.oc * spec.ic * int(np.prod(spec.kernel))


def _arguments(spec: GemmSpec | ConvSpec) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    if isinstance(spec, GemmSpec):
        x = rng.standard_normal((*spec.lead, spec.k))
        packed = pack_gemm(rng.standard_normal((spec.k, spec.n)), spec, AVX2)
        shape: Sequence[Any] = (*spec.lead, spec.n)
    else:
        x = rng.standard_normal((spec.n, spec.h, spec.w, spec.ic))
        packed = pack_conv(rng.standard_normal((spec.oc, spec.ic, *spec.kernel)), spec, AVX2)
        shape = (spec.n, spec.oh, spec.ow, spec.oc)
    return [x.astype("f4"), packed, np.full(shape, 7, "f4")]


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measure(cases: dict[str, Case], isa: Isa, seconds: float) -> list[Share]:
    """Measure kernels on one core, each for ``seconds``: the best of what was seen.

    The thread pool has to have one thread (``TVM_NUM_THREADS=1`` before the first call).
    """
    kernels = {f"k{i}": case.kernel for i, case in enumerate(cases.values())}
    library = build({**kernels, "limit": multiply_adds(isa)}, isa)
    operands = np.full(2 * isa.lanes, 0.5, "f4"), np.zeros(_CHAINS * isa.lanes, "f4")
    limit = partial(library["limit"], *map(tvm.runtime.tensor, operands))
    found = []
    for i, (name, case) in enumerate(cases.items()):
        run = partial(library[f"k{i}"], *map(tvm.runtime.tensor, case.arguments))
        best = fastest = float("inf")
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or best == float("inf"):
            fastest = min(fastest, *(_seconds(limit) for _ in range(3)))
            best = min(best, *(_seconds(run) for _ in range(3)))
        rate = 2 * _CHAINS * isa.lanes * _STEPS / fastest
        found.append(Share(name, case.operations / best, rate))
    return found


def shares(names: Sequence[str], seconds: float = 0.3) -> list[Share]:
    """Measure the kernels of :data:`SPECS` with these names."""
    cases = {}
    for name in names:
        spec = SPECS[name]
        made = gemm(AVX2, spec) if isinstance(spec, GemmSpec) else conv(AVX2, spec)
        cases[name] = Case(made, operations(spec), _arguments(spec))
    return measure(cases, AVX2, seconds)


def show(found: Sequence[Share]) -> None:
    """Print a table of results."""
    print("| kernel | GFLOP/s | limit | share |\n|---|---:|---:|---:|")
    for share in found:
        rates = f"{share.rate / 1e9:.1f} | {share.limit / 1e9:.1f}"
        print(f"| {share.name} | {rates} | {share.value:.1%} |")


if __name__ == "__main__":
    show(shares(list(SPECS), 1.0))
