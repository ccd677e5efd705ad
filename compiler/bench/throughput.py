"""How many inferences a second a compiled model and its peers make in independent streams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from burnish.bench.bench import draw_feeds
from burnish.bench.runners import BurnishRunner, Feeds, Model, Runner, peer
from burnish.bench.streams import (
    StreamedRunner,
    ThroughputResult,
    cpus_of_streams,
    measure_streams,
)
from burnish.check.inputs import Shapes
from burnish.errors import UsageError
from burnish.runtime import CompiledModel, default_threads


def throughput(
    compiled: CompiledModel,
    model: Model | None = None,
    *,
    streams: int,
    batch: int | None = None,
    against: Sequence[str] = ("onnxruntime",),
    inputs: Feeds | None = None,
    input_shapes: Shapes | None = None,
    seed: int = 0,
    duration: float = 2.0,
    warmup: int = 3,
    percentiles: Sequence[float] = (90.0, 99.0),
) -> ThroughputResult:
    """Count what a compiled model and its peers do in ``streams`` streams, interleaved.

    Every stream has the threads of the compiled model and inputs of its own: it is a thread that
    calls the same model as the others do. OpenVINO has its throughput hint for them.

    Args:
        compiled: The compiled model.
        model: The ONNX model for the peers to run.
        streams: Calls at once.
        batch: Size of the batch dimension; by default that of the inputs.
        against: Names of the peers.
        inputs: Inputs by name; by default drawn, others for each stream.
        input_shapes: Shapes of the inputs that are drawn, by name.
        seed: Seed of the inputs that are drawn.
        duration: Seconds of each.
        warmup: Calls of every stream before.
        percentiles: Percentiles of the latency to report.

    Raises:
        UsageError: A peer is unknown or has no model to run, a number is out of range, or the
            model's batch is fixed at another size.
        TargetUnavailableError: A peer is not installed.
        ModelError: A peer does not load the model.
        InvalidInputError: The inputs are not the model's.
    """
    if streams < 1:
        raise UsageError(f"the number of streams must be at least 1, not {streams}")
    feeds = _feeds(compiled, model, streams, batch, inputs, input_shapes, seed)
    compiled.run(None, feeds[0])  # what is wrong with the inputs is said in this thread
    threads = compiled.threads
    cpus = cpus_of_streams(streams, threads)
    runners: list[Runner] = [BurnishRunner(compiled)]
    runners += [peer(name, model, threads, streams) for name in against]
    streamed = [StreamedRunner(runner, feeds, cpus) for runner in runners]
    timings = measure_streams(streamed, duration=duration, warmup=warmup)
    shapes = {name: tuple(array.shape) for name, array in feeds[0].items()}
    return ThroughputResult(
        timings=tuple(timings),
        streams=streams,
        batch=_batch_of(compiled, shapes),
        cpus=default_threads(),
        shapes=shapes,
        percentiles=tuple(percentiles),
    )


def _feeds(
    compiled: CompiledModel,
    model: Model | None,
    streams: int,
    batch: int | None,
    inputs: Feeds | None,
    shapes: Shapes | None,
    seed: int,
) -> list[Feeds]:
    """Inputs of each stream."""
    if inputs is not None:
        if batch is not None:
            raise UsageError(
                "the size of the batch is that of the inputs given",
                hint="leave out --batch, or --inputs",
            )
        return [{n: array.copy() for n, array in inputs.items()} for _ in range(streams)]
    drawn = draw_feeds(compiled, model, shapes, seed)
    if batch is not None:
        shapes = batched_shapes(compiled, {n: array.shape for n, array in drawn.items()}, batch)
        drawn = draw_feeds(compiled, model, shapes, seed)
    rest = [draw_feeds(compiled, model, shapes, seed + i) for i in range(1, streams)]
    return [drawn, *rest]


def batched_shapes(
    compiled: CompiledModel, shapes: Mapping[str, Sequence[int]], batch: int
) -> dict[str, tuple[int, ...]]:
    """Shapes of the inputs with ``batch`` as the size of the batch dimension.

    That is the first dimension of the first input that has dimensions, and every other one of the
    same symbol.

    Raises:
        UsageError: ``batch`` is not positive, or the batch is fixed at another size.
    """
    if batch < 1:
        raise UsageError(f"the size of the batch must be at least 1, not {batch}")
    first = next((arg for arg in compiled.get_inputs() if arg.shape), None)
    if first is None:
        raise UsageError("the model has no input with a batch dimension", hint="leave out --batch")
    symbol = first.shape[0]
    if isinstance(symbol, int):
        if symbol == batch:
            return {name: tuple(shape) for name, shape in shapes.items()}
        raise UsageError(
            f"the batch of the model is fixed at {symbol}, so that it cannot be {batch}",
            at=first.name,
            hint="export the model with a symbolic first dimension ('batch'), and compile it "
            "without fixing it by --input-shapes",
        )
    return {
        arg.name: tuple(
            batch if dim == symbol else size
            for dim, size in zip(arg.shape, shapes[arg.name], strict=True)
        )
        for arg in compiled.get_inputs()
    }


def _batch_of(compiled: CompiledModel, shapes: Mapping[str, Sequence[int]]) -> int:
    """Items of a call: the first dimension of the first input that has dimensions."""
    return next((shapes[arg.name][0] for arg in compiled.get_inputs() if arg.shape), 1)
