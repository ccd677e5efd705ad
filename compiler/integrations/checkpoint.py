"""Compile a module as it is in the middle of training, for any training loop."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import burnish.api
from burnish.errors import BurnishError

if TYPE_CHECKING:
    import torch

    from burnish.runtime import CompiledModel

logger = logging.getLogger("burnish")


@dataclass(frozen=True)
class CheckpointResult:
    """What came of a checkpoint; true if it was compiled and computes what the module does.

    Attributes:
        path: The artifact, or None where there is none.
        metrics: ``max_abs_err``: largest error of any output against the module. ``latency_ms``
            and ``torch_latency_ms``: median time of a call on the example, of the compiled model
            and of the module on the CPU, measured in turns with the same number of threads.
            ``speedup``: the second over the first. ``size_mb``: of the artifact, in 10**6 bytes.
            ``compile_seconds``: all of export, compilation and comparison. Empty after a failure.
        error: What went wrong.
    """

    path: Path | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    error: Exception | None = None

    def __bool__(self) -> bool:
        return self.error is None


def compile_checkpoint(
    module: torch.nn.Module,
    path: str | os.PathLike[str],
    example_inputs: Any,
    *,
    dynamic_shapes: Any = None,
    timing_seconds: float = 0.5,
    stop_on_error: bool = False,
    **options: Any,
) -> CheckpointResult:
    """Compile a module, compare it with itself, time both, and keep the artifact if all is well.

    The module may be in training, on any device: its mode, gradients and place, torch's modes and
    the random numbers that follow stay as they are. Call it in one process of a distributed
    training only.

    Args:
        module: The module.
        path: The artifact's folder, replaced if it is there.
        example_inputs: See :func:`burnish.compile`.
        dynamic_shapes: See :func:`burnish.compile`.
        timing_seconds: Seconds to time each of the two; 0 for not at all.
        stop_on_error: Raise what goes wrong. Otherwise it is logged as a warning and returned: a
            training of days does not end because a checkpoint cannot be compiled.
        options: Further options of :func:`burnish.compile`. With ``cache_dir`` only the first
            checkpoint builds kernels: those of the next ones differ in weights alone.

    Returns:
        Where the artifact is and what was measured.

    Raises:
        BurnishError: With ``stop_on_error``: the module cannot be exported or compiled, or the
            compiled model computes something else (AccuracyError).
    """
    try:
        return _compile(module, Path(path), example_inputs, dynamic_shapes, timing_seconds, options)
    except Exception as error:
        if stop_on_error:
            raise
        return failure(path, error)


def failure(path: str | os.PathLike[str], error: Exception) -> CheckpointResult:
    """Warn of what went wrong, and return it."""
    kind = error.title if isinstance(error, BurnishError) else type(error).__name__
    logger.warning("the checkpoint was not compiled to %s: %s: %s", path, kind, error)
    return CheckpointResult(error=error)


def _compile(
    module: torch.nn.Module,
    path: Path,
    example_inputs: Any,
    dynamic_shapes: Any,
    timing_seconds: float,
    options: dict[str, Any],
) -> CheckpointResult:
    started = time.perf_counter()
    with burnish.api.compile(
        module,
        example_inputs=example_inputs,
        dynamic_shapes=dynamic_shapes,
        **{"check": True, **options},
    ) as compiled:
        metrics = {"compile_seconds": round(time.perf_counter() - started, 3)}
        verification = compiled.manifest.verification
        if verification is not None:
            metrics["max_abs_err"] = max(output.max_abs for output in verification.outputs)
        if timing_seconds > 0:
            metrics |= _times(compiled, module, timing_seconds)
        saved = compiled.save(path, overwrite=True)
    metrics["size_mb"] = sum(f.stat().st_size for f in saved.rglob("*") if f.is_file()) / 1e6
    return CheckpointResult(saved, metrics)


def _times(compiled: CompiledModel, module: torch.nn.Module, seconds: float) -> dict[str, float]:
    from burnish.bench import BurnishRunner, measure
    from burnish.frontends.torch_module import TorchModule

    with TorchModule(module).timed(compiled.example_inputs, compiled.threads) as runner:
        names = [arg.name for arg in compiled.get_inputs()]
        feeds = dict(zip(names, runner.call.arrays().values(), strict=True))
        result = measure([BurnishRunner(compiled), runner], feeds, duration=seconds)
    ours, theirs = result.timings
    return {
        "latency_ms": ours.median * 1e3,
        "torch_latency_ms": theirs.median * 1e3,
        "speedup": result.ratio(theirs, "median"),
    }
