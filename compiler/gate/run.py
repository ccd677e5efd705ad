"""Running the gate: row by row, each step in a process of its own."""

from __future__ import annotations

import functools
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from burnish import __version__
from burnish.artifact import Manifest, copy_artifact, is_artifact, read_manifest, unfit
from burnish.compilation import compile_to
from burnish.driver import CompileReport
from burnish.errors import InputFileError, TargetUnavailableError, UsageError
from burnish.gate import attested
from burnish.gate.config import GateConfig, Row, rows_of
from burnish.gate.inputs import Feeds
from burnish.gate.result import CheckResult, Gate, GateReport, RowResult
from burnish.gate.units import format_size
from burnish.options import CompileOptions
from burnish.runtime import missing_device
from burnish.worker import run_in_worker

BASELINE = "baseline"

#: Called with (row, number of the row, rows, what is done now).
Progress = Callable[[Row, int, int, str], None]


def _silent(row: Row, number: int, total: int, step: str) -> None:
    pass


def run_gate(
    config: GateConfig,
    *,
    only: Sequence[str] = (),
    keep_artifacts: Path | None = None,
    update_baseline: bool = False,
    progress: Progress = _silent,
) -> GateReport:
    """Compile and check everything that a configuration names.

    A row that fails, whatever the reason, does not keep the others from being checked.

    Args:
        config: The configuration.
        only: Names of models, or of rows; empty for all.
        keep_artifacts: Folder for the artifacts.
        update_baseline: Store the artifact of every row that passes as its new baseline. Ratios to
            the old one are not looked at.
        progress: Told what is done.

    Raises:
        UsageError: A name is unknown, or a baseline is missing.
    """
    rows = _chosen(config, only)
    _check_baseline(config, rows, update_baseline)
    start, results = time.perf_counter(), []
    for number, row in enumerate(rows, 1):
        step = functools.partial(progress, row, number, len(rows))
        with tempfile.TemporaryDirectory(prefix="burnish-check-") as folder:
            checked = _RowRun(config, row, Path(folder) / row.file_name, update_baseline, step)
            results.append(checked.run(keep_artifacts))
    return GateReport(str(config.path), tuple(results), _environment(), time.perf_counter() - start)


def _chosen(config: GateConfig, only: Sequence[str]) -> list[Row]:
    rows = rows_of(config.models)
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


