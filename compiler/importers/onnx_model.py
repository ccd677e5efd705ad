"""Import of ONNX models: from a file or a ModelProto to the canonical IR."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.logger import G_LOGGER

from burnish.errors import ModelError
from burnish.importers.constants import Origin, constant_of
from burnish.importers.files import read_model
from burnish.importers.forced import bind_forced_symbols
from burnish.importers.function_body import expand_all
from burnish.importers.input_shapes import DimSpec, apply_input_shapes
from burnish.importers.reader import Reader, functions_of, opset_of
from burnish.importers.symbols import Symbols
from burnish.importers.upgrade import upgrade_graph
from burnish.importers.validate import check_model
from burnish.ir.graph import Graph, Node

#: Operators whose graphs run by themselves, none or many times.
CONTROL_FLOW = frozenset({"If", "Loop", "Scan", "SequenceMap"})

Surgery: TypeAlias = "Callable[[gs.Graph], gs.Graph]"


def load(
    model: str | Path | onnx.ModelProto,
    input_shapes: Mapping[str, tuple[DimSpec, ...]] | None = None,
    *,
    surgery: Surgery | None = None,
    folder: Path | None = None,
) -> Graph:
    """Import a model.

    Operators are brought to the canonical opset and all types are inferred. Unknown operators
    come in as foreign nodes without types, so that all of them can be reported at once.

    Args:
        model: Path of an ``.onnx`` file, or a model.
        input_shapes: Sizes by input name. A number fixes a dim, a name renames it, a pair
            ``(min, max)`` bounds it.
        surgery: Changes the model before it is imported, as a graph of onnx-graphsurgeon.
        folder: Folder of external data for a model that is not given as a path.

    Raises:
        InputFileError: The file cannot be read or is no ONNX model.
        ModelError: The model is invalid or of an unsupported form.
        ShapeError: Shapes or dtypes of a node contradict its operator.
        UsageError: ``input_shapes`` do not fit the model.
    """
    if isinstance(model, (str, Path)):
        path = Path(model)
        proto, origin = read_model(path), Origin(path, path.parent)
    else:
        proto, origin = model, Origin(None, folder)
    proto = check_model(proto)
    with _quiet():
        if surgery is None:
            source = gs.import_onnx(proto)
        else:
            source = surgery(gs.import_onnx(_with_data(proto, origin)))
    symbols = Symbols()
    reader = Reader(origin, symbols, functions_of(source))
    graph = reader.read(source, opset_of(proto))
    graph.dim_names.update(symbols.originals)
    constants = {t.name for t in proto.graph.initializer}
    overridable = [v.name for v in proto.graph.input if v.name in constants]
    if overridable:
        graph.notes.append(
            f"{len(overridable)} inputs with a default value are constants: {overridable[0]}, …"
        )
    if input_shapes:
        apply_input_shapes(graph, input_shapes)
    try:
        graph.sort()
    except ValueError as error:
        raise ModelError(str(error), hint="an ONNX graph must be acyclic") from None
    upgrade_graph(graph, reader.versions)
    expand_all(graph, _has_parameter_graph)
    bind_forced_symbols(graph)
    return graph


def _has_parameter_graph(node: Node) -> bool:
    """Whether a node has graphs that are no control flow: ONNX puts them into its body.

    They have to be expanded before a pass changes them: the body is made of what ONNX knows.
    """
    return node.op not in CONTROL_FLOW and any(True for _ in node.subgraphs())


@contextmanager
def _quiet() -> Iterator[None]:
    """Without GraphSurgeon's warnings: what they are about is checked here, or does not matter."""
    before = G_LOGGER.severity
    G_LOGGER.severity = G_LOGGER.ERROR
    try:
        yield
    finally:
        G_LOGGER.severity = before


def _with_data(model: onnx.ModelProto, origin: Origin) -> onnx.ModelProto:
    """A copy with all tensors inside; GraphSurgeon would look for files in the current folder."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            tensor.raw_data = constant_of(tensor, origin).array.tobytes()
            tensor.ClearField("external_data")
            tensor.data_location = onnx.TensorProto.DEFAULT
    return copy
