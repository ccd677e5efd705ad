"""What this machine's CPU can do."""

from __future__ import annotations

from functools import cache
from pathlib import Path


@cache
def cpu_flags(path: str = "/proc/cpuinfo") -> frozenset[str]:
    """Feature flags as the kernel spells them (``flags`` on x86, ``Features`` on ARM)."""
    try:
        text = Path(path).read_text()
    except OSError:
        return frozenset()
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()
