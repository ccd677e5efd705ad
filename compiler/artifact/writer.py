"""Writing an artifact: all of it or nothing.

Everything goes into a folder with a temporary name beside the destination, is flushed to the disk
and appears under its name by one rename. Whatever fails before that, and Ctrl-C, removes it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from burnish.artifact.manifest import (
    LIBRARY_NAME,
    MANIFEST_NAME,
    WEIGHTS_NAME,
    FileInfo,
    Manifest,
)
from burnish.artifact.weights import Weight, file_digest, write_weights
from burnish.errors import InputFileError
from burnish.worker import remove_if_killed

_HINTS = {
    errno.ENOSPC: "free some space, or write to another disk",
    errno.EDQUOT: "free some of your quota, or write to another disk",
    errno.EACCES: "choose a folder that you may write to",
    errno.EPERM: "choose a folder that you may write to",
    errno.EROFS: "choose a folder that is not mounted read-only",
    errno.ENOENT: "create the folder first",
    errno.ENOTDIR: "a part of the path is a file",
    errno.ENAMETOOLONG: "choose a shorter name",
}

_NO_COPY_RANGE = frozenset(
    {errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EBADF, errno.EPERM}
)


@contextmanager
def reporting_os_errors(path: Path) -> Iterator[None]:
    """Turn an OSError into an InputFileError about the output ``path``."""
    try:
        yield
    except OSError as error:
        code = error.errno or 0
        raise InputFileError(
            f"cannot write the artifact: {os.strerror(code) if code else error}",
            at=str(path),
            hint=_HINTS.get(code),
        ) from error


def check_destination(path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Check early that an artifact can be written to ``path``, before minutes are spent on it.

    Returns:
        The path, absolute.

    Raises:
        InputFileError: It exists and ``overwrite`` is false, it exists and is no artifact, or its
            folder is missing or not writable.
    """
    final = Path(os.path.abspath(path))
    if os.path.lexists(final):
        if not (final.is_dir() and (final / MANIFEST_NAME).is_file()):
            raise InputFileError(
                "the output path exists and is not an artifact",
                at=str(final),
                hint="choose another path",
            )
        if not overwrite:
            raise InputFileError(
                "the output path exists",
                at=str(final),
                hint="choose another path, remove it, or allow overwriting (--overwrite)",
            )
    with reporting_os_errors(final):
        if not final.parent.is_dir():
            code = errno.ENOTDIR if final.parent.exists() else errno.ENOENT
            raise OSError(code, os.strerror(code), str(final.parent))
        if not os.access(final.parent, os.W_OK | os.X_OK):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(final.parent))
    return final


