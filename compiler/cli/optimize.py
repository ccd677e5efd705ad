"""``burnish optimize``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from burnish.cli.common import check_output_path, emit_json, json_option, pick_model
from burnish.cli.quantize_options import exclusion_options

if TYPE_CHECKING:
    from burnish.optimization import OptimizeReport


@click.command("optimize")
@click.argument("model", metavar="IN", required=False)
@click.argument("output", metavar="OUT", required=False)
@click.option(
    "-O",
    "opt_level",
    type=click.IntRange(0, 3),
    default=1,
    show_default=True,
    help="1 writes plain ONNX; 2 and 3 fuse as well, composites become local functions.",
)
@click.option(
    "--precision",
    default="fp32",
    show_default=True,
    help="fp32, or fp16 or bf16 for a model whose tensors have 16 bits where that is safe.",
)
@click.option(
    "--calibration-data",
    metavar="F.npz|DIR|script.py:fn",
    help="Samples, to keep what leaves the range of 16 bits on them in fp32: arrays by input name, "
    "a folder of such files, or a function that yields them.",
)
@click.option("--calibration-samples", type=click.IntRange(min=1), help="Take this many samples.")
@exclusion_options
@click.option(
    "--input-shapes",
    multiple=True,
    metavar="NAME:1x3x224x224",
    help="Fix, name or bound (1..8) dims of an input.",
)
@click.option("--skip-pass", multiple=True, metavar="NAME", help="Leave a pass out.")
@click.option("--only-pass", multiple=True, metavar="NAME", help="Run only these passes.")
@click.option("--list-passes", is_flag=True, help="List the passes of the level and stop.")
@click.option("--dump-ir", metavar="DIR", help="Write every stage to DIR.")
@click.option("--verify-ir", is_flag=True, help="Check the IR before and after every pass.")
@click.option("--verify-passes", is_flag=True, help="Compare with onnxruntime after every pass.")
@click.option(
    "--check/--no-check",
    default=True,
    show_default=True,
    help="Compare a model in 16 bits with IN before it is written.",
)
@click.option("--overwrite", is_flag=True, help="Replace OUT.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
@json_option
def command(
    model: str | None,
    output: str | None,
    input_shapes: tuple[str, ...],
    skip_pass: tuple[str, ...],
    only_pass: tuple[str, ...],
    list_passes: bool,
    overwrite: bool,
    quiet: bool,
    json_path: str | None,
    **rest: Any,
) -> int:
    """Rewrite the ONNX model IN and write it to OUT, for any runtime."""
    from burnish.cli.progress import show_progress
    from burnish.errors import InputFileError, UsageError
    from burnish.optimization import check_precision, optimize_model
    from burnish.options import CompileOptions, parse_input_shapes
    from burnish.passes.manager import pass_names
    from burnish.passes.pipelines import pipeline
    from burnish.precision.options import take_quantize_options

    check_precision(rest["precision"])
    chosen = {name: rest.pop(name) for name in ("op_types_to_exclude", "nodes_to_exclude")}
    options = CompileOptions(
        input_shapes=parse_input_shapes(input_shapes),
        skip_passes=skip_pass,
        quantization=take_quantize_options({n: given for n, given in chosen.items() if given}),
        **rest,
    )
    if list_passes:
        passes = pipeline(options.opt_level, precision=options.precision, explicit=True)
        click.echo("\n".join(pass_names(passes)))
        return 0
    path = pick_model(model, None, "IN")
    if output is None:
        raise UsageError("missing argument OUT", hint="burnish optimize IN OUT")
    if os.path.exists(output) and not overwrite:
        raise InputFileError("the output path exists", at=output, hint="add --overwrite")
    check_output_path(click.get_current_context(), click.Argument(["output"]), output)
    with show_progress(quiet) as progress:
        report = optimize_model(path, output, options, only=only_pass, progress=progress)
    if json_path:
        emit_json(_result(report), json_path)
    elif not quiet:
        _print(report)
    return 0


def _print(report: OptimizeReport) -> None:
    before, after = (sum(counts.values()) for counts in (report.before, report.after))
    click.echo(f"{before} nodes -> {after} nodes: {report.output}")
    for note in report.notes:
        click.echo(f"note: {note}")
    worst: dict[str, float] = {}
    for output in report.comparison.outputs if report.comparison is not None else ():
        if output.scale:
            worst[output.name] = max(output.rms / output.scale, worst.get(output.name, 0.0))
    for name, error in worst.items():
        click.echo(f"output {name}: mean error {error:.1e} of its scale")


def _result(report: OptimizeReport) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "nodes_before": sum(report.before.values()),
        "nodes_after": sum(report.after.values()),
        "operators": report.after,
        "passes": [
            {"name": r.name, "before": r.nodes_before, "after": r.nodes_after, "seconds": r.seconds}
            for r in report.passes
            if r.changed
        ],
        "notes": list(report.notes),
        "kept": report.kept,
        "comparison": report.comparison.to_dict() if report.comparison is not None else None,
    }
