"""Compiling from the caller's side: hands the work to the compile worker."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from burnish.artifact import check_destination
from burnish.driver import CompileReport, CompileRequest
from burnish.errors import CompileError, InputFileError
from burnish.options import CompileOptions
from burnish.worker import run_in_worker

if TYPE_CHECKING:
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
    from burnish.backends.registry import resolve_target

    # What can be refused without starting a process is refused here.
    resolve_target(options.target, options.precision)
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
    request = CompileRequest(source, str(final), options, overwrite, label, reference)
    report = run_in_worker("burnish.driver:compile_artifact", request, progress=progress)
    if not isinstance(report, CompileReport):
        raise CompileError("the compile worker gave no report")
    return report
