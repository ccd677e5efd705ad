"""The Python API: ``burnish.compile``, ``compile_to``, ``load``, ``compare``."""

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
    import keras
    import onnx
    import torch

    from burnish.check import ComparisonReport
    from burnish.requests import CompileReport

#: A model: the path of an ONNX file, a ModelProto, or a model of a training framework.
Model: TypeAlias = "str | os.PathLike[str] | onnx.ModelProto | torch.nn.Module | keras.Model"

__all__ = ["compare", "compile", "compile_to", "load"]

#: Larger models go to the worker as a file, of which it reads each weight when it needs it.
_FILE_SIZE = 1 << 24
#: protobuf serializes no more.
_PROTO_LIMIT = 1 << 31


def compile(
    model: Model,
    *,
    example_inputs: Any = None,
    dynamic_shapes: Any = None,
    target: str = "x86",
    precision: str = "fp32",
    threads: int | None = None,
    input_shapes: Mapping[str, Sequence[DimSpec]] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    **options: Any,
) -> CompiledModel:
    """Compile a model and load it.

    A ``torch.nn.Module`` is exported by ``torch.onnx.export(..., dynamo=True)``, in eval mode and
    on the CPU; its mode, its device, its gradients and the state of the random number generators
    stay as they are. Inputs of the compiled model are called as the parameters of ``forward``,
    outputs as the keys of what it returns (``output``; ``output_0``, ``output_1`` for a tuple). A
    Keras model is converted by tf2onnx. Compilation runs in a process of its own either way.

    Args:
        model: An ONNX file, a ModelProto, a ``torch.nn.Module``, or a Keras model on TensorFlow.
        example_inputs: Inputs of one call of a module: a tensor, a tuple of positional arguments,
            or a dict of arguments by name. Their dtypes, and their shapes but for dynamic dims, are
            those that the compiled model takes. A Keras model needs them if it is a subclass.
        dynamic_shapes: Which dims of a module's inputs are symbolic, as ``torch.export.export``
            takes it: ``{"x": {0: "batch"}}``; dims are names, or ``torch.export.Dim`` with bounds.
            The example needs a size of 2 or more there.
        target: See ``burnish targets``.
        precision: ``fp32``, ``fp16``, ``bf16``, ``int8``, or ``auto`` for the fastest mixture
            within a budget; see the options ``calibration_data`` and ``max_drop``.
        threads: Threads of a call; None for all CPUs that the process may use.
        input_shapes: Input name to dims: numbers fix, names rename, pairs bound a dim.
        progress: Gets (phase, done, total) while it compiles.
        options: Further fields of :class:`burnish.options.CompileOptions`, and by their own names
            those of :class:`burnish.precision.options.QuantizeOptions`, of
            :class:`burnish.passes.quantization.Selection` (``nodes_to_exclude``) and of
            :class:`burnish.precision.options.Budget` (``max_drop``). ``calibration_data`` may be an
            iterable, a data loader or a data reader: it is read here, once. ``cache_dir`` names a
            folder that keeps kernels and artifacts for the next call. ``check=True`` compares
            with what the model was given as: an ONNX model on onnxruntime, a module or Keras model
            as it is, on the example inputs and on others like them.

    Returns:
        The model. Its artifact lies in a temporary folder until
        :meth:`~burnish.runtime.CompiledModel.save` copies it.

    Raises:
        UsageError: An option is unknown or wrong, or the target is another machine's: see
            :func:`compile_to`.
        InputFileError: The file is missing or damaged.
        ModelError: The model is invalid, cannot be exported, or has operators without a lowering;
            all are listed.
        CompileError: Code generation failed.
        AccuracyError: ``check`` found outputs that differ.
        TargetUnavailableError: The target, or a package that exports the model, is missing.
    """
    from burnish.artifact import open_artifact

    chosen = checked_options(
        target=target,
        precision=precision,
        threads=threads,
        input_shapes=_dims(input_shapes),
        **options,
    )
    refuse_elsewhere(chosen)
    folder = tempfile.TemporaryDirectory(prefix="burnish-")
    try:
        output = Path(folder.name) / "model.burnish"
        _, example = _compile(
            model, output, chosen, example_inputs, dynamic_shapes, progress=progress
        )
        compiled = CompiledModel(open_artifact(output), threads=threads, temporary=folder)
        compiled.example_inputs = example
        return compiled
    except BaseException:
        folder.cleanup()
        raise


def compile_to(
    model: Model,
    output: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    example_inputs: Any = None,
    dynamic_shapes: Any = None,
    input_shapes: Mapping[str, Sequence[DimSpec]] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    **options: Any,
) -> CompileReport:
    """Compile a model into an artifact, for this machine or another one.

    Args:
        model: As in :func:`compile`.
        output: The artifact's folder, by convention ``NAME.burnish``.
        overwrite: Replace an artifact that is there.
        example_inputs: As in :func:`compile`.
        dynamic_shapes: As in :func:`compile`.
        input_shapes: As in :func:`compile`.
        progress: Gets (phase, done, total) while it compiles.
        options: Fields of :class:`burnish.options.CompileOptions`, among them ``target``
            (``"arm:neoverse-n1"``) and ``precision``.

    Returns:
        What was done.

    Raises:
        InputFileError: ``output`` exists and ``overwrite`` is false, or cannot be written.
        BurnishError: As in :func:`compile`. Nothing is left at ``output``.
    """
    chosen = checked_options(input_shapes=_dims(input_shapes), **options)
    report, _ = _compile(
        model,
        output,
        chosen,
        example_inputs,
        dynamic_shapes,
        overwrite=overwrite,
        progress=progress,
    )
    return report


