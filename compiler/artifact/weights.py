"""The weights file: safetensors with every tensor at a multiple of 64 bytes, to be memory-mapped.

safetensors (https://github.com/huggingface/safetensors, format description in its README) is an
8-byte header length, a JSON header and the tensors' bytes without holes. Alignment needs no change
of the format: spaces after the header's JSON put the data section at a multiple of 64, and small
``uint8`` tensors named ``_padding.N`` fill the gaps between the others.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from burnish.artifact.dtypes import DATA_TYPES
from burnish.artifact.manifest import FileInfo, TensorInfo
from burnish.errors import ArtifactError

if TYPE_CHECKING:
    import numpy.typing as npt

#: A cache line and a vector register of AVX-512.
ALIGNMENT = 64

#: Bytes of a write, at a multiple of them: a file system with large folios then keeps the file in
#: huge pages, and weights that come from memory cost fewer misses of the TLB.
_HUGE_PAGE = 2 << 20
_PADDING = "_padding."
_CHUNK = 1 << 20
_SAMPLE = 4096
_DAMAGED = "compile the model again: the artifact is damaged"
_MAX_HEADER = 100_000_000  # the limit of the reference implementation


@dataclass(frozen=True)
class Weight:
    """A weight to be written.

    Attributes:
        name: Unique name.
        dtype: Name of the element type (a key of ``DATA_TYPES``).
        shape: Shape of the packed data.
        data: Makes the data, C-contiguous, of that shape; bfloat16 as ml_dtypes or as its bits in
            uint16. It is called once, when the weight's turn comes, and the array is dropped then:
            packing on demand keeps one weight in memory at a time.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: Callable[[], npt.NDArray[Any]]

    @property
    def nbytes(self) -> int:
        """Size of the data in bytes."""
        return math.prod(self.shape) * DATA_TYPES[self.dtype].itemsize

    @property
    def info(self) -> TensorInfo:
        """The weight's entry in the manifest."""
        return TensorInfo(self.name, self.dtype, self.shape)


def weight_from_array(name: str, array: npt.NDArray[Any]) -> Weight:
    """A weight whose data is at hand already."""
    return Weight(name, array.dtype.name, array.shape, lambda: array)


@dataclass(frozen=True)
class WeightsHeader:
    """What a weights file's header says.

    Attributes:
        tensors: (dtype, shape) and absolute offset in the file, by name, without the padding.
    """

    tensors: dict[str, tuple[str, tuple[int, ...], int]]


def write_weights(path: Path, weights: Sequence[Weight]) -> FileInfo:
    """Write the weights in the order given.

    The same weights give the same bytes.

    Raises:
        ValueError: A name is taken twice or data is not what its :class:`Weight` said.
        OSError: The file cannot be written.
    """
    header = _header_bytes(weights)
    whole = hashlib.sha256()
    with path.open("wb", buffering=_HUGE_PAGE) as file:
        size = _write(file, whole, header)
        for weight in weights:
            size += _write(file, whole, _bytes_of(weight))
            size += _write(file, whole, bytes(-weight.nbytes % ALIGNMENT))
    return FileInfo(size, whole.hexdigest(), quick_digest(path))


def _write(file: BinaryIO, digest: Any, data: bytes | memoryview) -> int:
    digest.update(data)
    # What is longer than the buffer would pass by it, and end anywhere.
    for start in range(0, len(data), _HUGE_PAGE):
        file.write(data[start : start + _HUGE_PAGE])
    return len(data)


def _header_bytes(weights: Sequence[Weight]) -> bytes:
    entries: dict[str, dict[str, Any]] = {}
    offset = 0
    for index, weight in enumerate(weights):
        if weight.name in entries or weight.name.startswith(_PADDING):
            raise ValueError(f"the weight name {weight.name!r} is taken")
        kind = DATA_TYPES[weight.dtype].safetensors
        if not kind:
            raise ValueError(f"the weight {weight.name!r} has the type {weight.dtype}")
        end = offset + weight.nbytes
        entries[weight.name] = {
            "dtype": kind,
            "shape": list(weight.shape),
            "data_offsets": [offset, end],
        }
        gap = -weight.nbytes % ALIGNMENT
        if gap:
            entries[f"{_PADDING}{index}"] = {
                "dtype": "U8",
                "shape": [gap],
                "data_offsets": [end, end + gap],
            }
        offset = end + gap
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def _bytes_of(weight: Weight) -> memoryview:
    import numpy as np

    array: Any = np.ascontiguousarray(weight.data()).reshape(weight.shape)
    if array.nbytes != weight.nbytes:
        raise ValueError(
            f"the weight {weight.name!r} should have {weight.nbytes} bytes, not {array.nbytes}"
        )
    return memoryview(array.reshape(-1).view(np.uint8)) if array.size else memoryview(b"")


def read_header(path: Path) -> WeightsHeader:
    """Read and check the header of a weights file.

    Raises:
        ArtifactError: It is not a safetensors file, or a tensor lies outside of it.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, _MAX_HEADER):
                raise ArtifactError("the weights file is truncated", at=str(path), hint=_DAMAGED)
            entries = json.loads(file.read(length))
        tensors = dict(_entries(entries, start=8 + length, size=size))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ArtifactError(
            f"the weights file cannot be read: {error}", at=str(path), hint=_DAMAGED
        ) from None
    return WeightsHeader(tensors)


def _entries(
    entries: dict[str, Any], start: int, size: int
) -> Iterator[tuple[str, tuple[str, tuple[int, ...], int]]]:
    names = {row.safetensors: row for row in DATA_TYPES.values() if row.safetensors}
    for name, entry in entries.items():
        if name.startswith(_PADDING) or name == "__metadata__":
            continue
        row = names[entry["dtype"]]
        shape = tuple(int(dim) for dim in entry["shape"])
        begin, end = (start + int(offset) for offset in entry["data_offsets"])
        if end - begin != math.prod(shape) * row.itemsize or not start <= begin <= end <= size:
            raise ValueError(f"the tensor {name!r} does not lie in the file")
        yield name, (row.name, shape, begin)


def quick_digest(path: Path) -> str:
    """A SHA-256 over the header and the first and last 4 KiB of every tensor, for loading.

    Hashing all of a large file would take longer than everything else that loading does. This finds
    a file that was truncated, mixed up with another model's or overwritten from some point on; it
    does not find single flipped bits within a large tensor.
    """
    header = read_header(path)
    digest = hashlib.sha256()
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        file.seek(0)
        digest.update(file.read(8 + length))
        for dtype, shape, offset in header.tensors.values():
            nbytes = math.prod(shape) * DATA_TYPES[dtype].itemsize
            for begin in (offset, max(offset, offset + nbytes - _SAMPLE)):
                file.seek(begin)
                digest.update(file.read(min(_SAMPLE, offset + nbytes - begin)))
    return digest.hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a whole file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
