"""Whole artifacts in the cache: what hits, what misses, what is damaged, what is not kept."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

from burnish.artifact import Manifest, TargetInfo, TensorInfo, weight_from_array, write_artifact
from burnish.artifact.reader import check_files, read_manifest
from burnish.cache import ArtifactCache, Store
from burnish.cache.store import ARTIFACTS
from burnish.errors import InputFileError

NAMES = ("model.so", "weights.safetensors", "manifest.json")
REPORT = {"output": "elsewhere", "notes": ["a note"], "seconds": {"lower": 0.25}}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "cache")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact for a machine that is not this one, which a copy need not be."""
    folder = tmp_path_factory.mktemp("original")
    weights = [weight_from_array("w", np.arange(3000, dtype=np.float32).reshape(60, 50))]
    manifest = Manifest(
        model_name="m",
        model_sha256="ab" * 32,
        target=TargetInfo("other", "none", "vax", ("float",)),
        inputs=(TensorInfo("x", "float32", (60,)),),
        outputs=(TensorInfo("y", "float32", (50,)),),
        weights=(weights[0].info,),
        nodes=(),
    )
    library = folder / "library"
    library.write_bytes(bytes(range(256)) * 40)
    write_artifact(folder / "a.burnish", manifest, library, weights)
    return folder / "a.burnish"


@pytest.fixture
def artifact(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "a.burnish"))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"the model")
    (tmp_path / "model.data").write_bytes(b"its weights")
    return path


