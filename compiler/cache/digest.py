"""Digests of plain values and of files: the same in every process, for equal values alone."""

from __future__ import annotations

import dataclasses
import hashlib
import mmap
import os
import sys
import types
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

#: Pieces of a file that are hashed side by side.
_PIECE = 1 << 23


def stable_digest(value: Any) -> str:
    """SHA-256 of a value made of plain data, arrays, dataclasses and functions.

    Functions and classes go by their names: their code is part of a :func:`toolchain_digest`.

    Raises:
        TypeError: A part of it is of another kind.
    """
    digest = hashlib.sha256()
    for part in _parts(value):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def _parts(value: Any) -> Iterator[bytes]:
    if value is None or isinstance(value, bool | int | float):
        yield f"{type(value).__name__} {value!r}".encode()
    elif isinstance(value, str):
        yield b"str"
        yield value.encode("utf-8", "surrogatepass")
    elif isinstance(value, bytes):
        yield b"bytes"
        yield value
    elif isinstance(value, os.PathLike):
        yield b"path"
        yield os.fsencode(value)
    elif _is_array(value):
        yield f"array {value.dtype} {value.shape}".encode()
        # Arrays of Python's objects have no bytes of their own.
        if value.dtype.hasobject:
            yield from _parts(value.tolist())
        else:
            yield value.tobytes()
    elif isinstance(value, type | types.FunctionType | types.BuiltinFunctionType):
        yield f"code {value.__module__}.{value.__qualname__}".encode()
    else:
        yield from _parts_of_several(value)


def _parts_of_several(value: Any) -> Iterator[bytes]:
    kind: str
    items: list[Any]
    if isinstance(value, Mapping):
        kind, items = "mapping", [(key, value[key]) for key in sorted(value, key=str)]
    elif isinstance(value, tuple | list):
        kind, items = "sequence", list(value)
    elif isinstance(value, set | frozenset):
        kind, items = "set", sorted(stable_digest(item) for item in value)
    elif dataclasses.is_dataclass(value):
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        items = [(f.name, getattr(value, f.name)) for f in dataclasses.fields(value)]
    else:
        raise TypeError(f"{type(value).__name__} has no digest")
    yield f"{kind} {len(items)}".encode()
    for item in items:
        yield from _parts(item)


def _is_array(value: Any) -> bool:
    # Where numpy was not imported, nothing is an array; importing it takes a tenth of a second.
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray)


def content_digest(path: Path) -> str:
    """A digest of a file's bytes: SHA-256 of the SHA-256 of its pieces, hashed side by side.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size <= _PIECE:
            return hashlib.sha256(hashlib.sha256(file.read()).digest()).hexdigest()
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:

            def piece(start: int) -> bytes:
                with memoryview(data) as view, view[start : start + _PIECE] as part:
                    return hashlib.sha256(part).digest()

            with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
                pieces = list(pool.map(piece, range(0, size, _PIECE)))
    return hashlib.sha256(b"".join(pieces)).hexdigest()
