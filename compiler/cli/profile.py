"""``burnish profile``."""

from __future__ import annotations

from pathlib import Path

import click

from burnish.cli.common import (
    check_output_path,
    emit_json,
    inputs_options,
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
@inputs_options
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
    from burnish.bench.bench import draw_feeds
    from burnish.bench.profile import profile
    from burnish.bench.roofline import measure_roofline
    from burnish.report.profile import print_profile

    path = pick_model(model, model_option)
    given = load_npz(inputs) if inputs else None
    shapes = number_shapes(input_shapes) or None
    with open_subject(path, target, threads) as compiled:
        model_file = None if is_artifact(Path(path)) else path
        feeds = draw_feeds(compiled, model_file, shapes, seed) if given is None else given
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
