"""Checks of the values of a configuration file, which collect what is wrong instead of stopping.

A field is a function of a value, where it stands and the list of problems; it returns the value in
the form that the program uses, or :data:`WRONG` after it has written down why it does not.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias


class Wrong:
    """The type of what stands for a value that is wrong."""


WRONG = Wrong()


class Problems:
    """What is wrong in a file, each with the place in it."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, where: str, text: str) -> Wrong:
        """Write a problem down."""
        self.lines.append(f"{where}: {text}" if where else text)
        return WRONG


Field: TypeAlias = Callable[[Any, str, Problems], Any]


_KINDS: dict[type, str] = {
    bool: "true or false",
    str: "a string",
    int: "a number",
    float: "a number",
    list: "an array",
    dict: "a table",
}


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), "a date")


def text(value: Any, where: str, problems: Problems) -> Any:
    """A string that is not empty."""
    if not isinstance(value, str):
        return problems.add(where, f"has to be a string, not {_kind(value)}")
    return value if value.strip() else problems.add(where, "is empty")


def boolean(value: Any, where: str, problems: Problems) -> Any:
    """True or false."""
    if isinstance(value, bool):
        return value
    return problems.add(where, f"has to be true or false, not {_kind(value)}")


def choice(options: Iterable[str]) -> Field:
    """One of some words."""
    known = tuple(options)

    def check(value: Any, where: str, problems: Problems) -> Any:
        if value in known:
            return value
        return problems.add(
            where, f"{value!r} is none of {', '.join(known)}{suggest(value, known)}"
        )

    return check


def number(
    low: float = -math.inf, high: float = math.inf, *, above: bool = False, below: bool = False
) -> Field:
    """A finite number within bounds; ``above`` and ``below`` leave the bound itself out."""

    def check(value: Any, where: str, problems: Problems) -> Any:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return problems.add(where, f"has to be a number, not {_kind(value)}")
        fits = (low < value if above else low <= value) and (
            value < high if below else value <= high
        )
        if not fits or not math.isfinite(value):
            return problems.add(where, f"{value} is not {_range(low, high, above, below)}")
        return float(value)

    return check


def _range(low: float, high: float, above: bool, below: bool) -> str:
    parts = []
    if low > -math.inf:
        parts.append(f"{'above' if above else 'at least'} {low:g}")
    if high < math.inf:
        parts.append(f"{'below' if below else 'at most'} {high:g}")
    return " and ".join(parts) or "a finite number"


def whole(low: int, high: int | None = None) -> Field:
    """A whole number within bounds."""

    def check(value: Any, where: str, problems: Problems) -> Any:
        if isinstance(value, bool) or not isinstance(value, int):
            return problems.add(where, f"has to be a whole number, not {value!r}")
        if value < low or (high is not None and value > high):
            bounds = _range(low, math.inf if high is None else high, False, False)
            return problems.add(where, f"{value} is not {bounds}")
        return value

    return check


def converted(convert: Callable[[Any], Any], *types: type) -> Field:
    """What a function makes of a value of such types; its ValueError says what is wrong."""

    def check(value: Any, where: str, problems: Problems) -> Any:
        if isinstance(value, bool) or not isinstance(value, types):
            wanted = " or ".join(dict.fromkeys(_KINDS[kind] for kind in types))
            return problems.add(where, f"has to be {wanted}, not {_kind(value)}")
        try:
            return convert(value)
        except ValueError as error:
            return problems.add(where, str(error))

    return check


def array(item: Field, *, empty: bool = False) -> Field:
    """An array of such values, as a tuple; one value stands for an array of one."""

    def check(value: Any, where: str, problems: Problems) -> Any:
        if not isinstance(value, list):
            found = item(value, where, problems)
            return WRONG if found is WRONG else (found,)
        if not value and not empty:
            return problems.add(where, "is empty")
        items = [item(entry, f"{where}[{i}]", problems) for i, entry in enumerate(value)]
        return WRONG if any(entry is WRONG for entry in items) else tuple(items)

    return check


def mapping(value: Field, keys: Iterable[str] | None = None) -> Field:
    """A table from names (of ``keys``, if given) to such values."""
    known = None if keys is None else tuple(keys)

    def check(entries: Any, where: str, problems: Problems) -> Any:
        if not isinstance(entries, dict):
            return problems.add(where, f"has to be a table, not {_kind(entries)}")
        result = {}
        for key, entry in entries.items():
            if known is not None and key not in known:
                problems.add(
                    join(where, key), f"is none of {', '.join(known)}{suggest(key, known)}"
                )
                continue
            found = value(entry, join(where, key), problems)
            if found is not WRONG:
                result[key] = found
        return result

    return check


def table(fields: Mapping[str, Field], required: Iterable[str] = ()) -> Field:
    """A table with known keys; returns those that are there and right."""

    def check(value: Any, where: str, problems: Problems) -> Any:
        if not isinstance(value, dict):
            return problems.add(where, f"has to be a table, not {_kind(value)}")
        result = {}
        for key, entry in value.items():
            if key not in fields:
                hint = suggest(key, fields) or f"; the keys are {', '.join(fields)}"
                problems.add(join(where, key), f"unknown key{hint}")
                continue
            found = fields[key](entry, join(where, key), problems)
            if found is not WRONG:
                result[key] = found
        for key in required:
            if key not in value:
                problems.add(where, f"the key '{key}' is missing")
        return result

    return check


def join(where: str, key: str) -> str:
    """The place of a key, spelled as TOML does."""
    plain = key.replace("-", "").replace("_", "").isalnum() and key.isascii()
    spelled = key if plain else f'"{key}"'
    return f"{where}.{spelled}" if where else spelled


def suggest(word: Any, known: Iterable[str]) -> str:
    """What was probably meant, as the end of a message."""
    names = list(known)
    if not isinstance(word, str):
        return ""
    close = difflib.get_close_matches(word.replace("_", "-").lower(), names, n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""
