"""NVIDIA GPU architectures as data: what a kernel may use of a block's resources."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_KIB = 1024


@dataclass(frozen=True)
class Arch:
    """One compute capability.

    Limits are those of the CUDA C++ Programming Guide, table "Technical Specifications per Compute
    Capability".

    Attributes:
        name: ``sm_80``.
        about: GPUs that have it.
        shared_memory: Bytes of shared memory that a block may have without opting in to more.
        multiprocessors: Multiprocessors of a typical GPU: how many blocks keep it busy.
        threads: Threads of a block.
        registers: 32-bit registers of a block.
        max_registers: 32-bit registers of a thread.
    """

    name: str
    about: str
    multiprocessors: int
    shared_memory: int = 48 * _KIB
    threads: int = 1024
    registers: int = 65536
    max_registers: int = 255

    @property
    def capability(self) -> str:
        """``80``, as ``compute_80`` wants it."""
        return self.name.removeprefix("sm_")

    @property
    def target(self) -> dict[str, Any]:
        """What ``tvm.target.Target`` takes."""
        return {
            "kind": "cuda",
            "arch": self.name,
            "max_shared_memory_per_block": self.shared_memory,
            "max_threads_per_block": self.threads,
            "registers_per_block": self.registers,
            "thread_warp_size": 32,
            "host": {"kind": "llvm", "mtriple": HOST_TRIPLE, "mcpu": HOST_CPU},
        }


#: How the details of kernels begin that multiply on tensor cores.
TENSOR_CORES = "tensor cores"

#: The CPU that launches the kernels: every x86-64 machine with a GPU of this table has one.
HOST_TRIPLE = "x86_64-unknown-linux-gnu"
HOST_CPU = "x86-64-v2"
HOST_FEATURES = ("sse4_1", "sse4_2", "ssse3", "popcnt", "cx16")

ARCHS: dict[str, Arch] = {
    arch.name: arch
    for arch in (
        Arch("sm_75", "Turing: T4, RTX 20", 40),
        Arch("sm_80", "Ampere: A100, A30", 108),
        Arch("sm_86", "Ampere: A10, A40, RTX 30", 72),
        Arch("sm_89", "Ada: L4, L40, RTX 40", 60),
        Arch("sm_90", "Hopper: H100, H200", 132),
    )
}
