"""``burnish profile``."""

from __future__ import annotations

from pathlib import Path

import click

from burnish.cli.common import (
    check_output_path,
    emit_json,
    json_option,
    load_npz,
    model_argument,
    number_shapes,
    open_subject,
    pick_model,
    threads_option,
)


@click.command("profile")
@model_argument
@click.option("--target", default="x86", show_default=True, help="When a model is given.")
@click.option("--inputs", metavar="F.npz", help="Arrays by input name; default: drawn by --seed.")
@click.option("--seed", default=0, show_default=True, help="Seed of the inputs that are drawn.")
@click.option(
    "--input-shapes",
    multiple=True,
    metavar="NAME:1x3x224x224",
    help="Shapes of the inputs that are drawn.",
)
@click.option(
    "--iterations",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="Runs; the shortest time of each call counts.",
)
@click.option(
    "--top", type=click.IntRange(min=1), help="Show only so many operations, the longest first."
)
@click.option(
    "--trace",
    metavar="FILE",
    callback=check_output_path,
    help="Write a Chrome trace (chrome://tracing, Perfetto) to FILE.",
)
@threads_option
@json_option
def command(
    model: str | None,
    model_option: str | None,
    target: str,
    inputs: str | None,
    seed: int,
    input_shapes: tuple[str, ...],
    iterations: int,
    top: int | None,
    trace: str | None,
    threads: int | None,
    json_path: str | None,
) -> int:
    """Time every kernel of MODEL (an ONNX file, compiled first, or an artifact).

    Each is listed with the nodes of the model that it computes, and beside what this machine can do
    at most: its arithmetic, or its memory, whichever takes longer.
    """
    from burnish.artifact import is_artifact
    from burnish.bench.profile import profile
    from burnish.bench.roofline import measure_roofline
    from burnish.check import draw_inputs, draw_session_inputs
    from burnish.report.profile import print_profile

    path = pick_model(model, model_option)
    feeds = load_npz(inputs) if inputs else None
    shapes = number_shapes(input_shapes) or None
    with open_subject(path, target, threads) as compiled:
        if feeds is None:
            feeds = (
                draw_session_inputs(compiled.get_inputs(), shapes=shapes, seed=seed)
                if is_artifact(Path(path))
                else draw_inputs(path, shapes=shapes, seed=seed)
            )
        on_cpu = compiled.manifest.target.device == "cpu"
        limits = measure_roofline(compiled.threads) if on_cpu else None
        result = profile(compiled, feeds, runs=iterations, roofline=limits)
    if trace:
        emit_json(result.to_trace(), trace)
    if json_path:
        emit_json(result.to_dict(), json_path)
    else:
        print_profile(result, top=top)
    return 0
