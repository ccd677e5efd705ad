"""Where calibration samples come from: files, folders, functions, iterables, data loaders."""

from __future__ import annotations

import os
import pickle
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np

from burnish.calibration.samples import Sample, named, split
from burnish.calibration.script import load_function, running
from burnish.check.inputs import InputRange
from burnish.errors import BurnishError, CalibrationError, InputFileError, UsageError, counted

_FORMS = "a .npz file, a folder of them, script.py:function, an iterable or a data reader"
_WRITE = "write it with numpy.savez(path, **{input name: array})"
#: What archives and arrays begin with; NumPy takes all else for pickled objects.
_MAGIC = (b"PK", b"\x93NUMPY")


class CalibrationData:
    """Samples that can be gone through more than once.

    A source that can be read only once (a generator, onnxruntime's CalibrationDataReader) is kept
    in a temporary file while it is read for the first time: samples are never all in memory.

    Args:
        read: Begins to read the source; yields what it yields, and how messages call it.
        inputs: The model's inputs.
        count: Samples to take; None for all there are.
        once: Whether the source can be read only once.
        what: How messages call the source.
    """

    def __init__(
        self,
        read: Callable[[], Iterable[tuple[str, Any]]],
        inputs: Sequence[InputRange],
        *,
        count: int | None = None,
        once: bool = False,
        what: str = "the calibration data",
    ) -> None:
        if count is not None and (not isinstance(count, Integral) or count < 1):
            raise UsageError(f"the number of calibration samples must be at least 1, not {count}")
        self._read, self._inputs, self._count, self._what = read, tuple(inputs), count, what
        self._spool: Any = tempfile.TemporaryFile() if once else None  # noqa: SIM115
        self._started = self._spooled = False
        self._found = 0

    def __length_hint__(self) -> int:
        """How many samples there are; 0 if that is not known before the first time."""
        return self._count or self._found

    def __iter__(self) -> Iterator[Sample]:
        """The samples, each checked.

        Raises:
            CalibrationError: There are none, fewer than asked for, or one does not fit the model.
        """
        if self._spooled:
            yield from self._kept()
            return
        if self._spool is not None:
            if self._started:
                raise UsageError(f"{self._what} can be read once, and was left half-way")
            self._started = True
        taken = 0
        for sample in self._samples():
            if self._spool is not None:
                pickle.dump(sample, self._spool, protocol=pickle.HIGHEST_PROTOCOL)
            yield sample
            taken += 1
            if taken == self._count:
                break
        if taken == 0:
            raise CalibrationError(f"{self._what} holds no samples")
        if self._count is not None and taken < self._count:
            raise CalibrationError(
                f"{self._what} holds {counted(taken, 'sample')}, {self._count} were asked for",
                hint="give more, or ask for fewer with --calibration-samples",
            )
        self._spooled = self._spool is not None
        self._found = taken

    def _samples(self) -> Iterator[Sample]:
        for where, item in self._items():
            yield from split(named(item, self._inputs, where), self._inputs, where)

    def _items(self) -> Iterator[tuple[str, Any]]:
        """What the source yields.

        Raises:
            CalibrationError: It fails while it does; it is the user's code that runs here.
        """
        count = 0
        try:
            for where, item in self._read():
                yield where, item
                count += 1
        except BurnishError:
            raise
        except (Exception, SystemExit) as error:
            raise CalibrationError(
                f"{self._what} failed after {counted(count, 'sample')}: "
                f"{type(error).__name__}: {error}"
            ) from error

    def _kept(self) -> Iterator[Sample]:
        # The file is this object's own: nobody else wrote to it.
        self._spool.seek(0)
        while True:
            try:
                yield pickle.load(self._spool)
            except EOFError:
                return


def open_data(
    source: Any,
    inputs: Sequence[InputRange],
    *,
    count: int | None = None,
    what: str = "the calibration data",
) -> CalibrationData:
    """Calibration data of any of the known forms.

    Args:
        source: Path of an ``.npz`` file with arrays by input name; of a folder of ``.npz`` files,
            or of ``.npy`` files for a model of one input, read in the order of their names;
            ``script.py:function``, whose result is any of the other forms; an iterable of samples
            (dicts by input name, tuples in the order of the inputs, or arrays), as a torch
            DataLoader is one; an array or a dict of arrays that hold all samples; or an onnxruntime
            ``CalibrationDataReader``.
        inputs: The model's inputs (:func:`burnish.check.inputs.input_ranges`).
        count: Samples to take; None for all there are.
        what: How messages call what is no path.

    Raises:
        UsageError: It is none of them.
        InputFileError: A file is missing or damaged.
    """
    if isinstance(source, (str, os.PathLike)):
        return _from_path(os.fspath(source), inputs, count)
    if callable(getattr(source, "get_next", None)):
        return CalibrationData(
            lambda: _numbered(iter(source.get_next, None)),
            inputs,
            count=count,
            once=True,
            what=what,
        )
    if isinstance(source, (Mapping, np.ndarray)):
        return CalibrationData(lambda: [(what, source)], inputs, count=count, what=what)
    if not isinstance(source, Iterable):
        raise UsageError(
            f"no calibration data: {type(source).__name__}", at=what, hint=f"it may be {_FORMS}"
        )
    once = iter(source) is source
    return CalibrationData(lambda: _numbered(source), inputs, count=count, once=once, what=what)


def _numbered(items: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    for index, item in enumerate(items):
        yield f"sample {index}", item


def _from_path(source: str, inputs: Sequence[InputRange], count: int | None) -> CalibrationData:
    script, colon, function = source.rpartition(":")
    if colon and script.endswith(".py"):
        return open_data(_call(script, function), inputs, count=count, what=source)
    path = Path(source)
    if path.is_dir():
        names = sorted(p for p in path.iterdir() if p.suffix in (".npz", ".npy"))
        if not names:
            raise InputFileError("the folder holds no .npz or .npy files", at=source)
        return CalibrationData(lambda: map(_load, names), inputs, count=count, what=source)
    if not path.is_file():
        raise InputFileError("no such calibration data", at=source, hint=f"it may be {_FORMS}")
    if path.suffix == ".py":
        raise UsageError(
            "a script without its function", at=source, hint=f"write {source}:function"
        )
    return CalibrationData(lambda: [_load(path)], inputs, count=count, what=source)


def _load(path: Path) -> tuple[str, Any]:
    try:
        with path.open("rb") as file:
            if not file.read(8).startswith(_MAGIC):
                raise InputFileError("neither an .npz nor an .npy file", at=str(path), hint=_WRITE)
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.lib.npyio.NpzFile):
            with found:
                return str(path), {name: found[name] for name in found.files}
        return str(path), found
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise InputFileError(
            f"the calibration data cannot be read: {error}",
            at=str(path),
            hint=_WRITE,
        ) from error


def _call(script: str, function: str) -> Any:
    """What a function of a script returns."""
    found = load_function(script, function)
    with running(script, function):
        return found()
