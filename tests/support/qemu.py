"""Runs ARM artifacts on an emulated core, through ``burnish_run``."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from burnish.artifact import cross_compiler, read_manifest
from burnish.errors import TargetUnavailableError
from burnish.runtime.model import NodeArg
from burnish.runtime.runner import PROGRAM, build_runner
from tests.models.store import cache_dir

SOURCES = Path(__file__).resolve().parents[2] / "compiler/runtime"
#: Where Debian, Ubuntu and Fedora put the C library of the cross compiler.
_SYSROOTS = ("/usr/aarch64-linux-gnu", "/usr/aarch64-linux-gnu/sys-root")


@functools.cache
def emulator() -> tuple[str, ...]:
    """The emulator's command; skips the test where something is missing."""
    try:
        cross_compiler("aarch64")
    except TargetUnavailableError as error:
        pytest.skip(str(error))
    names = ("qemu-aarch64", "qemu-aarch64-static")
    qemu = next((name for name in names if shutil.which(name)), None)
    if qemu is None:
        pytest.skip("qemu-aarch64 is not installed (Debian, Ubuntu: apt install qemu-user)")
    root = next((r for r in _SYSROOTS if Path(r, "lib/ld-linux-aarch64.so.1").exists()), None)
    if root is None:
        pytest.skip("the C library for aarch64 is not installed (apt install libc6-arm64-cross)")
    return qemu, "-L", root


@functools.cache
def runner(machine: str | None = None) -> Path:
    """The program for a machine, built once for each state of its sources."""
    if machine == "aarch64":
        emulator()
    digest = hashlib.sha256()
    for path in sorted([*SOURCES.glob("csrc/**/*.*"), SOURCES / "runner.py"]):
        digest.update(path.read_bytes())
    cache = cache_dir()
    folder = cache / f"runner-{machine or 'native'}-{digest.hexdigest()[:16]}"
    if not folder.exists():
        with tempfile.TemporaryDirectory(dir=cache) as work:
            build_runner(Path(work, "built"), machine=machine, cache=cache)
            try:
                os.rename(Path(work, "built"), folder)
            except OSError:
                # Another process was faster.
                assert folder.exists()
    return folder / PROGRAM


def call(arguments: Sequence[Any], cpu: str) -> subprocess.CompletedProcess[str]:
    """Run the program on a core; the errors of a crash are not hidden."""
    program = runner("aarch64")
    command = [*emulator(), "-cpu", cpu, str(program), *map(str, arguments)]
    # Warnings of the emulator go to the same stream as the program's one line.
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


class EmulatedModel:
    """An artifact on an emulated core, with what ``burnish.compare`` wants of a model.

    Args:
        path: The artifact.
        cpu: QEMU's name of the core.
        threads: Threads of a run.
    """

    def __init__(self, path: Path, cpu: str, threads: int = 1) -> None:
        self.path, self.cpu, self.threads = path, cpu, threads
        self.manifest = read_manifest(path)

    def __enter__(self) -> EmulatedModel:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def get_inputs(self) -> list[NodeArg]:
        return [NodeArg(i.name, i.dtype, list(i.shape)) for i in self.manifest.inputs]

    def get_outputs(self) -> list[NodeArg]:
        return [NodeArg(o.name, o.dtype, list(o.shape)) for o in self.manifest.outputs]

    def run(self, names: Sequence[str] | None, feeds: Mapping[str, Any]) -> list[Any]:
        """The outputs; fails the test if the program does."""
        with tempfile.TemporaryDirectory() as folder:
            files = []
            for number, (name, value) in enumerate(feeds.items()):
                np.save(Path(folder, f"in.{number}.npy"), value)
                files.append(f"{name}={folder}/in.{number}.npy")
            options = ["-o", folder, "--threads", self.threads, "--json"]
            done = call([self.path, *files, *options], self.cpu)
            assert done.returncode == 0, (done.returncode, done.stderr)
            written = json.loads(done.stdout)["outputs"]
            return [np.load(written[name]) for name in names or written]
