"""Results as JSON and as the table of RESULTS.md."""

from __future__ import annotations

import datetime
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from tests.bench.limits import geomean, ratio, violations

SCHEMA_VERSION = 1
_PACKAGES = ("burnish", "apache-tvm", "onnxruntime", "onnx", "numpy", "openvino")


def describe_run(command: str, threads: int) -> dict[str, Any]:
    """Date, machine and versions."""
    return {
        "schema_version": SCHEMA_VERSION,
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "command": command,
        "threads": threads,
        "machine": _machine(),
        "versions": {"python": platform.python_version(), **_versions()},
    }


def _machine() -> str:
    cpu = platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    flags = [f for f in ("avx2", "avx512f", "avx512_bf16", "amx_tile") if f in _flags()]
    return f"{cpu}, {len(os.sched_getaffinity(0))} CPUs, {' '.join(flags)}, {platform.system()}"


def _flags() -> set[str]:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("flags"):
            return set(line.partition(":")[2].split())
    return set()


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def markdown(run: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """The zoo's section: how it was measured, the table, what is beyond a limit."""
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    timed = [row for row in rows if "error" not in row]
    lines = [
        f"## The zoo on {run['threads']} thread(s)",
        "",
        f"`{run['command']}`, {run['date']}, {run['threads']} thread(s), fp32.",
        f"{run['machine']}. {versions}.",
        "",
        "All run in one process and take turns; times are those of one call in ms, minimum and",
        "median. The ratio is the faster peer's minimum over burnish's: above 1, burnish is faster",
        "than both. onnxruntime runs with all its optimizations, OpenVINO in f32 with the latency",
        "hint, without quantizing activations by itself. Compilation is cold, with peak memory of",
        "the worker and its parent together. Equal means within the tolerance of `burnish.compare`",
        "to onnxruntime on the unmodified model with optimizations disabled.",
        "",
        *_table(timed),
        "",
    ]
    if timed:
        lines += [
            f"Geometric mean of the faster peer / burnish over {len(timed)} models: "
            f"**{geomean(timed):.2f}** (minimum), {geomean(timed, 'ratio_median'):.2f} (median).",
            "",
        ]
    beyond = violations(rows)
    lines += ["Beyond a limit: " + ("nothing." if not beyond else "")]
    lines += [f"- {line}" for line in beyond]
    return "\n".join(lines) + "\n"


def with_section(document: str, section: str) -> str:
    """A document in which a section has replaced the one of its title, or is the last one."""
    title = section.splitlines()[0]
    before, found, rest = document.partition(f"{title}\n")
    if not found:
        return f"{document.rstrip()}\n\n{section}"
    _, following, after = rest.partition("\n## ")
    return before + section + following + after


def _table(rows: list[dict[str, Any]]) -> list[str]:
    peers = [t["runner"] for t in rows[0]["bench"]["timings"][1:]] if rows else []
    titles = ["model", "inputs", "burnish", *peers]
    titles += ["faster peer / burnish"]
    titles += ["compile s", "peak MB", "equal"]
    lines = ["| " + " | ".join(titles) + " |"]
    lines.append("|---|---" + "|---:" * (len(titles) - 2) + "|")
    for row in rows:
        timings = row["bench"]["timings"]
        cells = [row["model"], _shapes(row["bench"]["shapes"])]
        cells += [f"{_ms(t['min_ms'])} / {_ms(t['median_ms'])}" for t in timings]
        cells += [f"{ratio(row):.2f}"]
        cells += [f"{row['compile_s']:.1f}", f"{row['peak_bytes'] / 1e6:.0f}"]
        cells += ["yes" if row["equal"] else "**NO**"]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _shapes(shapes: dict[str, list[int]]) -> str:
    # The first input tells the size; masks and states follow it.
    return "x".join(map(str, next(iter(shapes.values()))))


def _ms(value: float) -> str:
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"
