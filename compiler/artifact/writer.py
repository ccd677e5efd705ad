"""Writing an artifact: all of it or nothing.

Everything goes into a folder with a temporary name beside the destination, is flushed to the disk
and appears under its name by one rename. Whatever fails before that, and Ctrl-C, removes it.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType

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
            self._settle()
        return manifest

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

    def _settle(self) -> None:
        """Flush the folder and rename it."""
        mask = os.umask(0)
        os.umask(mask)
        for name, mode in ((LIBRARY_NAME, 0o777), (WEIGHTS_NAME, 0o666), (MANIFEST_NAME, 0o666)):
            os.chmod(self.folder / name, mode & ~mask)
            _flush(self.folder / name)
        os.chmod(self.folder, 0o777 & ~mask)
        _flush(self.folder)
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
        _flush(self.path.parent)
        if replaced is not None:
            shutil.rmtree(replaced, ignore_errors=True)


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
    with ArtifactWriter(path, overwrite=overwrite) as writer:
        with reporting_os_errors(writer.path):
            for name in (LIBRARY_NAME, WEIGHTS_NAME, MANIFEST_NAME):
                shutil.copyfile(source / name, writer.folder / name)
            writer._settle()
        return writer.path
