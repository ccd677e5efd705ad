"""Model files: read without their weights, which stay in the file until they are asked for."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import onnx
from google.protobuf.message import DecodeError
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from burnish.errors import InputFileError

#: Tensors with less raw data than this are parsed with the model.
LAZY_BYTES = 4096

#: Location of external data that are a part of the model file: no path can contain a NUL.
OWN_FILE = "\0"

# Field numbers of onnx.proto.
_MODEL_GRAPH = 7
_GRAPH_INITIALIZER = 5
_TENSOR_RAW_DATA = 9
_LENGTH_DELIMITED = 2

#: A field: number, wire type, start of the field, start and end of its payload.
_Field: TypeAlias = "tuple[int, int, int, int, int]"


class _BrokenError(Exception):
    """The bytes are no protobuf message."""


def read_model(path: Path) -> onnx.ModelProto:
    """Parse a model file without reading its large initializers.

    Their ``raw_data`` are replaced by a reference to the place in this very file, in the form of
    external data with the location :data:`OWN_FILE`. Real external data are not touched either.

    Raises:
        InputFileError: The file cannot be read, or is no ONNX model.
    """
    try:
        with path.open("rb") as file:
            if path.stat().st_size == 0:
                raise _damaged(path)
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                lean = _lean_model(data)
    except OSError as error:
        raise InputFileError(f"cannot read {path}: {error.strerror}", at=str(path)) from None
    except _BrokenError:
        raise _damaged(path) from None
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(lean)
    except DecodeError:
        raise _damaged(path) from None
    if not proto.HasField("graph") or not proto.opset_import:
        raise _damaged(path)
    return proto


def data_files(model: str | bytes) -> list[str]:
    """Names of the files of external data that a model names, each once, beside its own file."""
    if isinstance(model, bytes):
        return []
    tensors = [t for t in read_model(Path(model)).graph.initializer if uses_external_data(t)]
    names = dict.fromkeys(ExternalDataInfo(t).location for t in tensors)
    return [name for name in names if name != OWN_FILE]


def _damaged(path: Path) -> InputFileError:
    return InputFileError(
        "not an ONNX model, or a damaged one",
        at=str(path),
        hint="download or export the file again",
    )


def _lean_model(data: mmap.mmap) -> bytes:
    parts: list[bytes] = []
    for number, wire, start, body, end in _fields(data, 0, len(data)):
        if number == _MODEL_GRAPH and wire == _LENGTH_DELIMITED:
            graph = _lean_graph(data, body, end)
            parts.append(_delimited(_MODEL_GRAPH, graph))
        else:
            parts.append(data[start:end])
    return b"".join(parts)


def _lean_graph(data: mmap.mmap, begin: int, stop: int) -> bytes:
    parts: list[bytes] = []
    for number, wire, start, body, end in _fields(data, begin, stop):
        if number == _GRAPH_INITIALIZER and wire == _LENGTH_DELIMITED and end - body >= LAZY_BYTES:
            parts.append(_delimited(_GRAPH_INITIALIZER, _lean_tensor(data, body, end)))
        else:
            parts.append(data[start:end])
    return b"".join(parts)


def _lean_tensor(data: mmap.mmap, begin: int, stop: int) -> bytes:
    parts: list[bytes] = []
    reference = onnx.TensorProto()
    for number, wire, start, body, end in _fields(data, begin, stop):
        if number == _TENSOR_RAW_DATA and wire == _LENGTH_DELIMITED and end - body >= LAZY_BYTES:
            reference.data_location = onnx.TensorProto.EXTERNAL
            entries = {"location": OWN_FILE, "offset": str(body), "length": str(end - body)}
            for key, value in entries.items():
                reference.external_data.add(key=key, value=value)
        else:
            parts.append(data[start:end])
    # Concatenated messages merge.
    tail: bytes = reference.SerializeToString()
    return b"".join(parts) + tail


def _fields(data: mmap.mmap, position: int, stop: int) -> Iterator[_Field]:
    """The fields of the message in ``data[position:stop]``."""
    while position < stop:
        start = position
        key, position = _varint(data, position, stop)
        number, wire = key >> 3, key & 7
        if wire == _LENGTH_DELIMITED:
            length, position = _varint(data, position, stop)
            end = position + length
        elif wire == 0:
            _, end = _varint(data, position, stop)
        elif wire in (1, 5):
            end = position + (8 if wire == 1 else 4)
        else:
            raise _BrokenError
        if end > stop or number == 0:
            raise _BrokenError
        yield number, wire, start, position, end
        position = end


def _varint(data: mmap.mmap, position: int, stop: int) -> tuple[int, int]:
    value = shift = 0
    while position < stop and shift < 70:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise _BrokenError


def _delimited(number: int, payload: bytes) -> bytes:
    return _encoded(number << 3 | _LENGTH_DELIMITED) + _encoded(len(payload)) + payload


def _encoded(value: int) -> bytes:
    result = bytearray()
    while value >= 0x80:
        result.append(value & 0x7F | 0x80)
        value >>= 7
    result.append(value)
    return bytes(result)
