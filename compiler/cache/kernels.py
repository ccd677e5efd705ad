"""Object files of kernels, by the kernels' code before it was compiled."""

from __future__ import annotations

import threading
from typing import Any

from burnish.cache.digest import stable_digest
from burnish.cache.store import KERNELS, Store


class KernelCache:
    """What one compilation takes from a cache, and adds to it. For many threads at once.

    Args:
        store: The folder.
        context: Digest of what the kernels are compiled with.

    Attributes:
        kernels_reused: Kernels whose object code was in the cache.
        kernels_built: Kernels that were compiled.
    """

    def __init__(self, store: Store, context: str) -> None:
        self.store = store
        self.context = context
        self.kernels_reused = 0
        self.kernels_built = 0
        self._lock = threading.Lock()

    def key(self, *parts: str) -> str:
        """The digest of kernels, given all that their code depends on besides the context."""
        return stable_digest([self.context, *parts])

    def find(self, key: str, kernels: int) -> bytes | None:
        """The object file under a key, if there is one; ``kernels`` is the number in it."""
        code = self.store.read(KERNELS, key)
        if code is not None:
            with self._lock:
                self.kernels_reused += kernels
        return code

    def keep(self, key: str, code: bytes, kernels: int) -> None:
        """Note that kernels were compiled, and keep their object file."""
        self.built(kernels)
        self.store.write(KERNELS, key, code)

    def built(self, kernels: int) -> None:
        """Note that kernels were compiled."""
        with self._lock:
            self.kernels_built += kernels

    def counts(self) -> dict[str, Any]:
        """Both counts by name."""
        return {"kernels_reused": self.kernels_reused, "kernels_built": self.kernels_built}
