"""``burnish bench``."""

from __future__ import annotations

from pathlib import Path

import click

from burnish.cli.common import (
    emit_json,
    json_option,
    load_npz,
    model_argument,
    number_shapes,
    pick_model,
    threads_option,
)


@click.command("bench")
@model_argument
@click.argument("reference", metavar="[MODEL]", required=False)
@click.option(
    "--against",
    metavar="NAMES",
    help="Peers, by comma: onnxruntime, openvino. An artifact needs its MODEL for them.",
)
@click.option("--target", default="x86", show_default=True, help="When a model is given.")
@click.option("--inputs", metavar="F.npz", help="Arrays by input name; default: drawn by --seed.")
@click.option("--seed", default=0, show_default=True, help="Seed of the inputs that are drawn.")
@click.option(
    "--input-shapes",
    multiple=True,
    metavar="NAME:1x3x224x224",
    help="Shapes of the inputs that are drawn.",
)
@click.option("--iterations", type=click.IntRange(min=1), help="Timed calls of each.")
@click.option("--duration", type=float, help="Seconds for each; default 2.")
@click.option("--warmup", type=click.IntRange(min=0), default=3, show_default=True)
@click.option("--percentile", "percentiles", multiple=True, type=float, default=(90.0, 99.0))
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
    """Time MODEL (an ONNX file, compiled first) or an artifact, interleaved with its peers."""
    import burnish
    from burnish.artifact import is_artifact
    from burnish.bench import bench
    from burnish.report.timing import print_timing

    path = pick_model(model, model_option)
    if is_artifact(Path(path)):
        compiled = burnish.load(path, threads=threads)
        source = reference
    else:
        compiled = burnish.compile(path, target=target, threads=threads)
        source = path
    peers = [p.strip() for p in against.split(",") if p.strip()] if against else []
    result = bench(
        compiled,
        source,
        against=peers,
        inputs=load_npz(inputs) if inputs else None,
        input_shapes=number_shapes(input_shapes) or None,
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
