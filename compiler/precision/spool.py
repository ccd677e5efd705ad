"""Calibration data as files, so that a process of its own can read them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx

from burnish.cache.digest import content_digest
from burnish.calibration.data import open_data
from burnish.check.inputs import InputRange, input_ranges
from burnish.npz import write_npz
from burnish.options import DimSpec


@contextmanager
def as_files(
    source: Any,
    model: str | bytes,
    shapes: Mapping[str, tuple[DimSpec, ...]],
    count: int | None,
) -> Iterator[str | None]:
    """The path of calibration data that are files, or of a temporary folder of files made of them.

    What a script or the caller's own objects yield is read here, once, and one sample at a time:
    they may hold what no other process can have, and a cache has to know what they yielded.

    Args:
        source: What :func:`burnish.calibration.open_data` takes, or None.
        model: The model that the samples are for.
        shapes: Sizes of its inputs that the user fixed.
        count: Samples to take; None for all.

    Raises:
        CalibrationError: A sample does not fit the model, or there are too few.
        InputFileError: A file is missing.
        UsageError: It is no calibration data.
    """
    if source is None:
        yield None
        return
    if isinstance(source, (str, os.PathLike)) and Path(source).exists():
        yield os.path.abspath(source)
        return
    reference: Any = onnx.load_from_string(model) if isinstance(model, bytes) else model
    inputs = [_fixed(r, shapes.get(r.name)) for r in input_ranges(reference)]
    with TemporaryDirectory(prefix="burnish-calibration-") as folder:
        for index, sample in enumerate(open_data(source, inputs, count=count)):
            write_npz(Path(folder) / f"{index:08}.npz", sample)
        yield folder


def files_digest(path: str) -> str:
    """SHA-256 of calibration data that are files."""
    files = sorted(Path(path).iterdir()) if Path(path).is_dir() else [Path(path)]
    read = [content_digest(file) for file in files if file.suffix in (".npz", ".npy")]
    return hashlib.sha256(" ".join(read).encode()).hexdigest()


def _fixed(declared: InputRange, dims: tuple[DimSpec, ...] | None) -> InputRange:
    """An input with the sizes that the user fixed."""
    if dims is None:
        return declared
    shape = tuple(d if isinstance(d, int) else None for d in dims)
    return InputRange(declared.name, declared.dtype, shape, declared.high)
