"""Shares of a core's limit that the kernels of a benchmark reach."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_ROOT = Path(__file__).parents[2]
#: Another program may disturb a run: the best of a few counts.
_RUNS = 5
_SCRIPT = """
import importlib, json, sys
found = importlib.import_module(sys.argv[1]).shares(json.loads(sys.argv[2]), 0.2)
print(json.dumps({share.name: share.value for share in found}))
"""


def best_shares(benchmark: str, names: Sequence[str], enough: float) -> dict[str, float]:
    """The best share of each kernel, measured in processes whose thread pools have one thread.

    Args:
        benchmark: A module with ``shares(names, seconds)``.
        names: The kernels.
        enough: A kernel that reached this share is not measured again.
    """
    best = dict.fromkeys(names, 0.0)
    for _ in range(_RUNS):
        left = [name for name, share in best.items() if share < enough]
        if not left:
            break
        done = subprocess.run(
            [sys.executable, "-c", _SCRIPT, benchmark, json.dumps(left)],
            env={**os.environ, "TVM_NUM_THREADS": "1"},
            cwd=_ROOT, capture_output=True, text=True, check=True,
        )  # fmt: skip
        best |= {n: max(best[n], share) for n, share in json.loads(done.stdout).items()}
    return best
