"""``burnish inspect``."""

from __future__ import annotations

from pathlib import Path

import click

from burnish.cli.common import emit_json, json_option, model_argument, pick_model
from burnish.errors import InputFileError


@click.command("inspect")
@model_argument
@click.option("--support", is_flag=True, help="Say which nodes cannot be compiled, and why.")
@click.option("--target", default="x86", show_default=True, help="The target for --support.")
@click.option("--precision", default="fp32", show_default=True, help="The precision for --support.")
@click.option(
    "--input-shapes", multiple=True, metavar="NAME:1x3x224x224", help="Fix dims of an input."
)
@click.option("--optimized", is_flag=True, help="Show the model after all passes.")
@click.option("--text", is_flag=True, help="Print the graph in ONNX text syntax.")
@click.option(
    "--explain",
    metavar="RULE",
    help="Print where a rewrite rule applied, and where it nearly did and why not.",
)
@json_option
def command(
    model: str | None,
    model_option: str | None,
    support: bool,
    target: str,
    precision: str,
    input_shapes: tuple[str, ...],
    optimized: bool,
    text: bool,
    explain: str | None,
    json_path: str | None,
) -> int:
    """Show what is in MODEL (an ONNX file or an artifact)."""
    from burnish.artifact import is_artifact
    from burnish.report import inspect as report

    path = pick_model(model, model_option)
    if is_artifact(Path(path)):
        data = report.describe_artifact(path)
        if json_path:
            emit_json(data, json_path)
        else:
            report.print_artifact(data)
        return 0
    if Path(path).is_dir():
        raise InputFileError(
            "a folder that is no artifact", at=path, hint="name an ONNX file or an artifact"
        )
    shapes = input_shapes
    if explain:
        found = report.explain_rule(path, explain, shapes)
        if json_path:
            emit_json(found, json_path)
        else:
            report.print_explanation(found)
        return 0
    if text:
        click.echo(report.graph_text(path, shapes, optimized))
        return 0
    if support:
        from burnish.worker import run_in_worker

        data = run_in_worker(
            "burnish.report.inspect:describe_support", path, shapes, target, precision
        )
    else:
        data = report.describe_model(path, shapes, optimized)
    if json_path:
        emit_json(data, json_path)
    else:
        report.print_model(data)
    return 3 if data.get("unsupported") else 0
