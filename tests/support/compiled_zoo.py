"""Real models, compiled once for all tests of a session."""

from __future__ import annotations

from pathlib import Path

import pytest

import burnish
from burnish.runtime import CompiledModel
from tests.models import ModelUnavailable, model_path


class CompiledZoo:
    """Artifacts by model name, made when first asked for, in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._failures: dict[str, BaseException] = {}

    def artifact(self, name: str) -> Path:
        """The artifact of a model; skips the test if the model cannot be had."""
        path = self._folder / f"{name}.burnish"
        if name in self._failures:
            # Compiling it again for the next test would take as long to fail.
            raise self._failures[name]
        if not path.exists():
            try:
                source = model_path(name)
            except ModelUnavailable as reason:
                pytest.skip(f"{name}: {reason}")
            try:
                with burnish.compile(source, target="x86", threads=1) as compiled:
                    compiled.save(path)
            except Exception as error:
                self._failures[name] = error
                raise
        return path

    def load(self, name: str, threads: int = 1) -> CompiledModel:
        """The compiled model ``name``."""
        return burnish.load(self.artifact(name), threads=threads)
