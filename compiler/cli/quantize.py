"""``burnish quantize``."""

from __future__ import annotations

import os
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

import click

from burnish.cli.common import check_output_path, emit_json, json_option, pick_model

if TYPE_CHECKING:
    from burnish.quantization import QuantizeReport


@click.command("quantize")
@click.argument("model", metavar="IN", required=False)
@click.argument("output", metavar="OUT", required=False)
@click.option(
    "--calibration-data",
    metavar="F.npz|DIR|script.py:fn",
    help="Samples: arrays by input name, a folder of such files, or a function that yields them. "
    "Without it, products of constant weights are quantized by the range of each call.",
)
@click.option("--calibration-samples", type=click.IntRange(min=1), help="Take this many samples.")
@click.option(
    "--calibration-method",
    type=click.Choice(["minmax", "percentile", "entropy", "mse"]),
    default="minmax",
    show_default=True,
    help="How ranges follow from what was measured.",
)
@click.option(
    "--percentile", type=float, default=99.99, show_default=True, help="Share within the range, %."
)
@click.option(
    "--activation-type",
    type=click.Choice(["uint8", "int8"]),
    default="uint8",
    show_default=True,
    help="Type of activations.",
)
@click.option(
    "--symmetric",
    is_flag=True,
    help="Let the middle of that type (of the weights' type with --weights-only) represent 0.",
)
@click.option(
    "--per-channel/--per-tensor",
    default=True,
    show_default=True,
    help="One scale for each output channel of weights, or one for all.",
)
@click.option(
    "--bias-correction",
    is_flag=True,
    help="Take from biases what rounded weights add to the mean of each output channel.",
)
@click.option(
    "--smooth-quant",
    type=float,
    metavar="ALPHA",
    help="Move this share (0..1, typically 0.5) of the outliers of normalized activations into "
    "the weights of the matrix products that read them.",
)
@click.option(
    "--equalize",
    is_flag=True,
    help="Even the ranges of channels out between convolutions, for depthwise networks.",
)
@click.option(
    "--weights-only",
    type=click.Choice(["int8", "int4"]),
    help="Store constant weights of matrix products in blocks of this type; leave activations. "
    "Needs no calibration data (given, they are what the result is compared on).",
)
@click.option(
    "--block-size",
    type=int,
    metavar="ROWS",
    help="Rows that share a scale with --weights-only: 16, 32, 64, 128 or 256.  [default: 32]",
)
@click.option(
    "--format",
    "weight_format",
    type=click.Choice(["dequantize", "matmulnbits"]),
    help="How --weights-only weights are read: by ONNX's DequantizeLinear with block_size, or by "
    "onnxruntime's com.microsoft::MatMulNBits.  [default: dequantize]",
)
@click.option("--op-types-to-quantize", multiple=True, metavar="OP", help="Only these operators.")
@click.option("--op-types-to-exclude", multiple=True, metavar="OP", help="Leave these operators.")
@click.option(
    "--nodes-to-quantize", multiple=True, metavar="NAME", help="Only these; regular expressions."
)
@click.option(
    "--nodes-to-exclude", multiple=True, metavar="NAME", help="Leave these; regular expressions."
)
@click.option(
    "--matmul-const-b-only/--matmul-all",
    default=True,
    show_default=True,
    help="Leave matrix products of two activations (attention), or quantize them too.",
)
@click.option(
    "--quantize-residuals",
    is_flag=True,
    help="Quantize both terms of residual sums, for runtimes that add in 8 bits.",
)
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
    input_shapes: tuple[str, ...],
    overwrite: bool,
    quiet: bool,
    json_path: str | None,
    **rest: Any,
) -> int:
    """Quantize the ONNX model IN, and write it to OUT as ONNX for any runtime.

    Weights and activations go to 8 bits; with --weights-only, weights alone to 8 or 4.
    """
    from burnish.cli.progress import show_progress
    from burnish.errors import InputFileError, UsageError
    from burnish.options import parse_input_shapes
    from burnish.passes.quantization.selection import PRODUCTS, Selection
    from burnish.quantization import QuantizeOptions, quantize_model

    path = pick_model(model, None, "IN")
    if output is None:
        raise UsageError("missing argument OUT", hint="burnish quantize IN OUT")
    if os.path.exists(output) and not overwrite:
        raise InputFileError("the output path exists", at=output, hint="add --overwrite")
    check_output_path(click.get_current_context(), click.Argument(["output"]), output)
    chosen = {f.name: rest.pop(f.name) for f in fields(Selection)}
    chosen["op_types_to_quantize"] = chosen["op_types_to_quantize"] or PRODUCTS
    options = QuantizeOptions(
        selection=Selection(**chosen), input_shapes=parse_input_shapes(input_shapes), **rest
    )
    with show_progress(quiet) as progress:
        report = quantize_model(path, output, calibration_data, options, progress=progress)
    if json_path:
        emit_json({"schema_version": 1, **asdict(report)}, json_path)
    elif not quiet:
        _print(report)
    return 0


def _print(report: QuantizeReport) -> None:
    sizes = f"{report.size_before / 1e6:.1f} MB -> {report.size_after / 1e6:.1f} MB"
    data = f"{report.samples} calibration samples" if report.samples else "no calibration data"
    click.echo(f"{report.output}: {sizes}, {data}")
    for name, similarity in report.cosine.items():
        click.echo(f"output {name}: cosine similarity {similarity:.6f} with the model's")
    for note in report.notes:
        click.echo(f"note: {note}")
