"""Digests: equal for equal values in every process, different for all others."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from burnish.cache import digest, stable_digest, toolchain, toolchain_digest
from burnish.cache.digest import content_digest


@dataclass(frozen=True)
class Pair:
    a: Any
    b: Any


DIFFERENT = [
    *(None, True, 1, 1.0, "1", b"1", "", (), {}, [[]], ["a", "b"], ["ab"], ["b", "a"]),
    *({"a": 1}, {"a": 2}, {"a": {"b": 1}}, {"a": 1, "b": None}, Pair(1, 2), Pair(2, 1)),
    *(np.arange(4), np.arange(4.0), np.arange(4).reshape(2, 2), np.array(["a"], object)),
    *(Path("a"), {"a"}, {"b"}, len, stable_digest, Pair),
]


def test_different_values_have_different_digests() -> None:
    assert len({stable_digest(value) for value in DIFFERENT}) == len(DIFFERENT)


def test_equal_values_have_equal_digests() -> None:
    assert stable_digest({"a": 1, "b": (2, 3)}) == stable_digest({"b": [2, 3], "a": 1})
    assert stable_digest({"x", "y", "z"}) == stable_digest({"z", "y", "x"})
    array = np.arange(6.0).reshape(2, 3)
    assert stable_digest(array.T) == stable_digest(np.ascontiguousarray(array.T))


def test_other_values_are_refused() -> None:
    with pytest.raises(TypeError, match="object has no digest"):
        stable_digest({"a": [object()]})


def test_digests_do_not_depend_on_the_process() -> None:
    code = "from burnish.cache import stable_digest as d; print(d([{'a', 'b', 'c'}, {'x': 1.5}]))"
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == stable_digest([{"a", "b", "c"}, {"x": 1.5}])


def test_every_byte_of_a_file_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digest, "_PIECE", 100)
    path, content = tmp_path / "file", bytes(range(250)) + b"x"
    found = set()
    for size in (0, 1, 99, 100, 101, 200, 251):
        path.write_bytes(content[:size])
        found.add(content_digest(path))
    for position in (0, 99, 100, 250):
        changed = bytearray(content)
        changed[position] ^= 1
        path.write_bytes(changed)
        found.add(content_digest(path))
    assert len(found) == 11


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package whose sources may be edited."""
    folder = tmp_path / "edited"
    (folder / "inner").mkdir(parents=True)
    for path in (folder / "__init__.py", folder / "inner/module.py"):
        path.write_text("a = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    return folder


def digest_of(package: Path, programs: tuple[str, ...] = ()) -> str:
    return toolchain_digest(programs, [package.name])


def test_an_edit_of_the_sources_counts(package: Path) -> None:
    before = digest_of(package)
    assert digest_of(package) == before
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "module.py").write_text("b = 1\n")
    assert digest_of(package) == before
    (package / "inner/module.py").write_text("a = 2\n")
    edited = digest_of(package)
    assert edited != before
    (package / "inner/module.py").rename(package / "inner/other.py")
    assert digest_of(package) not in (before, edited)


def test_a_link_to_a_folder_above_ends(package: Path) -> None:
    (package / "inner/loop").symlink_to(package)
    assert digest_of(package)


def test_burnish_itself_counts(package: Path) -> None:
    names = {
        name
        for root in ("burnish", "burnish.passes", "burnish.backends")
        for folder in toolchain.importlib.util.find_spec(root).submodule_search_locations  # type: ignore[union-attr]
        for name, _ in toolchain._files(folder)
    }
    assert {"driver.py", "lowering/module.py", "cpu/tir.py", "pipelines.py"} <= names


def test_programs_versions_and_the_environment_count(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "linker"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    found = [digest_of(package), digest_of(package, (str(program),))]
    program.write_text("#!/bin/sh\nexit 1\n")
    found.append(digest_of(package, (str(program),)))
    with monkeypatch.context() as patch:
        patch.setattr(toolchain, "version", lambda name: "9.9")
        found.append(digest_of(package))
    monkeypatch.setenv("BURNISH_CACHE_SIZE", "1GB")
    assert digest_of(package) == found[0]
    monkeypatch.setenv("BURNISH_BACKENDS", "a:B")
    found.append(digest_of(package))
    assert len(set(found)) == len(found)
