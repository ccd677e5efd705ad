"""Time a compiled model beside its peers."""

from __future__ import annotations

from collections.abc import Sequence

from burnish.bench.runners import BurnishRunner, Feeds, Model, Runner, peer
from burnish.bench.timing import BenchResult, measure
from burnish.check.inputs import Shapes, draw_inputs, draw_session_inputs
from burnish.runtime import CompiledModel


def draw_feeds(
    compiled: CompiledModel, model: Model | None, shapes: Shapes | None, seed: int
) -> Feeds:
    """Draw inputs: by what the ONNX model does with them, or by their types where there is none."""
    if model is None:
        return draw_session_inputs(compiled.get_inputs(), shapes=shapes, seed=seed)
    return draw_inputs(model, shapes=shapes, seed=seed)


def bench(
    compiled: CompiledModel,
    model: Model | None = None,
    *,
    against: Sequence[str] = ("onnxruntime",),
    inputs: Feeds | None = None,
    input_shapes: Shapes | None = None,
    seed: int = 0,
    iterations: int | None = None,
    duration: float | None = None,
    warmup: int = 3,
    percentiles: Sequence[float] = (90.0, 99.0),
) -> BenchResult:
    """Time a compiled model and its peers, interleaved, with the threads of the compiled model.

    Args:
        compiled: The compiled model.
        model: The ONNX model for the peers to run.
        against: Names of the peers.
        inputs: Inputs by name; by default drawn, see :func:`burnish.check.draw_inputs`.
        input_shapes: Shapes of the inputs that are drawn, by name.
        seed: Seed of the inputs that are drawn.
        iterations: See :func:`burnish.bench.measure`, also for the others.
        duration: Seconds for each.
        warmup: Untimed calls of each.
        percentiles: Percentiles to report.

    Raises:
        UsageError: A peer is unknown or has no model to run; a number is out of range.
        TargetUnavailableError: A peer is not installed.
        ModelError: A peer does not load the model.
        InvalidInputError: The inputs are not the model's.
    """
    runners: list[Runner] = [BurnishRunner(compiled)]
    runners += [peer(name, model, compiled.threads) for name in against]
    if inputs is None:
        inputs = draw_feeds(compiled, model, input_shapes, seed)
    return measure(
        runners,
        inputs,
        iterations=iterations,
        duration=duration,
        warmup=warmup,
        percentiles=percentiles,
    )
