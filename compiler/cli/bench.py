"""``burnish bench``."""

from __future__ import annotations

from pathlib import Path

import click

from burnish.cli.common import (
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
from burnish.errors import UsageError


def _peers(against: str | None, source: str | None) -> list[str]:
    from burnish.bench import PEERS

    names = [name.strip() for name in (against or "").split(",") if name.strip()]
    for name in names:
        if name not in PEERS:
            raise UsageError(f"unknown peer {name!r}", hint=f"the peers are {', '.join(PEERS)}")
    if names and source is None:
        raise UsageError(
            f"{names[0]} needs the ONNX model that the artifact was compiled from",
            hint="burnish bench ARTIFACT MODEL.onnx --against ...",
        )
    return names


@click.command("bench")
@model_argument
@click.argument("reference", metavar="[ONNX]", required=False)
@click.option(
    "--against",
    metavar="NAMES",
    help="Peers, by comma: onnxruntime, openvino. An artifact needs its MODEL for them.",
)
@click.option("--target", default="x86", show_default=True, help="When a model is given.")
@inputs_options
@click.option("--iterations", type=click.IntRange(min=1), help="Timed calls of each.")
@click.option(
    "--duration", type=click.FloatRange(0, min_open=True), help="Seconds for each; default 2."
)
@click.option(
    "--warmup",
    type=click.IntRange(min=0),
    default=3,
    show_default=True,
    help="Untimed calls of each before.",
)
@click.option(
    "--percentile",
    "percentiles",
    multiple=True,
    type=click.FloatRange(0, 100),
    default=(90.0, 99.0),
    show_default=True,
    help="Percentile of the times to show; may be given again.",
)
@threads_option
@json_option
def command(
    model: str | None,
    model_option: str | None,
    reference: str | None,
    against: str | None,
    target: str,
    inputs: str | None,
    seed: int,
    input_shapes: tuple[str, ...],
    iterations: int | None,
    duration: float | None,
    warmup: int,
    percentiles: tuple[float, ...],
    threads: int | None,
    json_path: str | None,
) -> int:
    """Time MODEL (an ONNX file, compiled first, or an artifact), interleaved with its peers.

    For an artifact, the peers run the model that it came from: burnish bench ARTIFACT ONNX.
    """
    from burnish.artifact import is_artifact
    from burnish.bench import bench
    from burnish.report.timing import print_timing

    if model_option and model and reference is None:
        # burnish bench ARTIFACT -m MODEL
        model_option, reference = None, model_option
    path = pick_model(model, model_option)
    packed = is_artifact(Path(path))
    if not packed and reference is not None:
        raise UsageError(f"two models: {path} and {reference}", hint="leave one of them out")
    source = pick_model(reference, None) if reference is not None else None if packed else path
    # What can be wrong with the options is said before minutes go into compiling.
    peers = _peers(against, source)
    feeds = load_npz(inputs) if inputs else None
    shapes = number_shapes(input_shapes) or None
    with open_subject(path, target, threads) as compiled:
        result = bench(
            compiled,
            source,
            against=peers,
            inputs=feeds,
            input_shapes=shapes,
            seed=seed,
            iterations=iterations,
            duration=duration,
            warmup=warmup,
            percentiles=percentiles,
        )
    if json_path:
        emit_json(result.to_dict(), json_path)
    else:
        print_timing(result)
    return 0
