"""The Python API: ``burnish.compile``, ``burnish.load``, ``burnish.compare``."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from burnish.errors import UsageError
from burnish.options import CompileOptions, DimSpec
from burnish.runtime import CompiledModel, load

if TYPE_CHECKING:
    import onnx

    from burnish.check import ComparisonReport

#: A model: the path of an ONNX file or a ModelProto.
Model: TypeAlias = "str | os.PathLike[str] | onnx.ModelProto"

__all__ = ["compare", "compile", "load"]

#: Larger models go to the worker as a file, of which it reads each weight when it needs it.
_FILE_SIZE = 1 << 24
#: protobuf serializes no more.
_PROTO_LIMIT = 1 << 31


def compile(
    model: Model,
    *,
    target: str = "x86",
    precision: str = "fp32",
    threads: int | None = None,
    input_shapes: Mapping[str, Sequence[DimSpec]] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    **options: Any,
) -> CompiledModel:
    """Compile a model and load it.

    Args:
        model: An ONNX file or a ModelProto.
        target: See ``burnish targets``.
        precision: Compute precision.
        threads: Threads of a call; None for all CPUs that the process may use.
        input_shapes: Input name to dims: numbers fix, names rename, pairs bound a dim.
        progress: Gets (phase, done, total) while it compiles.
        options: Further fields of :class:`burnish.options.CompileOptions`.

    Returns:
        The model. Its artifact lies in a temporary folder until
        :meth:`~burnish.runtime.CompiledModel.save` copies it.

    Raises:
        UsageError: An option is unknown or wrong.
        InputFileError: The file is missing or damaged.
        ModelError: The model is invalid or has operators without a lowering; all are listed.
        CompileError: Code generation failed.
    """
    from burnish.artifact import open_artifact
    from burnish.compilation import compile_to

    shapes = {name: tuple(dims) for name, dims in (input_shapes or {}).items()}
    try:
        chosen = CompileOptions(
            target=target, precision=precision, threads=threads, input_shapes=shapes, **options
        )
    except TypeError as error:
        raise UsageError(f"no such option: {error}", hint="see help(burnish.compile)") from None
    folder = tempfile.TemporaryDirectory(prefix="burnish-")
    try:
        source = _source(model, folder.name)
        output = Path(folder.name) / "model.burnish"
        compile_to(source, output, chosen, name=_name(model), progress=progress)
        return CompiledModel(open_artifact(output), threads=threads, temporary=folder)
    except BaseException:
        folder.cleanup()
        raise


def compare(
    compiled: CompiledModel | Model,
    model: Model,
    inputs: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    *,
    atol: float | None = None,
    rtol: float | None = None,
    **options: Any,
) -> ComparisonReport:
    """Compare a compiled model with onnxruntime on the unmodified model; see burnish.check."""
    from burnish import check

    return check.compare(compiled, model, inputs, atol=atol, rtol=rtol, **options)


def _source(model: Model, folder: str) -> str | os.PathLike[str] | bytes:
    if isinstance(model, (str, os.PathLike)):
        return model
    import onnx

    if not isinstance(model, onnx.ModelProto):
        raise UsageError(
            f"not a model: {type(model).__name__}", hint="give an ONNX file or an onnx.ModelProto"
        )
    size = model.ByteSize()
    if size < _FILE_SIZE:
        content: bytes = model.SerializeToString()
        return content
    path = os.path.join(folder, "model.onnx")
    if size < _PROTO_LIMIT:
        onnx.save(model, path)
    else:
        onnx.save(model, path, save_as_external_data=True, location="model.onnx.data")
    return path


def _name(model: Model) -> str:
    return os.fspath(model) if isinstance(model, (str, os.PathLike)) else "ModelProto"
