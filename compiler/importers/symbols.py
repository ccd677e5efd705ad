"""Dims as models write them: numbers, names, expressions, and nothing at all."""

from __future__ import annotations

import re

from burnish.ir.dims import Dim, parse_dim, sym, symbols

#: What exporters write for a dim that has no name.
UNNAMED = frozenset({"", "?", "-1", "None"})


class Symbols:
    """Makes dims of one model. Equal names are the same symbol.

    Args:
        originals: Gets the model's spelling of every symbol that had to be renamed.
    """

    def __init__(self, originals: dict[str, str] | None = None) -> None:
        self.originals: dict[str, str] = {} if originals is None else originals
        self._by_text: dict[str, Dim] = {}
        self._taken: set[str] = set()

    def dim(self, dim: object, owner: str, axis: int) -> Dim:
        """The dim that a model writes as ``dim``.

        Args:
            dim: A number, a name, an expression such as ``past_length + 1``, or None.
            owner: Name of the value that has it; names an unnamed dim together with ``axis``.
            axis: The axis.
        """
        if isinstance(dim, int) and dim >= 0:
            return dim
        text = "" if dim is None or isinstance(dim, int) else str(dim).strip()
        if text in UNNAMED:
            # Every unnamed dim is a symbol of its own.
            return self._symbol(_identifier(f"{owner}_{axis}"))
        if text.isdecimal():
            return int(text)
        if text not in self._by_text:
            self._by_text[text] = self._parsed(text)
        return self._by_text[text]

    def _parsed(self, text: str) -> Dim:
        if re.fullmatch(r"[A-Za-z_][\w.]*", text):
            return self._symbol(text)
        try:
            parsed = parse_dim(text)
        except (ValueError, ZeroDivisionError):
            parsed = 0
        # Exporters write sums and products of named dims; anything else is an opaque name.
        if symbols(parsed) and all(name in self._taken for name in symbols(parsed)):
            return parsed
        symbol = self._symbol(_identifier(text))
        self.originals[str(symbol)] = text
        return symbol

    def _symbol(self, name: str) -> Dim:
        unique, count = name, 1
        while unique in self._taken:
            count += 1
            unique = f"{name}_{count}"
        self._taken.add(unique)
        return sym(unique)


def _identifier(text: str) -> str:
    name = re.sub(r"\W+", "_", text).strip("_") or "dim"
    return name if name[0].isalpha() else f"d_{name}"
