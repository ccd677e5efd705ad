"""Keras models on TensorFlow, converted by tf2onnx."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import onnx

from burnish.errors import ModelError, TargetUnavailableError, UsageError
from burnish.frontends.base import Exported

if TYPE_CHECKING:
    from burnish.check import RecordedReference
    from burnish.check.inputs import Shapes

#: The newest opset that tf2onnx 1.17 knows.
_OPSET = 18
#: protobuf holds no more than 2 GiB.
_IN_ONE_FILE = 1 << 28


@dataclass(frozen=True)
class _Signature:
    """How a model is called.

    Attributes:
        structure: Something nested as the model wants its inputs.
        names: Names of the inputs in the order of ``tf.nest.flatten``.
        specs: ``tf.TensorSpec`` of each.
    """

    structure: Any
    names: tuple[str, ...]
    specs: tuple[Any, ...]


class KerasModel:
    """A Keras model.

    Args:
        model: A Sequential, functional or subclassed model.

    Raises:
        UsageError: Its backend is not TensorFlow.
        TargetUnavailableError: TensorFlow or tf2onnx is not installed.
    """

    def __init__(self, model: keras.Model) -> None:
        self.model = model
        self.name = f"Keras model {model.name}"
        backend = keras.backend.backend()
        if backend != "tensorflow":
            raise UsageError(
                f"Keras models on {backend} cannot be compiled",
                at=self.name,
                hint="load the model with KERAS_BACKEND=tensorflow (or torch, as a module)",
            )

    def export(
        self, folder: Path, example_inputs: Any, dynamic_shapes: Any, *, record: bool
    ) -> Exported:
        """Write the model, in inference mode, as ``model.onnx`` into ``folder``.

        Args:
            folder: Gets the file.
            example_inputs: Inputs of one call. Needed for subclassed models only, whose shapes are
                then those of the example, but for the first axis, which is the batch.
            dynamic_shapes: Has to be None: ``keras.Input`` says which dims are dynamic.
            record: Also record what the model computes.

        Raises:
            UsageError: A subclassed model comes without an example.
            ModelError: tf2onnx does not convert the model.
            TargetUnavailableError: tf2onnx is not installed.
        """
        _require_tf2onnx()
        if dynamic_shapes is not None:
            raise UsageError(
                "a Keras model declares its dynamic dims itself",
                at=self.name,
                hint="leave dynamic_shapes out; keras.Input(shape=(None, 8)) makes a dim dynamic",
            )
        signature = self._signature(example_inputs)
        outputs: list[str] = []
        proto = self._convert(signature, outputs)
        _rename_outputs(proto.graph, outputs)
        _name_dims(proto.graph)
        path = folder / "model.onnx"
        large = proto.ByteSize() > _IN_ONE_FILE
        onnx.save(proto, path, save_as_external_data=large, location="model.onnx.data")
        reference = None
        if record:
            from burnish.check import draw_inputs

            sets = [draw_inputs(path)]
            if example_inputs is not None:
                sets.insert(0, self._arrays(signature, example_inputs))
            reference = self._record(signature, sets, None)
        return Exported(path, example_inputs, reference)

    def record(
        self,
        inputs: Any,
        declared: Sequence[Any],
        *,
        drawn_like: Any = None,
        shapes: Shapes | None = None,
        seed: int = 0,
    ) -> RecordedReference:
        """Run the model in inference mode, and keep inputs and outputs.

        Args:
            inputs: Inputs of one call as the model takes them, or a list of several calls.
            declared: Inputs of the compiled model, by which others are drawn.
            drawn_like: Tells how a subclassed model is called.
            shapes: Shapes of inputs that are drawn, by name.
            seed: Of what is drawn.

        Raises:
            UsageError: The inputs do not fit the model.
        """
        from burnish.check import draw_session_inputs

        if inputs is None:
            signature = self._signature(drawn_like)
            drawn = draw_session_inputs(declared, shapes=shapes, seed=seed)
            sets = [dict(zip(signature.names, drawn.values(), strict=True))]
            return self._record(signature, sets, seed)
        calls = inputs if isinstance(inputs, list) else [inputs]
        signature = self._signature(drawn_like if drawn_like is not None else calls[0])
        return self._record(signature, [self._arrays(signature, call) for call in calls], None)

    def _signature(self, example: Any) -> _Signature:
        import tensorflow as tf

        declared = getattr(self.model, "inputs", None)
        structure = example
        if declared:
            # A functional model tells how its inputs are nested, a Sequential one has one.
            structure = getattr(self.model, "input", declared[0])
        if structure is None:
            raise UsageError(
                "a subclassed Keras model needs example inputs",
                at=self.name,
                hint="burnish.compile(model, example_inputs=x)",
            )
        leaves = tf.nest.flatten(structure)
        names = _names(structure, leaves)
        specs = []
        for leaf, name in zip(leaves, names, strict=True):
            shape = list(leaf.shape)
            if shape and not declared:
                shape[0] = None
            specs.append(tf.TensorSpec(shape, tf.as_dtype(leaf.dtype), name=name))
        return _Signature(structure, tuple(names), tuple(specs))

    def _call(self, signature: _Signature, flat: Sequence[Any]) -> dict[str, Any]:
        """Outputs by name, in the order of ``tf.nest.flatten``."""
        import tensorflow as tf

        packed = tf.nest.pack_sequence_as(signature.structure, list(flat))
        result = self.model(packed, training=False)
        leaves = tf.nest.flatten(result)
        if isinstance(result, Mapping) and len(result) == len(leaves):
            return dict(zip(sorted(map(str, result)), leaves, strict=True))
        if len(leaves) == 1:
            return {"output": leaves[0]}
        return {f"output_{i}": leaf for i, leaf in enumerate(leaves)}

    def _convert(self, signature: _Signature, outputs: list[str]) -> onnx.ModelProto:
        import tensorflow as tf
        import tf2onnx

        def flat(*inputs: Any) -> list[Any]:
            found = self._call(signature, inputs)
            outputs[:] = found
            return list(found.values())

        try:
            proto, _ = tf2onnx.convert.from_function(
                tf.function(flat), input_signature=list(signature.specs), opset=_OPSET
            )
        except Exception as error:
            lines = str(error).strip().splitlines() or [""]
            raise ModelError(
                f"tf2onnx does not convert the model: {type(error).__name__}: {lines[0][:300]}",
                at=self.name,
                hint="python -m tf2onnx.convert --saved-model says more",
            ) from error
        return proto

    def _arrays(self, signature: _Signature, inputs: Any) -> dict[str, Any]:
        import tensorflow as tf

        leaves = tf.nest.flatten(inputs)
        if len(leaves) != len(signature.names):
            raise UsageError(
                f"{len(leaves)} inputs for the {len(signature.names)} of the model",
                at=self.name,
                hint="its inputs are: " + ", ".join(signature.names),
            )
        return {
            name: np.asarray(leaf, spec.dtype.as_numpy_dtype)
            for name, spec, leaf in zip(signature.names, signature.specs, leaves, strict=True)
        }

    def _record(
        self, signature: _Signature, sets: list[dict[str, Any]], seed: int | None
    ) -> RecordedReference:
        import tensorflow as tf

        from burnish.check import RecordedCase, RecordedReference

        cases = []
        for arrays in sets:
            tensors = [tf.constant(arrays[name]) for name in signature.names]
            try:
                outputs = self._call(signature, tensors)
            except Exception as error:
                lines = str(error).strip().splitlines() or [""]
                raise UsageError(
                    f"the model fails on these inputs: {type(error).__name__}: {lines[0][:300]}",
                    at=self.name,
                ) from error
            values = {name: np.asarray(value) for name, value in outputs.items()}
            cases.append(RecordedCase(dict(arrays), values))
        description = f"TensorFlow {tf.__version__}, the Keras model itself"
        return RecordedReference(self.name, description, tuple(cases), seed)


def _require_tf2onnx() -> None:
    for package in ("tensorflow", "tf2onnx"):
        if importlib.util.find_spec(package) is None:
            raise TargetUnavailableError(
                f"Keras models are converted by tf2onnx, and {package} is not installed",
                hint="pip install 'burnish[tensorflow]'",
            )


def _names(structure: Any, leaves: Sequence[Any]) -> list[str]:
    """Names of inputs: those that the user gave, or ``input``, or ``input_0``, ``input_1``."""
    if isinstance(structure, Mapping) and len(structure) == len(leaves):
        return sorted(map(str, structure))
    names = [getattr(leaf, "name", "") or "" for leaf in leaves]
    # Keras calls tensors keras_tensor_3 that nobody has named.
    if all(name and not name.startswith("keras_tensor") for name in names):
        return names
    return ["input"] if len(leaves) == 1 else [f"input_{i}" for i in range(len(leaves))]


def _rename_outputs(graph: onnx.GraphProto, names: Sequence[str]) -> None:
    """Give the outputs their names; values inside that have such a name get another one."""
    wanted = {out.name: name for out, name in zip(graph.output, names, strict=True)}
    inside = {value for node in graph.node for value in node.output} - set(wanted)
    renamed = wanted | {name: f"{name}/value" for name in inside & set(names)}
    for node in graph.node:
        for values in (node.input, node.output):
            for i, value in enumerate(values):
                values[i] = renamed.get(value, value)
    for output in graph.output:
        output.name = wanted[output.name]


def _name_dims(graph: onnx.GraphProto) -> None:
    """One name for the batch of all inputs, others for other dims that are open."""
    for value in graph.input:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if not dim.HasField("dim_value") or dim.dim_value < 0:
                dim.dim_param = f"{value.name}_{axis}" if axis else "batch"
    # What tf2onnx says of dims of results has names of its own.
    for value in (*graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if not dim.HasField("dim_value"):
                dim.Clear()
