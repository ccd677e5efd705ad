"""Reading an artifact, with every check that must come before its code is loaded."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

from burnish.artifact.cpu import cpu_features
from burnish.artifact.manifest import (
    LIBRARY_NAME,
    MANIFEST_NAME,
    WEIGHTS_NAME,
    Manifest,
    TargetInfo,
)
from burnish.artifact.weights import WeightsHeader, file_digest, quick_digest, read_header
from burnish.errors import ArtifactError, InputFileError

_DAMAGED = "compile the model again: the artifact is damaged or incomplete"


@dataclass(frozen=True)
class Artifact:
    """An artifact that passed its checks.

    Attributes:
        path: Its folder.
        manifest: Its manifest.
        offsets: Where each weight of the manifest begins in the weights file, in bytes.
    """

    path: Path
    manifest: Manifest
    offsets: tuple[int, ...]

    @property
    def library_path(self) -> Path:
        """The model library."""
        return self.path / LIBRARY_NAME

    @property
    def weights_path(self) -> Path:
        """The weights file."""
        return self.path / WEIGHTS_NAME


def is_artifact(path: str | os.PathLike[str]) -> bool:
    """Whether ``path`` looks like an artifact: a folder with a manifest."""
    return (Path(path) / MANIFEST_NAME).is_file()


def read_manifest(path: str | os.PathLike[str]) -> Manifest:
    """Read an artifact's manifest without loading or checking anything else.

    Raises:
        InputFileError: There is no such folder.
        ArtifactError: It is no artifact, is damaged, or has another schema version.
    """
    folder = Path(path)
    if not folder.exists():
        raise InputFileError("no such file or folder", at=str(folder))
    file = folder / MANIFEST_NAME
    if not file.is_file():
        raise ArtifactError(
            f"not an artifact: it has no {MANIFEST_NAME}",
            at=str(folder),
            hint="give the folder that `burnish compile` wrote (NAME.burnish)",
        )
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ArtifactError(f"the manifest cannot be read: {error}", at=str(file)) from None
    return Manifest.from_json(text, at=str(file))


def open_artifact(path: str | os.PathLike[str], *, verify: bool = False) -> Artifact:
    """Read an artifact and check that it is whole and made for this machine.

    Checked always: the schema, the machine and its CPU features, the SHA-256 of the model library,
    the weights file's size, its header against the manifest, and the digest of its header and of
    both ends of every tensor (:func:`burnish.artifact.weights.quick_digest`). The full SHA-256 of
    the weights takes about a second per gigabyte and is checked with ``verify=True``.

    Raises:
        InputFileError: There is no such folder.
        ArtifactError: The artifact is damaged, or not for this burnish or this machine.
    """
    manifest = read_manifest(path)
    artifact = Path(path).resolve()
    _check_machine(manifest, artifact)
    check_files(manifest, artifact, verify=verify)
    return Artifact(artifact, manifest, _offsets(manifest, artifact / WEIGHTS_NAME))


def unfit(target: TargetInfo) -> str:
    """Why this machine cannot run what was compiled for ``target``; empty if it can."""
    machine = platform.machine()
    if target.machine != machine:
        return f"it is for {target.machine}, and this machine is {machine}"
    missing = [name for name in target.features if name not in cpu_features()]
    if missing:
        lacking = ", ".join(missing)
        return f"this CPU lacks what the artifact was compiled for ({target.isa}): {lacking}"
    return ""


def _check_machine(manifest: Manifest, path: Path) -> None:
    why = unfit(manifest.target)
    if why:
        raise ArtifactError(
            why,
            at=str(path),
            hint="compile the model on this machine, or for a target that it has "
            "(see `burnish targets`)",
        )


def check_files(manifest: Manifest, folder: Path, *, verify: bool = False) -> None:
    """Check the model library and the weights of an artifact, as :func:`open_artifact` does.

    Raises:
        ArtifactError: They are not those of the manifest.
    """
    _check_file(manifest, folder, LIBRARY_NAME, whole=True)
    _check_file(manifest, folder, WEIGHTS_NAME, whole=verify)


def _check_file(manifest: Manifest, path: Path, name: str, *, whole: bool) -> None:
    file = path / name
    info = manifest.files.get(name)
    if info is None or not file.is_file():
        raise ArtifactError(f"the artifact has no {name}", at=str(path), hint=_DAMAGED)
    try:
        size = file.stat().st_size
        if size != info.size:
            raise ArtifactError(
                f"{name} has {size} bytes instead of {info.size}", at=str(file), hint=_DAMAGED
            )
        same = file_digest(file) == info.sha256 if whole else quick_digest(file) == info.quick
    except OSError as error:
        raise ArtifactError(f"{name} cannot be read: {error}", at=str(file)) from None
    if not same:
        raise ArtifactError(f"{name} was changed after it was written", at=str(file), hint=_DAMAGED)


def _offsets(manifest: Manifest, file: Path) -> tuple[int, ...]:
    """Offsets of the manifest's weights in the weights file."""
    header: WeightsHeader = read_header(file)
    offsets = []
    for weight in manifest.weights:
        entry = header.tensors.get(weight.name)
        if entry is None or entry[:2] != (weight.dtype, weight.shape):
            raise ArtifactError(
                f"the weights file and the manifest disagree about {weight.name!r}",
                at=str(file),
                hint=_DAMAGED,
            )
        offsets.append(entry[2])
    return tuple(offsets)
