"""Whole artifacts, by the model's content and all that decides what is built of it."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from burnish.artifact import (
    LIBRARY_NAME,
    MANIFEST_NAME,
    WEIGHTS_NAME,
    ArtifactWriter,
    Manifest,
    check_files,
)
from burnish.artifact.cpu import cpu_model
from burnish.artifact.writer import copy_file
from burnish.cache.digest import content_digest, stable_digest
from burnish.cache.store import ARTIFACTS, RECORDS, Store, seal, unseal
from burnish.errors import ArtifactError

_REPORT = "report"
_FILES = (LIBRARY_NAME, WEIGHTS_NAME, MANIFEST_NAME)


class ArtifactCache:
    """The place of one model's artifact in a cache.

    Make it before the model is read: what is changed later than that is not kept.

    Args:
        store: The folder.
        model: Path of the model file, or the model's bytes.
        ingredients: Gives all else that decides what is built, of which
            :func:`burnish.cache.digest.stable_digest` is taken. It is called twice: before the
            compilation, and when the artifact is kept.

    Raises:
        TypeError: The ingredients have no digest.
        OSError: The model cannot be read.
    """

    def __init__(self, store: Store, model: str | bytes, ingredients: Callable[[], Any]) -> None:
        self.store = store
        self.model = model
        self._started = time.time_ns()
        self._gather = ingredients
        self._ingredients = stable_digest(ingredients())
        if isinstance(model, bytes):
            self._before: tuple[int, ...] = ()
            self._content = hashlib.sha256(model).hexdigest()
        else:
            self._before = _signature(Path(model))
            self._content = content_digest(Path(model))

    def fetch(self, output: str | os.PathLike[str], *, overwrite: bool) -> dict[str, Any] | None:
        """Write the artifact to ``output``, if it is there and whole.

        Nothing is flushed to the disk: what a power failure destroys is found when it is loaded,
        and is still here.

        Returns:
            The report that was kept with it, or None.

        Raises:
            InputFileError: ``output`` cannot be written.
        """
        names = self._data_files()
        key = self._key(names) if names is not None else None
        if key is None:
            return None
        place = self.store.place(ARTIFACTS, key)
        try:
            with _opened(place) as (files, sealed):
                report = _opened_report(files, sealed)
                with ArtifactWriter(output, overwrite=overwrite) as writer:
                    writer.copy(files)
                    check_files(_manifest(writer.folder), writer.folder)
                    writer.settle(flush=False)
        except FileNotFoundError:
            if place.exists():
                self.store.drop(place, "a file is missing")
            return None
        except (ArtifactError, ValueError, KeyError) as error:
            why = error.message if isinstance(error, ArtifactError) else str(error)
            self.store.drop(place, why)
            return None
        except OSError as error:
            self.store.note(f"the compile cache cannot be read: {error.strerror}: {place}")
            return None
        self.store.touch(place)
        return report

    def keep(self, artifact: Path, report: Mapping[str, Any], data_files: Sequence[str]) -> None:
        """Keep the artifact of a compilation, with its report.

        Args:
            artifact: Its folder.
            report: Plain data.
            data_files: Names of the files, relative to the model's, that hold its external data.
        """
        if not self._unchanged(data_files):
            self.store.note("the model changed while it was compiled: the artifact was not cached")
            return
        if stable_digest(self._gather()) != self._ingredients:
            self.store.note("burnish or its tools changed meanwhile: the artifact was not cached")
            return
        key = self._key(data_files)
        if key is None:
            return
        if self.store.place(ARTIFACTS, key).exists():
            return
        if data_files or not self.store.read(RECORDS, self._record):
            self.store.write(RECORDS, self._record, json.dumps(list(data_files)).encode())
        with self.store.writing(ARTIFACTS, key) as partial:
            size = sum((artifact / name).stat().st_size for name in _FILES)
            if size > self.store.limit:
                raise OSError(errno.EFBIG, "the artifact is larger than the cache may be")
            partial.mkdir()
            for name in _FILES:
                with open(artifact / name, "rb") as source:
                    copy_file(source, partial / name)
            digest = hashlib.sha256((partial / MANIFEST_NAME).read_bytes()).hexdigest()
            content = json.dumps({"manifest": digest, "report": dict(report)})
            (partial / _REPORT).write_bytes(seal(content.encode()))

    @property
    def _record(self) -> str:
        return stable_digest(["data files", self._content])

    def _data_files(self) -> list[str] | None:
        """Names of the model's external data, without parsing it; None if it was never compiled."""
        if isinstance(self.model, bytes):
            return []
        record = self.store.read(RECORDS, self._record)
        return None if record is None else [str(name) for name in json.loads(record)]

    def _key(self, data_files: Sequence[str]) -> str | None:
        """The digest of everything; None where a file is missing."""
        contents = [self._content]
        try:
            contents.extend(content_digest(self._folder / name) for name in data_files)
            # The tuner's measurements on a kind of CPU decide between tactics, and it adds to them.
            timing = self.store.timing_path
            measured = [content_digest(timing), cpu_model()] if timing.exists() else []
        except OSError:
            return None
        return stable_digest([contents, list(data_files), self._ingredients, measured])

    @property
    def _folder(self) -> Path:
        assert isinstance(self.model, str)
        return Path(self.model).parent

    def _unchanged(self, data_files: Sequence[str]) -> bool:
        if isinstance(self.model, bytes):
            return True
        try:
            if _signature(Path(self.model)) != self._before:
                return False
            # Which files there are was not known before, but when they were changed.
            return all(
                max(_signature(self._folder / name)[-2:]) <= self._started for name in data_files
            )
        except OSError:
            return False


def _signature(path: Path) -> tuple[int, ...]:
    status = path.stat()
    return (
        *(status.st_dev, status.st_ino, status.st_size),
        *(status.st_mtime_ns, status.st_ctime_ns),
    )


@contextlib.contextmanager
def _opened(place: Path) -> Iterator[tuple[dict[str, BinaryIO], bytes]]:
    """The files of an entry: once they are open, it may be removed by others."""
    with contextlib.ExitStack() as stack:
        files: dict[str, BinaryIO] = {
            name: stack.enter_context(open(place / name, "rb")) for name in _FILES
        }
        yield files, (place / _REPORT).read_bytes()


def _opened_report(files: Mapping[str, BinaryIO], sealed: bytes) -> dict[str, Any]:
    """The report of an entry; raises ValueError or KeyError if it or the manifest is damaged."""
    content = json.loads(unseal(sealed))
    manifest = files[MANIFEST_NAME].read()
    if hashlib.sha256(manifest).hexdigest() != content["manifest"]:
        raise ValueError("the manifest does not match its digest")
    report: dict[str, Any] = content["report"]
    return report


def _manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST_NAME
    return Manifest.from_json(path.read_text(encoding="utf-8"), at=str(path))
