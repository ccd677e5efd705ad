"""Runs ARM artifacts on an emulated core, through ``burnish_run``; skips where that cannot be."""

from __future__ import annotations

import functools
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from burnish.artifact import cross_compiler
from burnish.errors import TargetUnavailableError
from burnish.runtime import emulated
from tests.models.store import cache_dir


@functools.cache
def emulator() -> tuple[str, ...]:
    """The emulator's command; skips the test where something is missing."""
    try:
        cross_compiler(emulated.MACHINE)
        return emulated.emulator()
    except TargetUnavailableError as error:
        pytest.skip(str(error))


@functools.cache
def runner(machine: str | None = None) -> Path:
    """The program for a machine, built once for each state of its sources."""
    if machine == emulated.MACHINE:
        emulator()
    return emulated.cached_runner(machine, cache_dir())


def call(arguments: Sequence[Any], cpu: str) -> subprocess.CompletedProcess[str]:
    """Run the program on a core; the errors of a crash are not hidden."""
    program = runner(emulated.MACHINE)
    command = [*emulator(), "-cpu", cpu, str(program), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def load(path: Path, cpu: str, threads: int = 1) -> emulated.EmulatedModel:
    """The artifact on an emulated core."""
    runner(emulated.MACHINE)
    return emulated.EmulatedModel(path, cpu, threads, cache_dir())
