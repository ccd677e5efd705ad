"""The timing cache: what the tactics of composites were measured to take, as one JSON file.

It may be checked in beside a model: times are entries by what they depend on (CPU model, threads,
versions), and equal files make equal builds.
"""

from __future__ import annotations

import errno
import json
import math
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from burnish.artifact.cpu import cpu_model
from burnish.cache import locked, stable_digest
from burnish.cache.toolchain import sources_digest
from burnish.errors import InputFileError

SCHEMA_VERSION = 1

#: Packages whose kernels or code generator are measured.
_PACKAGES = ("apache-tvm", "onednn-cpu-gomp")
#: Where the kernels come from.
_SOURCES = ("burnish.backends", "burnish.lowering")


@dataclass(frozen=True)
class Entry:
    """What is known of one problem.

    Attributes:
        chosen: The tactic to take.
        microseconds: Least time of a call by tactic.
        unmeasured: Tactics that the time did not suffice for.
        sizes: Shapes of the model's inputs that it was measured with, if that is not a part of the
            problem; see :func:`burnish.tuning.session.sizes_of`.
    """

    chosen: str
    microseconds: Mapping[str, float]
    unmeasured: tuple[str, ...] = ()
    sizes: str = ""

    def best(self, names: Sequence[str]) -> str | None:
        """The tactic to take of those that a node may have.

        The entry may speak of more: options exclude tactics.

        Returns:
            The tactic; None if the entry says nothing of one of them, or measured none.
        """
        known = {*self.microseconds, *self.unmeasured}
        if not known.issuperset(names):
            return None
        if self.chosen in names:
            return self.chosen
        measured = [n for n in names if n in self.microseconds]
        return min(measured, key=self.microseconds.__getitem__) if measured else None

    def merged(self, newer: Entry) -> Entry:
        """With what another tuning measured later."""
        times = {**self.microseconds, **newer.microseconds}
        left = {*self.unmeasured, *newer.unmeasured} - times.keys()
        return Entry(newer.chosen, times, tuple(sorted(left)), newer.sizes)


#: Entries by environment and problem.
_Entries = dict[str, dict[str, Entry]]


class TimingCache:
    """The entries of one environment in a file of timings.

    Args:
        path: The file; it need not exist.
        where: What the times depend on besides the problem: see :func:`environment`.

    Attributes:
        entries: By problem; :meth:`merge` adds to them.
        damage: Why the file that is there cannot be used; empty if it can. What is measured next
            replaces it.
        others: Other environments that the file has entries of.

    Raises:
        InputFileError: The file cannot be read.
    """

    def __init__(self, path: Path, where: str) -> None:
        self.path = path
        self.where = where
        found, self.damage = _read(path)
        self.entries: dict[str, Entry] = found.pop(where, {})
        self.others = tuple(found)

    def check_writable(self) -> None:
        """See before minutes are spent whether :meth:`merge` can write the file.

        Raises:
            InputFileError: It cannot.
        """
        with self._writing():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if not os.access(self.path.parent, os.W_OK | os.X_OK):
                raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    def merge(self, entries: Mapping[str, Entry]) -> None:
        """Add entries, and write the file; what others wrote meanwhile stays in it.

        Raises:
            InputFileError: The file cannot be written.
        """
        with self._writing():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with locked(self.path):
                everything, _ = _read(self.path)
                own = everything.setdefault(self.where, {})
                for key, entry in entries.items():
                    own[key] = own[key].merged(entry) if _same(own.get(key), entry) else entry
                _write(self.path, everything)
        self.entries = own

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputFileError(
                f"the timing cache cannot be written: {error.strerror or error}",
                at=str(self.path),
                hint="name another folder with --cache-dir",
            ) from None


def _same(old: Entry | None, new: Entry) -> bool:
    """Whether two entries speak of the same kernels: options exclude some."""
    if old is None or old.sizes != new.sizes:
        return False
    before, after = ({*e.microseconds, *e.unmeasured} for e in (old, new))
    return before <= after or after <= before


def environment(threads: int) -> str:
    """What measured times depend on besides the problem, as one line.

    Args:
        threads: Threads of a call.
    """
    kernels = stable_digest([sources_digest(name) for name in _SOURCES])[:16]
    versions = ", ".join(f"{name} {_version(name)}" for name in _PACKAGES)
    return f"{cpu_model()}, threads {threads}, kernels {kernels}, {versions}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _read(path: Path) -> tuple[_Entries, str]:
    """Everything in a file, and why nothing was read if it is damaged."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}, ""
    except OSError as error:
        raise InputFileError(
            f"the timing cache cannot be read: {error.strerror}", at=str(path)
        ) from None
    except UnicodeDecodeError:
        return {}, "it is no text"
    try:
        data = json.loads(text)
        if data["schema_version"] != SCHEMA_VERSION:
            return {}, f"its schema version is {data['schema_version']}, not {SCHEMA_VERSION}"
        return {
            str(where): {str(key): _entry(value) for key, value in problems.items()}
            for where, problems in data["environments"].items()
        }, ""
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return {}, f"{type(error).__name__}: {error}"


def _entry(value: Any) -> Entry:
    times = {str(name): float(time) for name, time in value["microseconds"].items()}
    if not all(math.isfinite(time) and time > 0 for time in times.values()):
        raise ValueError("a time that is no positive number")
    if value["chosen"] not in times:
        raise ValueError(f"{value['chosen']!r} was chosen and not measured")
    left = value["unmeasured"]
    if not isinstance(left, list) or not all(isinstance(name, str) for name in left):
        raise ValueError("unmeasured is no list of names")
    return Entry(value["chosen"], times, tuple(left), str(value["sizes"]))


def _write(path: Path, everything: _Entries) -> None:
    data = {
        "schema_version": SCHEMA_VERSION,
        "environments": {
            where: {
                key: {
                    "chosen": entry.chosen,
                    "microseconds": dict(sorted(entry.microseconds.items())),
                    "sizes": entry.sizes,
                    "unmeasured": sorted(entry.unmeasured),
                }
                for key, entry in sorted(problems.items())
            }
            for where, problems in sorted(everything.items())
        },
    }
    partial = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        partial.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
