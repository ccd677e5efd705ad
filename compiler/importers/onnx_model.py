"""Import of ONNX models: from a file or a ModelProto to the canonical IR."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import onnx
import onnx_graphsurgeon as gs
from google.protobuf.message import DecodeError
from onnx_graphsurgeon.logger import G_LOGGER

from burnish.errors import InputFileError, ModelError
from burnish.importers.forced import bind_forced_symbols
from burnish.importers.input_shapes import DimSpec, apply_input_shapes
from burnish.importers.reader import Reader, functions_of, opset_of
from burnish.importers.symbols import Symbols
from burnish.importers.upgrade import upgrade_graph
from burnish.importers.validate import check_model
from burnish.ir.graph import Graph

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
        proto, folder = read_model(path), path.parent
    else:
        proto = model
    proto = check_model(proto)
    with _quiet():
        source = gs.import_onnx(proto)
        if surgery is not None:
            source = surgery(source)
    symbols = Symbols()
    reader = Reader(folder, symbols, functions_of(source))
    graph = reader.read(source, opset_of(proto))
    graph.dim_names.update(symbols.originals)
    if input_shapes:
        apply_input_shapes(graph, input_shapes)
    try:
        graph.sort()
    except ValueError as error:
        raise ModelError(str(error), hint="an ONNX graph must be acyclic") from None
    upgrade_graph(graph, reader.versions)
    bind_forced_symbols(graph)
    return graph


@contextmanager
def _quiet() -> Iterator[None]:
    """Without GraphSurgeon's warnings: what they are about is checked here, or does not matter."""
    before = G_LOGGER.severity
    G_LOGGER.severity = G_LOGGER.ERROR
    try:
        yield
    finally:
        G_LOGGER.severity = before


def read_model(path: Path) -> onnx.ModelProto:
    """Parse a model file; external data are not read.

    Raises:
        InputFileError: The file cannot be read, or is no ONNX model.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputFileError(f"cannot read {path}: {error.strerror}", at=str(path)) from None
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError:
        proto = onnx.ModelProto()
    if not proto.HasField("graph") or not proto.opset_import:
        raise InputFileError(
            "not an ONNX model, or a damaged one",
            at=str(path),
            hint="download or export the file again",
        )
    return proto
