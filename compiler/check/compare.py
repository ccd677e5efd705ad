"""Compare what a compiled model computes with the reference, output by output."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, TypeAlias, cast

import numpy as np
import onnx

from burnish.check.inputs import Shapes, draw_inputs, structure_of
from burnish.check.metrics import compare_output
from burnish.check.quantized import rounds_activations
from burnish.check.recorded import RecordedCase, RecordedReference
from burnish.check.reference import Feeds, Model, Reference
from burnish.check.result import ComparisonReport, OutputComparison
from burnish.check.tolerances import Numerics
from burnish.errors import UsageError
from burnish.options import INTEGERS

Recorder: TypeAlias = Callable[[Sequence[Any]], RecordedReference]

#: Rows of models whose tensors are stored in 16 bits, the least precise first.
_STORED: tuple[Numerics, ...] = ("bf16", "fp16")
#: What a reference is loaded from.
_MODELS = (str, os.PathLike, bytes, onnx.ModelProto)


class Runnable(Protocol):
    """What can be compared: a CompiledModel, an onnxruntime session, a Reference."""

    def run(self, output_names: Sequence[str] | None, feeds: Feeds) -> Sequence[Any]:
        """Outputs in the order of the model, as ``onnxruntime.InferenceSession.run``."""

    def get_inputs(self) -> Sequence[Any]:
        """The inputs, each with ``name`` and ``shape``."""

    def get_outputs(self) -> Sequence[Any]:
        """The outputs, each with a ``name``."""


def compare(
    compiled: Runnable | Model,
    model: Model | RecordedReference | Recorder,
    inputs: Feeds | Sequence[Feeds] | None = None,
    *,
    atol: float | None = None,
    rtol: float | None = None,
    seed: int = 0,
    input_shapes: Shapes | None = None,
    numerics: Numerics | None = None,
) -> ComparisonReport:
    """Compare outputs with those of the unmodified model on onnxruntime, nothing optimized.

    Args:
        compiled: A compiled model or anything else with ``run`` and ``get_outputs``; or the path
            of an artifact; or another ONNX model, which then runs on onnxruntime as well.
        model: The reference: an ``.onnx`` file or a ModelProto; or what another program computed,
            or a function that has it compute, given what the compiled model says of its inputs.
        inputs: Arrays by input name, or several such sets. By default one set is drawn, of the
            kinds that the graph shows (token ids, masks, numbers). What another program computed
            has its own.
        atol: Bound of the error in units of the output's scale, instead of the table's.
        rtol: Bound of the error relative to each element, instead of the table's.
        seed: Seed of the inputs that are drawn.
        input_shapes: Shapes of the inputs that are drawn, by name.
        numerics: Row of the table of tolerances; None for that of the precision that the compiled
            model attests.

    Returns:
        The report; it does not raise when outputs differ, see
        :meth:`ComparisonReport.raise_if_failed`.

    Raises:
        UsageError: There is nothing to compare, or a tolerance is not a number >= 0.
        ModelError: onnxruntime does not load the model.
        InvalidInputError: The inputs are not the model's.
    """
    for name, value in (("atol", atol), ("rtol", rtol)):
        if value is not None and not (value >= 0 and np.isfinite(value)):
            raise UsageError(f"{name} must be a finite number >= 0, not {value}")
    runnable, label, owned = _runnable(compiled)
    row = numerics or (attested_numerics(runnable) if owned is None else _numerics_of(compiled))
    outputs: list[OutputComparison] = []
    try:
        reference = _recorded(model, inputs, input_shapes, seed, runnable)
        if numerics is None and row == "model" and isinstance(model, _MODELS):
            # One that is quantized itself may compute in floating point here.
            row = "int8" if rounds_activations(model) else row
        for case, recorded in enumerate(reference.cases):
            actual = _run(runnable, recorded.inputs)
            outputs += _compare_case(
                case, recorded.outputs, actual, atol=atol, rtol=rtol, numerics=row
            )
    finally:
        if owned is not None:
            owned.close()
    if not any(output.elements for output in outputs):
        raise UsageError(
            "nothing was compared: all outputs are empty",
            hint="give inputs of a size that produces output",
        )
    return ComparisonReport(
        subject=label,
        model=reference.model,
        reference=reference.description,
        cases=tuple({n: tuple(np.shape(a)) for n, a in c.inputs.items()} for c in reference.cases),
        seed=reference.seed,
        outputs=tuple(outputs),
    )


def attested_numerics(runnable: Any) -> Numerics:
    """The row of the table of tolerances for a compiled model, by what its manifest attests."""
    manifest = getattr(runnable, "manifest", None)
    nodes = manifest.nodes if manifest is not None else ()
    if any(node.precision == "int8" for node in nodes):
        # What it is compared with is quantized too, unless burnish did that.
        made_here = manifest is not None and manifest.options.get("precision") in INTEGERS
        return "quantized" if made_here else "int8"
    return _row_of_stored({node.storage for node in nodes})


def _numerics_of(model: Any) -> Numerics:
    """The row for an ONNX model that stands in for a compiled one."""
    types = {tensor.data_type for tensor in structure_of(model).graph.initializer}
    rows: dict[int, Numerics] = {
        onnx.TensorProto.FLOAT16: "fp16",
        onnx.TensorProto.BFLOAT16: "bf16",
    }
    return _row_of_stored({rows[kind] for kind in types & set(rows)})


def _row_of_stored(stored: set[str]) -> Numerics:
    """The row of the least precise of the types that tensors are stored in."""
    return next((row for row in _STORED if row in stored), "model")


def _recorded(
    model: Model | RecordedReference | Recorder,
    inputs: Feeds | Sequence[Feeds] | None,
    shapes: Shapes | None,
    seed: int,
    runnable: Runnable,
) -> RecordedReference:
    """What the reference computes, under the names of the compiled model."""
    if callable(model):
        model = model(runnable.get_inputs())
    if isinstance(model, RecordedReference):
        taken, given = runnable.get_inputs(), runnable.get_outputs()
        names = [arg.name for arg in taken], [arg.name for arg in given]
        return replace(model, cases=tuple(case.named(*names) for case in model.cases))
    sets = _input_sets(model, inputs, shapes, seed, runnable.get_inputs())
    with Reference(model) as reference:
        outputs = [output.name for output in reference.get_outputs()]
        cases = tuple(
            RecordedCase(dict(feeds), dict(zip(outputs, reference.run(None, feeds), strict=True)))
            for feeds in sets
        )
        label = str(model) if isinstance(model, (str, Path)) else "ModelProto"
        drawn = seed if inputs is None else None
        return RecordedReference(label, reference.description, cases, drawn)


def _input_sets(
    model: Model,
    inputs: Feeds | Sequence[Feeds] | None,
    shapes: Shapes | None,
    seed: int,
    declared: Sequence[Any],
) -> list[Feeds]:
    if inputs is None:
        return [draw_inputs(model, shapes=shapes, seed=seed, like=declared)]
    sets = [inputs] if isinstance(inputs, Mapping) else list(inputs)
    if not sets:
        raise UsageError("nothing to compare: no inputs were given")
    return sets


def _runnable(compiled: Runnable | Model) -> tuple[Runnable, str, Reference | None]:
    """What to run, what to call it, and what to close afterwards."""
    if isinstance(compiled, (bytes, onnx.ModelProto)):
        reference = Reference(compiled)
        return reference, "ModelProto on onnxruntime", reference
    if isinstance(compiled, (str, os.PathLike)):
        path = Path(compiled)
        if path.is_dir():
            from burnish.runtime import load  # comparing two ONNX models needs no runtime

            return cast(Runnable, load(path)), str(path), None
        reference = Reference(path)
        return reference, f"{path} on onnxruntime", reference
    return compiled, type(compiled).__name__, None


def _run(runnable: Runnable, feeds: Feeds) -> dict[str, Any]:
    names = [output.name for output in runnable.get_outputs()]
    values = runnable.run(None, feeds)
    if len(names) != len(values):
        raise UsageError(f"the compiled model declares {len(names)} outputs, gave {len(values)}")
    return dict(zip(names, values, strict=True))


def _compare_case(
    case: int,
    expected: Mapping[str, Any],
    actual: Mapping[str, Any],
    *,
    atol: float | None,
    rtol: float | None,
    numerics: Numerics,
) -> list[OutputComparison]:
    compared = []
    for name, reference in expected.items():
        if isinstance(reference, list):  # a sequence: one comparison for each element
            found = actual.get(name, [])
            pairs = {f"{name}[{i}]": value for i, value in enumerate(reference)}
            values = {f"{name}[{i}]": value for i, value in enumerate(found)}
        else:
            pairs, values = {name: reference}, {name: actual[name]} if name in actual else {}
        compared += [
            compare_output(key, case, values.get(key), value, atol, rtol, numerics)
            for key, value in pairs.items()
        ]
        for key in values.keys() - pairs.keys():
            compared.append(OutputComparison.failed(key, case, "the reference has no such element"))
    compared += [
        OutputComparison.failed(name, case, "the reference has no such output")
        for name in actual
        if name not in expected
    ]
    return compared
