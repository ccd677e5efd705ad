"""What a process that only runs a model holds. It imports no more than such a process does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from burnish.driver import peak_memory
from burnish.runtime import load

_RUNS = 3


def peak_of_run(artifact: str, feeds: Mapping[str, Any], threads: int | None) -> int:
    """Load and run an artifact in this process, which has done nothing else.

    Args:
        artifact: Its folder.
        feeds: Inputs by name.
        threads: Threads of a call.

    Returns:
        The most memory that the process held, in bytes, Python and NumPy included; 0 where the
        system does not tell.
    """
    with load(artifact, threads=threads) as model:
        for _ in range(_RUNS):
            model.run(None, feeds)
    return peak_memory()
