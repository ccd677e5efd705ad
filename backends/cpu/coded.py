"""Buffers whose elements are read and written as something else than they are stored as."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any


class Coded(ABC):
    """A 1-D buffer that says itself how it is read and written.

    Attributes:
        buffer: The TIR buffer.
    """

    buffer: Any

    @abstractmethod
    def load(self, offset: Any, lanes: int, valid: Any) -> Any:
        """``lanes`` elements from ``offset`` on, of which the first ``valid`` are touched."""

    @abstractmethod
    def store(self, offset: Any, value: Any, valid: Any) -> None:
        """Write a vector or scalar at ``offset``, or its first ``valid`` lanes."""
