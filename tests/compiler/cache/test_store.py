"""The folder of the cache: sealed entries, damage, full and read-only disks, eviction."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NoReturn

import pytest

from burnish.cache.store import (
    ARTIFACTS,
    KERNELS,
    RECORDS,
    SIZE_VARIABLE,
    Store,
    locked,
    parse_size,
)
from burnish.errors import InputFileError, UsageError


def key(number: int) -> str:
    return f"{number:064x}"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "cache")


def test_what_is_written_is_read(store: Store) -> None:
    assert store.read(KERNELS, key(1)) is None
    assert store.write(KERNELS, key(1), b"code")
    assert store.read(KERNELS, key(1)) == b"code"
    assert store.read(RECORDS, key(1)) is None
    assert Store.open(store.path).read(KERNELS, key(1)) == b"code"
    assert store.notes == ()


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    path.write_bytes(
        {
            "flipped": content[:-1] + bytes([content[-1] ^ 1]),
            "truncated": content[:-1],
            "empty": b"",
            "header": bytes([content[0] ^ 1]) + content[1:],
        }[how]
    )


@pytest.mark.parametrize("how", ["flipped", "truncated", "empty", "header"])
def test_a_damaged_entry_is_dropped_and_named(store: Store, how: str) -> None:
    store.write(KERNELS, key(1), b"code")
    place = store.place(KERNELS, key(1))
    damage(place, how)
    assert store.read(KERNELS, key(1)) is None
    assert not place.exists()
    (note,) = store.notes
    assert "damaged" in note
    assert str(place) in note
    assert store.write(KERNELS, key(1), b"code")
    assert store.read(KERNELS, key(1)) == b"code"


def test_nothing_is_left_of_a_writer_that_fails(store: Store) -> None:
    def fail() -> None:
        with store.writing(KERNELS, key(1)) as partial:
            partial.write_bytes(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert store.entries() == []
    assert list((store.path / "partial").iterdir()) == []


def test_a_killed_writer_leaves_no_entry(store: Store) -> None:
    code = f"""
import os, signal
from burnish.cache.store import KERNELS, Store
store = Store.open({str(store.path)!r})
with store.writing(KERNELS, {key(1)!r}) as partial:
    partial.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert store.entries() == []
    (left,) = (store.path / "partial").iterdir()
    # It is removed once it is old, with the next thing that is added.
    store.write(KERNELS, key(2), b"code")
    store.trim()
    assert left.exists()
    os.utime(left, (time.time() - 7200,) * 2)
    store.trim()
    assert not left.exists()
    assert store.read(KERNELS, key(2)) == b"code"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_takes_nothing_is_a_note(
    store: Store, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    store.write(KERNELS, key(1), b"code")

    def refuse(self: Path, data: bytes) -> NoReturn:
        raise OSError(code, os.strerror(code), str(self))

    monkeypatch.setattr(Path, "write_bytes", refuse)
    for number in (2, 3):
        assert not store.write(KERNELS, key(number), b"more")
    (note,) = store.notes
    assert ("read-only" if code == errno.EROFS else "No space left") in note
    assert store.read(KERNELS, key(1)) == b"code"


def test_the_least_recently_used_go_first(store: Store) -> None:
    for number in range(6):
        store.write(KERNELS, key(number), bytes(1000 - 32))
        os.utime(store.place(KERNELS, key(number)), (number + 1000,) * 2)
    store.read(KERNELS, key(0))
    limited = Store(store.path, 3500)
    assert limited.trim() == 0  # it has added nothing
    limited.write(KERNELS, key(9), bytes(1000 - 32))
    assert limited.trim() == 4
    left = {entry.path.name for entry in limited.entries()}
    assert left == {key(0), key(5), key(9)}
    assert sum(entry.size for entry in limited.entries()) == 3000


def test_folders_count_and_go_as_one(store: Store) -> None:
    with store.writing(ARTIFACTS, key(1)) as partial:
        partial.mkdir()
        for name in ("a", "b"):
            (partial / name).write_bytes(bytes(700))
    (entry,) = store.entries()
    assert entry.size == 1400
    limited = Store(store.path, 1400)
    limited.write(KERNELS, key(2), b"x")
    assert limited.trim() == 1
    assert not entry.path.exists()


def test_what_others_put_there_is_left_alone(store: Store) -> None:
    for path in (store.path / "kernels/aa/notes.txt", store.timing_path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(5000))
    limited = Store(store.path, 0)
    limited.write(KERNELS, key(2), b"x")
    assert limited.trim() == 1
    assert (store.path / "kernels/aa/notes.txt").exists()
    assert store.timing_path.exists()


def test_two_writers_of_one_folder(store: Store) -> None:
    with store.writing(ARTIFACTS, key(1)) as first, store.writing(ARTIFACTS, key(1)) as second:
        for partial, content in ((first, b"first"), (second, b"second")):
            partial.mkdir()
            (partial / "file").write_bytes(content)
    assert (store.place(ARTIFACTS, key(1)) / "file").read_bytes() == b"second"
    assert store.notes == ()
    assert list((store.path / "partial").iterdir()) == []


def test_many_threads(store: Store) -> None:
    def work(offset: int) -> None:
        for number in range(40):
            store.write(KERNELS, key(number), b"%d" % number)
            assert store.read(KERNELS, key((number + offset) % 40)) in (
                None,
                b"%d" % ((number + offset) % 40),
            )

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.entries()) == 40
    assert store.notes == ()


@pytest.mark.parametrize("path", ["file", "file/below"])
def test_a_file_is_no_cache(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputFileError, match="not a folder") as caught:
        Store.open(tmp_path / path)
    assert caught.value.exit_code == 2
    assert caught.value.hint is not None
    assert "--cache-dir" in caught.value.hint


def test_a_folder_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> NoReturn:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(InputFileError, match="Permission denied"):
        Store.open(tmp_path / "new")


def test_sizes() -> None:
    assert parse_size("123") == 123
    assert parse_size("2 KiB") == 2048
    assert parse_size("1.5m") == 3 << 19
    assert parse_size("10GiB") == 10 << 30
    for wrong in ("", "ten", "1.2.3G", "-1", "5 XB"):
        with pytest.raises(UsageError, match=SIZE_VARIABLE):
            parse_size(wrong)


def test_the_size_is_the_environments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Store.open(tmp_path).limit == 10 << 30
    monkeypatch.setenv(SIZE_VARIABLE, "1MB")
    assert Store.open(tmp_path).limit == 1 << 20


def test_lock(tmp_path: Path) -> None:
    path = tmp_path / "counter"
    path.write_text("0")

    def count() -> None:
        for _ in range(50):
            with locked(path):
                path.write_text(str(int(path.read_text()) + 1))

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_text() == "200"
