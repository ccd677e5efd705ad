"""What the CPU of this machine can do, by the names in /proc/cpuinfo."""

from __future__ import annotations

import functools

_CPUINFO = "/proc/cpuinfo"


def parse_cpuinfo(text: str) -> frozenset[str]:
    """The flags of the first CPU: the line ``flags`` on x86, ``Features`` on ARM."""
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


@functools.cache
def cpu_features() -> frozenset[str]:
    """The features of this machine's CPU; empty where the kernel does not tell."""
    lines = []
    try:
        with open(_CPUINFO, encoding="ascii", errors="replace") as file:
            for line in file:
                # The CPUs follow each other, an empty line between them: one is enough.
                if not line.strip():
                    break
                lines.append(line)
    except OSError:
        return frozenset()
    return parse_cpuinfo("".join(lines))
