"""What the CPU of this machine is and can do, as /proc/cpuinfo tells."""

from __future__ import annotations

import functools
import platform

_CPUINFO = "/proc/cpuinfo"


def parse_cpuinfo(text: str) -> frozenset[str]:
    """The flags of the first CPU: the line ``flags`` on x86, ``Features`` on ARM."""
    return frozenset((_field(text, "flags") or _field(text, "Features")).split())


@functools.cache
def cpu_features() -> frozenset[str]:
    """The features of this machine's CPU; empty where the kernel does not tell."""
    return parse_cpuinfo(_first_cpu())


def cpu_model() -> str:
    """The name that this machine's CPU gives itself; the machine's where it has none."""
    return _field(_first_cpu(), "model name") or platform.processor() or platform.machine()


def _field(text: str, name: str) -> str:
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""


def _first_cpu() -> str:
    lines = []
    try:
        with open(_CPUINFO, encoding="ascii", errors="replace") as file:
            for line in file:
                # The CPUs follow each other, an empty line between them: one is enough.
                if not line.strip():
                    break
                lines.append(line)
    except OSError:
        return ""
    return "".join(lines)