def _dims(
    shapes: Mapping[str, Sequence[DimSpec]] | None,
) -> dict[str, tuple[DimSpec, ...]]:
    return {name: tuple(dims) for name, dims in (shapes or {}).items()}


def refuse_elsewhere(options: CompileOptions) -> None:
    """Refuse, before minutes are spent, what could not be loaded here afterwards.

    Raises:
        UsageError: The target is another machine's.
    """
    from burnish.artifact import unfit
    from burnish.backends.registry import resolve_target

    why = unfit(resolve_target(options.target, options.precision).info)
    if why:
        raise UsageError(
            f"a model for {options.target} cannot be loaded here: {why}",
            at=options.target,
            hint="burnish.compile_to(model, path, target=...) writes the artifact without loading",
        )


def _compile(
    model: Model,
    output: str | os.PathLike[str],
    options: CompileOptions,
    example_inputs: Any,
    dynamic_shapes: Any,
    *,
    overwrite: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[CompileReport, Any]:
    """Export the model if it is a framework's, and compile it.

    Returns:
        What was done, and the example inputs as they were used, on the CPU.
    """
    from burnish import compilation
    from burnish.frontends import frontend

    origin = frontend(model)
    if origin is None and not (example_inputs is None and dynamic_shapes is None):
        raise UsageError(
            "example_inputs and dynamic_shapes belong to a torch or Keras model",
            at=type(model).__name__,
            hint="input_shapes sets the dims of an ONNX model",
        )
    # What is exported is needed no longer than the compilation takes.
    with tempfile.TemporaryDirectory(prefix="burnish-export-") as exports:
        if origin is None:
            name, reference, source = _name(model), None, _source(model, exports)
        else:
            exported = origin.export(
                Path(exports), example_inputs, dynamic_shapes, record=options.check
            )
            name, reference, source = origin.name, exported.reference, exported.path
            example_inputs = exported.example_inputs
        report = compilation.compile_to(
            source,
            output,
            options,
            overwrite=overwrite,
            progress=progress,
            name=name,
            reference=reference,
        )
    return report, example_inputs


def compare(
    compiled: CompiledModel | Model,
    model: Model,
    inputs: Any = None,
    *,
    atol: float | None = None,
    rtol: float | None = None,
    **options: Any,
) -> ComparisonReport:
    """Compare a compiled model with the model that it came from.

    An ONNX model runs unmodified on onnxruntime, nothing optimized. A ``torch.nn.Module`` runs
    itself, in eval mode, without gradients, on the CPU, and is given back as it was; nested outputs
    are flattened in the order of the export. A Keras model runs itself as well.

    Args:
        compiled: A compiled model, the path of an artifact, or another ONNX model.
        model: The reference: an ONNX file, a ModelProto, a module, or a Keras model.
        inputs: Arrays by input name, or a list of such sets. For a module also a tensor, or a tuple
            of positional arguments, or a list of these. By default one set is drawn: like the
            example inputs of the compilation where there were some.
        atol: Bound of the error in units of the output's scale, instead of the table's.
        rtol: Bound of the error relative to each element, instead of the table's.
        options: ``seed``, ``input_shapes`` and ``numerics``, see :func:`burnish.check.compare`.

    Returns:
        Errors and verdict by output; it does not raise when outputs differ.

    Raises:
        UsageError: The inputs do not fit, or there is nothing to compare.
        ModelError: The reference does not load.
    """
    from burnish import check
    from burnish.frontends import frontend

    origin = frontend(model)
    if origin is None:
        return check.compare(compiled, model, inputs, atol=atol, rtol=rtol, **options)
    seed, shapes = options.pop("seed", 0), options.pop("input_shapes", None)
    example = None if shapes else getattr(compiled, "example_inputs", None)

    def record(declared: Sequence[Any]) -> check.RecordedReference:
        return origin.record(inputs, declared, drawn_like=example, shapes=shapes, seed=seed)

    return check.compare(compiled, record, atol=atol, rtol=rtol, **options)


def checked_options(**options: Any) -> CompileOptions:
    """Options of a compilation.

    Raises:
        UsageError: One is unknown or wrong.
    """
    from burnish.precision.options import take_budget, take_quantize_options

    try:
        quantization, budget = take_quantize_options(options), take_budget(options)
        return CompileOptions(**{"quantization": quantization, "budget": budget, **options})
    except TypeError as error:
        raise UsageError(f"no such option: {error}", hint="see help(burnish.compile)") from None


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
