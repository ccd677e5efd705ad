"""Indices over symbols, and the canonical symbol names by which kernels are shared."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

from burnish.ir import dims as D  # noqa: N812
from burnish.ir.dims import Dim
from burnish.lowering.te_context import Symbols

#: A Python int, or an int64 TIR expression.
Index: TypeAlias = Any


def index(symbols: Symbols, dim: Dim) -> Index:
    """A dim as a Python int when static, else as an int64 expression."""
    return dim if isinstance(dim, int) else symbols.expr(dim)


def indices(symbols: Symbols, dims: Iterable[Dim]) -> tuple[Index, ...]:
    """Every dim of a shape."""
    return tuple(index(symbols, d) for d in dims)


def canonical_symbols(shapes: Iterable[Iterable[Dim]]) -> dict[str, str]:
    """Names ``s0, s1, …`` for symbols in order of appearance, so that equal kernels are shared."""
    names: dict[str, str] = {}
    for shape in shapes:
        for dim in shape:
            for name in sorted(D.symbols(dim)):
                names.setdefault(name, f"s{len(names)}")
    return names


def rename(dims: Iterable[Dim], names: dict[str, str]) -> tuple[Dim, ...]:
    """A shape with its symbols renamed."""
    bindings: dict[str, Dim] = {old: D.sym(new) for old, new in names.items()}
    return tuple(D.substitute(d, bindings) for d in dims)
