"""What every model must keep to, and how it is told."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

LEAST = 1.0
"""The faster peer's time over burnish's is at least this for every model."""

LEAST_OF = {"resnet50": 1.2}
"""Models of which more is asked."""

GEOMEAN = 1.2
"""Least geometric mean of the faster peer's time over burnish's."""

COMPILE_SECONDS = {"resnet50": 15.0, "bert": 30.0}
COMPILE_SECONDS_OTHERS = 45.0
"""A cold compilation on two cores."""


def memory_limit(model_bytes: int) -> float:
    """Bytes that a compilation may take at its peak."""
    return 3 * model_bytes + 1e9


def ratio(row: dict[str, Any], statistic: str = "ratio_min", peer: str | None = None) -> float:
    """A peer's time over burnish's: by default that of the faster one of the peers."""
    peers = row["bench"]["timings"][1:]
    return min(float(t[statistic]) for t in peers if peer in (None, t["runner"]))


def geomean(rows: list[dict[str, Any]], statistic: str = "ratio_min") -> float:
    """Geometric mean of the faster peer's time over burnish's."""
    return math.exp(sum(math.log(ratio(row, statistic)) for row in rows) / len(rows))


def violations(rows: list[dict[str, Any]]) -> list[str]:
    """What is beyond a limit, in words."""
    found = []
    for row in rows:
        name = row["model"]
        if "error" in row:
            found.append(f"{name}: {row['error']}")
            continue
        if not row["equal"]:
            found.append(f"{name}: outputs differ from onnxruntime")
        least = LEAST_OF.get(name, LEAST)
        if ratio(row) < least:
            found.append(f"{name}: {ratio(row):.3f}x as fast as the faster peer (limit {least}x)")
        seconds = COMPILE_SECONDS.get(name, COMPILE_SECONDS_OTHERS)
        if row["compile_s"] > seconds:
            found.append(f"{name}: compiled in {row['compile_s']:.1f} s (limit {seconds:.0f} s)")
        allowed = memory_limit(row["model_bytes"])
        if row["peak_bytes"] > allowed:
            found.append(
                f"{name}: {row['peak_bytes'] / 1e9:.2f} GB to compile (limit {allowed / 1e9:.2f})"
            )
    timed = [row for row in rows if "error" not in row]
    if timed and geomean(timed) < GEOMEAN:
        found.append(f"geometric mean {geomean(timed):.3f} (limit {GEOMEAN})")
    return found


def markdown(
    threads: int, titles: Sequence[str], lines: Sequence[str], outcome: str, beyond: Sequence[str]
) -> str:
    """Lines of times under their titles in Markdown, what follows from all, and what is beyond."""
    return "\n".join(
        [
            f"{threads} thread(s), ms",
            "",
            f"| {' | '.join(titles)} |",
            "|---" + "|---:" * (len(titles) - 1) + "|",
            *lines,
            "",
            outcome,
            f"Beyond a limit: {', '.join(beyond) or 'nothing'}.",
        ]
    )
