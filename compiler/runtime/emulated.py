"""ARM artifacts on a machine that is none: run by ``burnish_run`` under QEMU's user emulation."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from burnish.artifact import DATA_TYPES, TensorInfo, read_manifest
from burnish.errors import ArtifactError, RunError, TargetUnavailableError
from burnish.runtime.model import NodeArg
from burnish.runtime.runner import PROGRAM, SOURCES, build_runner, default_cache

MACHINE = "aarch64"
_EMULATORS = ("qemu-aarch64", "qemu-aarch64-static")
#: Where Debian, Ubuntu and Fedora put the C library of the cross compiler.
_SYSROOTS = ("/usr/aarch64-linux-gnu", "/usr/aarch64-linux-gnu/sys-root")


def emulator() -> tuple[str, ...]:
    """The emulator's command.

    Raises:
        TargetUnavailableError: It, or the C library for ARM, is not installed.
    """
    qemu = next((name for name in _EMULATORS if shutil.which(name)), None)
    if qemu is None:
        raise TargetUnavailableError(
            f"emulating {MACHINE} needs QEMU, and {_EMULATORS[0]} was not found",
            hint="install it (Debian, Ubuntu: apt install qemu-user)",
        )
    root = next((r for r in _SYSROOTS if Path(r, "lib/ld-linux-aarch64.so.1").exists()), None)
    if root is None:
        raise TargetUnavailableError(
            f"emulating {MACHINE} needs its C library, which is not in {_SYSROOTS[0]}",
            hint="install it (Debian, Ubuntu: apt install libc6-arm64-cross)",
        )
    return qemu, "-L", root


def cached_runner(machine: str | None = None, cache: Path | None = None) -> Path:
    """The program for a machine, built once for each state of its sources.

    Raises:
        BurnishError: As :func:`burnish.runtime.runner.build_runner`.
    """
    cache = cache or default_cache()
    # What it is made of: its sources, how they are compiled, and TVM's libraries.
    digest = hashlib.sha256((version("apache-tvm") + " " + version("apache-tvm-ffi")).encode())
    for path in sorted([*SOURCES.parent.glob("runner.py"), *SOURCES.glob("**/*.[ch]*")]):
        digest.update(path.read_bytes())
    folder = cache / f"runner-{machine or 'native'}-{digest.hexdigest()[:16]}"
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as work:
            built = Path(work, "built")
            build_runner(built, machine=machine, cache=cache)
            try:
                os.rename(built, folder)
            except OSError:
                # Another process was faster.
                if not folder.exists():
                    raise
    return folder / PROGRAM


class EmulatedModel:
    """An artifact for ARM on an emulated core, with the methods of a CompiledModel that compare.

    It tells whether results are right, not how long they take.

    Args:
        path: The artifact.
        cpu: QEMU's name of the core: ``cortex-a53``, ``neoverse-n1``, ``max``.
        threads: Threads of a run.
        cache: Where the program is kept; default: below the user's cache folder.

    Raises:
        TargetUnavailableError: The emulator, the C library or the cross compiler is missing.
        ArtifactError: It is no artifact.
    """

    def __init__(
        self, path: str | os.PathLike[str], cpu: str, threads: int = 1, cache: Path | None = None
    ) -> None:
        self.manifest = read_manifest(path)
        if self.manifest.target.machine != MACHINE:
            raise ArtifactError(
                f"only artifacts for {MACHINE} are emulated, this one is for "
                f"{self.manifest.target.machine}",
                at=str(path),
            )
        self._command = [*emulator(), "-cpu", cpu, str(cached_runner(MACHINE, cache)), str(path)]
        self._threads = threads

    def __enter__(self) -> EmulatedModel:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def get_inputs(self) -> list[NodeArg]:
        """As ``CompiledModel.get_inputs``."""
        return [_node_arg(info) for info in self.manifest.inputs]

    def get_outputs(self) -> list[NodeArg]:
        """As ``CompiledModel.get_outputs``."""
        return [_node_arg(info) for info in self.manifest.outputs]

    def run(self, output_names: Sequence[str] | None, feeds: Mapping[str, Any]) -> list[Any]:
        """As ``CompiledModel.run``.

        Raises:
            ArtifactError: The artifact is damaged, or the core lacks a feature that it needs.
            RunError: The model failed, or does not take the inputs.
        """
        import numpy as np

        with tempfile.TemporaryDirectory(prefix="burnish-emulated-") as folder:
            files = []
            for number, (name, value) in enumerate(feeds.items()):
                file = os.path.join(folder, f"in.{number}.npy")
                np.save(file, np.ascontiguousarray(value).reshape(np.shape(value)))
                files.append(f"{name}={file}")
            options = ["-o", folder, "--threads", str(self._threads), "--json"]
            done = subprocess.run(
                [*self._command, *files, *options], capture_output=True, text=True, check=False
            )
            if done.returncode != 0:
                kind = ArtifactError if done.returncode == ArtifactError.exit_code else RunError
                said = done.stderr.strip().removeprefix(f"{PROGRAM}: ")
                raise kind(said or f"the emulator ended with {done.returncode}")
            written = json.loads(done.stdout)["outputs"]
            return [np.load(written[name]) for name in output_names or written]


def _node_arg(info: TensorInfo) -> NodeArg:
    return NodeArg(info.name, f"tensor({DATA_TYPES[info.dtype].ort})", list(info.shape))
