"""Kernel rules: which nodes the CPU templates take, and how they are called."""

from __future__ import annotations

from burnish.backends.base import KernelRule

RULES: dict[str, KernelRule] = {}
