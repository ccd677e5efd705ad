"""``burnish quantize``."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from burnish.cli.common import check_output_path, emit_json, json_option, pick_model
from burnish.cli.quantize_options import calibration_options, quantize_options
from burnish.errors import counted

if TYPE_CHECKING:
    from burnish.quantization import QuantizeReport


@click.command("quantize")
@click.argument("model", metavar="IN", required=False)
@click.argument("output", metavar="OUT", required=False)
@calibration_options
@quantize_options
@click.option(
    "--input-shapes",
    multiple=True,
    metavar="NAME:1x3x224x224",
    help="Fix, name or bound (1..8) dims of an input.",
)
@click.option(
    "--min-cosine",
    type=float,
    help="Fail (exit 10) if an output is less similar to the model's on the first samples.",
)
@click.option("--overwrite", is_flag=True, help="Replace OUT.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
@json_option
def command(
    model: str | None,
    output: str | None,
    calibration_data: str | None,
    calibration_samples: int | None,
    min_cosine: float | None,
    input_shapes: tuple[str, ...],
    overwrite: bool,
    quiet: bool,
    json_path: str | None,
    **rest: Any,
) -> int:
    """Quantize the ONNX model IN, and write it to OUT as ONNX for any runtime.

    Weights and activations go to 8 bits; with --weights-only, weights alone to 8 or 4.
    """
    from burnish.cli.progress import MEASURE_WEIGHTS, show_progress
    from burnish.errors import InputFileError, UsageError
    from burnish.options import parse_input_shapes
    from burnish.precision.options import take_quantize_options
    from burnish.quantization import quantize_model

    path = pick_model(model, None, "IN")
    if output is None:
        raise UsageError("missing argument OUT", hint="burnish quantize IN OUT")
    if os.path.exists(output) and not overwrite:
        raise InputFileError("the output path exists", at=output, hint="add --overwrite")
    check_output_path(click.get_current_context(), click.Argument(["output"]), output)
    options = take_quantize_options(
        rest,
        input_shapes=parse_input_shapes(input_shapes),
        calibration_samples=calibration_samples,
        min_cosine=min_cosine,
    )
    with show_progress(quiet, MEASURE_WEIGHTS) as progress:
        report = quantize_model(path, output, calibration_data, options, progress=progress)
    if json_path:
        emit_json({"schema_version": 1, **asdict(report)}, json_path)
    elif not quiet:
        _print(report)
    return 0


def _print(report: QuantizeReport) -> None:
    sizes = f"{report.size_before / 1e6:.1f} MB -> {report.size_after / 1e6:.1f} MB"
    data = "no calibration data"
    if report.samples:
        data = counted(report.samples, "calibration sample")
    click.echo(f"{report.output}: {sizes}, {data}")
    for name, similarity in report.cosine.items():
        click.echo(f"output {name}: cosine similarity {similarity:.6f} with the model's")
    for note in report.notes:
        click.echo(f"note: {note}")
