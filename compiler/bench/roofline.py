"""What this machine can do at most, measured: operations a second by type, and bytes a second.

A kernel cannot take less time than its arithmetic at the one rate or its memory traffic at the
other, whichever is longer: the *roofline* (S. Williams, A. Waterman, D. Patterson, "Roofline: an
insightful visual performance model for multicore architectures", CACM 52, 2009).
"""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from typing import Any

from burnish.errors import UsageError
from burnish.runtime import library

#: Arithmetic by precision, in the order of the native library's ``Arithmetic``.
PRECISIONS = ("fp32", "bf16", "int8")

_ROUNDS = 7
_SECONDS = 0.03
#: Several times the last cache of any CPU.
_MEMORY = 1 << 29
#: Of a thread, when it reads from caches: more than the first one holds.
_CACHED = 1 << 20


@dataclass(frozen=True)
class Roofline:
    """The limits of some threads together.

    Attributes:
        threads: How many.
        rates: Operations a second by precision; a multiply-add counts twice, and products of bf16
            and int8 are summed in 32 bits. Precisions that the CPU has no instruction for are
            missing.
        bandwidth: Bytes a second that are read from memory.
        cache_bandwidth: Bytes a second that are read from the caches beyond the first.
        cache: Bytes that the last cache holds: what is no larger may lie there.
    """

    threads: int
    rates: dict[str, float]
    bandwidth: float
    cache_bandwidth: float
    cache: int

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values, in units of 10^9 a second."""
        return {
            "threads": self.threads,
            "gflops": {name: rate / 1e9 for name, rate in self.rates.items()},
            "bandwidth_gb": self.bandwidth / 1e9,
            "cache_bandwidth_gb": self.cache_bandwidth / 1e9,
            "cache_bytes": self.cache,
        }

    def seconds(self, flops: float, nbytes: float, precision: str = "fp32") -> float:
        """The least time for so many operations and bytes."""
        rate = self.rates.get(precision, self.rates.get("fp32", 0.0))
        arithmetic = flops / rate if rate else 0.0
        bandwidth = self.cache_bandwidth if nbytes <= self.cache else self.bandwidth
        return max(arithmetic, nbytes / bandwidth)


def measure_roofline(threads: int) -> Roofline:
    """Measure the limits: the best of several rounds, about a second in all.

    Args:
        threads: Threads that work at once.

    Raises:
        UsageError: ``threads`` is not positive.
        TargetUnavailableError: burnish's native library is not installed.
    """
    if threads < 1:
        raise UsageError(f"threads must be at least 1, got {threads}")
    native = library.native()
    arithmetic, read = native.burnish_arithmetic_rate, native.burnish_read_bandwidth
    arithmetic.restype = read.restype = ctypes.c_double
    arithmetic.argtypes = (ctypes.c_int32, ctypes.c_int32, ctypes.c_double)
    read.argtypes = (ctypes.c_int32, ctypes.c_int64, ctypes.c_double)
    best = {
        name: max(arithmetic(kind, threads, _SECONDS) for _ in range(_ROUNDS))
        for kind, name in enumerate(PRECISIONS)
    }
    # One call only: filling the memory takes longer than reading it.
    bandwidth = float(read(threads, _MEMORY, _ROUNDS * _SECONDS))
    cached = max(read(threads, threads * _CACHED, _SECONDS) for _ in range(_ROUNDS))
    return Roofline(
        threads,
        {name: rate for name, rate in best.items() if rate > 0},
        bandwidth,
        # Where other processes fill the caches, memory is no slower.
        max(cached, bandwidth),
        max(_cache_size(), threads * _CACHED),
    )


def _cache_size() -> int:
    """Bytes of the last cache; 0 where the system does not tell."""
    try:
        sizes = [os.sysconf(f"SC_LEVEL{level}_CACHE_SIZE") for level in (2, 3)]
    except (ValueError, OSError):
        return 0
    return max(0, *sizes)
