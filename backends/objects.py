"""Kernels as object files, of code that is generated or was kept from an earlier build."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tvm

from burnish.backends.base import Target
from burnish.backends.tvm_compat import object_code, static_library
from burnish.cache import KernelCache


class ChunkBuilder:
    """Builds chunks of kernels; may be called by many threads at once.

    Machine code is emitted here, where chunks are built side by side, and not by the export of the
    executable, which would do it one by one. An executable of object files that were kept is
    therefore the same, byte by byte.

    Args:
        target: What to build for.
        attributes: Attributes of the module that the kernels are from.
        folder: For temporary files.
        cache: Where object files are taken from, and kept; None for nowhere.
    """

    def __init__(
        self, target: Target, attributes: Any, folder: Path, cache: KernelCache | None
    ) -> None:
        self.target = target
        self.generate = target.backend.codegen()
        self.attributes = attributes
        self.folder = folder
        self.cache = cache

    def __call__(self, index: int, kernels: dict[Any, Any]) -> Any:
        """The runtime module of chunk number ``index``."""
        module = tvm.IRModule(kernels, attrs=self.attributes)
        path = self.folder / f"{index}.o"
        names = [str(var.name_hint) for var in kernels]
        key = ""
        if self.cache is not None:
            # The text is the same in every process; a hash of 64 bits would not be safe.
            text = tvm.ir.save_json(module)
            key = self.cache.key(text, json.dumps(dict(self.target.tvm), sort_keys=True))
            kept = self.cache.find(key, len(kernels))
            if kept is not None:
                path.write_bytes(kept)
                return static_library(path, names)
        library = self.generate(module, dict(self.target.tvm))
        if not object_code(library):
            # Code for a device lies beside the host's, in a form of its own.
            if self.cache is not None:
                self.cache.built(len(kernels))
            return library
        library.write_to_file(str(path))
        if self.cache is not None:
            self.cache.keep(key, path.read_bytes(), len(kernels))
        return static_library(path, names)