def cache(store: Store, model: Path | bytes, ingredients: Any = 1) -> ArtifactCache:
    return ArtifactCache(
        store, model if isinstance(model, bytes) else str(model), lambda: ingredients
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def keep(store: Store, model: Path | bytes, artifact: Path, *data_files: str) -> Path:
    kept = cache(store, model)
    kept.keep(artifact, REPORT, data_files)
    (place,) = (e.path for e in store.entries() if e.path.parent.parent.name == ARTIFACTS)
    return place


def test_a_copy_is_the_same(store: Store, model: Path, artifact: Path, tmp_path: Path) -> None:
    assert cache(store, model).fetch(tmp_path / "b", overwrite=False) is None
    keep(store, model, artifact)
    assert cache(store, model).fetch(tmp_path / "b", overwrite=False) == REPORT
    assert contents(tmp_path / "b") == contents(artifact)
    assert sorted(contents(artifact)) == sorted(NAMES)
    assert (tmp_path / "b/model.so").stat().st_mode & 0o111
    assert store.notes == ()


def test_no_edit_of_a_copy_reaches_the_cache(
    store: Store, model: Path, artifact: Path, tmp_path: Path
) -> None:
    keep(store, model, artifact)
    original = contents(artifact)
    for edited in (artifact, tmp_path / "b"):
        cache(store, model).fetch(tmp_path / "b", overwrite=True)
        for name in NAMES:
            with (edited / name).open("r+b") as file:
                file.write(b"edited")
    assert cache(store, model).fetch(tmp_path / "c", overwrite=False) == REPORT
    assert contents(tmp_path / "c") == original
    assert store.notes == ()


def test_content_counts_and_names_do_not(
    store: Store, model: Path, artifact: Path, tmp_path: Path
) -> None:
    keep(store, model, artifact)
    renamed = model.rename(tmp_path / "renamed.onnx")
    assert cache(store, renamed).fetch(tmp_path / "b", overwrite=False) == REPORT
    renamed.write_bytes(b"the Model")
    assert cache(store, renamed).fetch(tmp_path / "c", overwrite=False) is None
    renamed.write_bytes(b"the model")
    assert cache(store, renamed, 2).fetch(tmp_path / "c", overwrite=False) is None


def test_external_data_count(store: Store, model: Path, artifact: Path, tmp_path: Path) -> None:
    keep(store, model, artifact, "model.data")
    assert cache(store, model).fetch(tmp_path / "b", overwrite=False) == REPORT
    data = tmp_path / "model.data"
    data.write_bytes(b"its Weights")
    assert cache(store, model).fetch(tmp_path / "c", overwrite=False) is None
    data.unlink()
    assert cache(store, model).fetch(tmp_path / "c", overwrite=False) is None
    data.write_bytes(b"its weights")
    assert cache(store, model).fetch(tmp_path / "c", overwrite=False) == REPORT


def test_measured_times_count(
    store: Store, model: Path, artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(store, model, artifact)
    store.timing_path.write_text("{}")
    assert cache(store, model).fetch(tmp_path / "b", overwrite=False) is None
    cache(store, model).keep(artifact, REPORT, ())
    assert cache(store, model).fetch(tmp_path / "b", overwrite=False) == REPORT
    # On another CPU other times would have decided; without any, the CPU does not matter.
    monkeypatch.setattr("burnish.cache.artifacts.cpu_model", lambda: "another")
    assert cache(store, model).fetch(tmp_path / "c", overwrite=False) is None
    store.timing_path.unlink()
    assert cache(store, model).fetch(tmp_path / "c", overwrite=False) == REPORT


def test_bytes(store: Store, artifact: Path, tmp_path: Path) -> None:
    keep(store, b"model", artifact)
    assert cache(store, b"model").fetch(tmp_path / "b", overwrite=False) == REPORT
    assert cache(store, b"other").fetch(tmp_path / "c", overwrite=False) is None


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [_truncate, _flip, os.unlink])
@pytest.mark.parametrize("name", [*NAMES, "report"])
def test_a_damaged_entry_is_dropped_and_named(
    store: Store,
    model: Path,
    artifact: Path,
    tmp_path: Path,
    name: str,
    damage: Callable[[Path], None],
) -> None:
    place = keep(store, model, artifact)
    damage(place / name)
    assert cache(store, model).fetch(tmp_path / "b", overwrite=False) is None
    assert not place.exists()
    assert not (tmp_path / "b").exists()
    (note,) = store.notes
    assert "damaged" in note
    cache(store, model).keep(artifact, REPORT, ())
    assert cache(store, model).fetch(tmp_path / "b", overwrite=False) == REPORT
    check_files(read_manifest(tmp_path / "b"), tmp_path / "b", verify=True)


def test_the_output_obeys_the_same_rules(
    store: Store, model: Path, artifact: Path, tmp_path: Path
) -> None:
    keep(store, model, artifact)
    with pytest.raises(InputFileError, match="the output path exists"):
        cache(store, model).fetch(artifact, overwrite=False)
    with pytest.raises(InputFileError, match="No such file"):
        cache(store, model).fetch(tmp_path / "no/such", overwrite=False)
    assert cache(store, model).fetch(artifact, overwrite=True) == REPORT
    assert sorted(p.name for p in tmp_path.iterdir() if "burnish" in p.name) == ["a.burnish"]


@pytest.mark.parametrize("which", ["model.onnx", "model.data"])
def test_a_model_that_changes_meanwhile_is_not_kept(
    store: Store, model: Path, artifact: Path, tmp_path: Path, which: str
) -> None:
    entry = cache(store, model)
    (tmp_path / which).write_bytes(b"of another time")
    entry.keep(artifact, REPORT, ["model.data"])
    assert store.entries() == []
    assert "the model changed" in store.notes[0]


def test_ingredients_that_change_meanwhile(store: Store, model: Path, artifact: Path) -> None:
    numbers = iter(range(10))
    entry = ArtifactCache(store, str(model), lambda: next(numbers))
    entry.keep(artifact, REPORT, ())
    assert store.entries() == []
    assert "its tools changed" in store.notes[0]


def test_a_full_disk(
    store: Store, model: Path, artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("burnish.cache.artifacts.copy_file", full)
    cache(store, model).keep(artifact, REPORT, ())
    assert not list((store.path / ARTIFACTS).rglob("model.so"))
    assert "No space left" in store.notes[0]
    assert list((store.path / "partial").iterdir()) == []


def test_what_is_larger_than_the_cache_is_not_kept(
    store: Store, model: Path, artifact: Path, tmp_path: Path
) -> None:
    small = Store(store.path, 1000)
    cache(small, model).keep(artifact, REPORT, ())
    assert "larger than the cache" in small.notes[0]
    assert cache(small, model).fetch(tmp_path / "b", overwrite=False) is None
