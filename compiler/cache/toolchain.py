"""A digest of everything besides model, options and target that decides what is built."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from burnish.cache.digest import stable_digest

#: Packages that generate code, or compute the values of folded constants.
PACKAGES = (
    *("apache-tvm", "apache-tvm-ffi", "onnx", "onnxruntime", "numpy", "ml-dtypes"),
    *("onnx-graphsurgeon", "protobuf", "onednn-cpu-gomp"),
)
#: What the linker runs besides the C++ compiler.
_BINUTILS = ("ld", "as")
#: Variables of burnish that change nothing of what is built.
_UNRELATED = frozenset({"BURNISH_CACHE_SIZE", "BURNISH_TRACEBACK"})


def toolchain_digest(programs: Iterable[str | Path] = (), packages: Iterable[str] = ()) -> str:
    """A digest of burnish's sources, of the versions of its tools, and of its environment.

    Args:
        programs: Programs that build code: they go by path, size and time of change.
        packages: Names of Python packages besides burnish whose sources count: those of backends.
    """
    roots = sorted({"burnish", "burnish.passes", "burnish.backends", *packages})
    return stable_digest(
        {
            "sources": [sources_digest(root) for root in roots],
            "packages": {name: _version(name) for name in PACKAGES},
            "python": sys.version,
            "programs": [_identity(str(p)) for p in (*programs, *_BINUTILS)],
            "environment": {
                name: value
                for name, value in os.environ.items()
                if name.startswith("BURNISH_") and name not in _UNRELATED
            },
        }
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _identity(program: str) -> tuple[str, int, int]:
    found = shutil.which(program)
    if found is None:
        return program, 0, 0
    path = os.path.realpath(found)
    status = os.stat(path)
    return path, status.st_size, status.st_mtime_ns


def sources_digest(package: str) -> str:
    """A digest of the files of a package, found without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None:
        return ""
    digest = hashlib.sha256()
    for folder in spec.submodule_search_locations or ():
        for name, path in sorted(_files(folder)):
            with open(path, "rb") as file:
                content = file.read()
            digest.update(f"{name}\0{len(content)}\0".encode())
            digest.update(content)
    if not spec.submodule_search_locations and spec.origin is not None:
        digest.update(Path(spec.origin).read_bytes())
    return digest.hexdigest()


def _files(folder: str) -> Iterator[tuple[str, str]]:
    """Names within ``folder``, and paths, of sources and libraries."""
    seen: set[str] = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        # A link may lead back to where it lies.
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if name != "__pycache__"]
        for name in names:
            if name.endswith((".py", ".so", ".cc", ".h", ".json")):
                path = os.path.join(parent, name)
                yield os.path.relpath(path, folder), path
