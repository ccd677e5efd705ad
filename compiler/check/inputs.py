"""Seeded inputs that a model can take: random numbers alone are wrong for token ids and masks.

What an integer input means is read off the graph: if it reaches the indices of a ``Gather`` or a
``OneHot`` unchanged, or is compared with each number of a range (a one-hot encoding written out),
its values lie below the size of that table; any other integer or boolean input is taken for a mask,
ones with padding at the end of each row. Floating-point inputs are standard normal. Nothing is all
zeros.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from burnish.check.reference import Model
from burnish.errors import InputFileError, ModelError, UsageError
from burnish.importers.symbols import UNNAMED

Array = NDArray[Any]
Shapes = Mapping[str, Sequence[int]]

# Operators that hand integer values on, by the input that they hand on.
_CARRIERS = frozenset(
    {"Cast", "Concat", "Expand", "Flatten", "Identity", "Reshape"}
    | {"Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}
)
_BATCH, _IMAGE, _OTHER = 1, 224, 16


@dataclass(frozen=True)
class InputRange:
    """What an input of a model takes.

    Attributes:
        name: Its name.
        dtype: Its NumPy dtype.
        shape: Its dimensions; a string or None for a symbolic or unknown one.
        high: Exclusive upper bound of an index, None for anything else.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str | None, ...]
    high: int | None = None


@dataclass
class _Uses:
    """Who reads a value, and what is known about constants."""

    readers: dict[str, list[tuple[onnx.NodeProto, int]]] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    scalars: dict[str, int] = field(default_factory=dict)


def input_ranges(model: Model) -> list[InputRange]:
    """The graph inputs that have no default, and the range of those that are indices."""
    proto = structure_of(model)
    uses = _uses(proto.graph)
    defaults = {tensor.name for tensor in proto.graph.initializer}
    return [_range_of(value, uses) for value in proto.graph.input if value.name not in defaults]


def draw_inputs(
    model: Model,
    *,
    shapes: Shapes | None = None,
    seed: int = 0,
    like: Sequence[Any] = (),
    size: int = _OTHER,
) -> dict[str, Array]:
    """Draw one set of inputs.

    Args:
        model: The model.
        shapes: Full shapes of inputs with symbolic dimensions, by name. Symbolic dimensions of
            inputs that are not named become 1 in front, 224 in a picture and ``size`` elsewhere;
            equal names get equal values, also from the shapes given.
        seed: Seed of the generator.
        like: What a compiled model says of its inputs: sizes that compilation fixed or found out.
        size: Of symbolic dimensions that are neither in front nor of a picture.

    Raises:
        UsageError: A shape contradicts the model, names no input of it, or an input has a type
            that cannot be drawn.
    """
    known = {arg.name: arg.shape for arg in like}
    ranges = [_refined(entry, known.get(entry.name)) for entry in input_ranges(model)]
    return _draw_all(ranges, shapes or {}, seed, size)


def _refined(entry: InputRange, shape: Sequence[int | str | None] | None) -> InputRange:
    """With what ``shape`` knows: numbers where the model has symbols, names where it has none."""
    if shape is None or len(shape) != len(entry.shape):
        return entry
    dims = (
        size if isinstance(size, int) or dim is None else dim
        for dim, size in zip(entry.shape, shape, strict=True)
    )
    return replace(entry, shape=tuple(dims))


def draw_session_inputs(
    inputs: Sequence[Any], *, shapes: Shapes | None = None, seed: int = 0
) -> dict[str, Array]:
    """As :func:`draw_inputs`, for what a session or compiled model says of its inputs.

    Without the graph nothing is known of ids: every integer is 0 or 1.
    """
    ranges = [_range_of_arg(arg) for arg in inputs]
    return _draw_all(ranges, shapes or {}, seed)


def _draw_all(
    ranges: list[InputRange], shapes: Shapes, seed: int, size: int = _OTHER
) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    symbols = _symbols(ranges, shapes)
    return {r.name: _draw(r, _shape_of(r, symbols, shapes, size), rng) for r in ranges}


def _range_of_arg(arg: Any) -> InputRange:
    """From a ``NodeArg``, whose type is spelled ``tensor(float)``."""
    kind = arg.type.removeprefix("tensor(").removesuffix(")")
    kind = {"float": "float32", "double": "float64"}.get(kind, kind)
    try:
        dtype = np.dtype(kind)
    except TypeError:
        raise UsageError(
            f"inputs of type {arg.type} cannot be drawn", at=arg.name, hint="give --inputs"
        ) from None
    return InputRange(arg.name, dtype, tuple(arg.shape))


def structure_of(model: Model) -> onnx.ModelProto:
    """A model without its external data.

    Raises:
        InputFileError: There is no such file.
        ModelError: It is no ONNX model.
    """
    if isinstance(model, onnx.ModelProto):
        return model
    try:
        if isinstance(model, bytes):
            return onnx.load_model_from_string(model)
        return onnx.load(str(model), load_external_data=False)
    except FileNotFoundError as error:
        raise InputFileError("the model file does not exist", at=str(model)) from error
    except DecodeError as error:
        raise ModelError("this is not an ONNX model", at=str(model)[:200]) from error


