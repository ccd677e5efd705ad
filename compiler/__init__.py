"""burnish: a graph-level optimizing compiler for ONNX models.

>>> import burnish
>>> model = burnish.compile("model.onnx", target="x86", threads=2)  # doctest: +SKIP
>>> model.run(None, {"x": x})  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from burnish.errors import BurnishError

if TYPE_CHECKING:
    from burnish.api import compare, compile, compile_to, load
    from burnish.runtime import CompiledModel

__version__ = "0.1.0"

__all__ = [
    "BurnishError",
    "CompiledModel",
    "__version__",
    "compare",
    "compile",
    "compile_to",
    "load",
]

_LAZY = {
    "compile": "burnish.api",
    "compile_to": "burnish.api",
    "compare": "burnish.api",
    "load": "burnish.api",
    "CompiledModel": "burnish.runtime",
}


def __getattr__(name: str) -> Any:
    # Importing burnish must cost nothing: a process that only serves never needs the compiler.
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'burnish' has no attribute {name!r}")
