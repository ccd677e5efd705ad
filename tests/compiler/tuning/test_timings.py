"""The timing cache: round trips, damage, merging, and what it goes by."""

from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path

import pytest

from burnish.errors import InputFileError
from burnish.tuning import timings
from burnish.tuning.timings import Entry, TimingCache, environment

HERE, ELSEWHERE = "this CPU, threads 1", "another CPU, threads 1"
ENTRY = Entry("winograd", {"direct": 100.0, "winograd": 81.125}, ("blocked",))


def filled(path: Path, where: str = HERE, key: str = "conv a") -> Path:
    """A file with one entry."""
    TimingCache(path, where).merge({key: ENTRY})
    return path


def test_entries_survive_the_file(tmp_path: Path) -> None:
    path = filled(tmp_path / "new" / "timing.json")
    cache = TimingCache(path, HERE)
    assert cache.entries == {"conv a": ENTRY}
    assert not cache.damage
    assert [p.name for p in path.parent.iterdir() if not p.name.endswith(".lock")] == [path.name]


def test_equal_entries_make_equal_files(tmp_path: Path) -> None:
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    other = Entry("direct", {"direct": 1.5, "onednn": 2.0})
    TimingCache(first, HERE).merge({"conv b": other, "conv a": ENTRY})
    filled(second)
    TimingCache(second, HERE).merge({"conv b": other})
    assert first.read_bytes() == second.read_bytes()


def test_environments_do_not_mix(tmp_path: Path) -> None:
    path = filled(filled(tmp_path / "timing.json"), ELSEWHERE, "conv b")
    here, third = TimingCache(path, HERE), TimingCache(path, "a third CPU")
    assert list(here.entries) == ["conv a"]
    assert here.others == (ELSEWHERE,)
    assert not third.entries
    assert set(third.others) == {HERE, ELSEWHERE}


def test_threads_and_versions_are_a_part_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = environment(1)
    assert first == environment(1)
    assert timings.cpu_model() in first
    seen = {first, environment(2)}
    monkeypatch.setattr(timings, "version", lambda name: f"{name}-9.9")
    seen.add(environment(1))
    monkeypatch.setattr(timings, "sources_digest", lambda name: "other kernels")
    seen.add(environment(1))
    monkeypatch.setattr(timings, "cpu_model", lambda: "another CPU")
    seen.add(environment(1))
    assert len(seen) == 5


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "\0" * 100,
        lambda text: "[]",
        lambda text: text.replace("81.125", '"fast"'),
        lambda text: text.replace("81.125", "NaN"),
        lambda text: text.replace("81.125", "-1"),
        lambda text: text.replace('"chosen": "winograd"', '"chosen": "nothing"'),
        lambda text: text.replace('"chosen"', '"taken"'),
        lambda text: text.replace('"blocked"', "3"),
        lambda text: text.replace('"schema_version": 1', '"schema_version": 99'),
    ],
)
def test_a_damaged_file_counts_as_empty_and_is_replaced(tmp_path: Path, damage) -> None:  # type: ignore[no-untyped-def]
    path = filled(tmp_path / "timing.json")
    text = damage(path.read_text())
    assert text != path.read_text()
    path.write_text(text)
    cache = TimingCache(path, HERE)
    assert cache.damage
    assert not cache.entries
    cache.merge({"conv b": ENTRY})
    again = TimingCache(path, HERE)
    assert not again.damage
    assert list(again.entries) == ["conv b"]


def test_binary_garbage_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "timing.json"
    path.write_bytes(b"\xff\xfe\x80garbage")
    assert TimingCache(path, HERE).damage


def _merge(path: Path, number: int) -> None:
    TimingCache(path, HERE).merge({f"conv {number}": Entry("a", {"a": 1.0 + number})})


def test_concurrent_tunings_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "timing.json"
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_merge, args=(path, i)) for i in range(12)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    entries = TimingCache(path, HERE).entries
    assert {key: e.microseconds["a"] for key, e in entries.items()} == {
        f"conv {i}": 1.0 + i for i in range(12)
    }


def test_what_was_read_before_does_not_undo_what_others_wrote(tmp_path: Path) -> None:
    path = tmp_path / "timing.json"
    early = TimingCache(path, HERE)
    filled(path)
    early.merge({"conv b": ENTRY})
    assert set(early.entries) == {"conv a", "conv b"}
    assert set(TimingCache(path, HERE).entries) == {"conv a", "conv b"}


def test_later_measurements_of_the_same_tactics_complete_an_entry(tmp_path: Path) -> None:
    path = filled(tmp_path / "timing.json")
    newer = Entry("blocked", {"direct": 99.0, "winograd": 82.0, "blocked": 50.0})
    TimingCache(path, HERE).merge({"conv a": newer})
    assert TimingCache(path, HERE).entries["conv a"] == newer
    # Without oneDNN there is less to measure; its times stay.
    fewer = Entry("direct", {"direct": 90.0})
    TimingCache(path, HERE).merge({"conv a": fewer})
    found = TimingCache(path, HERE).entries["conv a"]
    assert found.microseconds == {"direct": 90.0, "winograd": 82.0, "blocked": 50.0}


def test_tactics_of_other_kernels_replace_an_entry(tmp_path: Path) -> None:
    path = filled(tmp_path / "timing.json")
    other = Entry("new", {"new": 3.0, "direct": 4.0})
    TimingCache(path, HERE).merge({"conv a": other})
    assert TimingCache(path, HERE).entries["conv a"] == other


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    with pytest.raises(InputFileError, match="timing cache cannot be") as found:
        TimingCache(blocked / "timing.json", HERE).merge({"conv a": ENTRY})
    assert str(blocked) in (found.value.at or "")


def test_a_folder_that_cannot_be_written_is_found_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = TimingCache(tmp_path / "new" / "timing.json", HERE)
    cache.check_writable()
    # The superuser may write anywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(InputFileError, match="Permission denied"):
        cache.check_writable()


@pytest.mark.parametrize(
    ("names", "taken"),
    [
        (("direct", "winograd", "blocked"), "winograd"),
        (("direct", "blocked"), "direct"),
        (("direct", "winograd", "unknown"), None),
        (("blocked",), None),
    ],
)
def test_an_entry_decides_among_tactics_that_it_knows(
    names: tuple[str, ...], taken: str | None
) -> None:
    assert ENTRY.best(names) == taken


def test_the_file_is_readable_by_people(tmp_path: Path) -> None:
    data = json.loads(filled(tmp_path / "timing.json").read_text())
    assert data["environments"][HERE]["conv a"] == {
        "chosen": "winograd",
        "microseconds": {"direct": 100.0, "winograd": 81.125},
        "sizes": "",
        "unmeasured": ["blocked"],
    }