@dataclass
class _RowRun:
    """One row under way."""

    config: GateConfig
    row: Row
    artifact: Path
    update: bool
    step: Callable[[str], None]
    checks: list[CheckResult] = field(default_factory=list)

    def run(self, keep: Path | None) -> RowResult:
        """All of it: never raises for what is wrong with the model."""
        start = time.perf_counter()
        self.step("compile")
        compiled = self._compile()
        kept, updated = None, False
        if compiled is not None:
            manifest = read_manifest(self.artifact)
            self._check_runs(manifest)
            self._check_attested(compiled, manifest)
            if keep is not None:
                kept = self._store(keep)
            if self.update and not any(check.exit_code for check in self.checks):
                assert self.config.baseline is not None
                updated = self._store(self.config.baseline) is not None
        return RowResult(
            self.row.name,
            self.row.model.name,
            self.row.target,
            self.row.precision,
            tuple(self.checks),
            time.perf_counter() - start,
            compiled.notes if compiled is not None else (),
            kept,
            updated,
        )

    def _compile(self) -> CompileReport | None:
        model = self.row.model
        with self._reported("compile", ""):
            options = CompileOptions(
                target=self.row.target,
                precision=self.row.precision,
                threads=model.threads,
                input_shapes=model.input_shapes,
                opt_level=model.opt_level,
                skip_passes=model.skip_passes,
            )
            report = compile_to(model.path, self.artifact, options)
            seconds = sum(report.seconds.values())
            size = attested.artifact_size(self.artifact)
            details = {
                "seconds": seconds,
                "kernels": report.kernels,
                "nodes": report.nodes,
                "peak_memory_bytes": report.peak_memory_bytes,
                "artifact_bytes": size,
            }
            measured = f"{seconds:.1f} s, {report.kernels} kernels, {format_size(size)}"
            self.checks.append(CheckResult("compile", "", "passed", measured, details=details))
            return report
        return None

    @contextmanager
    def _reported(self, gate: Gate, subject: str) -> Iterator[None]:
        """An error inside is this row's, and no more."""
        try:
            yield
        except Exception as error:
            self.checks.append(CheckResult.broken(gate, subject, error))

    def _check_runs(self, manifest: Manifest) -> None:
        """What needs a machine that runs the artifact."""
        model, path = self.row.model, str(self.artifact)
        why = unfit(manifest.target) or missing_device(manifest.target)
        if why:
            self._unrunnable(why)
            return
        self.step("accuracy")
        with self._reported("accuracy", ""):
            self.checks += _in_worker("accuracy:check_accuracy", self.row, path)
        peers = [p for p in model.latency.max_ratio if not (self.update and p == BASELINE)]
        if not peers and model.memory.max_run is None:
            return
        with self._reported("latency" if peers else "memory", "inputs"):
            feeds = _in_worker("inputs:first_sample", model.inputs, model.path, manifest.inputs)
            for peer in peers:
                self._time(peer, feeds)
            if model.memory.max_run is not None:
                self._check_memory(feeds, model.memory.max_run)

    def _time(self, peer: str, feeds: Feeds) -> None:
        self.step(f"latency / {peer}")
        with self._reported("latency", f"/ {peer}"):
            result: CheckResult = _in_worker(
                "latency:check_latency",
                self.row,
                str(self.artifact),
                feeds,
                peer,
                str(self._baseline()) if peer == BASELINE else None,
                self.config.measure,
                self.config.fail_on_inconclusive,
            )
            self.checks.append(result)

    def _check_memory(self, feeds: Feeds, limit: int) -> None:
        self.step("memory")
        with self._reported("memory", "run"):
            peak = _in_worker(
                "memory:peak_of_run", str(self.artifact), feeds, self.row.model.threads
            )
            self.checks.append(attested.check_bytes("memory", "run", peak, limit))

    def _unrunnable(self, why: str) -> None:
        model = self.row.model
        skip = self.config.skip_unrunnable
        error = TargetUnavailableError(
            f"this machine cannot run it: {why}",
            hint='check it on such a machine, or set check.unrunnable = "skip"',
        )
        wanted: list[tuple[Gate, str]] = [("accuracy", "")]
        wanted += [("latency", f"/ {peer}") for peer in model.latency.max_ratio]
        if model.memory.max_run is not None:
            wanted.append(("memory", "run"))
        for gate, subject in wanted:
            if skip:
                self.checks.append(CheckResult(gate, subject, "skipped", message=error.message))
            else:
                self.checks.append(CheckResult.broken(gate, subject, error))

    def _check_attested(self, compiled: CompileReport, manifest: Manifest) -> None:
        """What the artifact and the compiler say."""
        model = self.row.model
        with self._reported("size", ""):
            baseline = None if self.update or not model.size.max_ratio else self._baseline()
            self.checks += attested.check_size(model.size, self.artifact, baseline)
        if model.memory.max_compile is not None:
            peak = compiled.peak_memory_bytes
            limit = model.memory.max_compile
            self.checks.append(attested.check_bytes("memory", "compile", peak, limit))
        self.checks += attested.check_placement(model.placement, manifest, compiled.notes)

    def _baseline(self) -> Path:
        assert self.config.baseline is not None
        return self.config.baseline / self.row.file_name

    def _store(self, folder: Path) -> str | None:
        with self._reported("compile", f"store in {folder}"):
            make_folder(folder)
            return str(copy_artifact(self.artifact, folder / self.row.file_name, overwrite=True))
        return None


def make_folder(path: Path) -> None:
    """Make a folder for results, unless it is there.

    Raises:
        InputFileError: It cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputFileError(f"cannot make the folder: {error.strerror}", at=str(path)) from None


def _in_worker(function: str, *args: Any) -> Any:
    """Run a function of the gate in a process that may die without taking the others along."""
    return run_in_worker(
        f"burnish.gate.{function}", *args, preload_tvm=False, role="process that ran the model"
    )
