"""One row of the gate: compile, run, look up; each step in a process of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from burnish.artifact import Manifest, copy_artifact, is_artifact, read_manifest, unfit
from burnish.backends.registry import resolve_target
from burnish.compilation import compile_to
from burnish.driver import model_digest
from burnish.errors import InputFileError, TargetUnavailableError, UsageError
from burnish.gate import attested
from burnish.gate.config import BASELINE, GateConfig, Row
from burnish.gate.inputs import Feeds
from burnish.gate.precision import compile_options
from burnish.gate.result import CheckResult, Gate, RowResult
from burnish.gate.units import format_size
from burnish.runtime import missing_device
from burnish.worker import run_in_worker


@dataclass(frozen=True)
class GateRun:
    """What is to be done with all rows.

    Attributes:
        config: The configuration.
        artifacts: Folder of artifacts to check, as ``keep`` left them; None compiles.
        keep: Folder for what is compiled, if it is to be kept.
        update_baseline: Store what passes as the new baseline, and do not look at the old one.
    """

    config: GateConfig
    artifacts: Path | None = None
    keep: Path | None = None
    update_baseline: bool = False

    def baseline(self, row: Row) -> Path:
        """Where the baseline of a row lies."""
        assert self.config.baseline is not None  # see run_gate
        return self.config.baseline / row.file_name


@dataclass(frozen=True)
class _Built:
    """What the compiler said: None where it has not run."""

    notes: tuple[str, ...] | None = None
    peak_memory: int | None = None


@dataclass
class RowCheck:
    """The checks of one row.

    Attributes:
        gate: What is to be done.
        row: The row.
        artifact: Where its artifact lies once it is compiled.
        step: Told what is done.
        checks: The results so far.
    """

    gate: GateRun
    row: Row
    artifact: Path
    step: Callable[[str], None]
    checks: list[CheckResult] = field(default_factory=list)

    def run(self) -> RowResult:
        """All of it: never raises for what is wrong with the model."""
        start = time.perf_counter()
        built = self._compile() if self.gate.artifacts is None else self._take(self.gate.artifacts)
        kept, updated = None, False
        if built is not None:
            manifest = read_manifest(self.artifact)
            self._check_runs(manifest)
            self._check_attested(built, manifest)
            if self.gate.keep is not None:
                kept = self._store(self.gate.keep / self.row.file_name)
            if self.gate.update_baseline and not any(check.exit_code for check in self.checks):
                updated = self._store(self.gate.baseline(self.row)) is not None
        return RowResult(
            self.row.name,
            self.row.model.name,
            self.row.target,
            self.row.precision,
            tuple(self.checks),
            time.perf_counter() - start,
            (built.notes or ()) if built is not None else (),
            kept,
            updated,
        )

    @contextmanager
    def _reported(self, gate: Gate, subject: str) -> Iterator[None]:
        """An error inside is this row's, and no more."""
        try:
            yield
        except Exception as error:
            self.checks.append(CheckResult.broken(gate, subject, error))

    def _compile(self) -> _Built | None:
        self.step("compile")
        with self._reported("compile", ""):
            report = compile_to(self.row.model.path, self.artifact, compile_options(self.row))
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
            return _Built(report.notes, report.peak_memory_bytes)
        return None

    def _take(self, folder: Path) -> _Built | None:
        """Take an artifact that was compiled before, of this very model."""
        self.artifact = folder / self.row.file_name
        with self._reported("compile", ""):
            if not is_artifact(self.artifact):
                raise InputFileError(
                    "there is no such artifact",
                    at=str(self.artifact),
                    hint="burnish check --keep-artifacts writes it",
                )
            manifest = read_manifest(self.artifact)
            if manifest.model_sha256 != model_digest(str(self.row.model.path)):
                raise UsageError(
                    f"the artifact was not compiled from {self.row.model.path} as it is now",
                    at=str(self.artifact),
                    hint="compile it again: leave --artifacts out",
                )
            wanted = (resolve_target(self.row.target).spec, self.row.precision)
            found = (manifest.target.name, manifest.options.get("precision", ""))
            if wanted != found:
                raise UsageError(
                    f"the artifact is for {' at '.join(found)}, not for {' at '.join(wanted)}",
                    at=str(self.artifact),
                )
            size = format_size(attested.artifact_size(self.artifact))
            measured = f"compiled before, {size}"
            self.checks.append(CheckResult("compile", "", "passed", measured))
            return _Built()
        return None

    def _check_runs(self, manifest: Manifest) -> None:
        """What needs a machine that runs the artifact."""
        model = self.row.model
        why = unfit(manifest.target) or missing_device(manifest.target)
        if why:
            self._unrunnable(why)
            return
        self.step("accuracy")
        with self._reported("accuracy", ""):
            self.checks += _in_worker("accuracy:check_accuracy", self.row, str(self.artifact))
        peers = list(model.latency.max_ratio)
        if self.gate.update_baseline:
            peers = [peer for peer in peers if peer != BASELINE]
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
                str(self.gate.baseline(self.row)) if peer == BASELINE else None,
                self.gate.config.measure,
                self.gate.config.fail_on_inconclusive,
            )
            self.checks.append(result)

    def _check_memory(self, feeds: Feeds, limit: int) -> None:
        self.step("memory")
        with self._reported("memory", "run"):
            threads = self.row.model.threads
            peak = _in_worker("memory:peak_of_run", str(self.artifact), feeds, threads)
            self.checks.append(attested.check_bytes("memory", "run", peak, limit))

    def _unrunnable(self, why: str) -> None:
        """Checks that need the artifact to run: they fail here, or are skipped if so configured."""
        model = self.row.model
        error = TargetUnavailableError(
            f"this machine cannot run it: {why}",
            hint='check it on such a machine with --artifacts, or set check.unrunnable = "skip"',
        )
        wanted: list[tuple[Gate, str]] = [("accuracy", "")]
        wanted += [("latency", f"/ {peer}") for peer in model.latency.max_ratio]
        if model.memory.max_run is not None:
            wanted.append(("memory", "run"))
        for gate, subject in wanted:
            if self.gate.config.skip_unrunnable:
                self.checks.append(CheckResult(gate, subject, "skipped", message=error.message))
            else:
                self.checks.append(CheckResult.broken(gate, subject, error))

    def _check_attested(self, built: _Built, manifest: Manifest) -> None:
        """What the artifact and the compiler say."""
        model = self.row.model
        with self._reported("size", ""):
            compared = model.size.max_ratio is not None and not self.gate.update_baseline
            baseline = self.gate.baseline(self.row) if compared else None
            self.checks += attested.check_size(model.size, self.artifact, baseline)
        if model.memory.max_compile is not None:
            with self._reported("memory", "compile"):
                peak = _said(built.peak_memory, "the memory that the compiler needed")
                limit = model.memory.max_compile
                self.checks.append(attested.check_bytes("memory", "compile", peak, limit))
        self.checks += attested.check_placement(model.placement, manifest)
        if model.placement.forbid_notes:
            with self._reported("placement", "notes"):
                notes = _said(built.notes, "what the compiler noted")
                self.checks.append(attested.check_notes(model.placement.forbid_notes, notes))

    def _store(self, path: Path) -> str | None:
        with self._reported("compile", f"store in {path.parent}"):
            make_folder(path.parent)
            return str(copy_artifact(self.artifact, path, overwrite=True))
        return None


def _said(value: Any, what: str) -> Any:
    if value is None:
        raise UsageError(
            f"{what} is not known of an artifact that was compiled before",
            hint="leave --artifacts out, or this limit",
        )
    return value


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
