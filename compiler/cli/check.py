"""``burnish check``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from burnish.cli.common import check_output_path, emit_json, json_option, on_terminal
from burnish.errors import InputFileError, UsageError

if TYPE_CHECKING:
    from burnish.gate.config import GateConfig
    from burnish.gate.result import GateReport
    from burnish.gate.run import Progress

DEFAULT_CONFIG = "burnish.toml"


@click.command(
    "check",
    epilog="Exit code: 0 if all passed; otherwise the lowest of 2 to 5 (a row could not be "
    "compiled or checked), 10 accuracy, 11 latency, 12 size or memory, 13 precision or placement.",
)
@click.argument("config", required=False)
@click.option("--init", metavar="MODEL", help="Write a commented CONFIG for an ONNX file and stop.")
@click.option("--only", multiple=True, metavar="NAME", help="Check this model or row only.")
@click.option("--output", metavar="DIR", help="Write report.json, junit.xml and summary.md to DIR.")
@json_option
@click.option(
    "--junit", metavar="FILE", callback=check_output_path, help="Write JUnit XML to FILE."
)
@click.option(
    "--markdown",
    metavar="FILE",
    callback=check_output_path,
    help="Write a summary to FILE; to $GITHUB_STEP_SUMMARY it is appended.",
)
@click.option("--baseline", metavar="DIR", help="Folder of the baseline artifacts.")
@click.option(
    "--update-baseline",
    is_flag=True,
    help="Store the artifacts of rows that pass as the new baseline; the old one is not looked at.",
)
@click.option("--keep-artifacts", metavar="DIR", help="Keep what was compiled in DIR.")
@click.option(
    "--artifacts",
    metavar="DIR",
    help="Check what --keep-artifacts left in DIR, maybe on another machine, and compile nothing.",
)
@click.option("--threads", type=click.IntRange(min=1), help="Threads per call, for all models.")
@click.option(
    "--repeat",
    type=click.IntRange(min=1),
    help="Blocks of a time measurement before its first decision.",
)
@click.option(
    "--time-budget",
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help="After which an undecided ratio of times is inconclusive.",
)
@click.option(
    "--confidence",
    type=click.FloatRange(0.5, 1, max_open=True),
    help="Of every decision about a ratio of times.",
)
@click.option(
    "--fail-on-inconclusive/--pass-on-inconclusive",
    default=None,
    help="Whether a ratio of times that the noise left undecided fails.",
)
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
def command(
    config: str | None,
    init: str | None,
    only: tuple[str, ...],
    output: str | None,
    json_path: str | None,
    junit: str | None,
    markdown: str | None,
    update_baseline: bool,
    keep_artifacts: str | None,
    artifacts: str | None,
    quiet: bool,
    **overrides: Any,
) -> int:
    """Check the models of CONFIG (default: burnish.toml) against its thresholds.

    Each model is compiled for each of its targets at each of its precisions. Outputs are compared
    with onnxruntime, times are measured in turns with a peer or a baseline artifact, size, memory,
    precision and placement are looked up. All rows are checked, whatever fails. The keys of CONFIG
    are described in the file that --init writes.
    """
    path = Path(config or DEFAULT_CONFIG)
    if init is not None:
        return _write_config(Path(init), path)
    from burnish.gate.load import load_config
    from burnish.gate.row import GateRun, make_folder
    from burnish.gate.run import run_gate

    if artifacts and keep_artifacts:
        raise UsageError("--artifacts compiles nothing that --keep-artifacts could keep")
    settings = _overridden(load_config(path), **overrides)
    taken, keep, reports = (Path(f) if f else None for f in (artifacts, keep_artifacts, output))
    for folder in (keep, reports):
        if folder is not None:
            make_folder(folder)
    gate = GateRun(settings, taken, keep, update_baseline)
    with _progress(quiet) as progress:
        report = run_gate(gate, only=only, progress=progress)
    _write_reports(report, reports, json_path, junit, markdown)
    if not quiet and json_path != "-":
        from burnish.report.gate import print_gate

        print_gate(report)
    if os.environ.get("GITHUB_ACTIONS") == "true":
        from burnish.report.github import workflow_commands

        for line in workflow_commands(report):
            click.echo(line, err=True)
    return report.exit_code


def _write_config(model: Path, path: Path) -> int:
    from burnish.gate.template import config_text

    if path.exists():
        raise InputFileError("the file exists", at=str(path), hint="name another one")
    if not model.is_file():
        raise InputFileError("no such file", at=str(model))
    _write(path, config_text(model, path.parent))
    click.echo(f"{path}: run it with: burnish check {path}")
    return 0


def _overridden(
    config: GateConfig,
    *,
    baseline: str | None,
    threads: int | None,
    repeat: int | None,
    time_budget: float | None,
    confidence: float | None,
    fail_on_inconclusive: bool | None,
) -> GateConfig:
    """The configuration with what the command line says in place of what the file says."""
    measure = {"repeats": repeat, "time_budget": time_budget, "confidence": confidence}
    given: dict[str, Any] = {k: value for k, value in measure.items() if value is not None}
    config = replace(config, measure=replace(config.measure, **given))
    if baseline is not None:
        config = replace(config, baseline=Path(baseline))
    if fail_on_inconclusive is not None:
        config = replace(config, fail_on_inconclusive=fail_on_inconclusive)
    if threads is not None:
        rows = (replace(row, model=replace(row.model, threads=threads)) for row in config.rows)
        config = replace(config, rows=tuple(rows))
    return config


@contextmanager
def _progress(quiet: bool) -> Iterator[Progress]:
    """A line on stderr that says what is done, on a terminal."""
    if quiet or not on_terminal():
        yield lambda row, number, total, step: None
        return
    from rich.console import Console

    with Console(stderr=True).status("start") as status:
        yield lambda row, number, total, step: status.update(
            f"{number} of {total}  {row.name}: {step}"
        )


def _write_reports(
    report: GateReport,
    folder: Path | None,
    json_path: str | None,
    junit: str | None,
    markdown: str | None,
) -> None:
    from burnish.report.junit import junit_text
    from burnish.report.markdown import markdown_text

    if json_path:
        emit_json(report.to_dict(), json_path)
    if junit:
        _write(Path(junit), junit_text(report))
    if markdown:
        shared = markdown == os.environ.get("GITHUB_STEP_SUMMARY")
        _write(Path(markdown), markdown_text(report), append=shared)
    if folder is not None:
        emit_json(report.to_dict(), str(folder / "report.json"))
        _write(folder / "junit.xml", junit_text(report))
        _write(folder / "summary.md", markdown_text(report))


def _write(path: Path, text: str, *, append: bool = False) -> None:
    try:
        with path.open("a" if append else "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise InputFileError(f"cannot write: {error.strerror}", at=str(path)) from error
