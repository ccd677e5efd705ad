"""What every model must keep to."""

from __future__ import annotations

import math
from typing import Any

SLOWEST = 1.15
"""No model takes more than this many times onnxruntime's time."""

GEOMEAN = 1.0
"""Least geometric mean of onnxruntime's time over burnish's."""

COMPILE_SECONDS = {"resnet50": 15.0, "bert": 30.0}
COMPILE_SECONDS_OTHERS = 45.0
"""A cold compilation on two cores."""


def memory_limit(model_bytes: int) -> float:
    """Bytes that a compilation may take at its peak."""
    return 3 * model_bytes + 1e9


def ratio(row: dict[str, Any], statistic: str = "ratio_min", peer: str = "onnxruntime") -> float:
    """The peer's time over burnish's."""
    return next(float(t[statistic]) for t in row["bench"]["timings"] if t["runner"] == peer)


def geomean(rows: list[dict[str, Any]], statistic: str = "ratio_min") -> float:
    """Geometric mean of onnxruntime's time over burnish's."""
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
        if ratio(row) < 1 / SLOWEST:
            found.append(f"{name}: {1 / ratio(row):.2f}x onnxruntime's time (limit {SLOWEST}x)")
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
