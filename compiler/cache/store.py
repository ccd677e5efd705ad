"""The folder of the cache: sealed entries by digest, written all or nothing, bounded in size."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from burnish.errors import InputFileError, UsageError

#: Environment variable with the size that the folder may have.
SIZE_VARIABLE = "BURNISH_CACHE_SIZE"
DEFAULT_SIZE = 10 << 30

#: What the tuner has measured lies beside the entries, and is never removed with them.
TIMING_NAME = "timing.json"

#: Kinds of entries, each in a folder of its own.
KERNELS, ARTIFACTS, RECORDS = "kernels", "artifacts", "records"
KINDS = (KERNELS, ARTIFACTS, RECORDS)

_PARTIAL = "partial"
#: Seconds after which what an interrupted writer left is removed.
_ABANDONED = 3600.0
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_DIGEST = re.compile(r"[0-9a-f]{64}")
_READ_ONLY = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})
_HEADER = len(hashlib.sha256().digest())


def seal(data: bytes) -> bytes:
    """Bytes behind their SHA-256."""
    return hashlib.sha256(data).digest() + data


def unseal(content: bytes) -> bytes:
    """What :func:`seal` got; raises ValueError if it is not all there as it was."""
    data = content[_HEADER:]
    if hashlib.sha256(data).digest() != content[:_HEADER]:
        raise ValueError("its content does not match its digest")
    return data


@dataclass(frozen=True)
class Entry:
    """An entry as it lies in the folder: its path, its size, and the time of its last use."""

    path: Path
    size: int
    used: float


class Store:
    """A cache folder.

    Only :meth:`open` raises. Later, what cannot be written or is damaged becomes a line in
    :attr:`notes`, and the entry counts as missing. May be used by many threads and processes.

    Attributes:
        path: The folder.
        limit: Bytes that the entries may take together.
    """

    def __init__(self, path: Path, limit: int) -> None:
        self.path = path
        self.limit = limit
        self._notes: dict[str, None] = {}
        self._lock = threading.Lock()
        self._wrote = False

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Store:
        """Open a cache folder; it is made if it is missing.

        Raises:
            InputFileError: It is a file, or it cannot be made.
            UsageError: ``BURNISH_CACHE_SIZE`` is not a size.
        """
        folder = Path(os.path.abspath(path))
        limit = parse_size(os.environ.get(SIZE_VARIABLE, "") or str(DEFAULT_SIZE))
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise InputFileError(
                "the cache is a file, not a folder",
                at=str(folder),
                hint="name a folder with --cache-dir; it is made if it is missing",
            ) from None
        except OSError as error:
            raise InputFileError(
                f"the cache folder cannot be made: {error.strerror}",
                at=str(folder),
                hint="name another folder with --cache-dir",
            ) from None
        return cls(folder, limit)

    @property
    def notes(self) -> tuple[str, ...]:
        """What went wrong with the cache, for the report."""
        return tuple(self._notes)

    def note(self, text: str) -> None:
        """Add a line to :attr:`notes`, once."""
        with self._lock:
            self._notes[text] = None

    @property
    def timing_path(self) -> Path:
        """Where measured times of kernels lie."""
        return self.path / TIMING_NAME

    def place(self, kind: str, key: str) -> Path:
        """Where the entry of a digest lies, or would lie."""
        return self.path / kind / key[:2] / key

    def read(self, kind: str, key: str) -> bytes | None:
        """The bytes of an entry, or None if there is none that is whole."""
        path = self.place(kind, key)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            self.note(f"the compile cache cannot be read: {error.strerror}: {path}")
            return None
        try:
            data = unseal(content)
        except ValueError as error:
            self.drop(path, str(error))
            return None
        self.touch(path)
        return data

    def write(self, kind: str, key: str, data: bytes) -> bool:
        """Keep bytes under a digest; says whether they are there."""
        with self.writing(kind, key) as partial:
            partial.write_bytes(seal(data))
        return self.place(kind, key).exists()

    @contextlib.contextmanager
    def writing(self, kind: str, key: str) -> Iterator[Path]:
        """A path at which to make an entry, file or folder, that then gets its place by a rename.

        An OSError that leaves the block ends there: it is noted, and nothing is kept.
        """
        partial = self.path / _PARTIAL / f"{kind}-{key[:16]}.{os.getpid()}.{secrets.token_hex(4)}"
        place = self.place(kind, key)
        try:
            partial.parent.mkdir(exist_ok=True)
            yield partial
            place.parent.mkdir(parents=True, exist_ok=True)
            self._settle(partial, place)
            self._wrote = True
        except OSError as error:
            self._cannot_write(error)
        finally:
            _remove(partial)

    @staticmethod
    def _settle(partial: Path, place: Path) -> None:
        try:
            os.rename(partial, place)
        except OSError as error:
            # Another process made the same folder meanwhile.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise

    def _cannot_write(self, error: OSError) -> None:
        code = error.errno or 0
        if code in _READ_ONLY:
            self.note(f"the compile cache is read-only: nothing was added to {self.path}")
        else:
            why = error.strerror or str(error)
            self.note(f"the compile cache could not be written: {why}: {self.path}")

    def drop(self, path: Path, why: str) -> None:
        """Remove a damaged entry, and say so."""
        self.note(f"a damaged entry was removed from the compile cache: {why}: {path}")
        _remove(path)

    def touch(self, path: Path) -> None:
        """Note that an entry was used now."""
        with contextlib.suppress(OSError):
            os.utime(path)

    def entries(self) -> list[Entry]:
        """All entries, the one that was used longest ago first."""
        found = [entry for kind in KINDS for entry in _entries(self.path / kind)]
        return sorted(found, key=lambda entry: (entry.used, str(entry.path)))

    def trim(self) -> int:
        """Remove what was not used for longest until the rest fits; only after something was added.

        Returns:
            Number of entries that were removed.
        """
        if not self._wrote:
            return 0
        self._remove_abandoned()
        entries = self.entries()
        excess = sum(entry.size for entry in entries) - self.limit
        removed = 0
        for entry in entries:
            if excess <= 0:
                break
            # Renamed before it is emptied: no reader may find half of it.
            with contextlib.suppress(OSError):
                away = self.path / _PARTIAL / f"old-{secrets.token_hex(8)}"
                os.rename(entry.path, away)
                _remove(away)
                excess -= entry.size
                removed += 1
        return removed

    def _remove_abandoned(self) -> None:
        with contextlib.suppress(OSError):
            for path in (self.path / _PARTIAL).iterdir():
                if time.time() - path.stat().st_mtime > _ABANDONED:
                    _remove(path)


def _entries(folder: Path) -> Iterator[Entry]:
    # Entries come and go while this looks at them. What has another name is none of them.
    for parent in _scan(folder):
        for item in _scan(Path(parent.path)):
            if not _DIGEST.fullmatch(item.name):
                continue
            with contextlib.suppress(OSError):
                status = item.stat(follow_symlinks=False)
                size = status.st_size
                if item.is_dir(follow_symlinks=False):
                    size = sum(part.stat().st_size for part in _scan(Path(item.path)))
                yield Entry(Path(item.path), size, status.st_mtime)


def _scan(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return list(found)
    except OSError:
        return []


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def parse_size(text: str) -> int:
    """Bytes of ``10GiB``, ``500MB`` or ``123456``; units are powers of 1024.

    Raises:
        UsageError: It is not of that form.
    """
    match = re.fullmatch(r"([\d.]+)\s*([KMGT]?)(?:I?B)?", text.strip().upper())
    with contextlib.suppress(ValueError):
        if match is not None:
            return int(float(match[1]) * _UNITS[match[2]])
    raise UsageError(
        f"{SIZE_VARIABLE} is not a size: {text!r}", hint="write 10GiB, 500MB, or a number of bytes"
    )


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock beside a file that several processes read, change and write back.

    Raises:
        OSError: The lock's file cannot be made.
    """
    with open(f"{path}.lock", "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
