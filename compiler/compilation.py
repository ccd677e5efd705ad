"""Compiling from the caller's side: hands the work to the compile worker."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from burnish.artifact import check_destination
from burnish.driver import TRANSIENT, calibration_digest
from burnish.errors import CompileError, InputFileError, UsageError
from burnish.options import CompileOptions
from burnish.requests import CompileReport, CompileRequest
from burnish.worker import run_in_worker

if TYPE_CHECKING:
    from burnish.backends.base import Target
    from burnish.check import RecordedReference


def compile_to(
    model: str | os.PathLike[str] | bytes,
    output: str | os.PathLike[str],
    options: CompileOptions,
    *,
    overwrite: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
    name: str | None = None,
    reference: RecordedReference | None = None,
) -> CompileReport:
    """Compile a model into an artifact, in a process of its own.

    Args:
        model: Path of an ONNX file, or a serialized ModelProto.
        output: The artifact's folder.
        options: How.
        overwrite: Replace an artifact that is there.
        progress: Gets (phase, done, total) while it runs.
        name: What the model is called in messages; default: its path.
        reference: What ``options.check`` compares with; None for the model on onnxruntime.

    Raises:
        BurnishError: What went wrong. Nothing is left at ``output``.
    """
    from burnish.backends.registry import check_library, resolve_target

    # What can be refused without starting a process is refused here.
    target = resolve_target(options.target, options.precision)
    if options.library != "auto":
        check_library(target, options.library)
    if options.tune:
        _refuse_measuring_elsewhere(
            target, "tune on the target's machine, and compile here with its --cache-dir"
        )
    if options.precision == "auto":
        _refuse_measuring_elsewhere(
            target, "compile on the target's machine, or with --precision int8"
        )
    final = check_destination(output, overwrite=overwrite)
    source: str | bytes
    if isinstance(model, bytes):
        source = model
    else:
        source = os.fspath(model)
        if Path(source).is_dir():
            raise InputFileError(
                "a folder, not an ONNX file", at=source, hint="name the file in it"
            )
        if not Path(source).is_file():
            raise InputFileError("no such file", at=source)
        source = os.path.abspath(source)
    label = name or (source if isinstance(source, str) else "ModelProto")
    with _calibration(source, options) as data:
        request = CompileRequest(
            source,
            str(final),
            replace(options, calibration_data=data),
            overwrite,
            label,
            reference,
        )
        if options.cache_dir is None:
            return _compile(request, progress)
        return _compile_or_copy(request, target, options.cache_dir, progress)


def _calibration(model: str | bytes, options: CompileOptions) -> AbstractContextManager[str | None]:
    """Calibration data as files, if there are some."""
    if options.calibration_data is None:
        return nullcontext()
    from burnish.precision.spool import as_files

    return as_files(
        options.calibration_data, model, options.input_shapes, options.calibration_samples
    )


def _refuse_measuring_elsewhere(target: Target, hint: str) -> None:
    """Refuse to measure what does not run here.

    Raises:
        UsageError: The target is another machine's.
    """
    from burnish.artifact import unfit
    from burnish.runtime import missing_device

    why = unfit(target.info) or missing_device(target.info)
    if why:
        raise UsageError(
            f"kernels for {target.spec} cannot be measured here: {why}",
            at=target.spec,
            hint=hint,
        )


def _compile(
    request: CompileRequest, progress: Callable[[str, int, int], None] | None
) -> CompileReport:
    if request.options.precision == "auto":
        function, preload = "burnish.auto.run:compile_auto", False
    else:
        function, preload = "burnish.driver:compile_artifact", True
    report = run_in_worker(function, request, progress=progress, preload_tvm=preload)
    if not isinstance(report, CompileReport):
        raise CompileError("the compile worker gave no report")
    return report


def _compile_or_copy(
    request: CompileRequest,
    target: Target,
    folder: str | os.PathLike[str],
    progress: Callable[[str, int, int], None] | None,
) -> CompileReport:
    """Copy the artifact from the cache in ``folder``, or compile it and keep it there."""
    from burnish.cache import ArtifactCache, Store

    started = time.perf_counter()
    options = request.options
    store = Store.open(folder)
    cache = ArtifactCache(store, request.model, lambda: _ingredients(request, target))
    # Who asks for dumps, checks of the passes or measurements wants them to be made.
    if not (options.dump_ir or options.verify_ir or options.verify_passes or options.tune):
        kept = cache.fetch(request.output, overwrite=request.overwrite)
        if kept is not None:
            report = CompileReport.from_dict(kept)
            return replace(
                report,
                output=request.output,
                seconds={"copy from cache": round(time.perf_counter() - started, 4)},
                peak_memory_bytes=0,
                cached=True,
                kernels_reused=(report.kernels_reused or 0) + (report.kernels_built or 0),
                kernels_built=0,
            )
    report = _compile(request, progress)
    cache.keep(Path(request.output), report.to_dict(), report.data_files)
    store.trim()
    return replace(report, notes=tuple(dict.fromkeys((*report.notes, *store.notes))))


def _ingredients(request: CompileRequest, target: Target) -> dict[str, object]:
    """All that decides what is built, besides the model."""
    from burnish.backends.toolchain import toolchain

    options = {
        field.name: getattr(request.options, field.name)
        for field in fields(request.options)
        # What may refuse a build counts: a build that was not asked may lie in the cache.
        if field.name not in TRANSIENT - {"check", "error_on_cache_miss", "strict"}
    }
    # The backend itself is code, of which the toolchain's digest tells.
    described = {f.name: getattr(target, f.name) for f in fields(target) if f.name != "backend"}
    return {
        "options": options,
        "cpus": request.options.threads or len(os.sched_getaffinity(0)),
        "backend": target.backend.name,
        "target": described,
        "reference": request.reference if request.options.check else None,
        "calibration": calibration_digest(request.options),
        "metric": _metric_digest(request.options),
        "toolchain": toolchain(target),
    }


def _metric_digest(options: CompileOptions) -> str:
    """What the script of a metric says; empty for metrics that need none."""
    from burnish.cache.digest import content_digest

    script = Path(options.budget.metric.rpartition(":")[0]) if options.budget else Path()
    return content_digest(script) if script.is_file() else ""