class ArtifactWriter:
    """A context in which an artifact is put together.

    Link the model library to :attr:`library_path`, call :meth:`write_weights`, then :meth:`finish`.
    Leaving the context without that removes everything.

    Args:
        path: The artifact's folder, by convention ``NAME.burnish``.
        overwrite: Replace an artifact that is there already.

    Raises:
        InputFileError: See :func:`check_destination`; in :meth:`write_weights` and :meth:`finish`
            also for a full disk.
    """

    def __init__(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        self.path = check_destination(path, overwrite=overwrite)
        self._overwrite = overwrite
        self._folder: Path | None = None
        self._weights: FileInfo | None = None
        self._library: FileInfo | None = None
        self._flushing: _Flush | None = None

    def __enter__(self) -> ArtifactWriter:
        with reporting_os_errors(self.path):
            # Announced before it is there: Ctrl-C may come between the two.
            folder = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}.tmp")
            remove_if_killed(folder)
            folder.mkdir(mode=0o700)
        self._folder = folder
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def folder(self) -> Path:
        """The temporary folder."""
        if self._folder is None:
            raise RuntimeError("the artifact writer is not in its context")
        return self._folder

    @property
    def library_path(self) -> Path:
        """Where the model library has to be put."""
        return self.folder / LIBRARY_NAME

    def write_weights(self, weights: Sequence[Weight]) -> None:
        """Write the weights; each one's data is made when it is its turn and dropped after."""
        with reporting_os_errors(self.path):
            self._weights = write_weights(self.folder / WEIGHTS_NAME, weights)
        # It takes as long as the disk does, while the artifact is checked.
        self._flushing = _Flush(self.folder / WEIGHTS_NAME)
        self._flushing.start()

    def preview(self, manifest: Manifest) -> Path:
        """Write the manifest without giving the artifact its name, so that it can be loaded.

        Args:
            manifest: All but ``files``.

        Returns:
            The temporary folder.
        """
        with reporting_os_errors(self.path):
            self._write_manifest(manifest)
        return self.folder

    def finish(self, manifest: Manifest) -> Manifest:
        """Write the manifest and give the artifact its name.

        Args:
            manifest: All but ``files``.

        Returns:
            The manifest as written.
        """
        with reporting_os_errors(self.path):
            manifest = self._write_manifest(manifest)
            self.settle()
        return manifest

    def copy(self, files: Mapping[str, BinaryIO]) -> None:
        """Copy the files of another artifact, open for reading, by name; then :meth:`settle`."""
        with reporting_os_errors(self.path):
            for name, source in files.items():
                copy_file(source, self.folder / name)

    def _write_manifest(self, manifest: Manifest) -> Manifest:
        if self._weights is None or not self.library_path.is_file():
            raise RuntimeError("the artifact has no library or no weights")
        if self._library is None:
            size = self.library_path.stat().st_size
            self._library = FileInfo(size, file_digest(self.library_path))
        files = {LIBRARY_NAME: self._library, WEIGHTS_NAME: self._weights}
        manifest = replace(manifest, files=files)
        (self.folder / MANIFEST_NAME).write_text(manifest.to_json(), encoding="utf-8")
        return manifest

    def settle(self, *, flush: bool = True) -> None:
        """Give a complete artifact its name.

        Args:
            flush: Have it on the disk first.
        """
        with reporting_os_errors(self.path):
            mask = os.umask(0)
            os.umask(mask)
            if self._flushing is not None:
                self._flushing.wait()
            modes = {LIBRARY_NAME: 0o777, WEIGHTS_NAME: 0o666, MANIFEST_NAME: 0o666}
            for name, mode in modes.items():
                os.chmod(self.folder / name, mode & ~mask)
                if flush:
                    _flush(self.folder / name)
            os.chmod(self.folder, 0o777 & ~mask)
            if flush:
                _flush(self.folder)
            self._rename()
            if flush:
                _flush(self.path.parent)

    def _rename(self) -> None:
        replaced = None
        if self._overwrite and os.path.lexists(self.path):
            replaced = self.folder.with_suffix(".old")
            os.rename(self.path, replaced)
        try:
            os.rename(self.folder, self.path)
        except OSError:
            if replaced is not None:
                os.rename(replaced, self.path)
            raise
        self._folder = None
        if replaced is not None:
            shutil.rmtree(replaced, ignore_errors=True)


class _Flush(threading.Thread):
    """Flushes a file to the disk, aside. A failure is told once, to whoever flushed."""

    def __init__(self, path: Path) -> None:
        super().__init__(name="burnish-flush", daemon=True)
        self.path = path
        self.error: OSError | None = None

    def run(self) -> None:
        try:
            _flush(self.path)
        except OSError as error:
            self.error = error

    def wait(self) -> None:
        """Until it is there; raises OSError if it could not be written."""
        self.join()
        if self.error is not None:
            raise self.error


def _flush(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_artifact(
    path: str | os.PathLike[str],
    manifest: Manifest,
    library: Path,
    weights: Sequence[Weight],
    *,
    overwrite: bool = False,
) -> Manifest:
    """Write an artifact from its parts; ``library`` is copied. See :class:`ArtifactWriter`."""
    with ArtifactWriter(path, overwrite=overwrite) as writer:
        with reporting_os_errors(writer.path):
            shutil.copyfile(library, writer.library_path)
        writer.write_weights(weights)
        return writer.finish(manifest)


def copy_artifact(source: Path, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Copy the artifact in the folder ``source`` to ``path``, as atomically as it was written.

    Returns:
        The new artifact's path.
    """
    with ArtifactWriter(path, overwrite=overwrite) as writer, contextlib.ExitStack() as stack:
        with reporting_os_errors(writer.path):
            files = {
                name: stack.enter_context(open(source / name, "rb"))
                for name in (LIBRARY_NAME, WEIGHTS_NAME, MANIFEST_NAME)
            }
        writer.copy(files)
        writer.settle()
        return writer.path


def copy_file(source: BinaryIO, path: Path) -> None:
    """Copy an open file, within the kernel where it can: shared blocks on some file systems.

    Raises:
        OSError: It cannot be read or written.
    """
    with path.open("wb") as target:
        here, there = source.fileno(), target.fileno()
        size, done = os.fstat(here).st_size, 0
        try:
            while done < size:
                count = os.copy_file_range(here, there, size - done, done, done)
                if not count:
                    break
                done += count
        except OSError as error:
            # Some file systems, and older kernels between two of them, cannot do it.
            if done or error.errno not in _NO_COPY_RANGE:
                raise
            source.seek(0)
            shutil.copyfileobj(source, target, 1 << 20)
