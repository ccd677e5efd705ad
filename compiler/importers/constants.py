"""Tensors of a model as constants of the IR; external data stay on disk until they are needed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from burnish.errors import InputFileError, ModelError
from burnish.importers.files import OWN_FILE
from burnish.ir.graph import Constant
from burnish.ir.types import BY_ONNX, TensorType


@dataclass(frozen=True)
class Origin:
    """Where the data of a model lie.

    Attributes:
        file: The model file; None for a model that was given as an object.
        folder: Where external files must lie; None when there is no such folder.
    """

    file: Path | None = None
    folder: Path | None = None


def constant_of(tensor: onnx.TensorProto, origin: Origin) -> Constant:
    """The constant that a tensor stands for.

    Args:
        tensor: A tensor with its data inside or in an external file.
        origin: Where the data of the model lie.

    Raises:
        ModelError: The element type is not known, or the external path leaves the folder.
        InputFileError: An external file is missing or too short.
    """
    row = BY_ONNX.get(tensor.data_type)
    if row is None:
        kind = onnx.TensorProto.DataType.Name(tensor.data_type)
        raise ModelError(f"tensor of unsupported element type {kind}", at=tensor.name)
    if any(d < 0 for d in tensor.dims):
        raise ModelError(f"tensor with negative dims {list(tensor.dims)}", at=tensor.name)
    type = TensorType(row.name, tuple(int(d) for d in tensor.dims))
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return _external(tensor, type, origin)
    count = int(np.prod(tensor.dims, dtype=np.int64))
    if tensor.HasField("raw_data"):
        # Checked now, since the data are decoded later, far from the place that can name the file.
        expected, found = (count * row.bits + 7) // 8, len(tensor.raw_data)
        if expected != found:
            raise ModelError(
                f"tensor {type} needs {expected} bytes of data but has {found}", at=tensor.name
            )
    return Constant(lambda: _decode(tensor), type)


def _decode(tensor: onnx.TensorProto) -> np.ndarray:
    try:
        array = numpy_helper.to_array(tensor)
    except (ValueError, TypeError) as error:
        raise ModelError(
            f"tensor whose data do not fit its type: {error}", at=tensor.name
        ) from None
    row = BY_ONNX[tensor.data_type]
    return np.asarray(array, dtype=row.numpy)


def _external(tensor: onnx.TensorProto, type: TensorType, origin: Origin) -> Constant:
    entries = {e.key: e.value for e in tensor.external_data}
    path = _path(entries.get("location", ""), origin, tensor.name)
    row = BY_ONNX[tensor.data_type]
    count = int(np.prod(tensor.dims, dtype=np.int64))
    needed = (count * row.bits + 7) // 8
    try:
        offset = int(entries.get("offset", "0") or 0)
        length = int(entries.get("length", str(needed)) or needed)
    except ValueError:
        raise ModelError("external data with a broken offset or length", at=tensor.name) from None
    if offset < 0 or length != needed:
        raise ModelError(
            f"external data of {length} bytes at {offset} for a tensor of {needed} bytes",
            at=tensor.name,
        )
    try:
        size = path.stat().st_size
    except OSError as error:
        raise InputFileError(
            f"cannot read external data {path}: {error.strerror}",
            at=tensor.name,
            hint="keep the model's data files beside it",
        ) from None
    if offset + length > size:
        raise InputFileError(
            f"external data file {path} is too short: {size} bytes, {offset + length} needed",
            at=tensor.name,
            hint="copy or download the file again",
        )
    return Constant(lambda: _mapped(path, row.numpy, row.bits, offset, tensor), type)


def _mapped(
    path: Path, dtype: np.dtype, bits: int, offset: int, tensor: onnx.TensorProto
) -> np.ndarray:
    shape = tuple(tensor.dims)
    count = int(np.prod(shape, dtype=np.int64))
    if count == 0:
        return np.zeros(shape, dtype)
    try:
        if bits >= 8 and offset % dtype.itemsize == 0:
            return np.memmap(path, dtype, "r", offset, shape)
        if bits >= 8:
            # A map at an odd place would be an unaligned array, which few libraries take.
            return np.fromfile(path, dtype, count, offset=offset).reshape(shape)
        raw = np.memmap(path, np.uint8, "r", offset, ((count * bits + 7) // 8,))
    except (OSError, ValueError) as error:
        raise InputFileError(f"cannot map external data {path}: {error}", at=tensor.name) from None
    inside = onnx.TensorProto(data_type=tensor.data_type, dims=shape, raw_data=raw.tobytes())
    return np.asarray(numpy_helper.to_array(inside), dtype=dtype)


def _path(location: str, origin: Origin, name: str) -> Path:
    if location == OWN_FILE and origin.file is not None:
        return origin.file
    if origin.folder is None:
        raise ModelError(
            "the model refers to external data, but it was given without its folder",
            at=name,
            hint="pass the path of the .onnx file",
        )
    return _inside(location, origin.folder, name)


def _inside(location: str, folder: Path, name: str) -> Path:
    """The file of ``location``, which must lie in ``folder`` after symbolic links are followed."""
    hint = "external data must lie in the folder of the model"
    if not location or "\0" in location:
        raise ModelError("external data without a location", at=name)
    if Path(location).is_absolute() or ".." in Path(location).parts or "\\" in location:
        raise ModelError(f"external data path {location!r} leaves the folder", at=name, hint=hint)
    root = folder.resolve()
    path = (root / location).resolve()
    if not path.is_relative_to(root):
        raise ModelError(
            f"external data path {location!r} is a link out of the folder", at=name, hint=hint
        )
    return path
