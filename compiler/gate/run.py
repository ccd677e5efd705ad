"""Running the gate, row by row."""

from __future__ import annotations

import functools
import os
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

from burnish import __version__
from burnish.artifact import is_artifact
from burnish.errors import UsageError
from burnish.gate.config import BASELINE, GateConfig, Row
from burnish.gate.result import GateReport
from burnish.gate.row import GateRun, RowCheck

#: Called with (row, number of the row, rows, what is done now).
Progress = Callable[[Row, int, int, str], None]


def _silent(row: Row, number: int, total: int, step: str) -> None:
    pass


def run_gate(
    gate: GateRun, *, only: Sequence[str] = (), progress: Progress = _silent
) -> GateReport:
    """Compile and check everything that a configuration names.

    A row that fails, whatever the reason, does not keep the others from being checked.

    Args:
        gate: The configuration, and what to do with artifacts.
        only: Names of models, or of rows; empty for all.
        progress: Told what is done.

    Raises:
        UsageError: A name is unknown, or a baseline is missing.
    """
    config = gate.config
    rows = _chosen(config, only)
    _check_baseline(config, rows, gate.update_baseline)
    start, results = time.perf_counter(), []
    for number, row in enumerate(rows, 1):
        step = functools.partial(progress, row, number, len(rows))
        with tempfile.TemporaryDirectory(prefix="burnish-check-") as folder:
            results.append(RowCheck(gate, row, Path(folder) / row.file_name, step).run())
    return GateReport(str(config.path), tuple(results), _environment(), time.perf_counter() - start)


def _chosen(config: GateConfig, only: Sequence[str]) -> list[Row]:
    rows = list(config.rows)
    names = {name for row in rows for name in (row.model.name, row.name)}
    for name in only:
        if name not in names:
            raise UsageError(
                f"there is no model or row {name!r} in {config.path}",
                hint="the models are " + ", ".join(dict.fromkeys(r.model.name for r in rows)),
            )
    return [row for row in rows if not only or {row.name, row.model.name} & set(only)]


def _check_baseline(config: GateConfig, rows: Sequence[Row], update: bool) -> None:
    """A ratio to a baseline needs one; this is said before minutes of compilation."""
    if config.baseline is None and update:
        raise UsageError(
            "no folder for the baseline is named", hint="give --baseline DIR, or check.baseline"
        )
    if update:
        return
    needed = [r for r in rows if BASELINE in r.model.latency.max_ratio or r.model.size.max_ratio]
    if needed and config.baseline is None:
        raise UsageError(
            f"{needed[0].model.name} is compared with a baseline, and none is named",
            at=str(config.path),
            hint="set check.baseline, or give --baseline DIR",
        )
    folder = config.baseline or Path()
    missing = [folder / r.file_name for r in needed if not is_artifact(folder / r.file_name)]
    if missing:
        raise UsageError(
            f"{len(missing)} baseline artifacts are missing",
            at="\n      ".join(map(str, missing)),
            hint="burnish check --update-baseline stores what passes as the baseline",
        )


def _environment() -> dict[str, str]:
    names = ("onnx", "onnxruntime", "numpy", "apache-tvm")
    return {
        "burnish": __version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "cpu": _cpu(),
        "cpus": str(len(os.sched_getaffinity(0))),
        **{name: version(name) for name in names},
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"
