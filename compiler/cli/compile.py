"""``burnish compile``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from burnish.cli.common import (
    check_output_path,
    emit_json,
    json_option,
    model_argument,
    number_shapes,
    pick_model,
    threads_option,
)
from burnish.cli.quantize_options import (
    budget_options,
    calibration_options,
    drop_defaults,
    quantize_options,
)
from burnish.errors import UsageError
from burnish.options import TUNE_SECONDS


def _precision(precision: str | None, flags: dict[str, bool]) -> str:
    """The one precision that was asked for.

    Raises:
        UsageError: There are two.
    """
    wanted = {f"--{name}": "auto" if name == "best" else name for name, on in flags.items() if on}
    if precision:
        wanted[f"--precision {precision}"] = precision
    if len(set(wanted.values())) > 1:
        raise UsageError(f"{' and '.join(wanted)} contradict each other", hint="give one of them")
    return next(iter(wanted.values()), "fp32")


def _seconds(text: str | None, tune: bool) -> float:
    """``--tune-time`` in seconds.

    Raises:
        UsageError: It is no time, or nothing is tuned.
    """
    if text is None:
        return TUNE_SECONDS
    if not tune:
        raise UsageError("--tune-time says how long --tune may take", hint="add --tune")
    match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*(s|m|min)?", text.strip())
    if match is None:
        raise UsageError(f"not a time: {text!r}", hint="write 90, 90s or 2m")
    return float(match[1]) * (60 if match[2] in ("m", "min") else 1)


def _shapes(items: tuple[str, ...], tune: bool) -> dict[str, tuple[int, ...]]:
    """``--tune-shapes`` as shapes by input.

    Raises:
        UsageError: They are none, or nothing is tuned.
    """
    if items and not tune:
        raise UsageError("--tune-shapes says what --tune measures with", hint="add --tune")
    return number_shapes(items)


def _check_reports(
    context: click.Context, option: click.Parameter, paths: tuple[str, ...]
) -> tuple[str, ...]:
    for path in paths:
        check_output_path(context, option, path)
    return paths


@click.command("compile")
@model_argument
@click.option(
    "-o", "--output", metavar="OUT", help="Artifact to write; default: MODEL.burnish here."
)
@click.option("--target", default="x86", show_default=True, help="See 'burnish targets'.")
@click.option("--precision", default=None, help="fp32 (default), fp16, bf16, int8 or auto.")
@click.option("--fp16", is_flag=True, help="Short for --precision fp16.")
@click.option("--bf16", is_flag=True, help="Short for --precision bf16.")
@click.option("--int8", is_flag=True, help="Short for --precision int8.")
@click.option("--best", is_flag=True, help="Short for --precision auto.")
@calibration_options
@quantize_options
@budget_options
@click.option(
    "--strict",
    is_flag=True,
    help="Fail (exit 13) if a product is in a higher precision than what was asked for, and "
    "neither an option nor the budget excluded it.",
)
@click.option(
    "--input-shapes",
    multiple=True,
    metavar="NAME:1x3x224x224",
    help="Fix, name or bound (1..8) dims of an input; may be given again.",
)
@threads_option
@click.option(
    "-O",
    "opt_level",
    type=click.IntRange(0, 3),
    default=3,
    show_default=True,
    help="Optimization level.",
)
@click.option(
    "--library",
    default="auto",
    show_default=True,
    metavar="auto|onednn|none",
    help="Take a library's kernels where they are faster, wherever it has some, or never.",
)
@click.option("--skip-pass", multiple=True, metavar="NAME", help="Leave a pass out.")
@click.option("--dump-ir", metavar="DIR", help="Write every stage as ONNX and as text to DIR.")
@click.option("--verify-ir", is_flag=True, help="Check the IR before and after every pass.")
@click.option("--verify-passes", is_flag=True, help="Compare with onnxruntime after every pass.")
@click.option(
    "--check/--no-check",
    default=True,
    show_default=True,
    help="Compare the result with onnxruntime before it is written.",
)
@click.option(
    "--cache-dir",
    metavar="DIR",
    help="Keep kernels and artifacts in DIR, and take them from there when nothing has changed; "
    "at most 10 GiB, or BURNISH_CACHE_SIZE (500MB).",
)
@click.option(
    "--tune",
    is_flag=True,
    help="Measure the kernels that could be taken, in place on this machine, and take the best; "
    "times are kept in --cache-dir (default: the user's cache folder).",
)
@click.option(
    "--tune-time", metavar="TIME", help="How long --tune may take: 90, 90s or 2m; default: 60s."
)
@click.option(
    "--tune-shapes",
    multiple=True,
    metavar="NAME:1x128",
    help="Measure with this shape of an input that has symbolic dims; may be given again.",
)
@click.option(
    "--error-on-cache-miss",
    is_flag=True,
    help="Fail where a choice of kernels is not in the timing cache of --cache-dir: equal caches "
    "make equal artifacts.",
)
@click.option("--overwrite", is_flag=True, help="Replace OUT if it is an artifact.")
@click.option(
    "--report",
    "reports",
    multiple=True,
    metavar="F.json|F.svg",
    callback=_check_reports,
    help="Write what --precision auto found: the front of accuracy against latency and all "
    "regions; may be given again.",
)
@json_option
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
@click.option("-v", "--verbose", is_flag=True, help="Show passes and timings.")
def command(
    model: str | None,
    model_option: str | None,
    output: str | None,
    precision: str | None,
    fp16: bool,
    bf16: bool,
    int8: bool,
    best: bool,
    input_shapes: tuple[str, ...],
    json_path: str | None,
    reports: tuple[str, ...],
    overwrite: bool,
    quiet: bool,
    verbose: bool,
    skip_pass: tuple[str, ...],
    tune: bool,
    tune_time: str | None,
    tune_shapes: tuple[str, ...],
    **rest: Any,
) -> int:
    """Compile MODEL (an ONNX file) into an artifact that 'burnish run' and burnish.load take."""
    from burnish.cli.progress import compile_weights, show_progress
    from burnish.compilation import compile_to
    from burnish.options import CompileOptions, parse_input_shapes
    from burnish.precision.options import take_budget, take_quantize_options
    from burnish.report.compile import print_report
    from burnish.report.precision import check_report_paths, write_precision

    path = pick_model(model, model_option)
    drop_defaults(rest)
    options = CompileOptions(
        quantization=take_quantize_options(rest),
        budget=take_budget(rest),
        precision=_precision(precision, {"fp16": fp16, "bf16": bf16, "int8": int8, "best": best}),
        input_shapes=parse_input_shapes(input_shapes),
        skip_passes=skip_pass,
        tune=tune,
        tune_seconds=_seconds(tune_time, tune),
        tune_shapes=_shapes(tune_shapes, tune),
        **rest,
    )
    check_report_paths(reports, options.precision)
    out = output or f"{Path(path).stem}.burnish"
    weights = compile_weights(
        tune_seconds=options.tune_seconds if tune else 0,
        calibrates=options.calibration_data is not None,
    )
    with show_progress(quiet, weights) as progress:
        report = compile_to(path, out, options, overwrite=overwrite, progress=progress)
    if report.precision is not None:
        write_precision(report.precision, reports)
    if json_path:
        emit_json(report.to_dict(), json_path)
    elif not quiet:
        print_report(report, verbose=verbose)
    return 0
