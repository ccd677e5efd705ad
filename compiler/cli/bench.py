"""``burnish bench``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

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
)
from burnish.errors import UsageError

if TYPE_CHECKING:
    from burnish.runtime import CompiledModel


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
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    help="Threads per call, or per stream; default: the CPUs that this process may use, shared out "
    "to the streams.",
)
@click.option(
    "--streams",
    type=click.IntRange(min=1),
    help="Measure throughput instead: calls at once, each with inputs and CPUs of its own.",
)
@click.option(
    "--batch", type=click.IntRange(min=1), help="Size of the batch dimension, with --streams."
)
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
    streams: int | None,
    batch: int | None,
    json_path: str | None,
) -> int:
    """Time MODEL (an ONNX file, compiled first, or an artifact), interleaved with its peers.

    For an artifact, the peers run the model that it came from: burnish bench ARTIFACT ONNX.

    With --streams N, what counts is inferences a second of N callers at once.
    """
    from burnish.artifact import is_artifact

    if streams is None and batch is not None:
        raise UsageError(
            "--batch goes with --streams",
            hint="give the shapes of the inputs for the latency of one call: --input-shapes",
        )
    if streams is not None and iterations is not None:
        raise UsageError("--iterations does not go with --streams", hint="use --duration")
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
    common: dict[str, Any] = {
        "against": peers,
        "inputs": load_npz(inputs) if inputs else None,
        "input_shapes": number_shapes(input_shapes) or None,
        "seed": seed,
        "warmup": warmup,
        "percentiles": percentiles,
    }
    if streams is not None:
        threads = _threads_of_streams(streams, threads)
    with open_subject(path, target, threads) as compiled:
        if streams is None:
            _latency(compiled, source, json_path, iterations, duration, common)
        else:
            _throughput(compiled, source, json_path, streams, batch, duration, common)
    return 0


def _latency(
    compiled: CompiledModel,
    source: str | None,
    json_path: str | None,
    iterations: int | None,
    duration: float | None,
    common: dict[str, Any],
) -> None:
    from burnish.bench import bench
    from burnish.report.timing import print_timing

    result = bench(compiled, source, iterations=iterations, duration=duration, **common)
    if json_path:
        emit_json(result.to_dict(), json_path)
    else:
        print_timing(result)


def _throughput(
    compiled: CompiledModel,
    source: str | None,
    json_path: str | None,
    streams: int,
    batch: int | None,
    duration: float | None,
    common: dict[str, Any],
) -> None:
    from burnish.bench import throughput
    from burnish.report.timing import print_throughput

    if duration is not None:
        common["duration"] = duration
    result = throughput(compiled, source, streams=streams, batch=batch, **common)
    if json_path:
        emit_json(result.to_dict(), json_path)
    else:
        print_throughput(result)


def _threads_of_streams(streams: int, threads: int | None) -> int:
    """Threads of each stream; says so if there are more of them than CPUs."""
    from burnish.runtime import default_threads

    cpus = default_threads()
    each = threads or max(1, cpus // streams)
    if streams * each > cpus:
        click.echo(
            f"warning: {streams} stream(s) of {each} thread(s) are more than the {cpus} CPU(s) "
            "that this process may use: they share them, and are not kept apart",
            err=True,
        )
    return each