def _range_of(value: onnx.ValueInfoProto, uses: _Uses) -> InputRange:
    if not value.type.HasField("tensor_type"):
        raise UsageError("inputs of this type cannot be drawn", at=value.name, hint="give --inputs")
    tensor = value.type.tensor_type
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    high = _index_bound(value.name, uses) if dtype.kind in "iu" else None
    return InputRange(value.name, dtype, tuple(_dim(d) for d in tensor.shape.dim), high)


def _dim(dim: onnx.TensorShapeProto.Dimension) -> int | str | None:
    if dim.HasField("dim_value"):
        # Old exporters write -1 for "any".
        return int(dim.dim_value) if dim.dim_value >= 0 else None
    name = str(dim.dim_param).strip()
    return None if name in UNNAMED else name


def _uses(graph: onnx.GraphProto) -> _Uses:
    uses = _Uses()
    for tensor in graph.initializer:
        uses.shapes[tensor.name] = tuple(tensor.dims)
        _note_scalar(uses, tensor.name, tensor)
    for node in _nodes(graph):
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value":
                    uses.shapes[node.output[0]] = tuple(attribute.t.dims)
                    _note_scalar(uses, node.output[0], attribute.t)
        for position, name in enumerate(node.input):
            uses.readers.setdefault(name, []).append((node, position))
    return uses


def _note_scalar(uses: _Uses, name: str, tensor: onnx.TensorProto) -> None:
    integer = tensor.data_type in (onnx.TensorProto.INT64, onnx.TensorProto.INT32)
    external = tensor.data_location == onnx.TensorProto.EXTERNAL
    if integer and not external and int(np.prod(tensor.dims)) == 1:
        uses.scalars[name] = int(onnx.numpy_helper.to_array(tensor).reshape(()))


def _nodes(graph: onnx.GraphProto) -> Iterable[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _nodes(attribute.g)


def _index_bound(name: str, uses: _Uses) -> int | None:
    """The smallest table that the values of ``name`` index, if they index one."""
    bounds, seen, queue = [], {name}, [name]
    while queue:
        for node, position in uses.readers.get(queue.pop(), ()):
            bound = _table_size(node, position, uses)
            if bound is not None:
                bounds.append(bound)
            elif node.op_type in _CARRIERS and (position == 0 or node.op_type == "Concat"):
                fresh = [out for out in node.output if out not in seen]
                seen.update(fresh)
                queue.extend(fresh)
    return min(bounds, default=None)


def _table_size(node: onnx.NodeProto, position: int, uses: _Uses) -> int | None:
    if node.op_type == "Gather" and position == 1:
        table = uses.shapes.get(node.input[0])
        axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
        return table[axis] if table else None
    if node.op_type == "OneHot" and position == 0:
        return uses.scalars.get(node.input[1])
    if node.op_type == "Equal":
        # A one-hot encoding written out: compared with a constant that counts up.
        counts = int(np.prod(uses.shapes.get(node.input[1 - position], ())))
        return counts if counts > 2 else None
    return None


def _symbols(ranges: list[InputRange], shapes: Shapes) -> dict[str, int]:
    """Values of the named dimensions that the given shapes fix."""
    known = {r.name: r for r in ranges}
    symbols: dict[str, int] = {}
    for name, shape in shapes.items():
        if name not in known:
            raise UsageError(
                f"the model has no input '{name}'", hint="its inputs are: " + ", ".join(known)
            )
        declared = known[name].shape
        fits = len(declared) == len(shape) and all(
            not isinstance(d, int) or d == n for d, n in zip(declared, shape, strict=True)
        )
        if not fits:
            raise UsageError(
                f"shape {tuple(shape)} does not fit the declared {_spell(declared)}", at=name
            )
        for dim, size in zip(declared, shape, strict=True):
            if isinstance(dim, str) and symbols.setdefault(dim, size) != size:
                raise UsageError(
                    f"dimension '{dim}' would be both {symbols[dim]} and {size}", at=name
                )
    return symbols


def _shape_of(
    entry: InputRange, symbols: dict[str, int], shapes: Shapes, size: int
) -> tuple[int, ...]:
    """The dims of an input; ``symbols`` learns of those that it is the first to have."""
    if entry.name in shapes:
        return tuple(shapes[entry.name])
    sizes = []
    for axis, dim in enumerate(entry.shape):
        if isinstance(dim, int):
            sizes.append(dim)
            continue
        picture = len(entry.shape) == 4 and axis >= 2
        drawn = _BATCH if axis == 0 else _IMAGE if picture else size
        sizes.append(drawn if dim is None else symbols.setdefault(dim, drawn))
    return tuple(sizes)


def _draw(entry: InputRange, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    kind = entry.dtype.kind
    if entry.high is not None:
        return rng.integers(0, entry.high, shape).astype(entry.dtype)
    if kind in "iub":
        if not shape:
            return np.ones((), entry.dtype)
        lengths = rng.integers((shape[-1] + 1) // 2, shape[-1] + 1, shape[:-1])
        return (np.arange(shape[-1]) < lengths[..., None]).astype(entry.dtype)
    if kind in "OSU":
        raise UsageError("text inputs cannot be drawn", at=entry.name, hint="give --inputs")
    # 'V' holds the types that NumPy lacks (bfloat16); ml_dtypes converts to them.
    return rng.standard_normal(shape).astype(entry.dtype)


def _spell(shape: Sequence[int | str | None]) -> str:
    return "[" + ", ".join("?" if dim is None else str(dim) for dim in shape) + "]"
