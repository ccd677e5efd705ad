"""Weights of random signs in one bit each: a file that fits the 64 MiB that a machine is given.

Speed and rounding do not depend on what the weights are, but 400 MB of them do not travel. A weight
that is +a or -a at random is as good a test as any, and its sign is all there is to carry: the rest
of the file, signs cleared, repeats itself and compresses to nothing.

This module goes along to the machine: it needs numpy only.
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

SIGNS, REST = "weights.signs.xz", "weights.rest.xz"
WEIGHTS = "weights.safetensors"
_TABLE_ROWS, _TABLE_PERIOD = 8192, 997
_UNSIGNED = {"F16": np.uint16, "BF16": np.uint16, "F32": np.uint32}


def random_signs(weight: npt.NDArray[np.float32], seed: int) -> npt.NDArray[np.float32]:
    """A tensor like ``weight`` in shape and root mean square, with every element +a or -a.

    The rows of a large table, of which a run reads few, repeat.
    """
    scale = np.float32(np.sqrt(np.mean(np.square(weight, dtype=np.float64))))
    rows = len(weight) if len(weight) <= _TABLE_ROWS else _TABLE_PERIOD
    signs = np.random.default_rng(seed).integers(0, 2, (rows, *weight.shape[1:]), dtype=np.int8)
    signs = np.resize(signs, weight.shape)
    return (2 * signs - 1).astype(np.float32) * scale


def shrink(folder: Path) -> None:
    """Replace an artifact's weights by their signs and the compressed rest."""
    file = folder / WEIGHTS
    data = bytearray(file.read_bytes())
    signs = []
    for words in _float_words(data):
        top = words.dtype.type(1 << (8 * words.itemsize - 1))
        signs.append(np.packbits((words & top) != 0))
        words &= top - words.dtype.type(1)
    packed = np.concatenate(signs).tobytes() if signs else b""
    (folder / SIGNS).write_bytes(lzma.compress(packed, preset=1))
    (folder / REST).write_bytes(lzma.compress(bytes(data), preset=1))
    file.unlink()


def restore(folder: Path) -> None:
    """Write the weights that :func:`shrink` took; nothing happens if they are there."""
    if (folder / WEIGHTS).exists():
        return
    data = bytearray(lzma.decompress((folder / REST).read_bytes()))
    packed = np.frombuffer(lzma.decompress((folder / SIGNS).read_bytes()), np.uint8)
    taken = 0
    for words in _float_words(data):
        size = (words.size + 7) // 8
        negative = np.unpackbits(packed[taken : taken + size], count=words.size).astype(bool)
        words[negative] |= words.dtype.type(1 << (8 * words.itemsize - 1))
        taken += size
    (folder / WEIGHTS).write_bytes(data)


def _float_words(data: bytearray) -> Iterator[npt.NDArray[np.uint16] | npt.NDArray[np.uint32]]:
    """Every float tensor of a safetensors file as writable unsigned words, in the file's order."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    entries = [entry for name, entry in header.items() if name != "__metadata__"]
    for entry in sorted(entries, key=lambda entry: int(entry["data_offsets"][0])):
        kind = _UNSIGNED.get(entry["dtype"])
        begin, end = entry["data_offsets"]
        if kind is not None and end > begin:
            count = (end - begin) // np.dtype(kind).itemsize
            yield np.frombuffer(data, kind, count, 8 + size + begin)
